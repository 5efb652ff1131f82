//! The listening sockets: opened here, or passed by inetd or the service manager. The guardian keeps them for as long as the
//! redirection exists; workers come and go.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::config::{Config, Listen};
use crate::daemon::inherited::Inherited;
use crate::daemon::keep_alive;
use crate::daemon::socket_owners::{SocketOwner, SocketOwners};
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::sys::congestion::Algorithm;
use crate::sys::process;
use crate::sys::sockopt::{self, PortSharing};

/// One address of one redirection.
#[derive(Debug)]
pub(crate) struct ListenSocket {
    /// The redirection.
    pub redirection: RedirectionId,
    /// Where it listens.
    pub address: SocketAddr,
    /// A listening socket for each worker, or more: the kernel spreads new connections over them (`SO_REUSEPORT`,
    /// socket(7)), and one that was closed would reset those that wait in it. See [`ListenSocket::of`].
    pub listeners: Vec<TcpListener>,
    pub origin: Origin,
}

/// Where a listening socket comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This process, or a former program of it.
    Opened,
    /// The service manager or inetd, with this name.
    Passed(Option<String>),
}

impl ListenSocket {
    /// The listeners of one of so many workers.
    pub(crate) fn of(&self, worker: usize, workers: usize) -> impl Iterator<Item = &TcpListener> {
        self.listeners.iter().skip(worker).step_by(workers)
    }

    /// Makes the listeners of one of so many workers fit for a new one: the last one may have been taken over. One that no
    /// longer listens gets a successor, and the options of the others are set again.
    fn renew(&mut self, worker: usize, workers: usize, congestion: Option<&Algorithm>) -> io::Result<()> {
        for listener in self.listeners.iter_mut().skip(worker).step_by(workers) {
            if sockopt::listens(&*listener)? {
                sockopt::restore_options(listener)?;
            } else {
                log::warn!("a socket at {} no longer listens, another one takes its place", self.address);
                *listener = sockopt::listener_instead_of(listener, self.address)?;
            }
            congestion.map_or(Ok(()), |algorithm| algorithm.set(&*listener))?;
        }
        Ok(())
    }

    /// The addresses at which it takes connections. A socket that was passed may take both families.
    fn reached_at(&self) -> Vec<SocketAddr> {
        let address = SocketAddr::new(self.address.ip().to_canonical(), self.address.port());
        let socket = self.listeners.first();
        let both = address.ip() == Ipv6Addr::UNSPECIFIED && socket.is_some_and(takes_both_families);
        let ipv4 = both.then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
        ipv4.into_iter().chain([address]).collect()
    }

    /// Whether all listeners of one of so many workers listen.
    fn is_sound(&self, worker: usize, workers: usize) -> bool {
        self.of(worker, workers).all(|listener| sockopt::listens(listener).is_ok_and(|listens| listens))
    }
}

/// All sockets of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// In the order of the configuration.
    pub all: Vec<ListenSocket>,
    /// Workers of a killed guardian that listen on the same ports.
    pub orphans: Vec<SocketOwner>,
    /// The owners of all ports, read at the first conflict.
    owners: Option<SocketOwners>,
}

impl Listeners {
    /// Those that the former program of this process had open.
    pub(crate) fn adopt(sockets: Vec<ListenSocket>) -> Listeners {
        let mut all: Vec<ListenSocket> = Vec::new();
        for mut socket in sockets {
            let is_its =
                |other: &&mut ListenSocket| other.redirection == socket.redirection && other.address == socket.address;
            match all.iter_mut().find(is_its) {
                Some(other) => other.listeners.append(&mut socket.listeners),
                None => all.push(socket),
            }
        }
        Listeners { all, ..Listeners::default() }
    }

