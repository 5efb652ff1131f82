//! From an accepted connection to the one that leaves for its upstream: who may pass, where it goes, and whether it
//! would come back to ourselves.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Index, IndexMut};

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;

use crate::logging::Limiter;
use crate::protocol::addr_pair::AddrPair;
use crate::redirection::RedirectionId;
use crate::sys::sockopt;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::destinations::{self, DenyReason, Foreign};
use crate::traffic::probe::Probe;
use crate::traffic::relay::{CloseReason, Route};
use crate::traffic::service::{Destination, Service, Timeouts};
use crate::traffic::source_limit::SourceLimit;
use crate::traffic::timers::Tick;
use crate::traffic::upstreams::{Attempt, Edge, Upstreams};

/// A redirection with the addresses that its upstreams have now.
#[derive(Debug)]
pub(crate) struct ActiveRedirection {
    /// Its number.
    pub id: RedirectionId,
    /// What was configured.
    pub service: Service,
    /// The upstreams.
    pub upstreams: Upstreams,
    /// Set while no upstream can be reached: when that was last told.
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

/// The redirections that a worker serves, by their number. Those that the kernel serves leave gaps in the numbers.
#[derive(Debug)]
struct ActiveRedirections {
    all: Vec<ActiveRedirection>,
    /// The place in `all` of each number.
    places: Vec<u16>,
}

impl ActiveRedirections {
    fn new(all: Vec<ActiveRedirection>) -> ActiveRedirections {
        let count = all.iter().map(|redirection| redirection.id.index() + 1).max().unwrap_or(0);
        let mut places = vec![0; count];
        for (place, redirection) in all.iter().enumerate() {
            places[redirection.id.index()] = place as u16;
        }
        ActiveRedirections { all, places }
    }
}

impl Index<RedirectionId> for ActiveRedirections {
    type Output = ActiveRedirection;
    fn index(&self, id: RedirectionId) -> &ActiveRedirection {
        &self.all[usize::from(self.places[id.index()])]
    }
}

impl IndexMut<RedirectionId> for ActiveRedirections {
    fn index_mut(&mut self, id: RedirectionId) -> &mut ActiveRedirection {
        &mut self.all[usize::from(self.places[id.index()])]
    }
}

/// What the guardian wants to know of a redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamChange {
    /// None of its upstreams could be reached.
    Unreachable(RedirectionId),
    /// One of them answers again.
    Reachable(RedirectionId),
}

/// Ticks after which the same bad news is told again.
const TELL_AGAIN: Tick = 10;

/// What decides about new connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    redirections: ActiveRedirections,
    /// Where this worker listens.
    doors: Vec<SocketAddr>,
    outgoing: Outgoing,
    /// How many connections each source has, where that is limited.
    source_limit: Option<SourceLimit>,
    foreign: Foreign,
    loops: Limiter,
    lookups: Limiter,
    crowds: Limiter,
    strangers: Limiter,
    forbidden: Limiter,
    news: VecDeque<UpstreamChange>,
}

/// A connection on its way out.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The socket, connecting.
    pub socket: TcpStream,
    /// Our end of it.
    pub local: CompactAddr,
    /// The other end.
    pub upstream: CompactAddr,
}

/// The two ends of our outgoing connections. When one of them is redirected, it comes back to us with the same two
/// ends: as its client address and as its original destination. No other connection on this host can have both.
#[derive(Debug)]
struct Outgoing {
    ends: HashSet<u64>,
    hasher: RandomState,
}

impl Outgoing {
    fn hash(&self, local: CompactAddr, remote: CompactAddr) -> u64 {
        self.hasher.hash_one((local, remote))
    }
}

impl Dialer {
    /// For these redirections, behind these listening addresses; `places` connections can be out at once.
    pub(crate) fn new(
        redirections: Vec<ActiveRedirection>,
        doors: Vec<SocketAddr>,
        places: usize,
        source_limit: Option<SourceLimit>,
    ) -> Dialer {
        let outgoing = Outgoing { ends: HashSet::with_capacity(places), hasher: RandomState::new() };
        Dialer {
            redirections: ActiveRedirections::new(redirections),
            doors,
            outgoing,
            source_limit,
            foreign: Foreign::new(),
            loops: Limiter::new(),
            lookups: Limiter::new(),
            crowds: Limiter::new(),
            strangers: Limiter::new(),
            forbidden: Limiter::new(),
            news: VecDeque::new(),
        }
    }

