//! The privileges that each kind of process gives up before it serves, and the system calls that it keeps. They are all
//! that an attacker has who takes the process over.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use crate::daemon::filters;
use crate::daemon::sources::Sources;
use crate::error::Error;
use crate::logging;
use crate::sys::account::{self, Account};
use crate::sys::landlock;
use crate::sys::process;
use crate::sys::seccomp::SyscallFilter;

/// A process that has given up its privileges but not yet the system calls that its set-up needs.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// /dev/null, for the moment when the process leaves the terminal.
    null: Option<File>,
    filter: SyscallFilter,
    /// Ports that the kernel chooses are the only ones to be bound.
    only_free_ports: bool,
}

/// Confines a worker: it keeps no file, no privilege, and only the system calls of a relay. `channel` is the one to the
/// guardian.
pub(crate) fn worker(
    user: Option<Account>,
    foreground: bool,
    channel: BorrowedFd<'_>,
    sources: Sources,
) -> Result<Confinement, Error> {
    let null = null(foreground)?;
    if account::is_root()
        && let Err(error) = process::enter_empty_root()
    {
        // The filter forbids open(2) in any case.
        log::warn!("this worker keeps the root directory of the host, chroot is not to be had: {error}");
    }
    // /dev/log cannot be reached from the empty root.
    logging::confine();
    become_harmless(user)?;
    let only_free_ports = sources.are_chosen() && !sources.ports;
    Ok(Confinement { null, filter: filters::relaying(Some(channel), sources), only_free_ports })
}

/// Confines a resolver: it keeps no privilege, and only the system calls of getaddrinfo(3) and of the modules in
/// nsswitch.conf(5). These read files from any directory.
pub(crate) fn resolver(user: Option<Account>, foreground: bool) -> Result<Confinement, Error> {
    let null = null(foreground)?;
    become_harmless(user)?;
    Ok(Confinement { null, filter: filters::resolving(), only_free_ports: false })
}

/// Confines a control process: like a worker it keeps no file and no privilege, and only the calls of a server on sockets
/// that were opened for it, and of checks over TCP.
pub(crate) fn control(user: Option<Account>, foreground: bool, channel: BorrowedFd<'_>) -> Result<Confinement, Error> {
    let null = null(foreground)?;
    if account::is_root()
        && let Err(error) = process::enter_empty_root()
    {
        log::warn!("the control process keeps the root directory of the host, chroot is not to be had: {error}");
    }
    logging::confine();
    become_harmless(user)?;
    Ok(Confinement { null, filter: filters::controlling(channel), only_free_ports: true })
}

/// Confines a process that relays without a guardian. It keeps access to files, because it reopens its log itself.
pub(crate) fn alone(sources: Sources) -> Result<Confinement, Error> {
    no_new_privileges()?;
    Ok(Confinement {
        null: None,
        filter: filters::with_own_files(filters::relaying(None, sources)),
        only_free_ports: sources.own,
    })
}

impl Confinement {
    /// Also allows choosing the congestion control of a socket (`--congestion-control`).
    pub(crate) fn with_congestion_control(self) -> Confinement {
        Confinement { filter: filters::setting(self.filter, &[(libc::IPPROTO_TCP, libc::TCP_CONGESTION)]), ..self }
    }

    /// Installs the filter: the last step of the set-up.
    pub(crate) fn seal(self) -> Result<(), Error> {
        if let Some(null) = &self.null {
            logging::leave_terminal_for(null)?;
        }
        if self.only_free_ports
            && let Err(error) = landlock::bind_free_ports_only()
        {
            log::debug!("Landlock cannot keep this process from choosing ports: {error}");
        }
        match self.filter.install() {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                log::warn!("no system call filter: this kernel has none, or not for this architecture");
                Ok(())
            }
            done => done.map_err(|error| Error::sys("seccomp", error)),
        }
    }
}

fn null(foreground: bool) -> Result<Option<File>, Error> {
    let null = (!foreground).then(process::open_null).transpose();
    null.map_err(|error| Error::sys("/dev/null", error))
}

/// Gives up all privileges. A process for which this fails must not go on.
fn become_harmless(user: Option<Account>) -> Result<(), Error> {
    let failed = |error| Error::sys("giving up root", error);
    no_new_privileges()?;
    // A process that was never root may be traced by its own user.
    let root = account::is_root();
    if root {
        account::empty_bounding_set().map_err(failed)?;
    }
    if let Some(user) = user {
        account::become_account(user).map_err(failed)?;
    }
    account::drop_capabilities().map_err(failed)?;
    if root {
        process::hide().map_err(failed)?;
    }
    Ok(())
}

fn no_new_privileges() -> Result<(), Error> {
    account::no_new_privileges().map_err(|error| Error::sys("PR_SET_NO_NEW_PRIVS", error))
}
