//! Where log lines go: to standard error in the foreground, otherwise to syslog. Each record is one line, whatever is in it.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::Error;
use crate::logging::losses::Losses;
use crate::logging::stderr::{Identity, Stderr};
use crate::logging::syslog::Syslog;
use crate::sys::process;

mod escape;
mod limited;
mod losses;
mod stderr;
mod syslog;
mod timestamp;

pub(crate) use crate::logging::escape::{escape_from, escaped};
pub(crate) use crate::logging::limited::Limiter;
pub(crate) use crate::logging::losses::lost;
pub(crate) use crate::logging::syslog::{connect, is_cut_off};
pub(crate) use crate::logging::timestamp::Timestamp;

/// The least time between two attempts to tell how many lines were lost, when no line comes.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A sink was full, and has not been told how many lines it has lost.
static BEHIND: AtomicBool = AtomicBool::new(false);

static LOGGER: Logger = Logger(Mutex::new(None));

struct Logger(Mutex<Option<Sinks>>);

struct Sinks {
    identity: Identity,
    stderr: Option<Stderr>,
    syslog: Option<Syslog>,
    buffer: String,
    /// When it was last tried to tell how many lines were lost.
    tried: Option<Instant>,
}

/// Starts logging: to standard error, and to syslog as well when a facility is given.
pub(crate) fn start(process: &'static str, facility: Option<::syslog::Facility>, verbose: bool) {
    start_with(Stderr::find(), process, facility, verbose);
}

/// The same in a child that was executed. Its parent has prepared standard error.
pub(crate) fn start_in_child(process: &'static str, facility: Option<::syslog::Facility>, verbose: bool) {
    start_with(Stderr::prepared(), process, facility, verbose);
    with_syslog(Syslog::reconnect);
    // A panic ends a child in every build as it does in a release.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
}

fn start_with(stderr: Stderr, process: &'static str, facility: Option<::syslog::Facility>, verbose: bool) {
    let sinks = Sinks {
        identity: Identity { name: process, pid: std::process::id() },
        stderr: Some(stderr),
        syslog: facility.map(Syslog::new),
        buffer: String::with_capacity(512),
        tried: None,
    };
    if let Ok(mut guard) = LOGGER.0.lock() {
        *guard = Some(sinks);
    }
    // Fails the second time in a process, when the logger is already set.
    let _ = log::set_logger(&LOGGER);
    set_verbose(verbose);
    // It says where, and on a second line what.
    std::panic::set_hook(Box::new(|panic| log::error!("internal error: {}", panic.to_string().replace('\n', " "))));
}

/// Logs debug messages from now on, or no longer.
pub(crate) fn set_verbose(verbose: bool) {
    log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Info });
}

/// Reports the error that ends the program: to standard error, even if logging has not started, and to syslog, because
/// standard error may be nobody's.
pub(crate) fn report(error: &Error) {
    stderr::report(error);
    with_sinks(|sinks| {
        let Sinks { identity, syslog, buffer, .. } = sinks;
        if let Some(syslog) = syslog {
            syslog.write(buffer, identity.pid, Level::Error, format_args!("{error}"));
        }
    });
}

/// The first of a new child: what the parent has lost is the parent's to tell.
pub(crate) fn begin_child() {
    with_sinks(|sinks| {
        sinks.stderr.iter_mut().for_each(Stderr::begin_child);
        sinks.syslog.iter_mut().for_each(Syslog::begin_child);
        sinks.note_losses();
    });
}

/// Stops writing to the terminal: the shell that started us shows its prompt again.
pub(crate) fn leave_terminal() -> Result<(), Error> {
    process::open_null().map_err(|error| Error::sys("/dev/null", error)).and_then(|null| leave_terminal_for(&null))
}

/// Stops writing to the terminal. `null` is /dev/null, opened before this process entered an empty root.
pub(crate) fn leave_terminal_for(null: &File) -> Result<(), Error> {
    with_sinks(|sinks| sinks.stderr = None);
    process::silence_stdio(null).map_err(|error| Error::sys("/dev/null", error))
}

