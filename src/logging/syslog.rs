//! The connection to the local syslog daemon. A full or closed socket never blocks the caller: messages that cannot be
//! sent are counted, and the count is sent as soon as that works again.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use syslog::{Facility, Severity};

use crate::logging::escape::Escaping;
use crate::logging::losses::{Losses, is_full};

/// The socket of the local syslog daemon (syslog(3)).
const PATH: &str = "/dev/log";

/// The least time between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);

/// Whether this process needs a new connection and cannot make it.
static CUT_OFF: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
pub(super) struct Syslog {
    facility: Facility,
    socket: Option<UnixDatagram>,
    tried: Option<Instant>,
    /// Whether another process has to make the connections.
    confined: bool,
    losses: Losses,
}

/// Opens a connection, for this process or one that cannot.
pub(crate) fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(PATH)?;
    Ok(socket)
}

/// Whether this process needs a connection from another one. True once for each connection.
pub(crate) fn is_cut_off() -> bool {
    CUT_OFF.load(Ordering::Relaxed) && CUT_OFF.swap(false, Ordering::Relaxed)
}

pub(super) fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

impl Syslog {
    pub(super) fn new(facility: Facility) -> Syslog {
        Syslog { facility, socket: None, tried: None, confined: false, losses: Losses::default() }
    }

    /// Leaves it to the parent to tell what the parent has lost.
    pub(super) fn begin_child(&mut self) {
        self.losses.told();
    }

    pub(super) fn confine(&mut self) {
        self.confined = true;
    }

    pub(super) fn go_on_in(&mut self, connection: UnixDatagram) {
        self.socket = Some(connection);
    }

    pub(super) fn reconnect(&mut self) {
        self.tried = Some(Instant::now());
        if self.confined {
            CUT_OFF.store(true, Ordering::Relaxed);
        } else {
            self.socket = connect().ok();
        }
    }

    /// Sends a message, and before it the number of those that were lost. `buffer` is overwritten.
    pub(super) fn write(&mut self, buffer: &mut String, pid: u32, level: Level, text: fmt::Arguments<'_>) {
        if self.losses.any() {
            self.catch_up(buffer, pid);
        }
        self.head(buffer, pid, severity(level));
        let _ = Escaping(buffer).write_fmt(text);
        if let Err(error) = self.send(buffer) {
            self.losses.add(is_full(&error));
        }
    }

    /// Tells how many messages were lost, if that works.
    pub(super) fn catch_up(&mut self, buffer: &mut String, pid: u32) {
        self.head(buffer, pid, Severity::LOG_WARNING);
        let _ = write!(buffer, "{}: syslog did not take them", self.losses);
        if self.send(buffer).is_ok() {
            self.losses.told();
        }
    }

    pub(super) fn losses(&mut self) -> &mut Losses {
        &mut self.losses
    }

    /// There is something to tell, and it may work before the next message.
    pub(super) fn is_behind(&self) -> bool {
        self.losses.can_be_told_soon()
    }

    /// Begins a message as RFC 3164 has it, without time and host: the local daemon adds its own.
    fn head(&self, buffer: &mut String, pid: u32, severity: Severity) {
        buffer.clear();
        // Writing to a String cannot fail.
        let _ = write!(buffer, "<{}>tproxy[{pid}]: ", self.facility as u8 | severity as u8);
    }

    fn send(&mut self, message: &str) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(message.as_bytes()) {
                Ok(_) => return Ok(()),
                // Full: the daemon is slow.
                Err(error) if is_full(&error) => return Err(error),
                // Closed: the daemon has stopped, or another one has a new socket.
                Err(_) => self.socket = None,
            }
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.reconnect();
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.send(message.as_bytes()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_socket_counts_instead_of_blocking() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut syslog = Syslog { socket: Some(ours), ..Syslog::new(Facility::LOG_DAEMON) };
        let mut buffer = String::new();
        for number in 0..10_000 {
            syslog.write(&mut buffer, 1, Level::Info, format_args!("{number}"));
        }
        let lost = syslog.losses.to_string();
        assert!(syslog.is_behind());
        let mut received = [0; 256];
        theirs.set_nonblocking(true).unwrap();
        while theirs.recv(&mut received).is_ok() {}
        syslog.write(&mut buffer, 1, Level::Info, format_args!("again"));
        let count = theirs.recv(&mut received).unwrap();
        let said = std::str::from_utf8(&received[..count]).unwrap();
        assert_eq!(said, format!("<28>tproxy[1]: {lost}: syslog did not take them"));
        assert!(!syslog.is_behind());
    }
}