    /// Where any redirection listens.
    pub(crate) fn addresses_of_all(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|socket| socket.address).collect()
    }

    /// Opens what `config` asks for; takes from `before`, which stays as it is, and from `inherited` what is open
    /// already. Without `-b` a family that this host does not have is left out.
    pub(crate) fn open(config: &Config, before: &Listeners, inherited: &Inherited) -> Result<Listeners, Error> {
        let mut listeners = Listeners::default();
        let open_already = OpenAlready { before, inherited, workers: config.process.workers };
        for (id, redirection, _) in config.relayed() {
            match &redirection.listen {
                Listen::Port { bind, .. } => {
                    let count = listeners.all.len();
                    for address in redirection.addresses() {
                        match listeners.listen(id, address, &open_already) {
                            Err(Error::Sys { source, .. }) if bind.is_none() && lacks_family(&source) => {
                                log::info!("not listening on {address}: {source}");
                            }
                            result => result?,
                        }
                    }
                    if listeners.all.len() == count {
                        return Err(Error::Failed("this host has neither IPv4 nor IPv6".into()));
                    }
                }
                Listen::Passed(name) => listeners.take_passed(id, name.as_deref(), &open_already)?,
            }
        }
        listeners.owners = None;
        listeners.be_transparent(config)?;
        listeners.keep_alive()?;
        Ok(listeners)
    }

    /// Lets the listeners of what TPROXY intercepts have the addresses of others. That stays with a socket: it does no harm.
    fn be_transparent(&self, config: &Config) -> Result<(), Error> {
        for (id, _, _) in config.relayed().filter(|(_, redirection, _)| redirection.is_tproxy()) {
            for socket in self.all.iter().filter(|socket| socket.redirection == id) {
                socket.listeners.iter().try_for_each(sockopt::be_transparent).map_err(|error| match error.kind() {
                    ErrorKind::PermissionDenied => Error::Privilege(format!(
                        "--intercept tproxy: a socket for the addresses of others needs CAP_NET_ADMIN: {error}"
                    )),
                    _ => Error::sys(format!("IP_TRANSPARENT for {}", socket.address), error),
                })?;
            }
        }
        Ok(())
    }

    /// Sets the keep-alive of the connections to come.
    fn keep_alive(&self) -> Result<(), Error> {
        if self.all.is_empty() {
            return Ok(());
        }
        let Some(times) = keep_alive::needed() else { return Ok(()) };
        keep_alive::log(times);
        let set = |socket| sockopt::set_keep_alive(socket, times).map_err(|error| Error::sys("TCP_KEEPIDLE", error));
        self.sockets().try_for_each(set)
    }

    fn listen(&mut self, id: RedirectionId, address: SocketAddr, already: &OpenAlready<'_>) -> Result<(), Error> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::PermissionDenied => {
                Error::Privilege(format!("listening on {address}: {error}: this port needs CAP_NET_BIND_SERVICE"))
            }
            _ => Error::sys(format!("listening on {address}"), error),
        };
        let mut listeners: Vec<TcpListener> = match already.before.all.iter().find(|other| other.address == address) {
            Some(socket) => socket.listeners.iter().map(copy).collect::<Result<_, _>>()?,
            None => {
                let passed = already.inherited.listeners().iter().filter(|socket| socket.address == address);
                passed.map(|socket| copy(&socket.listener)).collect::<Result<_, _>>()?
            }
        };
        // Also at another address: then the former one is closed when this one is redirected to.
        let ours = already.before.all.iter().any(|socket| socket.address.port() == address.port());
        while listeners.len() < already.workers {
            let sharing = if ours || !listeners.is_empty() { PortSharing::Shared } else { PortSharing::Exclusive };
            let listener = match sockopt::listener(address, sharing) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && listeners.is_empty() => {
                    self.share_with_orphans(address)?;
                    let shared = sockopt::listener(address, PortSharing::Shared);
                    shared.map_err(|error| {
                        if error.kind() == ErrorKind::AddrInUse { taken(address, &[]) } else { failed(error) }
                    })
                }
                result => result.map_err(failed),
            };
            listeners.push(listener?);
        }
        self.all.push(ListenSocket { redirection: id, address, listeners, origin: Origin::Opened });
        Ok(())
    }

    /// The port is taken. Workers whose guardian was killed may have it: they retire when these listeners serve.
    fn share_with_orphans(&mut self, address: SocketAddr) -> Result<(), Error> {
        let holders = self.owners.get_or_insert_with(SocketOwners::take).listeners_at(address);
        // Without any owner, a draining worker has just ended, and the next attempt succeeds.
        if !holders.iter().all(SocketOwner::is_worker) {
            return Err(taken(address, &holders));
        }
        let new = holders.into_iter().filter(|holder| !self.orphans.contains(holder)).collect::<Vec<_>>();
        self.orphans.extend(new);
        Ok(())
    }

    fn take_passed(&mut self, id: RedirectionId, name: Option<&str>, already: &OpenAlready<'_>) -> Result<(), Error> {
        let OpenAlready { before, inherited, workers } = *already;
        let before = before.all.iter().filter_map(|socket| match &socket.origin {
            Origin::Passed(own) => Some((own, socket.address, socket.listeners.first()?)),
            Origin::Opened => None,
        });
        let fresh = inherited.listeners().iter().map(|socket| (&socket.name, socket.address, &socket.listener));
        for (own, address, listener) in before.chain(fresh) {
            let is_meant = name.is_none() || own.as_deref() == name;
            if is_meant && !self.all.iter().any(|other| other.address == address) {
                let listeners = for_each(copy(listener)?, workers)?;
                self.all.push(ListenSocket {
                    redirection: id,
                    address,
                    listeners,
                    origin: Origin::Passed(own.clone()),
                });
            }
        }
        if self.all.iter().any(|socket| socket.redirection == id) {
            return Ok(());
        }
        Err(Error::Usage(match name {
            Some(name) => format!("-s: fd:{name}: no socket of that name was passed"),
            None => "-s: not given, and no socket was passed by inetd or systemd".to_owned(),
        }))
    }

    /// The addresses at which a redirection takes connections.
    pub(crate) fn reached_at(&self, redirection: RedirectionId) -> Vec<SocketAddr> {
        let sockets = self.all.iter().filter(|socket| socket.redirection == redirection);
        sockets.flat_map(ListenSocket::reached_at).collect()
    }

    /// All of them.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &TcpListener> {
        self.all.iter().flat_map(|socket| &socket.listeners)
    }

    /// Makes the listeners of one of the workers of `config` fit for a new one. What is set here the connections inherit;
    /// a socket that was passed has none of it before. Without `--congestion-control` it keeps its own algorithm
    /// (`TCPCongestion=`, systemd.socket(5)), and others have the usual one.
    pub(crate) fn renew(&mut self, worker: usize, config: &Config) -> Result<(), Error> {
        let chosen = config.process.congestion.as_ref().map(|wanted| wanted.client.clone());
        let usual = Algorithm::usual().map_err(|error| Error::sys("TCP_CONGESTION", error))?;
        let renew = |socket: &mut ListenSocket| {
            let address = socket.address;
            let congestion = chosen.as_ref().or_else(|| (socket.origin == Origin::Opened).then_some(&usual));
            let renewed = socket.renew(worker, config.process.workers, congestion);
            renewed.map_err(|error| Error::sys(format!("listening on {address} again"), error))
        };
        self.all.iter_mut().try_for_each(renew)
    }

    /// Whether all listeners of one of so many workers listen.
    pub(crate) fn are_sound(&self, worker: usize, workers: usize) -> bool {
        self.all.iter().all(|socket| socket.is_sound(worker, workers))
    }

    /// Where a redirection listens.
    pub(crate) fn addresses(&self, redirection: RedirectionId) -> Vec<SocketAddr> {
        self.all.iter().filter(|socket| socket.redirection == redirection).map(|socket| socket.address).collect()
    }
}