/// From now on this process cannot connect to syslog itself: [`is_cut_off`] tells when another has to.
pub(crate) fn confine() {
    with_syslog(Syslog::confine);
}

/// Uses a connection that another process has made.
pub(crate) fn go_on_in(connection: OwnedFd) {
    with_syslog(|syslog| syslog.go_on_in(UnixDatagram::from(connection)));
}

/// Connects to syslog again, on SIGHUP.
pub(crate) fn reopen() {
    with_syslog(Syslog::reconnect);
}

/// When to call [`catch_up`]: a sink is full, and whoever reads it may have made room then.
pub(crate) fn behind() -> Option<Duration> {
    BEHIND.load(Ordering::Relaxed).then_some(CATCH_UP)
}

/// Tells how many lines were lost, if a sink takes lines again. Not more often than is good.
pub(crate) fn catch_up() {
    if behind().is_some() {
        with_sinks(Sinks::catch_up);
    }
}

/// How many lines this process has lost and not told. Another one tells it from now on.
pub(crate) fn hand_losses_over() -> Option<u64> {
    let mut count = 0;
    with_sinks(|sinks| {
        let losses = sinks.stderr.iter_mut().map(Stderr::losses).chain(sinks.syslog.iter_mut().map(Syslog::losses));
        count = losses.map(Losses::hand_over).sum();
        sinks.note_losses();
    });
    Some(count).filter(|count| *count > 0)
}

/// Tells so many losses of another process with those of this one.
pub(crate) fn take_losses_over(count: u64) {
    with_sinks(|sinks| {
        match (&mut sinks.syslog, &mut sinks.stderr) {
            (Some(syslog), _) => syslog.losses().take_over(count),
            (None, Some(stderr)) => stderr.losses().take_over(count),
            (None, None) => {}
        }
        sinks.note_losses();
    });
}

fn with_syslog(change: impl FnOnce(&mut Syslog)) {
    with_sinks(|sinks| {
        sinks.syslog.as_mut().map(change);
    });
}

fn with_sinks(change: impl FnOnce(&mut Sinks)) {
    match LOGGER.0.try_lock() {
        Ok(mut guard) => guard.as_mut().map(change),
        // A panic while a line was being written. The sinks are still good enough to report it.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().as_mut().map(change),
        // The panic hook, called while a line is being written.
        Err(TryLockError::WouldBlock) => None,
    };
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // mio logs every registration at trace level. Only our own messages are of interest.
        if self.enabled(record.metadata()) && record.target().starts_with("tproxy") {
            with_sinks(|sinks| sinks.write(record.level(), *record.args()));
        }
    }

    fn flush(&self) {}
}

impl Sinks {
    fn write(&mut self, level: Level, text: fmt::Arguments<'_>) {
        let Sinks { identity, stderr, syslog, buffer, .. } = self;
        // With syslog, standard error is the terminal of a shell that waits for the daemon: only trouble belongs there.
        if let Some(stderr) = stderr
            && (syslog.is_none() || level <= Level::Warn)
        {
            stderr.write(buffer, *identity, level, text);
        }
        if let Some(syslog) = syslog {
            syslog.write(buffer, identity.pid, level, text);
        }
        self.note_losses();
    }

    fn catch_up(&mut self) {
        if self.tried.is_some_and(|tried| tried.elapsed() < CATCH_UP) {
            return;
        }
        self.tried = Some(Instant::now());
        let Sinks { identity, stderr, syslog, buffer, .. } = self;
        if let Some(stderr) = stderr.as_mut().filter(|stderr| stderr.is_behind()) {
            // Tried again later.
            let _ = stderr.catch_up(buffer, *identity);
        }
        if let Some(syslog) = syslog.as_mut().filter(|syslog| syslog.is_behind()) {
            syslog.catch_up(buffer, identity.pid);
        }
        self.note_losses();
    }

    fn note_losses(&self) {
        let behind = self.stderr.as_ref().is_some_and(Stderr::is_behind);
        BEHIND.store(behind || self.syslog.as_ref().is_some_and(Syslog::is_behind), Ordering::Relaxed);
    }
}
