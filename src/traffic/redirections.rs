//! The redirections that a worker serves, and whether their upstreams can be reached.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::Registry;
use mio::event::Event;

use crate::redirection::RedirectionId;
use crate::sys::clock::Tick;
use crate::traffic::probe::Probe;
use crate::traffic::service::Service;
use crate::traffic::upstreams::{HealthChange, Upstreams};

/// A redirection with the addresses that its upstreams have now.
#[derive(Debug)]
pub(crate) struct ActiveRedirection {
    pub id: RedirectionId,
    pub service: Service,
    pub upstreams: Upstreams,
    /// Set while no upstream can be reached: when the guardian was last told.
    unreachable: Option<Tick>,
    probe: Probe,
}

impl ActiveRedirection {
    /// A redirection whose upstreams have these addresses.
    pub(crate) fn new(id: RedirectionId, service: Service, hosts: &[Vec<SocketAddr>]) -> ActiveRedirection {
        let upstreams = Upstreams::new(hosts, service.balance);
        ActiveRedirection { id, service, upstreams, unreachable: None, probe: Probe::default() }
    }
}

/// What the guardian is told of a redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamChange {
    /// None of its upstreams could be reached.
    Unreachable(RedirectionId),
    /// One of them answers again.
    Reachable(RedirectionId),
}

/// Ticks after which the guardian is told again that a redirection has no upstream.
const TELL_AGAIN: Tick = 10;

/// The redirections that a worker serves. Those that the kernel serves leave gaps in the numbers.
#[derive(Debug)]
pub(crate) struct Redirections {
    all: Vec<ActiveRedirection>,
    /// The place in `all` of each number.
    places: Vec<u16>,
    changes: VecDeque<UpstreamChange>,
}

impl Redirections {
    pub(crate) fn new(all: Vec<ActiveRedirection>) -> Redirections {
        let count = all.iter().map(|redirection| redirection.id.index() + 1).max().unwrap_or(0);
        let mut places = vec![0; count];
        for (place, redirection) in all.iter().enumerate() {
            places[redirection.id.index()] = place as u16;
        }
        Redirections { all, places, changes: VecDeque::new() }
    }

    fn get(&self, id: RedirectionId) -> &ActiveRedirection {
        &self.all[usize::from(self.places[id.index()])]
    }

    fn get_mut(&mut self, id: RedirectionId) -> &mut ActiveRedirection {
        &mut self.all[usize::from(self.places[id.index()])]
    }

    pub(crate) fn service(&self, id: RedirectionId) -> &Service {
        &self.get(id).service
    }

    pub(crate) fn upstreams(&mut self, id: RedirectionId) -> &mut Upstreams {
        &mut self.get_mut(id).upstreams
    }

    /// An address did not answer.
    pub(crate) fn failed(&mut self, id: RedirectionId, address: SocketAddr, error: &io::Error, now: Tick) {
        if self.upstreams(id).failed(address, now) == HealthChange::Down {
            log::warn!("upstream {address} is down: {error}; it is left alone for a while");
        }
    }

    /// No upstream of a redirection could be reached.
    pub(crate) fn unreachable(&mut self, id: RedirectionId, now: Tick) {
        let told = &mut self.get_mut(id).unreachable;
        if told.is_none_or(|told| told.saturating_add(TELL_AGAIN) <= now) {
            *told = Some(now);
            self.changes.push_back(UpstreamChange::Unreachable(id));
        }
    }

    /// An address answered.
    pub(crate) fn worked(&mut self, id: RedirectionId, address: SocketAddr) {
        if self.get_mut(id).unreachable.take().is_some() {
            self.changes.push_back(UpstreamChange::Reachable(id));
        }
        if self.upstreams(id).worked(address) == HealthChange::Up {
            log::info!("upstream {address} is up again");
        }
    }

    /// The next change that the guardian has not been told.
    pub(crate) fn next_change(&mut self) -> Option<UpstreamChange> {
        self.changes.pop_front()
    }

    /// When the next probe is due of upstreams that could not be reached.
    pub(crate) fn probe_due(&self) -> Option<Tick> {
        let unreachable = self.all.iter().filter(|redirection| redirection.unreachable.is_some());
        unreachable.map(|redirection| redirection.probe.due()).min()
    }

    /// Starts the probes that are due.
    pub(crate) fn probe(&mut self, now: Tick, registry: &Registry) {
        let unreachable = self.all.iter_mut().filter(|redirection| redirection.unreachable.is_some());
        for redirection in unreachable.filter(|redirection| redirection.probe.due() <= now) {
            let mut attempt = redirection.upstreams.begin(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            if let Some(address) = redirection.upstreams.next(&mut attempt, now)
                && let Err(error) = redirection.probe.start(redirection.id, address, now, registry)
            {
                log::debug!("upstream {address}: {error}");
            }
        }
    }

    /// The probe of a redirection has come to an end.
    pub(crate) fn probed(&mut self, number: u32, event: &Event) {
        let id = RedirectionId::from(number as usize);
        if let Some(address) = self.get_mut(id).probe.event(event) {
            self.worked(id, address);
        }
    }
}