/// Other processes than workers have the port.
fn taken(address: SocketAddr, holders: &[SocketOwner]) -> Error {
    let others = holders.iter().filter(|holder| !holder.is_worker());
    let names: Vec<String> = others.map(SocketOwner::to_string).collect();
    let by = if names.is_empty() { "another process".to_owned() } else { names.join(", ") };
    Error::Taken(format!("-s: port {} is in use by {by}", address.port()))
}

/// What is open already, and how many listeners each address needs.
struct OpenAlready<'a> {
    before: &'a Listeners,
    inherited: &'a Inherited,
    workers: usize,
}

/// One socket for all workers: those that a service manager has opened cannot be multiplied.
fn for_each(listener: TcpListener, workers: usize) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = vec![listener];
    while listeners.len() < workers {
        listeners.push(copy(&listeners[0])?);
    }
    Ok(listeners)
}

fn copy(listener: &TcpListener) -> Result<TcpListener, Error> {
    listener.try_clone().map_err(|error| Error::sys("duplicating a descriptor", error))
}

fn takes_both_families(socket: &TcpListener) -> bool {
    sockopt::takes_both_families(socket).unwrap_or(false)
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Workers that lost their guardian serve what they have to its end, and take nothing new.
pub(crate) fn retire_orphans(orphans: &[SocketOwner]) {
    for SocketOwner { pid, .. } in orphans {
        log::info!("worker {pid}, whose guardian is gone, retires");
        if let Err(error) = process::send_signal(*pid, nix::sys::signal::Signal::SIGHUP) {
            log::warn!("worker {pid}: {error}");
        }
    }
}
