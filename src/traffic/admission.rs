//! Which connections are relayed: who may connect, where to, how many from one source, and none that comes from
//! ourselves.

mod source;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;

use crate::logging::Limiter;
use crate::protocol::addr_pair::AddrPair;
use crate::relay::close::{CloseReason, DenyReason};
use crate::sys::routing_table::{AddressOwner, RoutingTable};
use crate::sys::shortage::{self, Resource};
use crate::sys::sockopt;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::destinations::{self, Forbidden};
use crate::traffic::host_check::KnownName;
use crate::traffic::service::{Interception, Service};
use crate::traffic::session::{Route, Session};
use crate::traffic::source_limit::SourceLimit;

/// The checks before a connection is relayed.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The connections of each source, if they are limited.
    source_limit: Option<SourceLimit>,
    outgoing: Outgoing,
    routes: RoutingTable,
    /// Where this worker listens.
    ports: Vec<u16>,
    warnings: Warnings,
}

/// The log lines about connections that are not relayed, each once in a while.
#[derive(Debug, Default)]
struct Warnings {
    loops: Limiter,
    unknown_originals: Limiter,
    source_limit: Limiter,
    not_redirected: Limiter,
    forbidden: Limiter,
    shortages: Limiter,
    sources: Limiter,
    own_sources: Limiter,
    empty_stock: Limiter,
}

/// The address pairs of our outgoing connections whose upstream has not sent anything yet. When one of them is redirected,
/// it comes back to us with the same pair: as its client address and as its original destination. We are its upstream then,
/// and say nothing before we have recognised it.
///
/// With `--source client` a client can have such a pair too, towards an upstream that it also asks for directly: the kernel
/// keeps our ports apart from each other and not from those of clients. Where the upstream has sent something, this is
/// no loop.
#[derive(Debug)]
struct Outgoing {
    pairs: HashSet<u64>,
    hasher: RandomState,
}

impl Outgoing {
    fn hash(&self, local: CompactAddr, remote: CompactAddr) -> u64 {
        self.hasher.hash_one((local, remote))
    }
}

impl Admission {
    /// For `capacity` connections at once, behind these listening ports.
    pub(crate) fn new(
        capacity: usize,
        routes: RoutingTable,
        source_limit: Option<SourceLimit>,
        ports: Vec<u16>,
    ) -> Admission {
        let outgoing = Outgoing { pairs: HashSet::with_capacity(capacity), hasher: RandomState::new() };
        Admission { source_limit, outgoing, routes, ports, warnings: Warnings::default() }
    }

    /// Checks an accepted connection, and finds its original destination. Unless a PROXY header is yet to come, it is
    /// counted for its source, until [`Admission::release`].
    pub(crate) fn check(
        &mut self,
        service: &Service,
        session: &mut Session,
        client: &TcpStream,
    ) -> Result<(), CloseReason> {
        let ip = session.route.client.ip();
        if !service.allow.is_empty() && !service.allow.iter().any(|network| network.contains(&ip)) {
            return Err(CloseReason::Denied);
        }
        if service.accept_proxy {
            return Ok(());
        }
        self.locate(service, session, client)?;
        self.choose_source(service, session, false)?;
        self.count(session)
    }

    /// Finds the original destination of a connection, and whether it may go on. While a reload changes the interception,
    /// the workers of both generations get connections of either kind.
    fn locate(&mut self, service: &Service, session: &mut Session, client: &TcpStream) -> Result<(), CloseReason> {
        let (needed, only_redirected) = (service.needs_original(), service.only_redirected);
        if service.interception == Interception::Tproxy {
            return self.locate_unchanged(service, session, client);
        }
        let route = &mut session.route;
        // A socket for both families has IPv4 clients too.
        match sockopt::original_destination(client, route.client.ip()) {
            Ok(original) => route.original = original.into(),
            Err(error) if needed || only_redirected => self.warn_unknown_original(&error),
            Err(_) => {}
        }
        let known = route.original.is_known();
        // The destination of a connection that was not redirected is the address where it arrived.
        if needed || only_redirected || !known {
            let arrived = client.local_addr().map_err(|error| self.shortage(error, route.client, None))?;
            let arrived = CompactAddr::from(arrived);
            let mut direct = !known || route.original == arrived;
            if direct && (needed || only_redirected) && !self.is_where_we_listen(arrived, route.client)? {
                // TPROXY has intercepted it: the rules of another generation stand.
                (route.original, direct) = (arrived, false);
            }
            if direct && only_redirected {
                self.warn_not_redirected(route.client);
                return Err(CloseReason::NotRedirected);
            }
            if direct && needed {
                self.warn_direct(route.client);
                return Err(CloseReason::Loop);
            }
            if !known && self.is_ours(route.client, arrived) {
                return Err(CloseReason::Loop);
            }
        }
        if known && self.is_ours(route.client, route.original) {
            return Err(CloseReason::Loop);
        }
        if service.clients_choose() { self.permit(service, session) } else { Ok(()) }
    }

