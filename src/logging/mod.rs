//! Where log lines go: standard error in the foreground, else syslog. Neither a full nor a vanished syslog socket ever
//! holds up the caller: what cannot be sent is counted, and the count is sent as soon as that works again.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sys::process;

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Severity};

/// The socket of the local syslog daemon (syslog(3)).
const SYSLOG: &str = "/dev/log";

/// How long after a failed connect to syslog the next one is tried.
const RETRY: Duration = Duration::from_secs(1);

static LOGGER: Logger = Logger(Mutex::new(None));

/// Whether this process would make a new connection to syslog if it could.
static CUT_OFF: AtomicBool = AtomicBool::new(false);

struct Logger(Mutex<Option<State>>);

struct State {
    process: &'static str,
    pid: u32,
    stderr: bool,
    syslog: Option<Syslog>,
    line: String,
}

struct Syslog {
    facility: Facility,
    socket: Option<UnixDatagram>,
    tried: Option<Instant>,
    /// Whether connections come from somebody else.
    confined: bool,
    lost: u64,
}

/// Starts logging: to standard error, and to syslog as well when a facility is given.
pub(crate) fn start(process: &'static str, facility: Option<Facility>, verbose: bool) {
    let syslog = facility.map(|facility| Syslog { facility, socket: None, tried: None, confined: false, lost: 0 });
    let state = State { process, pid: std::process::id(), stderr: true, syslog, line: String::with_capacity(512) };
    if let Ok(mut guard) = LOGGER.0.lock() {
        *guard = Some(state);
    }
    // The second call in a process finds the logger set already, which is what it wants.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Info });
    std::panic::set_hook(Box::new(|panic| log::error!("internal error: {panic}")));
}

/// Lets go of the connection to syslog, which is the parent's.
pub(crate) fn disconnect() {
    with_state(|state| {
        if let Some(syslog) = &mut state.syslog {
            syslog.socket = None;
        }
    });
}

/// From here on this process is another one with its own name and id. Its connection to syslog is its own too.
pub(crate) fn become_process(process: &'static str) {
    with_state(|state| {
        state.process = process;
        state.pid = std::process::id();
        if let Some(syslog) = &mut state.syslog {
            syslog.reconnect();
        }
    });
}

/// Lets go of the terminal and writes to syslog only: the shell that started us has its prompt back.
pub(crate) fn leave_terminal() -> Result<(), Error> {
    process::open_null().map_err(|error| Error::sys("/dev/null", error)).and_then(|null| leave_terminal_for(&null))
}

/// The same with a /dev/null that was opened when it could be found.
pub(crate) fn leave_terminal_for(null: &File) -> Result<(), Error> {
    with_state(|state| state.stderr = false);
    process::silence_stdio(null).map_err(|error| Error::sys("/dev/null", error))
}

/// From here on this process cannot find the way to syslog; somebody else must make its connections ([`is_cut_off`]).
pub(crate) fn confine() {
    with_state(|state| {
        if let Some(syslog) = &mut state.syslog {
            syslog.confined = true;
        }
    });
}

/// Whether a new connection is wanted from somebody else; true once for each time that it is.
pub(crate) fn is_cut_off() -> bool {
    CUT_OFF.load(Ordering::Relaxed) && CUT_OFF.swap(false, Ordering::Relaxed)
}

/// A new connection to syslog, for a process that cannot make it.
pub(crate) fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(SYSLOG)?;
    Ok(socket)
}

/// Goes on in the connection that somebody else has made.
pub(crate) fn go_on_in(connection: OwnedFd) {
    with_state(|state| {
        if let Some(syslog) = &mut state.syslog {
            syslog.socket = Some(UnixDatagram::from(connection));
        }
    });
}

/// Connects to syslog again: SIGHUP.
pub(crate) fn reopen() {
    with_state(|state| {
        if let Some(syslog) = &mut state.syslog {
            syslog.reconnect();
        }
    });
}

fn with_state(change: impl FnOnce(&mut State)) {
    match LOGGER.0.try_lock() {
        Ok(mut guard) => guard.as_mut().map(change),
        // A panic while a line was being written: the state is a few buffers, and good enough to tell of the panic.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().as_mut().map(change),
        // The panic hook, called from within a line being written.
        Err(TryLockError::WouldBlock) => None,
    };
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // mio logs every registration at trace level; only our own words are of interest.
        if self.enabled(record.metadata()) && record.target().starts_with("tproxy") {
            with_state(|state| state.write(record.level(), *record.args()));
        }
    }

    fn flush(&self) {}
}

