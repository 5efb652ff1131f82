//! The redirections that a worker serves, and whether their upstreams can be reached.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;

use mio::Registry;
use mio::event::Event;

use crate::redirection::RedirectionId;
use crate::sys::clock::Tick;
use crate::sys::congestion::Algorithm;
use crate::sys::outgoing::ThirdPacket;
use crate::sys::shortage::{self, ConnectError};
use crate::traffic::handshake::Handshake;
use crate::traffic::probe::{ENOUGH, EVERY, Probe, Probed};
use crate::traffic::service::{Service, Source, Via};
use crate::traffic::shared_counters::{UpstreamPlace, WorkerCounters};
use crate::traffic::upstreams::{Attempt, HealthChange, Upstreams};

/// A redirection with the addresses that its upstreams have now.
#[derive(Debug)]
pub(crate) struct ActiveRedirection {
    pub id: RedirectionId,
    pub service: Service,
    pub upstreams: Upstreams,
    pub pacing: Pacing,
    handshake: Handshake,
    /// Set while no upstream can be reached: when the guardian was last told.
    unreachable: Option<Tick>,
    probe: Probe,
    /// It is among those that may have something to probe.
    watched: bool,
    /// The upstreams of which it was logged that they answer nobody but this host.
    deaf: Vec<SocketAddr>,
}

impl ActiveRedirection {
    /// A redirection whose upstreams have these addresses.
    pub(crate) fn new(id: RedirectionId, service: Service, hosts: &[Vec<SocketAddr>]) -> ActiveRedirection {
        let upstreams = Upstreams::new(hosts, service.balance);
        let (pacing, probe) = (Pacing::default(), Probe::default());
        ActiveRedirection {
            id,
            service,
            upstreams,
            pacing,
            handshake: Handshake::default(),
            unreachable: None,
            probe,
            watched: false,
            deaf: Vec::new(),
        }
    }

    /// Whether all its upstreams are probed until one can be reached (`--upstream-grace`).
    fn is_withdrawn_soon(&self, grace: bool) -> bool {
        grace && self.unreachable.is_some()
    }

    /// When a probe is to be started or given up. An upstream without an alternative needs none: the clients try it.
    fn probe_due(&self, grace: bool) -> Option<Tick> {
        if self.probe.is_running() || self.is_withdrawn_soon(grace) {
            return Some(self.probe.due());
        }
        let has_choice = self.upstreams.count() > 1 || self.service.fallback;
        // Whether it answers this host says why it does not answer clients.
        let tells = matches!(self.service.source, Source::Client { .. });
        Some(self.upstreams.probe_due().filter(|_| has_choice || tells)?.max(self.probe.due()))
    }
}

/// On which sides the kernel sends what is written at a pace of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pacing {
    pub client: bool,
    pub upstream: bool,
}

/// What the guardian and the control process are told of a redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamChange {
    /// None of its upstreams could be reached.
    Unreachable(RedirectionId),
    /// One of them answers again.
    Reachable(RedirectionId),
    /// An address has failed, or answers again.
    Health { id: RedirectionId, address: SocketAddr, up: bool },
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
    /// Redirections without an upstream are withdrawn (`--upstream-grace`).
    grace: bool,
    /// Those that may have something to probe.
    watched: Vec<RedirectionId>,
    /// When to look at them.
    due: Option<Tick>,
    counters: Rc<WorkerCounters>,
}

impl Redirections {
    /// `grace` says whether redirections are withdrawn while their upstreams cannot be reached.
    pub(crate) fn new(all: Vec<ActiveRedirection>, grace: bool, counters: Rc<WorkerCounters>) -> Redirections {
        let count = all.iter().map(|redirection| redirection.id.index() + 1).max().unwrap_or(0);
        let mut places = vec![0; count];
        for (place, redirection) in all.iter().enumerate() {
            places[redirection.id.index()] = place as u16;
        }
        let redirections =
            Redirections { all, places, changes: VecDeque::new(), grace, watched: Vec::new(), due: None, counters };
        redirections.all.iter().for_each(|redirection| redirections.publish(redirection));
        redirections
    }

    /// Counts the addresses of the upstreams.
    fn publish(&self, redirection: &ActiveRedirection) {
        for (host, (addresses, down)) in redirection.upstreams.health().enumerate() {
            self.counters.set_health(UpstreamPlace { redirection: redirection.id, host }, addresses, down);
        }
    }

