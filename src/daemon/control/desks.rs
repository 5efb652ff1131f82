//! The channels to the workers.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::sys::channel::Channel;
use crate::traffic::listing::FromDesk;

/// The first of the tokens of workers.
pub(super) const WORKER: usize = 1 << 33;

/// The channels to the workers.
#[derive(Debug, Default)]
pub(super) struct WorkerDesks {
    pub channels: BTreeMap<u32, Channel>,
    /// The memory of workers whose layout is not known yet.
    pub memories: BTreeMap<u32, File>,
    /// Workers that may have sent more.
    pub unread: Vec<u32>,
    /// The upstreams that are drained and have no connection any more.
    pub drained: Vec<String>,
    pub looked: Option<Instant>,
}

impl WorkerDesks {
    /// Asks a worker. `false`: it is gone, or takes nothing.
    pub(super) fn ask(&self, worker: u32, question: &FromDesk) -> bool {
        self.channels.get(&worker).is_some_and(|channel| channel.send(&question.encode(), None).is_ok())
    }

    /// Tells all workers.
    pub(super) fn tell_all(&self, message: &FromDesk) {
        for channel in self.channels.values() {
            if let Err(error) = channel.send(&message.encode(), None) {
                log::debug!("telling a worker: {error}");
            }
        }
    }

    pub(super) fn open(&mut self, number: u32, channel: OwnedFd, registry: &Registry) {
        self.channels.remove(&number);
        let channel = Channel::from(channel);
        let token = Token(WORKER + number as usize);
        match registry.register(&mut SourceFd(&channel.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => _ = self.channels.insert(number, channel),
            Err(error) => log::error!("worker {number} cannot be heard: {error}"),
        }
    }
}
