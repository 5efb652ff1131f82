//! The listening sockets: opened here, or passed by whoever started us. They are the guardian's for as long as the
//! redirection exists; workers come and go.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use crate::config::{Config, Listen};
use crate::daemon::inherited::Inherited;
use crate::daemon::socket_owners::{SocketOwner, SocketOwners};
use crate::error::Error;
use crate::redirection::RedirectionId;
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
    pub listeners: Vec<Option<TcpListener>>,
}

impl ListenSocket {
    /// The listeners of one of so many workers.
    pub(crate) fn of(
        &mut self,
        worker: usize,
        workers: usize,
    ) -> impl Iterator<Item = (&mut Option<TcpListener>, RedirectionId)> {
        let redirection = self.redirection;
        self.listeners.iter_mut().skip(worker).step_by(workers).map(move |listener| (listener, redirection))
    }
}

/// All sockets of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// In the order of the configuration.
    pub all: Vec<ListenSocket>,
    /// Workers of a killed guardian that listen on the same ports.
    pub orphans: Vec<SocketOwner>,
    /// Who has which port, once that was asked.
    owners: Option<SocketOwners>,
}

impl Listeners {
    /// Opens what `config` asks for; takes from `before`, which stays as it is, and from `passed` what is open already.
    /// Without `-b` a family that this host does not have is left out.
    pub(crate) fn open(config: &Config, before: &Listeners, passed: &mut Inherited) -> Result<Listeners, Error> {
        let mut listeners = Listeners::default();
        for (id, redirection, _) in config.relayed() {
            match &redirection.listen {
                Listen::Port { bind, .. } => {
                    let count = listeners.all.len();
                    for address in redirection.addresses() {
                        match listeners.listen(id, address, config.process.workers, before, passed) {
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
                Listen::Passed(name) => {
                    listeners.take_passed(id, name.as_deref(), config.process.workers, before, passed)?
                }
            }
        }
        listeners.owners = None;
        Ok(listeners)
    }

    fn listen(
        &mut self,
        redirection: RedirectionId,
        address: SocketAddr,
        workers: usize,
        before: &Listeners,
        passed: &mut Inherited,
    ) -> Result<(), Error> {
        let failed = |error| Error::sys(format!("listening on {address}"), error);
        let open_already = before.all.iter().find(|socket| socket.address == address);
        let mut listeners: Vec<Option<TcpListener>> = match open_already {
            Some(socket) => {
                socket.listeners.iter().map(|listener| copy(listener.as_ref())).collect::<Result<_, _>>()?
            }
            None => passed.take_address(address).into_iter().map(Some).collect(),
        };
        // Also at another address: then the former one is closed when this one is redirected to.
        let ours = before.all.iter().any(|socket| socket.address.port() == address.port()) || passed.has_port(address);
        while listeners.len() < workers {
            let beside = if ours || !listeners.is_empty() { PortSharing::Shared } else { PortSharing::Exclusive };
            let listener = match sockopt::listener(address, beside) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && listeners.is_empty() => {
                    self.beside_orphans(address)?;
                    sockopt::listener(address, PortSharing::Shared)
                }
                result => result,
            };
            listeners.push(Some(listener.map_err(failed)?));
        }
        self.all.push(ListenSocket { redirection, address, listeners });
        Ok(())
    }

    /// The port is taken: well if by workers who have lost their guardian.
    fn beside_orphans(&mut self, address: SocketAddr) -> Result<(), Error> {
        let holders = self.owners.get_or_insert_with(SocketOwners::take).listeners_at(address);
        if holders.is_empty() || !holders.iter().all(SocketOwner::is_worker) {
            let others = holders.iter().filter(|holder| !holder.is_worker());
            let names: Vec<String> = others.map(SocketOwner::to_string).collect();
            let by = if names.is_empty() { "another process".to_owned() } else { names.join(", ") };
            return Err(Error::Taken(format!("-s: port {} is in use by {by}", address.port())));
        }
        let new = holders.into_iter().filter(|holder| !self.orphans.contains(holder)).collect::<Vec<_>>();
        self.orphans.extend(new);
        Ok(())
    }

    fn take_passed(
        &mut self,
        redirection: RedirectionId,
        name: Option<&str>,
        workers: usize,
        before: &Listeners,
        passed: &mut Inherited,
    ) -> Result<(), Error> {
        let mut found = passed.take_named(name);
        for socket in before.all.iter().filter(|socket| socket.redirection == redirection) {
            let listener = copy(socket.listeners.first().and_then(Option::as_ref))?;
            self.all.push(ListenSocket {
                redirection,
                address: socket.address,
                listeners: for_each(listener, workers)?,
            });
        }
        if found.is_empty() && !self.all.iter().any(|socket| socket.redirection == redirection) {
            let what = name.map_or_else(
                || "-s: not given, and no socket was passed by inetd or systemd".to_owned(),
                |name| format!("-s: 'fd:{name}' given, but no socket of that name was passed"),
            );
            return Err(Error::Usage(what));
        }
        for (address, listener) in found.drain(..) {
            self.all.push(ListenSocket { redirection, address, listeners: for_each(Some(listener), workers)? });
        }
        Ok(())
    }

    /// Where a redirection listens.
    pub(crate) fn addresses(&self, redirection: RedirectionId) -> Vec<SocketAddr> {
        self.all.iter().filter(|socket| socket.redirection == redirection).map(|socket| socket.address).collect()
    }
}

/// One socket for all workers: those that a service manager has opened cannot be multiplied.
fn for_each(listener: Option<TcpListener>, workers: usize) -> Result<Vec<Option<TcpListener>>, Error> {
    let mut listeners = vec![listener];
    while listeners.len() < workers {
        listeners.push(copy(listeners[0].as_ref())?);
    }
    Ok(listeners)
}

fn copy(listener: Option<&TcpListener>) -> Result<Option<TcpListener>, Error> {
    listener.map(TcpListener::try_clone).transpose().map_err(|error| Error::sys("duplicating a descriptor", error))
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Workers that lost their guardian serve what they have to its end, and take nothing new.
pub(crate) fn relieve(orphans: &[SocketOwner]) {
    for SocketOwner { pid, .. } in orphans {
        log::info!("relieving worker {pid}, whose guardian is gone");
        if let Err(error) = process::send_signal(*pid, nix::sys::signal::Signal::SIGHUP) {
            log::warn!("worker {pid}: {error}");
        }
    }
}
