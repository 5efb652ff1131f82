//! The privileges that each kind of process gives up before it serves, and the system calls that it keeps. They are all
//! that an attacker has who takes the process over.

use std::fs::File;
use std::io;

use libc::c_long;

use crate::config::Config;
use crate::error::Error;
use crate::logging;
use crate::sys::account;
use crate::sys::process;
use crate::sys::seccomp::{Condition, SyscallFilter};

/// A process that has given up its privileges but not yet the system calls that its set-up needs.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// /dev/null, for the moment when the process leaves the terminal.
    null: Option<File>,
    filter: SyscallFilter,
}

/// Confines a worker: it keeps no file, no privilege, and only the system calls of a relay.
pub(crate) fn worker(config: &Config) -> Result<Confinement, Error> {
    let null = null(config)?;
    if account::is_root()
        && let Err(error) = process::enter_empty_root()
    {
        // The filter forbids open(2) in any case.
        log::warn!("this worker keeps the root directory of the host, chroot is not to be had: {error}");
    }
    // /dev/log cannot be reached from the empty root.
    logging::confine();
    become_harmless(config)?;
    Ok(Confinement { null, filter: relaying() })
}

/// Confines a resolver: it keeps no privilege, and only the system calls of getaddrinfo(3) and of the modules in
/// nsswitch.conf(5). These read files from any directory.
pub(crate) fn resolver(config: &Config) -> Result<Confinement, Error> {
    let null = null(config)?;
    become_harmless(config)?;
    Ok(Confinement { null, filter: resolving() })
}

/// Confines a process that relays without a guardian. It keeps access to files, because it reopens its log itself.
pub(crate) fn alone() -> Result<Confinement, Error> {
    no_new_privileges()?;
    Ok(Confinement { null: None, filter: with_own_files(relaying()) })
}