    /// Another worker takes over, and begins to count sources anew.
    pub(crate) fn resign(&mut self) {
        if let Some(source_limit) = &mut self.source_limit {
            source_limit.resign();
        }
    }

    /// An upstream has other addresses now.
    pub(crate) fn readdress(&mut self, redirection: RedirectionId, host: usize, addresses: Vec<SocketAddr>) {
        self.redirections[redirection].upstreams.replace(host, addresses);
    }

    /// What was configured for this redirection.
    pub(crate) fn service(&self, redirection: RedirectionId) -> &Service {
        &self.redirections[redirection].service
    }

    /// How long connections of this redirection may be silent.
    pub(crate) fn timeouts(&self, redirection: RedirectionId) -> &Timeouts {
        &self.service(redirection).timeouts
    }

    /// Where an accepted connection comes from and wanted to go. Unless a balancer has yet to say for whom it speaks, it
    /// is counted among those of its source, until [`Dialer::discharge`].
    ///
    /// Errors: its ending, when it may not pass.
    pub(crate) fn route(
        &mut self,
        redirection: RedirectionId,
        client: &TcpStream,
        peer: SocketAddr,
        now: Tick,
    ) -> Result<Route, (Route, CloseReason)> {
        let mut route = Route {
            client: peer.into(),
            original: CompactAddr::UNKNOWN,
            local: CompactAddr::UNKNOWN,
            upstream: CompactAddr::UNKNOWN,
        };
        let service = self.service(redirection);
        let allow = &service.allow;
        if !allow.is_empty() && !allow.iter().any(|network| network.contains(&route.client.ip())) {
            return Err((route, CloseReason::Denied));
        }
        if service.accept_proxy {
            return Ok(route);
        }
        match self.locate(redirection, client, &mut route, now).and_then(|()| self.enroll(&route)) {
            Ok(()) => Ok(route),
            Err(reason) => Err((route, reason)),
        }
    }

    /// Finds out where a connection was going, and whether it may go on.
    fn locate(
        &mut self,
        redirection: RedirectionId,
        client: &TcpStream,
        route: &mut Route,
        now: Tick,
    ) -> Result<(), CloseReason> {
        let service = self.service(redirection);
        let (transparent, only_redirected) = (service.needs_original(), service.only_redirected);
        // A socket for both families has IPv4 clients too.
        match sockopt::original_destination(client, route.client.ip()) {
            Ok(original) => route.original = original.into(),
            Err(error) if transparent || only_redirected => self.unknown_original(&error),
            Err(_) => {}
        }
        let known = route.original.is_known();
        // Without a redirection the client wanted to go where it arrived.
        if transparent || only_redirected || !known {
            let arrived = client.local_addr().map(CompactAddr::from).map_err(|_| CloseReason::Loop)?;
            let direct = !known || route.original == arrived;
            if direct && only_redirected {
                self.tell_stranger(route.client);
                return Err(CloseReason::Direct);
            }
            if direct && transparent {
                self.tell_loop(route.client, "connected to us directly: there is no other destination to relay to");
                return Err(CloseReason::Loop);
            }
            if !known && self.is_ours(route.client, arrived) {
                return Err(CloseReason::Loop);
            }
        }
        if known && self.is_ours(route.client, route.original) {
            return Err(CloseReason::Loop);
        }
        if transparent { self.permit(redirection, route, &[route.client], now) } else { Ok(()) }
    }

    /// A balancer has said who the client is and where it wanted to go, or that it speaks for itself. From here on the
    /// connection is one of the client's.
    ///
    /// Errors: its ending, when there is nowhere to go, or when it would come back to us.
    pub(crate) fn introduce(
        &mut self,
        redirection: RedirectionId,
        route: &mut Route,
        addrs: Option<AddrPair>,
        now: Tick,
    ) -> Result<(), CloseReason> {
        let balancer = route.client;
        if let Some(addrs) = addrs {
            (route.client, route.original) = (addrs.client.into(), addrs.original.into());
        }
        let transparent = self.service(redirection).needs_original();
        if transparent && !route.original.is_known() {
            self.tell_loop(route.client, "has no destination in its PROXY header: there is nowhere to relay to");
            return Err(CloseReason::Loop);
        }
        if self.is_ours(route.client, route.original) {
            return Err(CloseReason::Loop);
        }
        if transparent {
            self.permit(redirection, route, &[balancer, route.client], now)?;
        }
        self.enroll(route)
    }

