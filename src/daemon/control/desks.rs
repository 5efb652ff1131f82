//! The channels to the workers.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::sys::channel::Channel;
use crate::traffic::listing::FromDesk;

/// The first of the tokens of workers.
pub(super) const WORKER: usize = 1 << 33;

/// A worker that does not answer for so long is left out.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// So many questions to one worker are open at a time. Its answers must find room in the channel, because it drops what
/// does not: 23 of the longest fill one (net.core.wmem_default).
const AT_ONCE: usize = 8;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskOutcome {
    Sent,
    /// Others wait for this worker.
    Later,
    /// It is gone, or takes nothing.
    Gone,
}

/// The channels to the workers.
#[derive(Debug, Default)]
pub(super) struct WorkerDesks {
    pub channels: BTreeMap<u32, Channel>,
    /// Questions that are open: of which client, and since when.
    open: BTreeMap<u32, Vec<(u32, Instant)>>,
    /// The memory of workers whose layout is not known yet.
    pub memories: BTreeMap<u32, File>,
    /// Workers that may have sent more.
    pub unread: Vec<u32>,
    /// The upstreams that are drained and have no connection any more.
    pub drained: Vec<String>,
    pub looked: Option<Instant>,
}

impl WorkerDesks {
    /// Asks a worker for a client.
    pub(super) fn ask(&mut self, worker: u32, client: u32, question: &FromDesk) -> AskOutcome {
        let Some(channel) = self.channels.get(&worker) else { return AskOutcome::Gone };
        let open = self.open.entry(worker).or_default();
        open.retain(|(_, since)| since.elapsed() < PATIENCE);
        if open.len() >= AT_ONCE {
            return AskOutcome::Later;
        }
        if channel.send(&question.encode(), None).is_err() {
            return AskOutcome::Gone;
        }
        open.push((client, Instant::now()));
        AskOutcome::Sent
    }

    /// A worker has answered.
    pub(super) fn answered(&mut self, worker: u32, client: u32) {
        if let Some(open) = self.open.get_mut(&worker) {
            open.retain(|(other, _)| *other != client);
        }
    }

    pub(super) fn close(&mut self, worker: u32) {
        self.channels.remove(&worker);
        self.open.remove(&worker);
    }

    pub(super) fn tell(&self, worker: u32, message: &FromDesk) {
        let sent = self.channels.get(&worker).map(|channel| channel.send(&message.encode(), None));
        if let Some(Err(error)) = sent {
            log::debug!("telling worker {worker}: {error}");
        }
    }

    /// Tells all workers.
    pub(super) fn tell_all(&self, message: &FromDesk) {
        self.channels.keys().for_each(|worker| self.tell(*worker, message));
    }

    pub(super) fn open(&mut self, number: u32, channel: OwnedFd, registry: &Registry) {
        self.close(number);
        let channel = Channel::from(channel);
        let token = Token(WORKER + number as usize);
        match registry.register(&mut SourceFd(&channel.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => _ = self.channels.insert(number, channel),
            Err(error) => log::error!("worker {number} cannot be heard: {error}"),
        }
    }
}
