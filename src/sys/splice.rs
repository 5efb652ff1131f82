//! Pipes and splice(2). No policy: how much to move and when is decided above.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// What one splice did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes changed hands.
    Bytes(NonZeroUsize),
    /// Nothing could be moved now. From a socket into a pipe this means "socket dry" only if the pipe was empty.
    Blocked,
    /// The source has ended.
    Eof,
}

/// A new pipe, reading end first; both ends non-blocking and closed on exec (pipe2(2)).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

/// The capacity in bytes which the kernel really gave the pipe. Over `fs.pipe-user-pages-soft` an unprivileged user
/// gets pipes of two pages (pipe(7)).
pub(crate) fn pipe_size(pipe: impl AsFd) -> io::Result<usize> {
    let size = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ)?;
    Ok(usize::try_from(size).unwrap_or(0))
}

/// The kernel's error if it does not splice from TCP sockets at all. For a socket that is only not connected it has another
/// one.
pub(crate) fn refusal() -> Option<io::Error> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).ok()?;
    let (_read, write) = pipe().ok()?;
    let error = splice_once(&socket, &write, 1).err()?;
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported).then_some(error)
}

/// Asks for a capacity of `size` bytes, and returns the one that it is then. An unprivileged user gets no more than
/// `fs.pipe-max-size`, and nothing that takes all its pipes together over `fs.pipe-user-pages-soft` (pipe(7)).
pub(crate) fn resize_pipe(pipe: impl AsFd, size: usize) -> io::Result<usize> {
    let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    Ok(usize::try_from(fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(size))?).unwrap_or(0))
}

/// Moves up to `max` bytes without copying them; one of the two is a pipe. `SPLICE_F_NONBLOCK` speaks for the pipe
/// only (kernel commit 42324c62), so the socket must be non-blocking itself. Never `SPLICE_F_MORE`: it holds back the
/// last segment for up to 200 ms.
pub(crate) fn splice_once(from: impl AsFd, to: impl AsFd, max: usize) -> io::Result<Moved> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        return match nix::fcntl::splice(&from, None, &to, None, max, flags) {
            Ok(count) => Ok(NonZeroUsize::new(count).map_or(Moved::Eof, Moved::Bytes)),
            Err(Errno::EAGAIN) => Ok(Moved::Blocked),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}
