//! What the guardian and the workers tell the control process.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::Control;
use crate::control::description::{Description, Status};
use crate::control::document::Field;
use crate::control::picture::{SeenState, SeenWorker};
use crate::daemon::control::client::{AwaitedChange, WalkFound};
use crate::daemon::control::event::ControlEvent;
use crate::daemon::control_message::ToControl;
use crate::daemon::message::SIZE;
use crate::logging;
use crate::record::text_words;
use crate::sys::channel::Received;
use crate::traffic::listing::{MOST, ToDesk};
use crate::traffic::shared_counters::{CounterLayout, ForeignCounters};
use crate::traffic::totals::Totals;

/// How often it is looked whether an upstream has drained.
const DRAIN_EVERY: Duration = Duration::from_secs(1);

/// Messages of a worker that are read at once. One that was taken over could send without end.
const MESSAGES: usize = 64;

impl Control {
    /// Takes all that the guardian has sent.
    pub(super) fn hear_guardian(&mut self) {
        let mut buffer = [0; SIZE];
        loop {
            match self.guardian.receive_with_descriptors(&mut buffer) {
                Ok((Received::Message(count), mut descriptors)) => {
                    if let Some(message) = ToControl::decode(&buffer[..count]) {
                        self.told(message, descriptors.pop());
                    }
                }
                Ok((Received::Nothing, _)) => return,
                Ok((Received::Closed, _)) | Err(_) => return self.leave(),
            }
        }
    }

    fn told(&mut self, message: ToControl, descriptor: Option<OwnedFd>) {
        match (message, descriptor) {
            (ToControl::Description, Some(text)) => {
                if let Some(description) = text_of(text).and_then(|text| Description::read(&text)) {
                    self.picture.description = description;
                    self.checks.follow(&mut self.picture);
                }
            }
            (ToControl::Status, Some(text)) => {
                if let Some(status) = text_of(text).and_then(|text| Status::read(&text)) {
                    self.take_status(status);
                }
            }
            (ToControl::Past, Some(text)) => {
                self.picture.past = text_of(text).and_then(|text| totals(&text)).unwrap_or_default();
            }
            (ToControl::Worker { number, pid, slot, started, limit, state }, Some(memory)) => {
                self.desks.memories.insert(number, File::from(memory));
                let counters = None;
                let worker = SeenWorker { pid, slot: slot.into(), state, started, limit, counters };
                let former = self.picture.workers.insert(number, worker);
                if former.is_none_or(|former| former.state == SeenState::Starting) && state == SeenState::Serving {
                    self.report(&of_worker("worker started", number, pid));
                }
            }
            (ToControl::Layout(number), Some(text)) => self.take_layout(number, text),
            (ToControl::WorkerChannel(number), Some(channel)) => {
                self.desks.open(number, channel, self.poll.registry());
                self.checks.tell(&self.picture, |message| self.desks.tell(number, message));
            }
            (ToControl::WorkerState { number, state }, _) => self.worker_is(number, state),
            (ToControl::WorkerEnded { number, well }, _) => self.worker_ended(number, well),
            (ToControl::Done { number, result }, _) => self.answered(|asked, _| asked == number, &result),
            (ToControl::Changed { upgrade, number, result }, _) => self.changed(upgrade, number, &result),
            (ToControl::SystemLog, Some(connection)) => logging::go_on_in(connection),
            (ToControl::Verbose(on), _) => logging::set_verbose(on),
            (other, None) => log::debug!("a message without its descriptor: {other:?}"),
        }
    }

    fn take_layout(&mut self, number: u32, text: OwnedFd) {
        let upstreams = text_of(text).and_then(|text| {
            let hosts = |line: &str| Some(text_words(line)?.into_iter().filter(|host| !host.is_empty()).collect());
            text.lines().map(hosts).collect::<Option<Vec<Vec<String>>>>()
        });
        let (Some(memory), Some(upstreams)) = (self.desks.memories.remove(&number), upstreams) else { return };
        match ForeignCounters::map(&memory, CounterLayout::new(upstreams)) {
            Ok(counters) => {
                if let Some(worker) = self.picture.workers.get_mut(&number) {
                    worker.counters = Some(counters);
                }
            }
            Err(error) => log::error!("the counters of worker {number}: {error}"),
        }
    }

