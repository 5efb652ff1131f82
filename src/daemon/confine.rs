//! What each kind of process gives up before it serves, and which system calls are left to it then: what somebody could
//! do who had taken it over, through a fault in what reads from the network.

use std::fs::File;
use std::io;

use libc::c_long;

use crate::config::Config;
use crate::error::Error;
use crate::logging;
use crate::sys::account;
use crate::sys::process;
use crate::sys::seccomp::{Condition, SyscallFilter};

/// A process that has given up what it does not need to get ready, and has yet to give up what it needs for that.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// For the end of its time at the terminal.
    null: Option<File>,
    filter: SyscallFilter,
}

/// For a worker: no files, no privileges, and no system calls but those of a relay.
pub(crate) fn worker(config: &Config) -> Result<Confinement, Error> {
    let null = null(config)?;
    if account::is_root()
        && let Err(error) = process::enter_empty_root()
    {
        // The filter lets it open no file anyhow.
        log::warn!("this worker keeps the root directory of the host, chroot is not to be had: {error}");
    }
    // From inside there is no way to syslog.
    logging::confine();
    become_harmless(config)?;
    Ok(Confinement { null, filter: relaying() })
}

/// For a resolver: no privileges, and no system calls but those of getaddrinfo(3) and of what the host has put behind
/// it (nsswitch.conf(5)), which may be read from anywhere.
pub(crate) fn resolver(config: &Config) -> Result<Confinement, Error> {
    let null = null(config)?;
    become_harmless(config)?;
    Ok(Confinement { null, filter: resolving() })
}

/// For a process that relays without a guardian: as whoever has started it, it keeps its own files.
pub(crate) fn alone() -> Result<Confinement, Error> {
    no_new_privileges()?;
    Ok(Confinement { null: None, filter: with_own_files(relaying()) })
}

impl Confinement {
    /// From here on it can do nothing else but what it is there for.
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

/// Gives up what privileges there are. A process for which that fails must not go on.
fn become_harmless(config: &Config) -> Result<(), Error> {
    let failed = |error| Error::sys("giving up root", error);
    no_new_privileges()?;
    // Whoever was never root can be looked into by himself, and may.
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

/// What moves payload, then what a connection costs, then the rest. Kernels that ask the filter each time find the first
/// ones first.
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

/// What any program needs: memory, time, its own signals and its end.
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

/// What getaddrinfo(3) and the modules of nsswitch.conf(5) do besides: finding and reading files, asking servers in this
/// host (nscd, systemd-resolved, sssd) and elsewhere, and the kernel for the addresses of this host.
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

/// The older calls, which later architectures do without.
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

/// No end of reading is told to a socket: a listening one would take no connections any more, in the guardian's and the
/// other workers' hands either.
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

/// For a process without a guardian, which reopens its log and removes its pid file.
fn with_own_files(filter: SyscallFilter) -> SyscallFilter {
    filter
        .allow(older::OPEN)
        .allow(older::UNLINK)
        .allow(&[libc::SYS_openat, libc::SYS_unlinkat, libc::SYS_fstat, libc::SYS_statx, libc::SYS_lseek])
        // syslog, for one that inetd has started.
        .allow_if(
            libc::SYS_socket,
            [Condition::is(0, &[libc::AF_UNIX]), Condition::masked(1, KIND, &[libc::SOCK_DGRAM])],
        )
}

fn resolving() -> SyscallFilter {
    let filter = SyscallFilter::default().allow(older::WAITING).allow(older::RESOLVING).allow(RESOLVING).allow(LIVING);
    // All that a module may be in is mapped to be run.
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

/// The flags of open(2) at this place say that nothing is written, made or emptied.
fn reading(flags: u32) -> [Condition; 1] {
    [Condition::masked(flags, libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC, &[libc::O_RDONLY])]
}

/// Memory, none of which is ever run: what was written by somebody else is no program here.
fn memory(filter: SyscallFilter) -> SyscallFilter {
    let not_run = || [Condition::masked(2, libc::PROT_EXEC, &[0])];
    filter.allow_if(libc::SYS_mmap, not_run()).allow_if(libc::SYS_mprotect, not_run())
}

/// abort(3), and no other signal to anybody else.
fn own_end(filter: SyscallFilter) -> SyscallFilter {
    let own = std::process::id().cast_signed();
    filter.allow_if(libc::SYS_tgkill, [Condition::is(0, &[own])]).allow_if(libc::SYS_tkill, [Condition::is(0, &[own])])
}
