//! Descriptors that this process was started with.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Takes ownership of a descriptor that was open when the program began, and makes it close-on-exec and non-blocking.
/// The caller must do this at most once for a number, and before anything else can open a descriptor of that number.
///
/// Errors: EBADF if there is no such descriptor.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer and changes nothing; a number that is not open gives EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    nix::errno::Errno::result(flags)?;
    // SAFETY: the descriptor is open, as just seen, and the caller guarantees that nothing else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let status = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    fcntl(&descriptor, FcntlArg::F_SETFL(status | OFlag::O_NONBLOCK))?;
    Ok(descriptor)
}

/// A copy of a descriptor that stays open across exec, under the same number.
pub(crate) fn survivor(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    let number = fcntl(&descriptor, FcntlArg::F_DUPFD(3))?;
    // SAFETY: the kernel has just made this descriptor for us (F_DUPFD, fcntl(2)); nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// An empty file in memory, closed on exec (memfd_create(2)).
pub(crate) fn memory_file() -> io::Result<File> {
    Ok(File::from(memfd_create(c"tproxy", MFdFlags::MFD_CLOEXEC)?))
}