    /// The same for a connection that TPROXY has intercepted: its destination is the address that our socket has. Only one to
    /// our own port has come directly.
    fn locate_unchanged(
        &mut self,
        service: &Service,
        session: &mut Session,
        client: &TcpStream,
    ) -> Result<(), CloseReason> {
        let from = session.route.client;
        let arrived = client.local_addr().map_err(|error| self.shortage(error, from, None))?;
        let arrived = CompactAddr::from(arrived);
        session.route.original = arrived;
        let mut direct = self.is_where_we_listen(arrived, from)?;
        if direct
            && let Ok(original) = sockopt::original_destination(client, from.ip()).map(CompactAddr::from)
            && original != arrived
        {
            // It was translated: the rules of another generation stand.
            (session.route.original, direct) = (original, false);
        }
        if direct && service.only_redirected {
            self.warn_not_redirected(from);
            return Err(CloseReason::NotRedirected);
        }
        if direct && service.needs_original() {
            self.warn_direct(from);
            return Err(CloseReason::Loop);
        }
        if self.is_ours(from, session.route.original) {
            return Err(CloseReason::Loop);
        }
        if service.clients_choose() { self.permit(service, session) } else { Ok(()) }
    }

    /// Whether a connection of this client that arrived here was made to the listening port: directly, or translated. Where
    /// inetd or systemd listened for us, any port may be that one.
    fn is_where_we_listen(&mut self, arrived: CompactAddr, client: CompactAddr) -> Result<bool, CloseReason> {
        let ours = self.ports.is_empty() || self.ports.contains(&arrived.port());
        Ok(ours && self.is_own(arrived.socket_addr()).map_err(|error| self.shortage(error, client, None))?)
    }

    /// Takes over the addresses of a PROXY header; `None` when the balancer speaks for itself. From here on the
    /// connection is one of the client that the header names.
    pub(crate) fn apply_header(
        &mut self,
        service: &Service,
        session: &mut Session,
        addresses: Option<AddrPair>,
    ) -> Result<(), CloseReason> {
        let route = &mut session.route;
        let balancer = route.client;
        if let Some(addresses) = addresses {
            (route.client, route.original) = (addresses.client.into(), addresses.original.into());
        }
        let (client, original) = (route.client, route.original);
        let chosen = service.clients_choose();
        if service.needs_original() && !original.is_known() {
            self.warn_loop(client, "has no destination in its PROXY header: there is nowhere to relay to");
            return Err(CloseReason::Loop);
        }
        if self.is_ours(client, original) {
            return Err(CloseReason::Loop);
        }
        if chosen || service.fallback {
            let own = self.is_own(balancer.socket_addr());
            session.from_elsewhere = !own.map_err(|error| self.shortage(error, client, None))?;
        }
        if chosen {
            self.permit(service, session)?;
        }
        self.choose_source(service, session, addresses.is_some())?;
        self.count(session)
    }

    /// Whether a connection may go to its original destination.
    pub(crate) fn permit(&mut self, service: &Service, session: &Session) -> Result<(), CloseReason> {
        let Route { client, original, .. } = session.route;
        let denied = self.deny_reason(service, session, original.socket_addr());
        let Some(reason) = denied.map_err(|error| self.shortage(error, client, None))? else { return Ok(()) };
        if let Some(more) = self.warnings.forbidden.pass() {
            log::warn!("forbidden: {client} wanted to go to {original}, {reason}{more}");
        }
        Err(CloseReason::Forbidden(reason))
    }

    /// Why a connection may not go to an address that its client has named; `None` if it may.
    ///
    /// Errors: this host is short of what it takes to find out.
    pub(crate) fn deny_reason(
        &mut self,
        service: &Service,
        session: &Session,
        to: SocketAddr,
    ) -> io::Result<Option<DenyReason>> {
        let reason = match destinations::deny_reason(to.ip(), &service.deny) {
            None => self.deny_reason_of_owner(to)?,
            reason => reason,
        };
        let Some(reason) = reason else { return Ok(None) };
        let spared = destinations::spares_local_clients(reason) && self.is_from_here(session)?;
        Ok((!spared).then_some(reason))
    }

    /// Whether the client is on this host, so that it reaches by itself what is forbidden to others.
    fn is_from_here(&mut self, session: &Session) -> io::Result<bool> {
        Ok(!session.from_elsewhere && self.is_own(session.route.client.socket_addr())?)
    }

    /// To whom the addresses of a name are forbidden, without those of `--deny`. What cannot be found out is forbidden.
    pub(crate) fn forbidden(&mut self, addresses: &mut dyn Iterator<Item = IpAddr>) -> Forbidden {
        let mut forbidden = Forbidden::default();
        for ip in addresses {
            let reason = match destinations::deny_reason(ip, &[]) {
                None => self.deny_reason_of_owner(SocketAddr::new(ip, 0)),
                reason => Ok(reason),
            };
            match reason {
                Ok(reason) => reason.into_iter().for_each(|reason| forbidden.add(reason)),
                Err(_) => forbidden.to_all = true,
            }
        }
        forbidden
    }

