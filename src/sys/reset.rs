//! What execve(2) leaves as it was: whatever the process that started this one had set for itself.

use std::io;
use std::ptr;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::{Mode, umask};

/// Those that the runtime of Rust has set already (a write to a closed pipe is an error, an exhausted stack is reported), and
/// those that nobody can set.
const KEPT: [Signal; 5] = [Signal::SIGPIPE, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGKILL, Signal::SIGSTOP];

/// Puts back what would break the daemon, or open what it does: once, at the beginning of the program.
///
/// - Signals have their usual effect. With SIGCHLD ignored, children would vanish without a status (wait(2)).
/// - No timer of the parent runs on, which would end this process (setitimer(2)).
/// - Nobody but the user and its group may write to a new file.
/// - No process leaves a core file, which would hold passwords and what clients send.
/// - Soft limits on the size of files and on the time of the processor are raised to the hard ones.
/// - Memory is not executable unless it should be, and the layout is random (personality(2)).
pub(crate) fn reset() -> io::Result<()> {
    for number in Signal::iterator().filter(|number| !KEPT.contains(number)) {
        // SAFETY: the default action runs no code of ours in a signal's context.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    stop_timers()?;
    // The umask can only be read by setting it.
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    umask((before & (Mode::S_IRWXG | Mode::S_IRWXO)) | Mode::S_IWGRP | Mode::S_IWOTH);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    for limit in [Resource::RLIMIT_FSIZE, Resource::RLIMIT_CPU] {
        let (_, hard) = getrlimit(limit)?;
        setrlimit(limit, hard, hard)?;
    }
    // SAFETY: takes an integer. A service manager may forbid the call (LockPersonality=, systemd.exec(5)); it has set what it
    // wants then.
    unsafe { libc::personality(0) };
    Ok(())
}

fn stop_timers() -> io::Result<()> {
    let never = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 0 },
    };
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: the kernel reads `never`, which lives through the call, and is given no place for the former value.
        Errno::result(unsafe { libc::setitimer(which, &raw const never, ptr::null_mut()) })?;
    }
    Ok(())
}

/// Writes our own files in memory, which a limit on the size of files is not meant for (`ulimit -f`). A process that may not
/// raise the limit stays within it.
///
/// Errors: those of the work; one about the size names the limit.
pub(crate) fn without_size_limit<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = getrlimit(Resource::RLIMIT_FSIZE)?;
    let raised = before.0 != libc::RLIM_INFINITY
        && setrlimit(Resource::RLIMIT_FSIZE, libc::RLIM_INFINITY, libc::RLIM_INFINITY).is_ok();
    let done = work();
    if raised {
        // Lowering a limit needs no privilege.
        setrlimit(Resource::RLIMIT_FSIZE, before.0, before.1)?;
    }
    done.map_err(|error| match error.raw_os_error() {
        Some(libc::EFBIG) => io::Error::other(format!("files are limited to {} bytes (ulimit -f)", before.0)),
        _ => error,
    })
}
