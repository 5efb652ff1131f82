//! Standard error, written without waiting for whoever reads it.
//!
//! `O_NONBLOCK` belongs to the open file description, which this process shares with the shell or service manager that
//! started it (fcntl(2)). It must not be set there: it would make their terminal non-blocking too.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::dup2_stderr;

use crate::sys::process::{self, Forked};

/// A pipe takes so many bytes as one piece, or not at all: `PIPE_BUF` (pipe(7)).
pub(crate) const PIECE: usize = libc::PIPE_BUF;

/// How standard error is written so that nobody can make the writer wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By write(2). It is a file, which nobody has to read, or the description is our own and non-blocking.
    Write,
    /// A socket is told with each call not to wait (`MSG_DONTWAIT`, send(2)).
    Send,
}

/// Finds the way, and takes a description of its own where one is needed. `copier` is the name of the process that copies
/// what is written to a pipe or terminal of another user.
pub(crate) fn prepare(copier: &str) -> Way {
    never_signal();
    let stderr = io::stderr();
    let Ok(file) = fstat(&stderr) else { return Way::Write };
    let opened = match SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFSOCK => return Way::Send,
        SFlag::S_IFIFO => reopen(AGAIN),
        SFlag::S_IFCHR if stderr.is_terminal() => reopen(AGAIN).or_else(|_| reopen_controlling()),
        _ => return Way::Write,
    };
    // Without another process (the user has too many), a reader can hold us up.
    let _ = opened.or_else(|_| copy_from_a_pipe(copier));
    Way::Write
}

/// The way of standard error that a parent has prepared.
pub(crate) fn way() -> Way {
    let is_socket = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
    if fstat(io::stderr()).is_ok_and(|file| is_socket(file.st_mode)) { Way::Send } else { Way::Write }
}

/// Opened, it is the same file with a description of its own (proc_pid_fd(5)).
const AGAIN: &str = "/proc/self/fd/2";

/// Opens the terminal that controls this process, which may belong to another user after su(1) or sudo(8).
fn reopen_controlling() -> io::Result<()> {
    // SAFETY: takes a number. It fails unless standard error is the controlling terminal (TIOCGSID, ioctl_tty(2)).
    Errno::result(unsafe { libc::tcgetsid(libc::STDERR_FILENO) })?;
    reopen("/dev/tty")
}

/// Makes standard error a pipe to a process that copies to the one before, and may wait there. It ends with the last
/// process that writes.
fn copy_from_a_pipe(name: &str) -> io::Result<()> {
    let (mut read, write) = io::pipe()?;
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_WRONLY | OFlag::O_NONBLOCK))?;
    match process::fork_here()? {
        Forked::Parent(_) => Ok(dup2_stderr(write)?),
        Forked::Child => {
            process::set_name(name);
            // It has to bring the last words of the others.
            ignore(&[Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]);
            let alone = process::close_others(&[read.as_raw_fd()]);
            let copied = alone.and_then(|()| io::copy(&mut read, &mut io::stderr()));
            process::leave(if copied.is_ok() { 0 } else { 71 })
        }
    }
}

/// Puts a non-blocking description of the same pipe or terminal in the place of the shared one. Not for regular files:
/// their offset is shared for a reason.
fn reopen(path: impl AsRef<Path>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(io::stderr(), FcntlArg::F_GETFL)?);
    // The same access: a FIFO that is open for reading too never loses its last reader.
    let access = flags & OFlag::O_ACCMODE;
    let more = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(access != OFlag::O_WRONLY)
        .write(access != OFlag::O_RDONLY)
        .custom_flags(more.bits())
        .open(path)?;
    Ok(dup2_stderr(file)?)
}

/// Writing fails instead of sending a signal that ends or stops the process: SIGXFSZ above `RLIMIT_FSIZE`, SIGTTOU from a
/// terminal with `tostop` to a process in the background.
fn never_signal() {
    ignore(&[Signal::SIGXFSZ, Signal::SIGTTOU]);
}

fn ignore(signals: &[Signal]) {
    for number in signals {
        // SAFETY: no handler is installed, so nothing of ours runs in a signal's context.
        let _ = unsafe { signal(*number, SigHandler::SigIgn) };
    }
}

/// Writes, and returns how many bytes were taken. A pipe takes up to [`PIECE`] whole.
///
/// Errors: `WouldBlock` if nobody reads.
pub(crate) fn write(way: Way, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match way {
        Way::Write => io::stderr().write(bytes),
        Way::Send => Ok(send(io::stderr().as_raw_fd(), bytes, flags)?),
    }
}

/// Writes all of it. For the last words of a process: it waits for a reader, but not longer than `limit`.
pub(crate) fn write_within(mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let until = Instant::now() + limit;
    while !bytes.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(io::stderr().as_fd(), PollFlags::POLLOUT)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        match io::stderr().write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