    /// Whether a proxy may be asked for a host that has these addresses.
    pub(crate) fn permits_addresses(&mut self, service: &Service, session: &Session, addresses: &[IpAddr]) -> bool {
        let port = session.route.original.socket_addr().port();
        addresses.iter().all(|ip| matches!(self.deny_reason(service, session, SocketAddr::new(*ip, port)), Ok(None)))
    }

    /// Whether a proxy may be asked for a name, which leads it to any of the addresses of the name.
    pub(crate) fn permits_name(&mut self, service: &Service, session: &Session, name: &KnownName) -> bool {
        let Forbidden { to_all, to_others } = name.forbidden();
        !to_all && !name.is_denied(&service.deny) && (!to_others || self.is_from_here(session).unwrap_or(false))
    }

    /// What the routing table has against an address.
    fn deny_reason_of_owner(&mut self, to: SocketAddr) -> io::Result<Option<DenyReason>> {
        for form in destinations::forms(to.ip()) {
            match self.routes.owner(SocketAddr::new(form, to.port()))? {
                AddressOwner::ThisHost => return Ok(Some(DenyReason::Own)),
                AddressOwner::NoHost => return Ok(Some(DenyReason::NoHost)),
                AddressOwner::Elsewhere => {}
            }
        }
        Ok(None)
    }

    /// Whether this is an address of this host.
    pub(crate) fn is_own(&mut self, address: SocketAddr) -> io::Result<bool> {
        Ok(self.routes.owner(address)? == AddressOwner::ThisHost)
    }

    /// Counts a connection for its source.
    fn count(&mut self, session: &mut Session) -> Result<(), CloseReason> {
        if let Some(source_limit) = &mut self.source_limit
            && !source_limit.enter(session.route.client.ip())
        {
            if let Some(more) = self.warnings.source_limit.pass() {
                let (client, limit) = (session.route.client, source_limit.limit());
                log::warn!("too many from this source: {client} is reset, its source has {limit} connections{more}");
            }
            return Err(CloseReason::SourceLimit);
        }
        session.counted = true;
        Ok(())
    }

    /// A connection is closed.
    pub(crate) fn release(&mut self, session: &Session) {
        if session.counted
            && let Some(source_limit) = &mut self.source_limit
        {
            source_limit.leave(session.route.client.ip());
        }
    }

    /// Another worker takes over, and begins to count sources anew.
    pub(crate) fn stop_counting(&mut self) {
        if let Some(source_limit) = &mut self.source_limit {
            source_limit.stop();
        }
    }

    /// Remembers an outgoing connection.
    pub(crate) fn add_outgoing(&mut self, local: CompactAddr, upstream: CompactAddr) {
        let hash = self.outgoing.hash(local, upstream);
        self.outgoing.pairs.insert(hash);
    }

    /// The outgoing connection is closed, or its upstream has sent something.
    pub(crate) fn remove_outgoing(&mut self, route: &Route) {
        let hash = self.outgoing.hash(route.local, route.upstream);
        self.outgoing.pairs.remove(&hash);
    }

    fn is_ours(&mut self, client: CompactAddr, original: CompactAddr) -> bool {
        let ours = self.outgoing.pairs.contains(&self.outgoing.hash(client, original));
        if ours {
            self.warn_loop(client, "is our own connection to the upstream: the rules redirect it back to us");
        }
        ours
    }

    /// This host is short of something that a connection needs: warns, and returns the close reason. `towards` is the
    /// address that was being connected to, with the one that the connection should leave from.
    pub(crate) fn shortage(
        &mut self,
        error: io::Error,
        client: CompactAddr,
        towards: Option<(SocketAddr, Option<IpAddr>)>,
    ) -> CloseReason {
        if let Some(more) = self.warnings.shortages.pass() {
            match (shortage::missing(&error).unwrap_or(Resource::Other), towards) {
                (Resource::LocalPorts, Some((address, None))) => {
                    log::warn!("out of local ports towards {address} for {client}: {error}{more}");
                }
                (Resource::LocalPorts, Some((address, Some(source)))) => {
                    log::warn!("out of local ports of {source} towards {address} for {client}: {error}{more}");
                }
                (resource, _) => log::warn!("out of {resource} for {client}: {error}{more}"),
            }
        }
        CloseReason::Resources(error)
    }

    pub(crate) fn warn_loop(&mut self, client: CompactAddr, what: &str) {
        if let Some(more) = self.warnings.loops.pass() {
            log::warn!("loop: {client} {what}{more}");
        }
    }

    fn warn_direct(&mut self, client: CompactAddr) {
        self.warn_loop(client, "connected to us directly: there is no other destination to relay to");
    }

    fn warn_not_redirected(&mut self, client: CompactAddr) {
        if let Some(more) = self.warnings.not_redirected.pass() {
            log::warn!("not redirected: {client} connected to us directly and is reset{more}");
        }
    }

    fn warn_unknown_original(&mut self, error: &io::Error) {
        if let Some(more) = self.warnings.unknown_originals.pass() {
            log::warn!("original destination: {error}; was the connection redirected?{more}");
        }
    }
}
