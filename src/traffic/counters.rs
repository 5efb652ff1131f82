//! The counters as the log shows them.

use std::fmt;

use crate::relay::close::CloseKind;
use crate::traffic::shared_counters::{RedirectionWord, WorkerWord};
use crate::traffic::totals::Totals;

/// What happened so far, and how much is held now, in one line.
#[derive(Debug)]
pub(crate) struct CounterLine<'a>(pub &'a Totals);

impl fmt::Display for CounterLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.0.sum();
        let of = |kinds: &[CloseKind]| kinds.iter().map(|kind| sum.reason(*kind)).sum::<u64>();
        let refused = of(&[
            CloseKind::Denied,
            CloseKind::Loop,
            CloseKind::SourceLimit,
            CloseKind::NotRedirected,
            CloseKind::Forbidden,
            CloseKind::BadSource,
            CloseKind::ProxyRefused,
            CloseKind::BadProxyHeader,
            CloseKind::BadRequest,
        ]);
        write!(
            f,
            "{} accepted, {} open, {} finished, {} reset, {} timed out, {} unreachable, {refused} refused, \
             {} without resources, {} stopped",
            sum.get(RedirectionWord::Accepted),
            sum.open(),
            sum.reason(CloseKind::Finished),
            of(&[CloseKind::ResetByClient, CloseKind::ResetByUpstream]),
            of(&[CloseKind::Idle, CloseKind::HalfClosed, CloseKind::HandshakeTimeout]),
            sum.reason(CloseKind::ConnectFailed),
            sum.reason(CloseKind::Resources),
            of(&[CloseKind::Stopped, CloseKind::Retired, CloseKind::Killed]),
        )?;
        if sum.lost[0] > 0 {
            write!(f, ", {} lost", sum.lost[0])?;
        }
        let (up, down) = (sum.get(RedirectionWord::Up), sum.get(RedirectionWord::Down));
        let (pipes, pauses) = (self.0.worker(WorkerWord::Pipes), self.0.worker(WorkerWord::Pauses));
        write!(f, "; {up} bytes up, {down} bytes down; {pipes} pipes lent; {pauses} pauses")?;
        let (own, other) = (self.0.worker(WorkerWord::OwnAddress), self.0.worker(WorkerWord::OtherPort));
        write!(f, "; {own} from our own address, {other} from another port")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirection::RedirectionId;
    use crate::traffic::shared_counters::{CounterLayout, WorkerCounters};

    #[test]
    fn each_close_reason_is_in_the_line_once() {
        let counters = WorkerCounters::new(CounterLayout::new(vec![vec![]])).unwrap();
        let id = RedirectionId(0);
        for (kind, _) in CloseKind::NAMES {
            counters.accepted(id);
            counters.closed(id, kind, (0, 0));
        }
        counters.accepted(id);
        counters.moved(id, 7, 8);
        counters.set_worker(WorkerWord::Pauses, 9);
        let mut totals = Totals::default();
        totals.add_living(0, &counters.read());
        assert_eq!(
            CounterLine(&totals).to_string(),
            "21 accepted, 1 open, 1 finished, 2 reset, 3 timed out, 1 unreachable, 9 refused, 1 without resources, \
             3 stopped; 7 bytes up, 8 bytes down; 0 pipes lent; 9 pauses; \
             0 from our own address, 0 from another port"
        );
        totals.add_ended(0, &counters.read());
        assert!(CounterLine(&totals).to_string().contains(", 6 stopped, 1 lost; "));
    }
}
