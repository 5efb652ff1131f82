//! Sockets that were open when this process began: from inetd(8) on descriptor 0, or from a service manager as
//! sd_listen_fds(3) says.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, RawFd};

use crate::error::Error;
use crate::sys::inherited;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    listeners: Vec<(Option<String>, SocketAddr, TcpListener)>,
    /// A connection that waits on descriptor 0.
    pub connection: Option<TcpStream>,
    /// inetd has started this process, which must not go into the background then.
    pub from_inetd: bool,
}

impl Inherited {
    /// Looks for sockets, once, at the beginning. Descriptor 0 counts only when `stdin` is asked for.
    pub(crate) fn find(stdin: bool) -> Result<Inherited, Error> {
        let mut found = Inherited::default();
        let failed = |error| Error::sys("taking over the sockets that were passed", error);
        if let Some(count) = manager_passes() {
            let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
            let mut names = names.split(':').filter(|name| !name.is_empty()).map(str::to_owned);
            for number in 0..count {
                found.take(FIRST + number, names.next()).map_err(failed)?;
            }
        } else if stdin {
            // Not a socket: then there is none, which is told where one is needed.
            found.from_inetd = found.take(0, None).is_ok();
        }
        Ok(found)
    }

    fn take(&mut self, number: RawFd, name: Option<String>) -> io::Result<()> {
        if number == 0
            && std::fs::read_link("/proc/self/fd/0").is_ok_and(|to| !to.to_string_lossy().starts_with("socket:"))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut socket = inherited::take(number)?;
        if number == 0 {
            // Standard input is about to become /dev/null; until then its number must not be given to anything else.
            let copy = socket.try_clone()?;
            let original = std::mem::replace(&mut socket, copy);
            let _ = original.into_raw_fd();
        }
        if inherited::listens(&socket)? {
            let listener = TcpListener::from(socket);
            self.listeners.push((name, listener.local_addr()?, listener));
        } else {
            self.connection = Some(TcpStream::from(socket));
        }
        Ok(())
    }

    /// The listening sockets of this address.
    pub(crate) fn take_address(&mut self, address: SocketAddr) -> impl Iterator<Item = TcpListener> {
        self.listeners.extract_if(.., move |(_, other, _)| *other == address).map(|(.., listener)| listener)
    }

    /// The listening sockets of this name, or all.
    pub(crate) fn take_named(&mut self, name: Option<&str>) -> Vec<(SocketAddr, TcpListener)> {
        let taken = self.listeners.extract_if(.., |(other, ..)| name.is_none() || other.as_deref() == name);
        taken.map(|(_, address, listener)| (address, listener)).collect()
    }
}

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// How many sockets a service manager passes to this very process.
fn manager_passes() -> Option<RawFd> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count = std::env::var("LISTEN_FDS").ok()?.parse().ok()?;
    ours.then_some(count).filter(|count| (1..=1024).contains(count))
}
