//! The shell that waits for the start to succeed, and the terminal that shows its messages until then.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::logging;
use crate::sys::process::{self, Report};

/// How long the shell waits for a daemon whose names do not resolve yet.
const SHELL_WAITS: Duration = Duration::from_secs(30);

/// The exit status of a shell that did not wait any longer: EX_TEMPFAIL of sysexits(3).
const NOT_YET: u8 = 75;

/// The daemon's side.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Where the shell waits for the exit status.
    report: Option<OwnedFd>,
    /// The daemon stays in the foreground and logs to standard error.
    kept: bool,
    /// The shell stops waiting then. The daemon leaves the terminal, so readers of its output do not wait either.
    leave_at: Option<Instant>,
}

impl Terminal {
    /// That of a process in the foreground.
    pub(crate) fn foreground() -> Terminal {
        Terminal { report: None, kept: true, leave_at: None }
    }

    /// That of a process that has left the terminal before.
    pub(crate) fn none() -> Terminal {
        Terminal { report: None, kept: false, leave_at: None }
    }

    /// That of a daemon for which a shell waits.
    pub(crate) fn shell(report: OwnedFd) -> Terminal {
        Terminal { report: Some(report), kept: false, leave_at: Some(Instant::now() + SHELL_WAITS) }
    }

    /// The daemon logs to standard error.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// When the terminal is left at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.leave_at
    }

    /// Leaves the terminal when the shell waits no longer.
    pub(crate) fn leave_if_due(&mut self, now: Instant) {
        if self.leave_at.take_if(|at| *at <= now).is_some() {
            leave();
        }
    }

    /// The daemon serves.
    pub(crate) fn ready(&mut self) {
        if self.leave_at.take().is_some() {
            leave();
        }
        self.tell(0);
    }

    /// The daemon cannot start: reports the error, and then tells the shell, which gives the prompt back. Returns the exit
    /// status.
    pub(crate) fn fail(&mut self, error: &Error) -> u8 {
        logging::report(error);
        self.tell(error.exit_status());
        error.exit_status()
    }

    /// Tells the shell the exit status, once.
    fn tell(&mut self, status: u8) {
        if let Some(report) = self.report.take() {
            // The shell may have stopped waiting, or be gone.
            let _ = nix::unistd::write(&report, &[status]);
        }
    }
}

fn leave() {
    if let Err(error) = logging::leave_terminal() {
        log::error!("{error}");
    }
}

/// The shell's side. The daemon writes its messages to the terminal itself; only the status has to be brought.
pub(crate) fn wait_for_daemon(report: &OwnedFd) -> u8 {
    match process::read_report(report, Some(SHELL_WAITS)) {
        Report::Status(status) => status,
        Report::Gone => 70,
        Report::Late => {
            eprintln!("tproxy: not ready after {} seconds; it goes on trying", SHELL_WAITS.as_secs());
            NOT_YET
        }
    }
}
