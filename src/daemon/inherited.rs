//! Sockets that were open when this process began: from inetd(8) on descriptor 0, or from a service manager as
//! sd_listen_fds(3) says.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, RawFd};

use crate::error::Error;
use crate::sys::{inherited, sockopt};

/// A listening socket that was passed to this process.
#[derive(Debug)]
pub(crate) struct PassedSocket {
    /// Its name, if the service manager gave it one (`FileDescriptorName=`, systemd.socket(5)).
    pub name: Option<String>,
    pub address: SocketAddr,
    pub listener: TcpListener,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    listeners: Vec<PassedSocket>,
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
        if sockopt::listens(&socket)? {
            let listener = TcpListener::from(socket);
            self.listeners.push(PassedSocket { name, address: listener.local_addr()?, listener });
        } else {
            self.connection = Some(TcpStream::from(socket));
        }
        Ok(())
    }

    /// Those that the former program of this process had, and no generation had taken.
    pub(crate) fn adopt(listeners: Vec<PassedSocket>) -> Inherited {
        Inherited { listeners, ..Inherited::default() }
    }

    /// The listening sockets that no serving generation has taken.
    pub(crate) fn listeners(&self) -> &[PassedSocket] {
        &self.listeners
    }

    /// A generation has taken these sockets for good. Until then it has copies: it may not come up.
    pub(crate) fn forget(&mut self, taken: &[SocketAddr]) {
        self.listeners.retain(|socket| !taken.contains(&socket.address));
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
