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
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, chroot, dup2_stderr, dup2_stdin, dup2_stdout, fork, mkdtemp, setsid};

/// The process in which a fork returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The parent, with the id of its new child.
    Parent(Pid),
    Child,
}

/// Nanoseconds of processor time that this process has used.
pub(crate) fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// fork(2). It is sound because the program never starts a thread; with more than one thread it fails.
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

/// Becomes a daemon: the second child, in a new session, so that it can never get a terminal again (daemon(7)). The
/// process that called gets the descriptor on which the daemon reports; the daemon gets the one to report through.
pub(crate) fn detach() -> io::Result<Detached> {
    let (read, write) = report_pipe()?;
    if let Forked::Parent(child) = fork_here()? {
        drop(write);
        // The first child ends at once. Reaping it leaves no zombie.
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

/// Waits for a report, at most for `limit`.
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

/// A pipe for a report, the reading end first.
pub(crate) fn report_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// The result of a wait for a report, which is one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The exit status for the shell.
    Status(u8),
    /// The writer ended without a report.
    Gone,
    /// No report came in time.
    Late,
}

pub(crate) fn open_null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Makes the three standard descriptors copies of `null`.
pub(crate) fn silence_stdio(null: &File) -> io::Result<()> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(null)?;
    Ok(())
}

/// Where [`enter_empty_root`] tries to make its directory.
const PLACES: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// Makes an empty directory the root of this process (chroot(2)). The directory is already removed: no process can put
/// anything into it, and nothing is left on the disk.
///
/// Errors: this process is not permitted to, or it cannot make a directory.
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

/// Prevents unprivileged processes from tracing this one and reading its memory, and prevents core dumps
/// (`PR_SET_DUMPABLE`).
pub(crate) fn hide() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Ends this process without running destructors or flushing buffers, which belong to its parent: _exit(2).
pub(crate) fn leave(status: u8) -> ! {
    // SAFETY: _exit takes an int and does not return. That destructors do not run is intended.
    unsafe { libc::_exit(libc::c_int::from(status)) }
}

/// The signals that any of our processes uses. They are blocked in all of them. SIGURG is one that does no harm to a process
/// that does not expect it (signal(7)).
pub(crate) const BLOCKED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
    Signal::SIGURG,
];

fn signal_set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// Makes all of [`BLOCKED`] wait until [`signals`] takes them: before anybody can know that this process is there.
pub(crate) fn block_signals() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signal_set(&BLOCKED)), None)?)
}

/// Makes `signals` come through a descriptor; the others of [`BLOCKED`] stay blocked.
pub(crate) fn signals(signals: &[Signal]) -> io::Result<SignalFd> {
    block_signals()?;
    Ok(SignalFd::with_flags(&signal_set(signals), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Makes signals that are meant for the guardian have no effect on this process and on those that it starts. A terminal
/// sends them to all processes of its group, and a service manager to all of a service.
pub(crate) fn ignore_signals() -> io::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        // SAFETY: no handler is installed that could run at a bad moment.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Lets `signals` have their usual effect on this process; the others of [`BLOCKED`] stay blocked.
pub(crate) fn obey(signals: &[Signal]) -> io::Result<()> {
    let mut set = signal_set(&BLOCKED);
    for signal in signals {
        set.remove(*signal);
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?)
}

/// Closes all descriptors above standard error except those in `keep` (close_range(2)). Only for a child that never
/// uses values of its parent that own descriptors.
pub(crate) fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first: libc::c_uint = 3;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(());
        }
        // SAFETY: takes three integers. The owners of the closed descriptors are values inherited from the parent,
        // which this process no longer uses or drops: it ends with `leave`.
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

/// Makes all descriptors above standard error close-on-exec, even those that the program was started with.
pub(crate) fn keep_descriptors() -> io::Result<()> {
    let (first, last, flag) = (3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes three integers and closes nothing.
    match Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flag) }) {
        // The kernel is older than the flag (5.11) or the call (5.9).
        Err(Errno::EINVAL | Errno::ENOSYS) => {}
        done => return Ok(done.map(drop)?),
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if number > libc::STDERR_FILENO {
            // SAFETY: takes integers. The descriptor of this directory is among them, which does no harm.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// The next pending signal on a descriptor of [`signals`].
pub(crate) fn next_signal(from: &SignalFd) -> io::Result<Option<Signal>> {
    let Some(info) = from.read_signal()? else { return Ok(None) };
    let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
    Ok(Some(Signal::try_from(number)?))
}

/// Sends a signal. It is no error if the process has already ended.
pub(crate) fn send_signal(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// With this exit status.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
}

impl Death {
    /// Whether it ended with status 0.
    pub(crate) fn is_well(self) -> bool {
        self == Death::Exited(0)
    }

    /// Whether it ended by itself, because it could not go on.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Death::Exited(status) if status != 0)
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

/// Reaps a child that has ended, if there is one.
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

/// Sets the name that ps(1) and top(1) show for this process, cut to 15 bytes (`PR_SET_NAME`, prctl(2)).
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // The name is only a label: the process works as well without it.
        let _ = nix::sys::prctl::set_name(&name);
    }
}
