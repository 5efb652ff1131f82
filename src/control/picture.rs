//! All that the control process knows of the instance.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::control::command::UpstreamOrder;
use crate::control::description::{DescribedUpstream, Description, Status};
use crate::redirection::RedirectionId;
use crate::traffic::shared_counters::{ForeignCounters, UPSTREAM_WORDS, UpstreamWord};
use crate::traffic::totals::Totals;

/// The instance, as it is shown.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub description: Description,
    pub status: Status,
    /// By their numbers.
    pub workers: BTreeMap<u32, SeenWorker>,
    /// What workers have counted that are gone.
    pub past: Totals,
    pub checks: BTreeMap<(RedirectionId, SocketAddr), CheckedAddress>,
}

/// A worker.
#[derive(Debug, Default)]
pub(crate) struct SeenWorker {
    pub pid: u32,
    pub slot: usize,
    pub state: SeenState,
    /// Seconds since 1970.
    pub started: u64,
    pub limit: u64,
    pub counters: Option<ForeignCounters>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenState {
    #[default]
    Starting,
    Serving,
    Draining,
}

impl SeenState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            SeenState::Starting => "starting",
            SeenState::Serving => "serving",
            SeenState::Draining => "draining",
        }
    }
}

/// An address of an upstream, as checks find it.
#[derive(Debug, Clone)]
pub(crate) struct CheckedAddress {
    pub is_failing: bool,
    /// The last result in words, and how long it took.
    pub result: String,
    pub time: Duration,
}

impl Picture {
    /// What all workers have counted.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.past.clone();
        for worker in self.workers.values() {
            if let Some(counters) = &worker.counters {
                totals.add_living(worker.slot, &counters.read());
            }
        }
        totals
    }

    /// A worker has ended.
    pub(crate) fn worker_ended(&mut self, number: u32) -> Option<SeenWorker> {
        let worker = self.workers.remove(&number)?;
        if let Some(counters) = &worker.counters {
            self.past.add_ended(worker.slot, &counters.read());
        }
        Some(worker)
    }

    /// How many workers are in this state.
    pub(crate) fn count(&self, state: SeenState) -> u64 {
        self.workers.values().filter(|worker| worker.state == state).count() as u64
    }

    pub(crate) fn uptime(&self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_secs(self.description.started))
    }

    /// What an administrator has said about an upstream.
    pub(crate) fn order(&self, name: &str) -> Option<UpstreamOrder> {
        self.status.orders.get(name).copied()
    }

    /// The state of an upstream that has been counted so.
    pub(crate) fn upstream_state(
        &self,
        id: RedirectionId,
        upstream: &DescribedUpstream,
        is_down: bool,
    ) -> &'static str {
        match self.order(&upstream.name) {
            Some(order @ (UpstreamOrder::Disable | UpstreamOrder::Drain)) => order.state(),
            _ if upstream.addresses.is_empty() => "unresolved",
            _ if is_down || self.check_state(id, upstream) == "failing" => "down",
            _ => "up",
        }
    }

    /// Whether some worker that serves can reach no address of an upstream.
    pub(crate) fn is_down(&self, id: RedirectionId, name: &str) -> bool {
        let serving = self.workers.values().filter(|worker| worker.state != SeenState::Draining);
        let readings = serving.filter_map(|worker| worker.counters.as_ref()).map(ForeignCounters::read);
        let is_down = |words: &[u64; UPSTREAM_WORDS]| {
            let addresses = words[UpstreamWord::Addresses as usize];
            addresses > 0 && words[UpstreamWord::Down as usize] >= addresses
        };
        readings
            .into_iter()
            .any(|reading| reading.upstreams().any(|(one, other, words)| one == id && other == name && is_down(&words)))
    }

    /// The results of the checks of an upstream: `none`, `waiting`, `passing` or `failing`.
    pub(crate) fn check_state(&self, id: RedirectionId, upstream: &DescribedUpstream) -> &'static str {
        let is_checked = self.description.redirections.get(id.index()).is_some_and(|one| one.check.is_some());
        if !is_checked {
            return "none";
        }
        let results = upstream.addresses.iter().filter_map(|address| self.checks.get(&(id, *address)));
        let failing: Vec<bool> = results.map(|result| result.is_failing).collect();
        match failing.as_slice() {
            [] => "waiting",
            all if all.iter().all(|failing| *failing) => "failing",
            _ => "passing",
        }
    }

    /// All upstreams of redirections that are relayed.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = (RedirectionId, &DescribedUpstream)> {
        let relayed = self.description.redirections.iter().enumerate().filter(|(_, one)| one.kind == "relay");
        relayed.flat_map(|(index, one)| one.upstreams.iter().map(move |it| (RedirectionId::from(index), it)))
    }

    /// Whether the rules of a redirection are in place.
    pub(crate) fn gate(&self, id: RedirectionId) -> &str {
        match self.description.redirections.get(id.index()) {
            Some(one) if !one.has_rules => "no rules",
            _ => self.status.gates.get(&id).map_or("in place", String::as_str),
        }
    }
}
