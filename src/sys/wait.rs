//! Waiting for descriptors, with a time that is finer than the milliseconds of epoll_wait(2).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Makes the waits of this process end on time, and not up to 50 microseconds later (`PR_SET_TIMERSLACK`, prctl(2)).
pub(crate) fn be_punctual() -> io::Result<()> {
    Ok(nix::sys::prctl::set_timerslack(1)?)
}

/// Waits until one of two descriptors can be read, or `timeout` is over, or a signal comes (ppoll(2)). The caller does not
/// learn which. An epoll descriptor can be read when it has events (epoll(7)).
pub(crate) fn for_either(
    one: BorrowedFd<'_>,
    other: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let mut both = [one, other.unwrap_or(one)].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let count = 1 + usize::from(other.is_some());
    match ppoll(&mut both[..count], timeout.map(TimeSpec::from_duration), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