    fn worker_is(&mut self, number: u32, state: SeenState) {
        let Some(worker) = self.picture.workers.get_mut(&number) else { return };
        worker.state = state;
        if state == SeenState::Serving {
            let event = of_worker("worker started", number, worker.pid);
            self.report(&event);
        }
    }

    fn worker_ended(&mut self, number: u32, well: bool) {
        self.desks.close(number);
        self.desks.memories.remove(&number);
        if let Some(worker) = self.picture.worker_ended(number) {
            let name = if well { "worker ended" } else { "worker died" };
            self.report(&of_worker(name, number, worker.pid));
        }
    }

    fn changed(&mut self, upgrade: bool, covers: u32, result: &Result<String, String>) {
        let name = match (upgrade, result.is_ok()) {
            (false, true) => "reload",
            (true, true) => "upgrade",
            (false, false) => "reload failed",
            (true, false) => "upgrade failed",
        };
        let text = result.as_ref().err().cloned().unwrap_or_default();
        self.report(&ControlEvent::new(name, text, vec![]));
        // An upgrade reads the configuration as well.
        let is_it = |number: u32, change: Option<AwaitedChange>| {
            let is_covered = (covers.wrapping_sub(number) as i32) >= 0;
            change.is_some_and(|change| is_covered && (upgrade || change == AwaitedChange::Reload))
        };
        self.answered(is_it, result);
    }

    /// A worker has sent something.
    pub(super) fn hear_worker(&mut self, number: u32) {
        let mut buffer = [0; MOST];
        for _ in 0..MESSAGES {
            let Some(channel) = self.desks.channels.get(&number) else { return };
            match channel.receive(&mut buffer) {
                Ok(Received::Message(count)) => match ToDesk::decode(&buffer[..count]) {
                    Some(ToDesk::List { tag, next, connections }) => {
                        self.walked(tag, number, next, WalkFound::Connections(connections));
                    }
                    Some(ToDesk::Killed { tag, next, count }) => {
                        self.walked(tag, number, next, WalkFound::Killed(count))
                    }
                    Some(ToDesk::Health { redirection, address, up }) => {
                        self.health_of(redirection, address.socket_addr(), up);
                    }
                    None => log::debug!("worker {number} has sent what means nothing"),
                },
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) | Err(_) => {
                    self.desks.close(number);
                    return;
                }
            }
        }
        self.desks.unread.push(number);
    }

    /// Reads on where workers have sent more than is read at once, and looks for upstreams that have drained.
    pub(super) fn look_again(&mut self, now: Instant) {
        for number in std::mem::take(&mut self.desks.unread) {
            self.hear_worker(number);
        }
        if self.desks.looked.is_none_or(|looked| now.duration_since(looked) >= DRAIN_EVERY) {
            self.desks.looked = Some(now);
            self.report_drained();
        }
    }

    /// Whether [`Control::look_again`] has something to do soon.
    pub(super) fn has_more(&self) -> bool {
        !self.desks.unread.is_empty()
    }
}

fn of_worker(name: &'static str, number: u32, pid: u32) -> ControlEvent {
    let fields = vec![("worker", Field::Number(number.into())), ("pid", Field::Number(pid.into()))];
    ControlEvent::new(name, format!("worker {number}, process {pid}"), fields)
}

/// The text of a sealed file. The guardian has made it, so it is not changed meanwhile.
fn text_of(file: OwnedFd) -> Option<String> {
    let file = File::from(file);
    let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).ok()?;
    String::from_utf8(bytes).ok()
}

fn totals(text: &str) -> Option<Totals> {
    let mut totals = Totals::default();
    for line in text.lines() {
        let words = text_words(line)?;
        totals.take(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Some(totals)
}
