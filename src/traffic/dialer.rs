//! From an admitted connection to the outgoing one: which address is tried next.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;

use crate::protocol::addr_pair::AddrPair;
use crate::redirection::RedirectionId;
use crate::relay::close::CloseReason;
use crate::relay::timeouts::Timeouts;
use crate::sys::clock::Tick;
use crate::sys::congestion::Algorithm;
use crate::sys::outgoing;
use crate::sys::shortage::{self, ConnectError, Resource};
use crate::traffic::admission::Admission;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::redirections::Redirections;
use crate::traffic::service::{self, Destination, Service, Source};
use crate::traffic::session::Session;
use crate::traffic::stock::{SocketKind, Stock};
use crate::traffic::upstreams::Attempt;

/// Admits connections and dials their upstreams.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub redirections: Redirections,
    pub admission: Admission,
    /// Sockets for connections from addresses of clients.
    pub stock: Stock,
    /// Where this worker listens.
    listeners: Vec<SocketAddr>,
    /// The congestion control of outgoing connections, if it is not the usual one.
    congestion: Option<Algorithm>,
}

/// A connection on its way out.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The socket, connecting.
    pub socket: TcpStream,
    /// Our address of it.
    pub local: CompactAddr,
    /// The address that it is connecting to.
    pub upstream: CompactAddr,
    pub departure: Departure,
}

/// Where a connection has left from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    AsWanted,
    /// Not from the client's port, as `--source client:port` asks for.
    OtherPort,
    /// Not from the client's address, as `--source client` asks for.
    OwnAddress,
}

/// Why a connection is not on its way.
#[derive(Debug)]
pub(crate) enum NotDialed {
    Closed(CloseReason),
    /// The stock is empty. The guardian fills it up.
    NoSocket,
}

impl From<CloseReason> for NotDialed {
    fn from(reason: CloseReason) -> NotDialed {
        NotDialed::Closed(reason)
    }
}

impl Dialer {
    /// For these redirections, behind these listening addresses.
    pub(crate) fn new(
        redirections: Redirections,
        listeners: Vec<SocketAddr>,
        admission: Admission,
        stock: Stock,
        congestion: Option<Algorithm>,
    ) -> Dialer {
        Dialer { redirections, admission, stock, listeners, congestion }
    }

    pub(crate) fn service(&self, redirection: RedirectionId) -> &Service {
        self.redirections.service(redirection)
    }

    pub(crate) fn timeouts(&self, redirection: RedirectionId) -> &Timeouts {
        &self.service(redirection).timeouts
    }

    /// [`Admission::check`] with the service of the redirection.
    pub(crate) fn admit(&mut self, session: &mut Session, client: &TcpStream) -> Result<(), CloseReason> {
        self.admission.check(self.redirections.service(session.redirection), session, client)
    }

    /// [`Admission::apply_header`] with the service of the redirection.
    pub(crate) fn apply_header(
        &mut self,
        session: &mut Session,
        addresses: Option<AddrPair>,
    ) -> Result<(), CloseReason> {
        self.admission.apply_header(self.redirections.service(session.redirection), session, addresses)
    }

    /// The first attempt of a connection.
    pub(crate) fn begin(&mut self, session: &Session) -> Attempt {
        self.redirections.upstreams(session.redirection).begin(session.route.client.ip())
    }

