//! Messages to the service manager (sd_notify(3)).

use std::cell::Cell;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What a stop may take besides what it waits for: processes that work on the rules may hang.
const REST: Duration = Duration::from_secs(45);

/// The socket of the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<OsString>,
    /// Whether the last message has arrived.
    heard_last: Cell<bool>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`: a path, or an abstract name that begins with `@`.
    pub(crate) fn from_environment() -> Notifier {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
        let usable = |socket: &OsString| matches!(socket.as_bytes(), [b'/' | b'@', _, ..]);
        if let Some(odd) = socket.as_ref().filter(|socket| !usable(socket)) {
            let shown = odd.to_string_lossy();
            log::warn!("NOTIFY_SOCKET is '{shown}', no path and no abstract name: the service manager is told nothing");
        }
        Notifier { socket: socket.filter(usable), heard_last: Cell::new(true) }
    }

    /// Whether there is a service manager.
    pub(crate) fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// Says that a reload has begun. `READY=1` says that it has ended.
    pub(crate) fn tell_reloading(&self) {
        let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return };
        let microseconds = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Has the service manager wait for so long and the rest of a stop before it kills, if it would not wait anyway.
    pub(crate) fn ask_for_time(&self, time: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", time.saturating_add(REST).as_micros()));
    }

    /// Sends one or more `NAME=VALUE` lines. The first failure in a row is only logged: the daemon works without a service
    /// manager, and its socket may be that of another service which has started a shell.
    pub(crate) fn tell(&self, what: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = UnixDatagram::unbound().and_then(|from| {
            let to = match socket.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(socket)?,
            };
            from.set_nonblocking(true)?;
            from.send_to_addr(what.as_bytes(), &to)
        });
        if let Err(error) = &sent
            && self.heard_last.get()
        {
            log::warn!("the service manager cannot be told (NOTIFY_SOCKET): {error}");
        }
        self.heard_last.set(sent.is_ok());
    }
}

/// The time after which the service manager kills this process unless it is told that all is well (sd_watchdog_enabled(3)).
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|limit| is_for_us && *limit > 0).map(Duration::from_micros)
}