    /// Whether a connection may go where it was going, which is asked for all of whom it comes from.
    fn permit(
        &mut self,
        redirection: RedirectionId,
        route: &Route,
        from: &[CompactAddr],
        now: Tick,
    ) -> Result<(), CloseReason> {
        let ground =
            self.ground(redirection, route.original.socket_addr(), from, now).map_err(CloseReason::ConnectFailed)?;
        let Some(ground) = ground else { return Ok(()) };
        if let Some(more) = self.forbidden.pass() {
            let Route { client, original, .. } = route;
            log::warn!("forbidden: {client} wanted to go to {original}, {ground}{more}");
        }
        Err(CloseReason::Forbidden(ground))
    }

    fn ground(
        &mut self,
        redirection: RedirectionId,
        to: SocketAddr,
        from: &[CompactAddr],
        now: Tick,
    ) -> io::Result<Option<DenyReason>> {
        let ground = match destinations::ground(to.ip(), &self.service(redirection).deny) {
            None if self.is_own(to, now)? => DenyReason::Own,
            None => return Ok(None),
            Some(ground) => ground,
        };
        let mut spared = ground.spares_locals();
        for end in from {
            spared = spared && sockopt::is_local(end.socket_addr())?;
        }
        Ok((!spared).then_some(ground))
    }

    fn is_own(&mut self, address: SocketAddr, now: Tick) -> io::Result<bool> {
        if self.foreign.holds(address.ip(), now) {
            return Ok(false);
        }
        let own = sockopt::is_local(address)?;
        if !own {
            self.foreign.learn(address.ip(), now);
        }
        Ok(own)
    }

    /// Counts a connection among those of its source.
    fn enroll(&mut self, route: &Route) -> Result<(), CloseReason> {
        let Some(source_limit) = &mut self.source_limit else { return Ok(()) };
        if source_limit.enter(route.client.ip()) {
            return Ok(());
        }
        if let Some(more) = self.crowds.pass() {
            let limit = source_limit.limit();
            log::warn!(
                "too many from this source: {} is reset, its source has {limit} connections{more}",
                route.client
            );
        }
        Err(CloseReason::Crowded)
    }

    /// A connection that was counted among those of its source is gone.
    pub(crate) fn discharge(&mut self, route: &Route) {
        if let Some(source_limit) = &mut self.source_limit {
            source_limit.leave(route.client.ip());
        }
    }

    fn is_ours(&mut self, client: CompactAddr, original: CompactAddr) -> bool {
        let ours = self.outgoing.ends.contains(&self.outgoing.hash(client, original));
        if ours {
            self.tell_loop(client, "is our own connection to the upstream: the rules redirect it back to us");
        }
        ours
    }

    fn tell_loop(&mut self, client: CompactAddr, what: &str) {
        if let Some(more) = self.loops.pass() {
            log::warn!("loop: {client} {what}{more}");
        }
    }

    fn tell_stranger(&mut self, client: CompactAddr) {
        if let Some(more) = self.strangers.pass() {
            log::warn!("not redirected: {client} connected to us directly and is reset{more}");
        }
    }

    fn unknown_original(&mut self, error: &io::Error) {
        if let Some(more) = self.lookups.pass() {
            log::warn!("original destination: {error}; was the connection redirected?{more}");
        }
    }

    /// The first attempt of a connection.
    pub(crate) fn begin(&mut self, redirection: RedirectionId, route: &Route) -> Attempt {
        self.redirections[redirection].upstreams.begin(route.client.ip())
    }

    /// Starts connecting to the next address, and passes over those that fail at once.
    ///
    /// Errors: the ending, with what the last address said, when none is left.
    pub(crate) fn dial(
        &mut self,
        redirection: RedirectionId,
        route: &Route,
        attempt: &mut Attempt,
        last: Option<io::Error>,
        now: Tick,
    ) -> Result<Dialed, CloseReason> {
        let mut last = last.unwrap_or_else(|| io::Error::other("no address is known"));
        while let Some(address) = self.next(redirection, route, attempt, now) {
            if self.is_ourselves(address) {
                self.tell_loop(route.client, "would be relayed to our own listening port");
                return Err(CloseReason::Loop);
            }
            match connect(address) {
                Ok((socket, local)) => {
                    let upstream = CompactAddr::from(address);
                    let hash = self.outgoing.hash(local, upstream);
                    self.outgoing.ends.insert(hash);
                    return Ok(Dialed { socket, local, upstream });
                }
                Err(error) => {
                    self.failed(redirection, address, &error, now);
                    last = error;
                }
            }
        }
        Err(CloseReason::ConnectFailed(last))
    }