    /// Starts connecting to the next address, and passes over those that fail at once. `last` is how the previous
    /// address failed; when no address is left it is the reason.
    pub(crate) fn dial(
        &mut self,
        session: &Session,
        attempt: &mut Attempt,
        last: Option<io::Error>,
        now: Tick,
    ) -> Result<Dialed, NotDialed> {
        let is_first = last.is_none();
        let mut last = last.unwrap_or_else(|| io::Error::other("no address is known"));
        loop {
            if session.as_client && self.stock.must_wait(self.socket_kind(session), is_first) {
                return Err(NotDialed::NoSocket);
            }
            let Some(address) = self.next(session, attempt, now) else { break };
            let ourselves = self.is_ourselves(address);
            if ourselves.map_err(|error| self.admission.shortage(error, session.route.client, None))? {
                self.admission.warn_loop(session.route.client, "would be relayed to our own listening port");
                return Err(CloseReason::Loop.into());
            }
            match self.connect(session, address) {
                Ok(dialed) => {
                    // Before any answer: the connection may come back to us now.
                    self.admission.add_outgoing(dialed.local, dialed.upstream);
                    if session.as_client && dialed.departure != Departure::OwnAddress {
                        let client = session.route.client.ip();
                        self.redirections.asked_as(session.redirection, address, client, now);
                    }
                    return Ok(dialed);
                }
                Err(ConnectError::Upstream(error)) => {
                    self.redirections.failed(session.redirection, address, &error, now);
                    last = error;
                }
                Err(ConnectError::Source(error)) => {
                    let source = self.source(session, address);
                    self.admission.warn_source(session.route.client, address, source, &error);
                    // An address of the other family may leave from another one.
                    attempt.out_of_ports = true;
                }
                Err(ConnectError::Shortage(error)) => {
                    let missing = shortage::missing(&error);
                    let towards = Some((address, self.source(session, address)));
                    let reason = self.admission.shortage(error, session.route.client, towards);
                    if missing != Some(Resource::LocalPorts) {
                        return Err(reason.into());
                    }
                    // Another address may have a port left.
                    attempt.out_of_ports = true;
                }
            }
        }
        Err(NotDialed::Closed(match attempt.out_of_ports {
            true => CloseReason::Resources(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)),
            false => CloseReason::ConnectFailed(last),
        }))
    }

    /// The address that a connection to `upstream` leaves from; `None` if the kernel chooses.
    fn source(&self, session: &Session, upstream: SocketAddr) -> Option<IpAddr> {
        let client = session.route.client.ip();
        let answers = client.is_ipv4() == upstream.is_ipv4() && !upstream.ip().is_loopback();
        match session.as_client && answers {
            true => Some(client),
            false => self.service(session.redirection).source.own_address(upstream),
        }
    }

    /// What a connection from the client's address needs.
    fn socket_kind(&self, session: &Session) -> SocketKind {
        SocketKind { is_v4: session.route.client.ip().is_ipv4(), zoned: self.service(session.redirection).zoned() }
    }

    /// Starts connecting from where the connection is to leave from.
    fn connect(&mut self, session: &Session, upstream: SocketAddr) -> Result<Dialed, ConnectError> {
        let dialed = |(socket, local): (std::net::TcpStream, SocketAddr), departure| Dialed {
            socket: TcpStream::from_std(socket),
            local: local.into(),
            upstream: upstream.into(),
            departure,
        };
        let source = self.source(session, upstream);
        let third = self.redirections.third_packet(session.redirection);
        let same_port = matches!(self.service(session.redirection).source, Source::Client { same_port: true, .. });
        if session.as_client && source.is_some() {
            let client = session.route.client.socket_addr();
            if same_port && let Some(connecting) = self.connect_from_port(client, session, upstream) {
                return Ok(dialed(connecting?, Departure::AsWanted));
            }
            if let Some(socket) = self.stock.take(self.socket_kind(session)) {
                let connecting = outgoing::connecting_from(socket, SocketAddr::new(client.ip(), 0), upstream, third)?;
                return Ok(dialed(connecting, if same_port { Departure::OtherPort } else { Departure::AsWanted }));
            }
        }
        let departure = if session.as_client { Departure::OwnAddress } else { Departure::AsWanted };
        if session.as_client {
            self.admission.warn_own_source(session.route.client, upstream);
        }
        let source = source.filter(|_| !session.as_client);
        Ok(dialed(outgoing::connecting(upstream, source, self.congestion.as_ref(), third)?, departure))
    }

    /// Starts connecting from the client's port too; `None` if that is taken, or was never to be had.
    fn connect_from_port(
        &mut self,
        client: SocketAddr,
        session: &Session,
        upstream: SocketAddr,
    ) -> Option<Result<(std::net::TcpStream, SocketAddr), ConnectError>> {
        // The client's own connection has this pair already. Without a zone, connection tracking takes ours for it.
        let kind = self.socket_kind(session);
        if !kind.zoned && session.route.original.socket_addr() == upstream {
            return None;
        }
        let third = self.redirections.third_packet(session.redirection);
        match outgoing::connecting_from(self.stock.take(kind)?, client, upstream, third) {
            // EADDRINUSE, EADDRNOTAVAIL; EACCES for a port below 1024.
            Err(ConnectError::Source(_) | ConnectError::Shortage(_)) => None,
            connecting => Some(connecting),
        }
    }

    /// The next upstream, or as the last resort the original destination.
    fn next(&mut self, session: &Session, attempt: &mut Attempt, now: Tick) -> Option<SocketAddr> {
        if attempt.fell_back {
            return None;
        }
        let (id, route) = (session.redirection, &session.route);
        let service = self.redirections.service(id);
        let may_fall_back = |attempt: &Attempt| !attempt.out_of_ports && route.original.is_known();
        let last_resort = service.fallback && may_fall_back(attempt);
        let port = route.original.port();
        if let Some(address) = self.redirections.next(id, attempt, now, last_resort) {
            return Some(at_port(address, port));
        }
        if may_fall_back(attempt) && self.can_fall_back(session) {
            attempt.fell_back = true;
            return Some(route.original.socket_addr());
        }
        Some(at_port(self.redirections.next(id, attempt, now, false)?, port))
    }

    /// Whether connections may go to their original destination.
    fn can_fall_back(&mut self, session: &Session) -> bool {
        let service = self.redirections.service(session.redirection);
        let wanted = service.fallback || service.destination == Destination::Original;
        // Where clients choose the destination, it was checked at the beginning.
        wanted && (service.clients_choose() || self.admission.permit(service, session).is_ok())
    }

    /// Whether connecting there would reach our own listening socket. Asked before connecting: a connection that is
    /// closed again has reached our backlog already. Only for our own ports the routing table is asked.
    fn is_ourselves(&mut self, address: SocketAddr) -> io::Result<bool> {
        let to = address.ip().to_canonical();
        let reaches = |listener: &SocketAddr| {
            let ip = listener.ip();
            let family = ip.is_ipv4() == to.is_ipv4();
            family && listener.port() == address.port() && (ip.is_unspecified() || to.is_unspecified() || ip == to)
        };
        if self.listeners.iter().any(reaches) { self.admission.is_own(address) } else { Ok(false) }
    }
}

/// An address of an upstream with the port that the client asked for, if it takes that.
fn at_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    if service::follows_port(&address) {
        address.set_port(port);
    }
    address
}
