//! A pipe that nobody writes to. One process has its writing end and learns when the last holder of its reading end is gone.
//! A holder needs to do nothing for that, and cannot tell the other process anything.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Both ends.
#[derive(Debug)]
pub(crate) struct Lifeline {
    pub held: OwnedFd,
    pub watched: OwnedFd,
}

impl Lifeline {
    pub(crate) fn new() -> io::Result<Lifeline> {
        let (held, watched) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Lifeline { held, watched })
    }
}

/// What [`wait`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wakeup {
    /// Nobody holds the lifeline any more (POLLERR on the writing end, pipe(7)).
    pub is_cut: bool,
    /// These can be read, or are at their end.
    pub readable: [bool; 2],
}

/// Waits until a lifeline is cut or one of two descriptors can be read.
pub(crate) fn wait(
    watched: BorrowedFd<'_>,
    one: Option<BorrowedFd<'_>>,
    other: Option<BorrowedFd<'_>>,
) -> io::Result<Wakeup> {
    let of = |fd: Option<BorrowedFd<'_>>| fd.is_some();
    let is_there = [of(one), of(other)];
    let mut all = [
        PollFd::new(watched, PollFlags::empty()),
        PollFd::new(one.unwrap_or(watched), if is_there[0] { PollFlags::POLLIN } else { PollFlags::empty() }),
        PollFd::new(other.unwrap_or(watched), if is_there[1] { PollFlags::POLLIN } else { PollFlags::empty() }),
    ];
    match poll(&mut all, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let [lifeline, rest @ ..] = all.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    let readable = [0, 1].map(|at| is_there[at] && !rest[at].is_empty());
    Ok(Wakeup { is_cut: lifeline.contains(PollFlags::POLLERR), readable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_watcher_learns_of_the_last_holder_only() {
        let Lifeline { held, watched } = Lifeline::new().unwrap();
        let copy = held.try_clone().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"x").unwrap();
        let look = || wait(watched.as_fd(), None, Some(read.as_fd())).unwrap();
        drop(held);
        assert_eq!(look(), Wakeup { is_cut: false, readable: [false, true] });
        drop(copy);
        assert_eq!(look(), Wakeup { is_cut: true, readable: [false, true] });
    }
}