    fn next(
        &mut self,
        redirection: RedirectionId,
        route: &Route,
        attempt: &mut Attempt,
        now: Tick,
    ) -> Option<SocketAddr> {
        let ActiveRedirection { service, upstreams, .. } = &self.redirections[redirection];
        if let Some(address) = upstreams.next(attempt, now) {
            return Some(address);
        }
        let last_resort = service.fallback || service.destination == Destination::Original;
        let asked_before = service.needs_original();
        if !last_resort || std::mem::replace(&mut attempt.fell_back, true) || !route.original.is_known() {
            return None;
        }
        let may = asked_before || self.permit(redirection, route, &[route.client], now).is_ok();
        may.then(|| route.original.socket_addr())
    }

    /// Whether connecting there would reach our own listening socket. Asked before connecting: a connection that is
    /// closed again has reached our backlog already. Only for our own ports the routing table is asked.
    fn is_ourselves(&self, address: SocketAddr) -> bool {
        let reaches = |door: &SocketAddr| {
            let family = door.is_ipv4() == address.is_ipv4();
            family && door.port() == address.port() && (door.ip().is_unspecified() || door.ip() == address.ip())
        };
        // Without an answer it is left alone, as ourselves would be.
        self.doors.iter().any(reaches) && sockopt::is_local(address).unwrap_or(true)
    }

    /// An address did not answer.
    pub(crate) fn failed(&mut self, redirection: RedirectionId, address: SocketAddr, error: &io::Error, now: Tick) {
        if self.redirections[redirection].upstreams.failed(address, now) == Edge::Down {
            log::warn!("upstream {address} is down: {error}; it is left alone for a while");
        }
    }

    /// No upstream of a redirection could be reached.
    pub(crate) fn unreachable(&mut self, redirection: RedirectionId, now: Tick) {
        let told = &mut self.redirections[redirection].unreachable;
        if told.is_none_or(|told| told.saturating_add(TELL_AGAIN) <= now) {
            *told = Some(now);
            self.news.push_back(UpstreamChange::Unreachable(redirection));
        }
    }

    /// When the next try is due whether an upstream answers again that could not be reached.
    pub(crate) fn probe_due(&self) -> Option<Tick> {
        self.redirections
            .all
            .iter()
            .filter(|redirection| redirection.unreachable.is_some())
            .map(|redirection| redirection.probe.due())
            .min()
    }

    /// Makes the tries that are due.
    pub(crate) fn probe(&mut self, now: Tick, registry: &Registry) {
        let redirections = self.redirections.all.iter_mut().filter(|redirection| redirection.unreachable.is_some());
        for redirection in redirections.filter(|redirection| redirection.probe.due() <= now) {
            let mut attempt = redirection.upstreams.begin(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            if let Some(address) = redirection.upstreams.next(&mut attempt, now)
                && let Err(error) = redirection.probe.start(redirection.id, address, now, registry)
            {
                log::debug!("upstream {address}: {error}");
            }
        }
    }

    /// A try has come to an end.
    pub(crate) fn probed(&mut self, number: u32, event: &Event) {
        let id = RedirectionId::from(number as usize);
        if let Some(address) = self.redirections[id].probe.event(event) {
            self.worked(id, address);
        }
    }

    /// What the guardian has not been told yet.
    pub(crate) fn news(&mut self) -> Option<UpstreamChange> {
        self.news.pop_front()
    }

    /// An address answered.
    pub(crate) fn worked(&mut self, redirection: RedirectionId, address: SocketAddr) {
        if self.redirections[redirection].unreachable.take().is_some() {
            self.news.push_back(UpstreamChange::Reachable(redirection));
        }
        if self.redirections[redirection].upstreams.worked(address) == Edge::Up {
            log::info!("upstream {address} is up again");
        }
    }

    /// The outgoing connection is closed.
    pub(crate) fn forget(&mut self, route: &Route) {
        let hash = self.outgoing.hash(route.local, route.upstream);
        self.outgoing.ends.remove(&hash);
    }
}

fn connect(address: SocketAddr) -> io::Result<(TcpStream, CompactAddr)> {
    let socket = TcpStream::from_std(sockopt::connecting(address)?);
    // The kernel chose our end in connect(2) already, before any answer; it must be known before the connection can
    // come back to us.
    let local = socket.local_addr()?;
    Ok((socket, local.into()))
}