    /// The upstream of a redirection that has this address.
    pub(crate) fn place(&self, redirection: RedirectionId, address: SocketAddr) -> Option<UpstreamPlace> {
        Some(UpstreamPlace { redirection, host: self.get(redirection).upstreams.host_of(address)? })
    }

    /// An upstream has other addresses now.
    pub(crate) fn readdress(&mut self, id: RedirectionId, host: usize, addresses: Vec<SocketAddr>) {
        self.upstreams(id).replace(host, addresses);
        self.publish(self.get(id));
    }

    /// Looks which sockets pace, once: connections have the congestion control of their listener, and those to upstreams
    /// this one.
    pub(crate) fn look_for_pacing(
        &mut self,
        listeners: &[(TcpListener, RedirectionId)],
        upstream: &Algorithm,
    ) -> io::Result<()> {
        self.all.iter_mut().for_each(|redirection| redirection.pacing.upstream = upstream.paces());
        for (listener, id) in listeners {
            self.get_mut(*id).pacing.client = Algorithm::of(listener)?.paces();
        }
        Ok(())
    }

    /// How its next connection to an upstream shakes hands.
    pub(crate) fn third_packet(&self, id: RedirectionId) -> ThirdPacket {
        self.get(id).handshake.third_packet()
    }

    /// A connection is over that has brought so many bytes from its upstream.
    pub(crate) fn note_length(&mut self, id: RedirectionId, down: u64) {
        self.get_mut(id).handshake.note(down);
    }

    fn get(&self, id: RedirectionId) -> &ActiveRedirection {
        &self.all[usize::from(self.places[id.index()])]
    }

    fn get_mut(&mut self, id: RedirectionId) -> &mut ActiveRedirection {
        &mut self.all[usize::from(self.places[id.index()])]
    }

    /// Bytes of the longest head that a request of a client may have.
    pub(crate) fn longest_head(&self) -> usize {
        let head = |redirection: &ActiveRedirection| match &redirection.service.via {
            Via::Http(rewriting, _) => rewriting.max_head,
            _ => 0,
        };
        self.all.iter().map(head).max().unwrap_or(0)
    }

    pub(crate) fn service(&self, id: RedirectionId) -> &Service {
        &self.get(id).service
    }

    pub(crate) fn pacing(&self, id: RedirectionId) -> Pacing {
        self.get(id).pacing
    }

    pub(crate) fn upstreams(&mut self, id: RedirectionId) -> &mut Upstreams {
        &mut self.get_mut(id).upstreams
    }

    /// The next address for a connection ([`Upstreams::next`]).
    pub(crate) fn next(
        &mut self,
        id: RedirectionId,
        attempt: &mut Attempt,
        now: Tick,
        last_resort: bool,
    ) -> Option<SocketAddr> {
        let address = self.upstreams(id).next(attempt, now, last_resort)?;
        self.watch(id);
        Some(address)
    }

    /// An address did not answer.
    pub(crate) fn failed(&mut self, id: RedirectionId, address: SocketAddr, error: &io::Error, now: Tick) {
        if let Some(upstream) = self.place(id, address) {
            self.counters.failed(upstream);
        }
        if self.upstreams(id).failed(address, error, now) == HealthChange::Down {
            log::warn!("upstream {address} is down: {error}; it is left alone for a while");
            self.publish(self.get(id));
            self.changes.push_back(UpstreamChange::Health { id, address, up: false });
        }
        self.watch(id);
    }

    /// No upstream of a redirection could be reached. With the client's port that says nothing of the upstream: clients
    /// could have the redirection withdrawn by asking for a port that nobody serves, and which port would be probed?
    pub(crate) fn unreachable(&mut self, id: RedirectionId, now: Tick) {
        if self.service(id).destination.follows_port() {
            return;
        }
        let told = &mut self.get_mut(id).unreachable;
        if told.is_none_or(|told| told.saturating_add(TELL_AGAIN) <= now) {
            *told = Some(now);
            self.changes.push_back(UpstreamChange::Unreachable(id));
            self.watch(id);
        }
    }

    /// A connection was begun from the address of a client ([`Upstreams::asked_as`]).
    pub(crate) fn asked_as(&mut self, id: RedirectionId, address: SocketAddr, client: IpAddr, now: Tick) {
        self.upstreams(id).asked_as(address, client, now);
    }

