//! The terminal while a program has all of it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, SetArg, Termios};

use crate::ctl::failure::CtlFailure;
use crate::ctl::top::keys::{TermKey, keys};
use crate::sys::terminal;

/// The other screen, without a cursor, and back (xterm's ctlseqs; every terminal in use knows them).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// The size if the terminal does not know its own.
const USUAL: (u16, u16) = (80, 24);

/// What has happened at the terminal.
#[derive(Debug)]
pub(super) enum Happened {
    Keys(Vec<TermKey>),
    Resized,
    /// The user has gone, or the process is to end.
    Ended,
    Nothing,
}

/// The terminal of standard input and output. It is as it was before when this is dropped.
#[derive(Debug)]
pub(super) struct FullScreen {
    before: Termios,
    signals: SignalFd,
}

impl FullScreen {
    pub(super) fn enter() -> Result<FullScreen, CtlFailure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(CtlFailure::Usage("top needs a terminal; 'show' prints the same numbers once".to_owned()));
        }
        FullScreen::take_over()
            .map_err(|error| CtlFailure::Refused(format!("the terminal: {}", io::Error::from(error))))
    }

    fn take_over() -> Result<FullScreen, Errno> {
        // Ended by one of these, it would leave the terminal as it is here.
        let mut set = SigSet::empty();
        [Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|it| set.add(it));
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let before = termios::tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSAFLUSH, &raw)?;
        let terminal = FullScreen { before, signals };
        show(ENTER);
        Ok(terminal)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, rows) = terminal::size(io::stdout().as_fd()).unwrap_or(USUAL);
        (columns.into(), rows.into())
    }

    /// Waits until something happens.
    pub(super) fn wait(&mut self, longest: Duration) -> Happened {
        let stdin = io::stdin();
        let mut ready =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => return Happened::Nothing,
            Ok(_) => {}
            Err(_) => return Happened::Ended,
        }
        let [input, signal] = ready.map(|it| it.any().unwrap_or(false));
        if signal {
            return match self.signals.read_signal() {
                Ok(Some(info)) if info.ssi_signo != Signal::SIGWINCH as u32 => Happened::Ended,
                _ => Happened::Resized,
            };
        }
        if input { read_keys(stdin.as_fd()) } else { Happened::Nothing }
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        show(LEAVE);
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSAFLUSH, &self.before);
    }
}

/// Not through the buffer of standard input, into which poll(2) does not see.
fn read_keys(terminal: BorrowedFd<'_>) -> Happened {
    let mut bytes = [0; 256];
    let read = terminal.try_clone_to_owned().and_then(|own| File::from(own).read(&mut bytes));
    match read {
        Ok(count @ 1..) => Happened::Keys(keys(bytes.get(..count).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Happened::Nothing,
        _ => Happened::Ended,
    }
}

/// Writes to the terminal. One that is gone ends the program at the next read.
pub(super) fn show(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
