//! Whether the workers answer: the guardian asks each of them again and again, and replaces one that lives and does not
//! answer. The watchdog of systemd is fed only while the guardian's loop turns and the workers answer (sd_notify(3)).

use std::time::{Duration, Instant};

use crate::daemon::children::Children;
use crate::daemon::generation::{Generation, WorkerSlot};
use crate::daemon::message::ToWorker;
use crate::daemon::notify::Notifier;
use crate::daemon::reachability::Reachability;
use crate::sys::procfs;
use crate::traffic::shared_counters::RedirectionWord;
use crate::traffic::totals::Totals;

/// Workers are asked this often, or more often if the watchdog wants to be fed more often.
const INTERVAL: Duration = Duration::from_secs(5);

/// But not more often than this, whatever the environment says.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// So many upstreams are named in the text for `systemctl status`.
const NAMED: usize = 8;

/// When the workers are asked next.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    next: Instant,
    interval: Duration,
    feeds_watchdog: bool,
    /// The last text for `systemctl status`.
    status: String,
}

impl Heartbeat {
    /// `watchdog` is the time after which systemd kills this process unless it is told that all is well.
    pub(crate) fn new(watchdog: Option<Duration>) -> Heartbeat {
        let interval = watchdog.map_or(INTERVAL, |limit| (limit / 4).clamp(LEAST_INTERVAL, INTERVAL));
        Heartbeat { next: Instant::now(), interval, feeds_watchdog: watchdog.is_some(), status: String::new() }
    }

    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// There is something new to tell.
    pub(crate) fn hurry(&mut self) {
        self.next = Instant::now();
    }

    /// Asks the workers, if it is time to, and feeds the watchdog if they have answered the last time. Returns the slots
    /// whose workers are to be replaced.
    pub(crate) fn beat(
        &mut self,
        serving: &mut Generation,
        children: &Children,
        notifier: &Notifier,
        now: Instant,
    ) -> Vec<usize> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now + self.interval;
        if self.feeds_watchdog && !serving.slots.iter().any(|slot| slot.pulse.is_late()) {
            notifier.tell("WATCHDOG=1");
        }
        let mut silent = Vec::new();
        for (number, slot) in serving.slots.iter_mut().enumerate() {
            let Some(worker) = slot.worker else { continue };
            if has_stopped(slot, now) {
                silent.push(number);
                continue;
            }
            slot.pulse.asked(now);
            children.tell(worker, &ToWorker::Ping, None);
        }
        silent
    }

    /// Tells the service manager what is served, if that has changed.
    pub(crate) fn tell_status(
        &mut self,
        serving: &Generation,
        totals: impl FnOnce() -> Totals,
        reachability: &Reachability,
        notifier: &Notifier,
    ) {
        if !notifier.is_heard() {
            return;
        }
        let status = status(serving, &totals(), reachability);
        if status != self.status {
            notifier.tell(&format!("STATUS={status}"));
            self.status = status;
        }
    }
}

/// A worker that a debugger has stopped is left alone.
fn has_stopped(slot: &WorkerSlot, now: Instant) -> bool {
    slot.pulse.has_stopped(now) && slot.worker.is_some_and(|worker| !procfs::is_traced(worker))
}

fn status(serving: &Generation, totals: &Totals, reachability: &Reachability) -> String {
    if serving.slots.is_empty() {
        return "the kernel forwards alone".into();
    }
    let mut upstreams = Vec::new();
    for (id, _, service) in serving.config.relayed() {
        let silent = if reachability.is_silent(id) { " (no answer)" } else { "" };
        let hosts = service.destination.hosts();
        upstreams.extend(hosts.iter().map(|host| format!("{host}{silent}")));
        if hosts.is_empty() {
            upstreams.push(format!("the original destinations{silent}"));
        }
    }
    upstreams.dedup();
    let more = upstreams.len().saturating_sub(NAMED);
    upstreams.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let sum = totals.sum();
    let (open, accepted) = (sum.open(), sum.get(RedirectionWord::Accepted));
    format!("{open} connections, {accepted} accepted; upstreams: {}{more}", upstreams.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_that_is_fed_more_often_makes_the_heart_beat_faster() {
        let interval = |watchdog| Heartbeat::new(watchdog).interval;
        assert_eq!(interval(None), INTERVAL);
        assert_eq!(interval(Some(Duration::from_secs(60))), INTERVAL);
        assert_eq!(interval(Some(Duration::from_secs(2))), Duration::from_millis(500));
        assert_eq!(interval(Some(Duration::from_micros(1))), LEAST_INTERVAL);
    }
}