    /// An address answered.
    pub(crate) fn worked(&mut self, id: RedirectionId, address: SocketAddr) {
        if self.get_mut(id).unreachable.take().is_some() {
            self.changes.push_back(UpstreamChange::Reachable(id));
        }
        if self.upstreams(id).worked(address) == HealthChange::Up {
            log::info!("upstream {address} is up again");
            self.publish(self.get(id));
            self.changes.push_back(UpstreamChange::Health { id, address, up: true });
        }
    }

    /// The checks have found out how an address of an upstream is.
    pub(crate) fn checked(&mut self, id: RedirectionId, address: SocketAddr, failing: bool) {
        self.upstreams(id).checked(address, failing);
        self.publish(self.get(id));
    }

    /// The next change that the guardian has not been told.
    pub(crate) fn next_change(&mut self) -> Option<UpstreamChange> {
        self.changes.pop_front()
    }

    /// Notes when there may be something to probe.
    fn watch(&mut self, id: RedirectionId) {
        let grace = self.grace;
        let redirection = self.get_mut(id);
        let Some(due) = redirection.probe_due(grace) else { return };
        let is_new = !std::mem::replace(&mut redirection.watched, true);
        self.watched.extend(is_new.then_some(id));
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// When to call [`Redirections::probe`].
    pub(crate) fn probe_due(&self) -> Option<Tick> {
        self.due
    }

    /// Gives up the probes that take too long, and starts those that are due.
    pub(crate) fn probe(&mut self, now: Tick, registry: &Registry) {
        if self.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        for id in std::mem::take(&mut self.watched) {
            let redirection = self.get_mut(id);
            redirection.watched = false;
            if let Some((address, ended)) = redirection.probe.expire(now) {
                self.probe_ended(id, address, ended, now);
            }
            self.start_probe(id, now, registry);
            self.watch(id);
        }
    }

    fn start_probe(&mut self, id: RedirectionId, now: Tick, registry: &Registry) {
        let grace = self.grace;
        let redirection = self.get_mut(id);
        if redirection.probe.is_running() || redirection.probe_due(grace).is_none_or(|due| now < due) {
            return;
        }
        let all = redirection.is_withdrawn_soon(grace);
        let upstreams = &mut redirection.upstreams;
        let address = if all {
            let mut attempt = upstreams.begin(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            upstreams.next(&mut attempt, now, false)
        } else {
            upstreams.to_probe(now)
        };
        let Some(address) = address else { return };
        // Where no upstream answers at all, one is tried every second.
        let limit = if all { EVERY } else { redirection.service.timeouts.connect };
        let source = redirection.service.source.own_address(address);
        match redirection.probe.start(id, (address, source), (now, limit), registry) {
            Ok(()) => {}
            Err(ConnectError::Upstream(error)) => self.failed(id, address, &error, now),
            // It is tried again.
            Err(ConnectError::Shortage(error) | ConnectError::Source(error)) => {
                log::debug!("probing upstream {address}: {error}")
            }
        }
    }

    /// The probe of a redirection has something to tell.
    pub(crate) fn probed(&mut self, number: u32, event: &Event, now: Tick) {
        let id = RedirectionId::from(number as usize);
        if let Some((address, ended)) = self.get_mut(id).probe.event(event) {
            self.probe_ended(id, address, ended, now);
            self.watch(id);
        }
    }

    /// Logs once that an upstream answers this host and no client. The kernel has sent a SYN from the client's address,
    /// and heard nothing.
    fn tell_unheard(&mut self, id: RedirectionId, address: SocketAddr, now: Tick) {
        let Some(client) = self.upstreams(id).unheard(address, now) else { return };
        let deaf = &mut self.get_mut(id).deaf;
        if !deaf.contains(&address) {
            deaf.push(address);
            log::warn!(
                "upstream {address} answers this host, but not connections from clients' addresses, such as {client}: its \
                 answers do not come back this way. Its route to the clients must lead to this host, and this host must \
                 not drop them (net.ipv4.conf.*.rp_filter); see SOURCE ADDRESS in tproxy(8)"
            );
        }
    }

    fn probe_ended(&mut self, id: RedirectionId, address: SocketAddr, ended: Probed, now: Tick) {
        if matches!(ended, Probed::Answered(_)) {
            self.tell_unheard(id, address, now);
        }
        match ended {
            Probed::Answered(times) if times < ENOUGH && self.get(id).is_withdrawn_soon(self.grace) => {}
            Probed::Answered(_) => self.worked(id, address),
            Probed::Failed(error) if shortage::missing(&error).is_some() => {
                log::debug!("probing upstream {address}: {error}");
            }
            Probed::Failed(error) => self.failed(id, address, &error, now),
        }
    }
}