impl State {
    fn write(&mut self, level: Level, text: fmt::Arguments<'_>) {
        let State { process, pid, stderr, syslog, line } = self;
        // A shell that waits for a daemon wants to know of trouble only.
        if *stderr && (syslog.is_none() || level <= Level::Warn) {
            line.clear();
            // Writing to a String cannot fail; standard error that is closed is nobody's concern.
            let _ = writeln!(line, "{process}[{pid}]: {text}");
            let _ = io::stderr().write_all(line.as_bytes());
        }
        if let Some(syslog) = syslog {
            syslog.write(line, *pid, severity(level), text);
        }
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

impl Syslog {
    fn reconnect(&mut self) {
        self.tried = Some(Instant::now());
        if self.confined {
            CUT_OFF.store(true, Ordering::Relaxed);
        } else {
            self.socket = connect().ok();
        }
    }

    fn write(&mut self, line: &mut String, pid: u32, severity: Severity, text: fmt::Arguments<'_>) {
        if self.lost > 0 {
            let lost = self.lost;
            line.clear();
            self.head(line, pid, Severity::LOG_WARNING);
            let _ = write!(line, "{lost} lines were lost, because syslog did not take them");
            if self.send(line) {
                self.lost = 0;
            }
        }
        line.clear();
        self.head(line, pid, severity);
        let _ = line.write_fmt(text);
        if !self.send(line) {
            self.lost += 1;
        }
    }

    /// The start of a line after RFC 3164, without time and host: the local daemon adds its own.
    fn head(&self, line: &mut String, pid: u32, severity: Severity) {
        let _ = write!(line, "<{}>tproxy[{pid}]: ", self.facility as u8 | severity as u8);
    }

    fn send(&mut self, line: &str) -> bool {
        if let Some(socket) = &self.socket {
            match socket.send(line.as_bytes()) {
                Ok(_) => return true,
                // Full: the daemon is there and slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Gone, or another one listens there now.
                Err(_) => self.socket = None,
            }
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return false;
        }
        self.reconnect();
        self.socket.as_ref().is_some_and(|socket| socket.send(line.as_bytes()).is_ok())
    }
}

/// Lets a repeating message through once in a while.
#[derive(Debug)]
pub(crate) struct Limiter {
    next: Option<Instant>,
    held_back: u64,
}

/// How often the same trouble is told.
const ONCE_PER: Duration = Duration::from_secs(10);

impl Limiter {
    /// Lets the first one through.
    pub(crate) const fn new() -> Limiter {
        Limiter { next: None, held_back: 0 }
    }

    /// Whether to tell it now; then with how many were not told since the last time.
    pub(crate) fn pass(&mut self) -> Option<More> {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            self.held_back += 1;
            return None;
        }
        self.next = Some(now + ONCE_PER);
        Some(More(std::mem::take(&mut self.held_back)))
    }
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter::new()
    }
}

/// How many messages of the same kind were held back; shown only if there were any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct More(u64);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " (and {} more like this)", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiter_tells_once_and_counts_the_rest() {
        let mut limiter = Limiter::new();
        assert_eq!(limiter.pass().map(|more| more.to_string()), Some(String::new()));
        assert!(limiter.pass().is_none());
        assert!(limiter.pass().is_none());
        limiter.next = Some(Instant::now());
        assert_eq!(limiter.pass().map(|more| more.to_string()), Some(" (and 2 more like this)".into()));
    }

    #[test]
    fn a_full_syslog_socket_counts_instead_of_blocking() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut syslog =
            Syslog { facility: Facility::LOG_DAEMON, socket: Some(ours), tried: None, confined: false, lost: 0 };
        let mut line = String::new();
        for number in 0..10_000 {
            syslog.write(&mut line, 1, Severity::LOG_INFO, format_args!("{number}"));
        }
        let lost = syslog.lost;
        assert!(lost > 0);
        let mut buffer = [0; 256];
        theirs.set_nonblocking(true).unwrap();
        while theirs.recv(&mut buffer).is_ok() {}
        syslog.write(&mut line, 1, Severity::LOG_INFO, format_args!("again"));
        let count = theirs.recv(&mut buffer).unwrap();
        let said = std::str::from_utf8(&buffer[..count]).unwrap();
        assert_eq!(said, format!("<28>tproxy[1]: {lost} lines were lost, because syslog did not take them"));
        assert_eq!(syslog.lost, 0);
    }
}
