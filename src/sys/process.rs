//! Processes: forking, detaching, signals as a descriptor, limits, names.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chroot, dup2_stderr, dup2_stdin, dup2_stdout, fork, mkdtemp, setsid};

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The process that called, with the id of its new child.
    Parent(Pid),
    /// The new process.
    Child,
}

/// fork(2). The program never starts a thread, which is what makes this sound; refuses when somebody did.
pub(crate) fn fork_here() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads != 1 {
        return Err(io::Error::other(format!("{threads} threads are running, a fork needs one")));
    }
    // SAFETY: the child of a process with one thread (just checked) may go on as any process may: no lock can be held
    // by a thread that is missing in the child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Leaves the terminal's session: a second child of a new session, so that it can never have a terminal again
/// (daemon(7)). In the caller's process this returns the descriptor on which the daemon reports; in the daemon, the
/// one to report through.
pub(crate) fn detach() -> io::Result<Detached> {
    let (read, write) = report_line()?;
    if let Forked::Parent(child) = fork_here()? {
        drop(write);
        // The first child ends at once; taking its status leaves no zombie for the shell.
        let _ = waitpid(child, None);
        return Ok(Detached::Shell(read));
    }
    drop(read);
    setsid()?;
    if let Forked::Parent(_) = fork_here()? {
        leave(0);
    }
    std::env::set_current_dir("/")?;
    Ok(Detached::Daemon(write))
}

/// The two processes that come back from [`detach`].
#[derive(Debug)]
pub(crate) enum Detached {
    /// The process that the shell waits for.
    Shell(OwnedFd),
    /// The daemon.
    Daemon(OwnedFd),
}

/// Waits for one byte of a report. `None` when the writer died or the time is over.
pub(crate) fn read_report(from: &OwnedFd, limit: Option<Duration>) -> Report {
    let timeout = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    loop {
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Report::Late,
            Err(Errno::EINTR) => continue,
            Err(_) => return Report::Gone,
            Ok(_) => {}
        }
        let mut byte = [0];
        return match nix::unistd::read(from, &mut byte) {
            Ok(1) => Report::Status(byte[0]),
            Err(Errno::EINTR) => continue,
            _ => Report::Gone,
        };
    }
}

/// The two ends of a line for one byte of a report, the reading end first.
pub(crate) fn report_line() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// What came through a report descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The exit status that the shell shall see.
    Status(u8),
    /// The writer is gone without a word.
    Gone,
    /// Nothing in time.
    Late,
}

/// What swallows everything and says nothing.
pub(crate) fn open_null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Points the three standard descriptors at what [`open_null`] has opened.
pub(crate) fn silence_stdio(null: &File) -> io::Result<()> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(null)?;
    Ok(())
}

/// Where an empty directory may be made for a moment.
const PLACES: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// Makes an empty directory the root of this process (chroot(2)), one that is removed already: nobody can ever put
/// anything into it, and nothing is left of it on the disk.
///
/// Errors: this process may not, or nowhere can a directory be made.
pub(crate) fn enter_empty_root() -> io::Result<()> {
    let mut made = Err(Errno::ENOENT);
    for place in PLACES {
        made = mkdtemp(&Path::new(place).join("tproxy-XXXXXX"));
        if made.is_ok() {
            break;
        }
    }
    let directory = made?;
    let entered = std::env::set_current_dir(&directory);
    std::fs::remove_dir(&directory)?;
    entered?;
    Ok(chroot(".")?)
}

/// Nobody without privileges can look into this process or trace it, and its end leaves no core (`PR_SET_DUMPABLE`).
pub(crate) fn hide() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// AddrPair this process without running anything that belongs to its parent (buffers, guards): _exit(2).
pub(crate) fn leave(status: u8) -> ! {
    // SAFETY: _exit takes an int and does not return; that destructors do not run is what is wanted.
    unsafe { libc::_exit(libc::c_int::from(status)) }
}

/// The signals that mean something to one of our processes. None of them interrupts any of them.
const BLOCKED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGCHLD];

fn signal_set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// Makes `signals` come through a descriptor; the others that tproxy knows are held back.
pub(crate) fn signals(signals: &[Signal]) -> io::Result<SignalFd> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signal_set(&BLOCKED)), None)?;
    Ok(SignalFd::with_flags(&signal_set(signals), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Lets `signals` have their usual effect on this process; the others that tproxy knows are held back.
pub(crate) fn obey(signals: &[Signal]) -> io::Result<()> {
    let mut set = signal_set(&BLOCKED);
    for signal in signals {
        set.remove(*signal);
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?)
}

/// Closes all descriptors above standard error but those in `keep` (close_range(2)). For a child that never returns
/// into what it has inherited from its parent.
pub(crate) fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first: libc::c_uint = 3;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(());
        }
        // SAFETY: takes three integers. The owners of the closed descriptors are values inherited from the parent,
        // which this process neither uses nor drops any more: it ends with `leave`.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(result).map(drop)
    };
    for descriptor in keep {
        let descriptor = libc::c_uint::try_from(descriptor).unwrap_or(0);
        if descriptor >= first {
            close(first, descriptor - 1)?;
            first = descriptor + 1;
        }
    }
    Ok(close(first, libc::c_uint::MAX)?)
}

/// Lets no program that this process starts inherit its descriptors but the standard ones: also of those not that
/// somebody else has opened and left to it.
pub(crate) fn keep_descriptors() -> io::Result<()> {
    let (first, last, flag) = (3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes three integers and closes nothing.
    match Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flag) }) {
        // Older than the flag (5.11) or the call (5.9).
        Err(Errno::EINVAL | Errno::ENOSYS) => {}
        done => return Ok(done.map(drop)?),
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if number > libc::STDERR_FILENO {
            // SAFETY: takes integers; that the descriptor of this very directory is among them does no harm.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// The next signal waiting on a descriptor of [`signals`].
pub(crate) fn next_signal(from: &SignalFd) -> io::Result<Option<Signal>> {
    let Some(info) = from.read_signal()? else { return Ok(None) };
    let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
    Ok(Some(Signal::try_from(number)?))
}

/// Sends a signal; that the process is gone already is no error.
pub(crate) fn send_signal(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
}

impl Death {
    /// Whether it ended because its work was done.
    pub(crate) fn is_well(self) -> bool {
        self == Death::Exited(0)
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exited(0) => f.write_str("ended"),
            Death::Exited(status) => write!(f, "ended with status {status}"),
            Death::Killed(signal) => write!(f, "was killed by {signal}"),
        }
    }
}

/// A child that has ended, if there is one.
pub(crate) fn reap() -> Option<(Pid, Death)> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, status)) => Some((pid, Death::Exited(status))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, Death::Killed(signal))),
        _ => None,
    }
}

/// Raises the soft limit of open files to the hard one and returns it (getrlimit(2)).
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The name that ps(1) and top(1) show for this process, cut to 15 bytes (`PR_SET_NAME`, prctl(2)).
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // Only a label: the process works as well without it.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Waits until a child has ended, however.
pub(crate) fn wait_for(child: Pid) {
    while waitpid(child, None) == Err(Errno::EINTR) {}
}
