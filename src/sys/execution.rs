//! Executing this program once more, in a child.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::unistd::{dup2_stdin, dup2_stdout, fexecve};

use crate::sys::process;

/// The program that runs in this process. It can be executed again when its file was replaced or removed.
#[derive(Debug)]
pub(crate) struct RunningProgram(File);

impl RunningProgram {
    pub(crate) fn open() -> io::Result<RunningProgram> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc/self/exe")?;
        Ok(RunningProgram(file))
    }

    /// Executes it in this process: a child that was forked just now. Of all descriptors it keeps standard error and those of
    /// `execution`. Returns only when that fails.
    pub(crate) fn execute(&self, execution: &Execution<'_>) -> io::Result<Infallible> {
        let kept: Vec<RawFd> = execution.keep.iter().map(AsRawFd::as_raw_fd).collect();
        process::close_others(&[&kept[..], &[self.0.as_raw_fd()]].concat())?;
        for descriptor in kept {
            // SAFETY: takes integers. The descriptor is open, and it shall stay open in the next program of this process,
            // which is told its number.
            nix::errno::Errno::result(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) })?;
        }
        // It reads nothing that is typed, and prints nothing.
        let null = process::open_null()?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        Ok(fexecve(&self.0, &[&execution.title], &execution.environment)?)
    }
}

/// What the next program of a process gets. It is made before the fork.
#[derive(Debug)]
pub(crate) struct Execution<'a> {
    title: CString,
    environment: Vec<CString>,
    keep: Vec<BorrowedFd<'a>>,
}

impl<'a> Execution<'a> {
    /// A program that ps(1) calls by this title, with a variable beside those of this process, and with these descriptors.
    pub(crate) fn new(title: &str, variable: (&str, String), keep: Vec<BorrowedFd<'a>>) -> io::Result<Execution<'a>> {
        let entry = |(name, value): (&OsStr, &OsStr)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
        let ours = (OsString::from(variable.0), OsString::from(variable.1));
        let all = std::env::vars_os().filter(|(name, _)| *name != ours.0).chain([ours.clone()]);
        let environment = all.map(|(name, value)| entry((&name, &value))).collect::<Result<_, _>>()?;
        Ok(Execution { title: CString::new(title)?, environment, keep })
    }
}
