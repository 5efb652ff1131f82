//! Sockets that were open when this process began: from inetd(8) on descriptor 0, or from a service manager as
//! sd_listen_fds(3) says.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

use crate::error::Error;
use crate::sys::inherited::{self, Passed};
use crate::sys::{process, sockopt};

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
    /// A connection that has been accepted already.
    pub connection: Option<TcpStream>,
    /// inetd has started this process, which must not go into the background then.
    pub from_inetd: bool,
}

impl Inherited {
    /// Looks for sockets, once, at the beginning. Descriptor 0 counts only when `stdin` is asked for.
    ///
    /// Errors: what the service manager passes cannot be used.
    pub(crate) fn find(stdin: bool) -> Result<Inherited, Error> {
        let mut found = Inherited::default();
        let count = manager_passes()?;
        let names = std::env::var_os("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.to_string_lossy();
        // An empty name has its place, too.
        let mut names = names.split(':').map(|name| (!name.is_empty()).then(|| name.to_owned()));
        for number in FIRST..FIRST + count {
            found.take_passed(number, names.next().flatten())?;
        }
        if count == 0 && stdin {
            found.take_stdin()?;
        }
        Ok(found)
    }

    /// Takes a socket that the service manager passes: listening ones, or with `Accept=yes` one connection
    /// (systemd.socket(5)).
    fn take_passed(&mut self, number: RawFd, name: Option<String>) -> Result<(), Error> {
        let shown = name.as_ref().map(|name| format!(" ('{name}')")).unwrap_or_default();
        let unusable =
            |what: &str| Error::Usage(format!("descriptor {number}{shown}, which was passed as a socket, is {what}"));
        match inherited::look(number) {
            Ok(Passed::Connection) if !self.listeners.is_empty() => {
                return Err(unusable("a connection: expected a listening socket, as before it"));
            }
            Ok(Passed::Listener | Passed::Connection) if self.connection.is_some() => {
                return Err(unusable("more than expected after a connection"));
            }
            Ok(Passed::Listener | Passed::Connection) => {}
            Ok(Passed::Other(what)) => return Err(unusable(&format!("{what}: expected a TCP socket"))),
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Err(unusable("not open (LISTEN_FDS)")),
            Err(error) => return Err(failed(error)),
        }
        self.take(inherited::take(number).map_err(failed)?, name).map_err(failed)
    }

    /// Takes the socket of inetd, if there is one.
    fn take_stdin(&mut self) -> Result<(), Error> {
        if let Ok(Passed::Listener | Passed::Connection) = inherited::look(0) {
            let original = inherited::take(0).map_err(failed)?;
            let copy = original.try_clone();
            // It is about to become /dev/null; until then its number must not be given to anything else.
            let _ = original.into_raw_fd();
            self.take(copy.map_err(failed)?, None).map_err(failed)?;
            self.from_inetd = true;
        }
        Ok(())
    }

    fn take(&mut self, socket: OwnedFd, name: Option<String>) -> io::Result<()> {
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

/// Closes what nobody has passed: a lock or a pipe of the process that started this one would be kept for as long as the
/// daemon runs. To be called before this process opens anything.
pub(crate) fn close_strangers() -> Result<(), Error> {
    let passed: Vec<RawFd> = (FIRST..FIRST + manager_passes().unwrap_or(0)).collect();
    process::close_others(&passed).map_err(|error| Error::sys("close_range", error))
}

/// The most sockets that one is believed to pass.
const MOST: RawFd = 1024;

/// How many sockets a service manager passes to this very process. What it has passed to another one does not count.
fn manager_passes() -> Result<RawFd, Error> {
    let count = std::env::var_os("LISTEN_FDS").unwrap_or_default();
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !ours || count.is_empty() {
        return Ok(0);
    }
    let count = count.to_string_lossy();
    let number = count.parse().ok().filter(|number| (0..=MOST).contains(number));
    number.ok_or_else(|| Error::value("LISTEN_FDS", count, format!("a number of sockets from 0 to {MOST}")))
}

fn failed(error: io::Error) -> Error {
    Error::sys("taking over the sockets that were passed", error)
}
