//! Which redirections have no upstream that answers, and for how long (`--upstream-grace`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::{Config, FailMode};
use crate::redirection::RedirectionId;
use crate::rules::rule::Gate;

/// The redirections whose upstreams do not answer.
#[derive(Debug, Default)]
pub(crate) struct Reachability {
    silent_since: BTreeMap<RedirectionId, Instant>,
    /// Those that are closed for it.
    given_up: BTreeSet<RedirectionId>,
}

impl Reachability {
    /// No upstream of this redirection could be reached.
    pub(crate) fn silent(&mut self, id: RedirectionId) {
        self.silent_since.entry(id).or_insert_with(Instant::now);
    }

    /// An upstream of this redirection answers again.
    pub(crate) fn answers(&mut self, id: RedirectionId) {
        self.silent_since.remove(&id);
    }

    /// Whether no upstream of this redirection answers.
    pub(crate) fn is_silent(&self, id: RedirectionId) -> bool {
        self.silent_since.contains_key(&id)
    }

    /// The redirections are others now.
    pub(crate) fn forget(&mut self) {
        *self = Reachability::default();
    }

    /// When the grace of the next redirection ends.
    pub(crate) fn due(&self, grace: Option<Duration>) -> Option<Instant> {
        let now = Instant::now();
        self.silent_since.values().filter_map(|since| Some(*since + grace?)).filter(|due| *due > now).min()
    }

    /// What becomes of the rules of each redirection: workers that cannot be kept alive and upstreams that have not answered
    /// for too long close it, in the way that `--fail` says.
    pub(crate) fn gates(&mut self, config: &Config, no_worker: bool) -> Vec<Gate> {
        let process = &config.process;
        let closed = match process.fail {
            FailMode::Open => Gate::Withdrawn,
            FailMode::Closed => Gate::Rejected,
        };
        let mut gates = vec![Gate::Normal; config.redirections.len()];
        for (id, _, _) in config.relayed() {
            let unreachable = self.is_given_up(id, process.upstream_grace, closed);
            if no_worker || unreachable {
                gates[id.index()] = closed;
            }
        }
        gates
    }

    /// Whether a redirection has been silent for longer than the grace. Tells the log when that changes; `closed` says
    /// what becomes of it.
    fn is_given_up(&mut self, id: RedirectionId, grace: Option<Duration>, closed: Gate) -> bool {
        let late = |since: &Instant| grace.is_some_and(|grace| since.elapsed() >= grace);
        let given_up = self.silent_since.get(&id).is_some_and(late);
        if given_up && self.given_up.insert(id) {
            let what = if closed == Gate::Withdrawn { "is withdrawn" } else { "becomes a reject" };
            log::warn!("redirection {id}: no upstream answers; the redirection {what}");
        } else if !given_up && self.given_up.remove(&id) {
            log::warn!("redirection {id}: an upstream answers again; the redirection is put back");
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_is_given_up_after_the_grace_and_comes_back_with_an_answer() {
        let (id, other) = (RedirectionId(0), RedirectionId(1));
        let mut reachability = Reachability::default();
        reachability.silent(id);
        assert!(!reachability.is_given_up(id, None, Gate::Withdrawn), "without a grace it never is");
        assert!(!reachability.is_given_up(id, Some(Duration::from_secs(3600)), Gate::Withdrawn));
        assert!(reachability.due(Some(Duration::from_secs(3600))).is_some());
        assert!(reachability.is_given_up(id, Some(Duration::ZERO), Gate::Withdrawn));
        assert!(!reachability.is_given_up(other, Some(Duration::ZERO), Gate::Withdrawn));
        assert_eq!(reachability.due(Some(Duration::ZERO)), None);
        reachability.answers(id);
        assert!(!reachability.is_given_up(id, Some(Duration::ZERO), Gate::Withdrawn));
    }
}