impl Confinement {
    /// Installs the filter: the last step of the set-up.
    pub(crate) fn seal(self) -> Result<(), Error> {
        if let Some(null) = &self.null {
            logging::leave_terminal_for(null)?;
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

fn null(config: &Config) -> Result<Option<File>, Error> {
    let null = (!config.process.foreground).then(process::open_null).transpose();
    null.map_err(|error| Error::sys("/dev/null", error))
}

/// Gives up all privileges. A process for which this fails must not go on.
fn become_harmless(config: &Config) -> Result<(), Error> {
    let failed = |error| Error::sys("giving up root", error);
    no_new_privileges()?;
    // A process that was never root may be traced by its own user.
    let root = account::is_root();
    if root {
        account::empty_bounding_set().map_err(failed)?;
    }
    if let Some(user) = config.process.user {
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

/// The most frequent calls come first: some kernels run the whole filter for each call.
const RELAYING: &[c_long] = &[
    libc::SYS_splice,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_epoll_pwait,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_connect,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_pipe2,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_bind,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
];

/// Calls that every program needs: memory, time, its own signals and its end.
const LIVING: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
];

/// Calls of getaddrinfo(3) and the modules of nsswitch.conf(5). They read files, ask servers on this host (nscd,
/// systemd-resolved, sssd) and elsewhere, and ask the kernel for the addresses of this host.
const RESOLVING: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getppid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_pselect6,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sched_getaffinity,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
mod older {
    use libc::c_long;

    pub(super) const WAITING: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
    pub(super) const RESOLVING: &[c_long] =
        &[libc::SYS_access, libc::SYS_dup2, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_select, libc::SYS_stat];
    pub(super) const OPEN: &[c_long] = &[libc::SYS_open];
    pub(super) const UNLINK: &[c_long] = &[libc::SYS_unlink];
}
#[cfg(not(target_arch = "x86_64"))]
mod older {
    use libc::c_long;

    pub const WAITING: &[c_long] = &[];
    pub const RESOLVING: &[c_long] = &[];
    pub const OPEN: &[c_long] = &[];
    pub const UNLINK: &[c_long] = &[];
}

const OVER_IP: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

/// The kinds of sockets, the lowest bits of the second argument of socket(2); the others are flags.
const KIND: i32 = 0xf;

/// shutdown(2) may only end writing. Ending reading would make a shared listener deaf for the guardian and all workers.
fn relaying() -> SyscallFilter {
    let at_level = |level, options: &[i32]| [Condition::is(1, &[level]), Condition::is(2, options)];
    let filter = SyscallFilter::default().allow(older::WAITING).allow(RELAYING).allow(LIVING);
    own_end(memory(filter))
        .allow_if(
            libc::SYS_socket,
            [Condition::is(0, &OVER_IP), Condition::masked(1, KIND, &[libc::SOCK_STREAM, libc::SOCK_DGRAM])],
        )
        .allow_if(libc::SYS_shutdown, [Condition::is(1, &[libc::SHUT_WR])])
        .allow_if(libc::SYS_setsockopt, [Condition::is(1, &[libc::IPPROTO_TCP])])
        .allow_if(
            libc::SYS_setsockopt,
            at_level(libc::SOL_SOCKET, &[libc::SO_KEEPALIVE, libc::SO_LINGER, libc::SO_OOBINLINE]),
        )
        .allow_if(
            libc::SYS_fcntl,
            [Condition::is(
                1,
                &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_GETPIPE_SZ, libc::F_SETPIPE_SZ],
            )],
        )
        .allow_if(
            libc::SYS_ioctl,
            [Condition::is(1, &[libc::TIOCOUTQ as i32, libc::FIONREAD as i32, libc::FIONBIO as i32])],
        )
}

/// Adds the calls of a process without a guardian, which reopens its log and removes its pid file.
fn with_own_files(filter: SyscallFilter) -> SyscallFilter {
    filter
        .allow(older::OPEN)
        .allow(older::UNLINK)
        .allow(&[libc::SYS_openat, libc::SYS_unlinkat, libc::SYS_fstat, libc::SYS_statx, libc::SYS_lseek])
        // syslog, for a process that inetd has started.
        .allow_if(
            libc::SYS_socket,
            [Condition::is(0, &[libc::AF_UNIX]), Condition::masked(1, KIND, &[libc::SOCK_DGRAM])],
        )
}

fn resolving() -> SyscallFilter {
    let filter = SyscallFilter::default().allow(older::WAITING).allow(older::RESOLVING).allow(RESOLVING).allow(LIVING);
    // The modules are shared libraries, which are mapped as executable.
    let filter = own_end(filter.allow(&[libc::SYS_mmap, libc::SYS_mprotect]));
    let filter = older::OPEN.iter().fold(filter, |filter, open| filter.allow_if(*open, reading(1)));
    filter
        .allow_if(libc::SYS_openat, reading(2))
        .allow_if(
            libc::SYS_socket,
            [Condition::is(0, &[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX]), {
                Condition::masked(1, KIND, &[libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET])
            }],
        )
        .allow_if(libc::SYS_socket, [Condition::is(0, &[libc::AF_NETLINK]), Condition::is(2, &[libc::NETLINK_ROUTE])])
        .allow_if(
            libc::SYS_fcntl,
            [Condition::is(
                1,
                &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD, libc::F_DUPFD_CLOEXEC],
            )],
        )
        .allow_if(
            libc::SYS_ioctl,
            [Condition::is(1, &[libc::FIONREAD as i32, libc::FIONBIO as i32, libc::TCGETS as i32])],
        )
        // Reading the limits, not setting them.
        .allow_if(libc::SYS_prlimit64, Condition::is_null(2))
}

/// The condition that the flags of open(2), at this place, neither write, create nor truncate.
fn reading(flags: u32) -> [Condition; 1] {
    [Condition::masked(flags, libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC, &[libc::O_RDONLY])]
}

/// Allows memory that is not executable.
fn memory(filter: SyscallFilter) -> SyscallFilter {
    let not_run = || [Condition::masked(2, libc::PROT_EXEC, &[0])];
    filter.allow_if(libc::SYS_mmap, not_run()).allow_if(libc::SYS_mprotect, not_run())
}

/// Allows abort(3), and no signal to another process.
fn own_end(filter: SyscallFilter) -> SyscallFilter {
    let own = std::process::id().cast_signed();
    filter.allow_if(libc::SYS_tgkill, [Condition::is(0, &[own])]).allow_if(libc::SYS_tkill, [Condition::is(0, &[own])])
}
