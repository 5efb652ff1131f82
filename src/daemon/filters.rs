//! The system calls that each kind of process keeps.

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_long;

use crate::daemon::sources::Sources;
use crate::sys::seccomp::{Condition, SyscallFilter};
use crate::sys::{outgoing, sockopt};

/// The most frequent calls come first: some kernels run the whole filter for each call.
const RELAYING: &[c_long] = &[
    libc::SYS_recvfrom,
    libc::SYS_epoll_pwait,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
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
    libc::SYS_close,
    libc::SYS_connect,
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
    libc::SYS_newfstatat,
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
        &[libc::SYS_access, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_select, libc::SYS_stat];
    pub(super) const DUP2: &[c_long] = &[libc::SYS_dup2];
    pub(super) const OPEN: &[c_long] = &[libc::SYS_open];
    pub(super) const UNLINK: &[c_long] = &[libc::SYS_unlink];
    /// What musl has for statx(2).
    pub(super) const LOOK: &[c_long] = &[libc::SYS_lstat];
}
#[cfg(not(target_arch = "x86_64"))]
mod older {
    use libc::c_long;

    pub const WAITING: &[c_long] = &[];
    pub const RESOLVING: &[c_long] = &[];
    pub const DUP2: &[c_long] = &[];
    pub const OPEN: &[c_long] = &[];
    pub const UNLINK: &[c_long] = &[];
    pub const LOOK: &[c_long] = &[libc::SYS_newfstatat];
}

/// A datagram socket finds out whether this host has an address at all.
const STREAMS: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];

const OVER_IP: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

/// Flags in the second argument of socket(2). The rest of it is the type.
const SOCKET_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// The standard descriptors. Other processes have what is behind them, such as the terminal, open too.
const STANDARD: [i32; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

/// The lengths of IPv4 and IPv6 addresses. The filter cannot see the family in an address, but other families, such as
/// unix(7), have other lengths, apart from a few names.
const IP_ADDRESSES: [i32; 2] = [size_of::<libc::sockaddr_in>() as i32, size_of::<libc::sockaddr_in6>() as i32];

/// The calls of a relay. What it shares with other processes (listening sockets, the log, standard error) it can use and
/// not change: shutdown(2) ends writing only, since a listener without its reading end is deaf for all; no call makes a
/// descriptor blocking, or clears `O_APPEND`, or gives a place in a file; no option is set but those of
/// [`sockopt::WHILE_SERVING`]. `channel` is the one to the guardian: descriptors are received there and nowhere else.
///
/// A worker that chooses addresses has bind(2), but no datagram sockets: without listen(2), it cannot take a service's
/// place with what it binds.
pub(crate) fn relaying(channel: Option<BorrowedFd<'_>>, sources: Sources) -> SyscallFilter {
    let pipe = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let types = if sources.are_chosen() { &STREAMS[..1] } else { &STREAMS };
    let filter = SyscallFilter::default()
        .allow_if(libc::SYS_splice, Condition::is_null(1).into_iter().chain(Condition::is_null(3)))
        .allow_if(libc::SYS_sendto, Condition::is_null(4))
        .allow_if(libc::SYS_connect, [Condition::is(2, &IP_ADDRESSES)])
        .allow_if(libc::SYS_socket, socket(&OVER_IP, types, &[0]))
        .allow_if(libc::SYS_shutdown, [Condition::is(1, &[libc::SHUT_WR])])
        .allow_if(libc::SYS_ioctl, [Condition::is(1, &[libc::TIOCOUTQ as i32])])
        .allow_if(libc::SYS_pipe2, [Condition::is(1, &[pipe])])
        .allow_if(libc::SYS_fcntl, [Condition::is(1, &[libc::F_GETFD, libc::F_GETPIPE_SZ, libc::F_SETPIPE_SZ])]);
    let filter = setting(filter, sockopt::WHILE_SERVING);
    let filter = if sources.own { setting(filter, &[outgoing::WITHOUT_PORT]) } else { filter };
    let filter = match sources.are_chosen() {
        true => filter.allow_if(libc::SYS_bind, [Condition::is(2, &IP_ADDRESSES)]),
        false => filter,
    };
    let filter = channel
        .into_iter()
        .fold(filter, |filter, channel| filter.allow_if(libc::SYS_recvmsg, [Condition::is(0, &[channel.as_raw_fd()])]));
    let anonymous = Condition::masked(3, libc::MAP_TYPE | libc::MAP_ANONYMOUS, &[ANONYMOUS]);
    let filter = filter.allow_if(libc::SYS_mmap, [without(libc::PROT_EXEC), anonymous]);
    own_end(never_run(filter)).allow(RELAYING).allow(older::WAITING).allow(LIVING)
}

/// The calls of the control process. It receives descriptors from the guardian alone, and maps memory of others for reading
/// only: their descriptors are open for reading, and mprotect(2) does not go beyond that (`VM_MAYWRITE`, mm/mmap.c). It can
/// bind the sockets of checks, but has no listen(2): it outlives reloads, and a later configuration may have `--source`.
pub(crate) fn controlling(channel: BorrowedFd<'_>) -> SyscallFilter {
    let filter = SyscallFilter::default()
        .allow_if(libc::SYS_sendto, Condition::is_null(4))
        .allow_if(libc::SYS_connect, [Condition::is(2, &IP_ADDRESSES)])
        .allow_if(libc::SYS_socket, socket(&OVER_IP, &[libc::SOCK_STREAM], &[0]))
        .allow_if(libc::SYS_bind, [Condition::is(2, &IP_ADDRESSES)])
        .allow_if(libc::SYS_recvmsg, [Condition::is(0, &[channel.as_raw_fd()])])
        .allow_if(libc::SYS_fcntl, [Condition::is(1, &[libc::F_GETFD])]);
    let filter = setting(filter, WHILE_CONTROLLING);
    let anonymous = Condition::masked(3, libc::MAP_TYPE | libc::MAP_ANONYMOUS, &[ANONYMOUS]);
    let shared = Condition::masked(3, libc::MAP_TYPE, &[libc::MAP_SHARED]);
    let filter = filter
        .allow_if(libc::SYS_mmap, [without(libc::PROT_EXEC), anonymous])
        .allow_if(libc::SYS_mmap, [without(libc::PROT_EXEC | libc::PROT_WRITE), shared]);
    own_end(never_run(filter)).allow(CONTROLLING).allow(older::WAITING).allow(LIVING)
}

const CONTROLLING: &[c_long] = &[
    libc::SYS_recvfrom,
    libc::SYS_epoll_pwait,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
];

/// The options of the connections of checks.
const WHILE_CONTROLLING: &[(i32, i32)] = &[
    outgoing::WITHOUT_PORT,
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
];

/// Adds the calls of a process without a guardian, which reopens its log and removes its pid file.
pub(crate) fn with_own_files(filter: SyscallFilter) -> SyscallFilter {
    let filter = older::OPEN
        .iter()
        .fold(filter, |filter, open| filter.allow_if(*open, reading(1)).allow_if(*open, appending(1)));
    filter
        .allow_if(libc::SYS_openat, reading(2))
        .allow_if(libc::SYS_openat, appending(2))
        .allow(older::UNLINK)
        .allow(older::LOOK)
        .allow(&[libc::SYS_unlinkat, libc::SYS_fstat, libc::SYS_statx])
        // syslog, for a process that inetd has started.
        .allow_if(libc::SYS_socket, socket(&[libc::AF_UNIX], &[libc::SOCK_DGRAM], &[0]))
        .allow_if(libc::SYS_connect, [])
}

pub(crate) fn resolving() -> SyscallFilter {
    let filter = SyscallFilter::default()
        .allow_if(libc::SYS_openat, reading(2))
        .allow_if(
            libc::SYS_socket,
            socket(&OVER_IP, &[libc::SOCK_STREAM, libc::SOCK_DGRAM], &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP]),
        )
        .allow_if(libc::SYS_socket, {
            socket(&[libc::AF_UNIX], &[libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET], &[0])
        })
        .allow_if(libc::SYS_socket, {
            socket(&[libc::AF_NETLINK], &[libc::SOCK_RAW, libc::SOCK_DGRAM], &[libc::NETLINK_ROUTE])
        })
        // An address of netlink(7). Those of IP are longer, those of unix(7) seldom have this length.
        .allow_if(libc::SYS_bind, [Condition::is(2, &[size_of::<libc::sockaddr_nl>() as i32])])
        .allow_if(libc::SYS_pipe2, [Condition::masked(1, !(libc::O_CLOEXEC | libc::O_NONBLOCK), &[0])])
        .allow_if(libc::SYS_fcntl, [Condition::is(1, &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL])])
        .allow_if(libc::SYS_ioctl, [Condition::is(1, &[libc::FIONREAD as i32, libc::TCGETS as i32])])
        // Reading the limits, not setting them.
        .allow_if(libc::SYS_prlimit64, Condition::is_null(2));
    let filter = older::OPEN.iter().fold(filter, |filter, open| filter.allow_if(*open, reading(1)));
    let filter = setting(not_of_others(filter), WHILE_RESOLVING);
    // The modules are shared libraries: parts of files, which are mapped as executable and never written.
    let private = || Condition::masked(3, libc::MAP_TYPE, &[libc::MAP_PRIVATE]);
    let of_a_file = Condition::masked(3, libc::MAP_TYPE | libc::MAP_ANONYMOUS, &[libc::MAP_PRIVATE]);
    let filter = filter
        .allow_if(libc::SYS_mmap, [without(libc::PROT_EXEC), private()])
        .allow_if(libc::SYS_mmap, [without(libc::PROT_EXEC), without(libc::PROT_WRITE)])
        .allow_if(libc::SYS_mmap, [without(libc::PROT_WRITE), of_a_file]);
    own_end(never_run(filter)).allow(RESOLVING).allow(older::RESOLVING).allow(older::WAITING).allow(LIVING)
}

/// The options that getaddrinfo(3) and its modules set: errors of servers (glibc, resolv/res_send.c), and where a message
/// of rtnetlink(7) comes from (libnss_myhostname, sd-netlink).
const WHILE_RESOLVING: &[(i32, i32)] = &[
    (libc::SOL_IP, libc::IP_RECVERR),
    (libc::SOL_IPV6, libc::IPV6_RECVERR),
    (libc::SOL_NETLINK, libc::NETLINK_PKTINFO),
    (libc::SOL_NETLINK, libc::NETLINK_EXT_ACK),
    (libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK),
];

/// Adds calls that change what is behind a descriptor, but not behind the standard ones, nor behind copies of these.
fn not_of_others(filter: SyscallFilter) -> SyscallFilter {
    let own = || Condition::is_not(0, &STANDARD);
    let copies = [libc::SYS_dup, libc::SYS_dup3, libc::SYS_lseek].into_iter().chain(older::DUP2.iter().copied());
    copies
        .fold(filter, |filter, call| filter.allow_if(call, [own()]))
        .allow_if(libc::SYS_fcntl, [Condition::is(1, &[libc::F_SETFL, libc::F_DUPFD, libc::F_DUPFD_CLOEXEC]), own()])
        .allow_if(libc::SYS_ioctl, [Condition::is(1, &[libc::FIONBIO as i32]), own()])
}

/// The conditions that socket(2) makes one of these.
fn socket(families: &[i32], types: &[i32], protocols: &[i32]) -> [Condition; 3] {
    [Condition::is(0, families), Condition::masked(1, !SOCKET_FLAGS, types), Condition::is(2, protocols)]
}

/// Allows setting these options of sockets, each with its level.
pub(crate) fn setting(filter: SyscallFilter, options: &[(i32, i32)]) -> SyscallFilter {
    options.iter().fold(filter, |filter, (level, option)| {
        filter.allow_if(libc::SYS_setsockopt, [Condition::is(1, &[*level]), Condition::is(2, &[*option])])
    })
}

/// The condition that the flags of open(2), at this place, neither write, create nor truncate.
fn reading(flags: u32) -> [Condition; 1] {
    [Condition::masked(flags, libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC, &[libc::O_RDONLY])]
}

/// The condition that the flags of open(2), at this place, write at the end only.
fn appending(flags: u32) -> [Condition; 1] {
    let mask = libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC;
    [Condition::masked(flags, mask, &[libc::O_WRONLY | libc::O_APPEND])]
}

/// Memory of the process itself.
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// The condition that memory of mmap(2) or mprotect(2) is not accessible in this way.
fn without(protection: i32) -> Condition {
    Condition::masked(2, protection, &[0])
}

/// Allows changing how memory is accessible, but nothing that was memory becomes code.
fn never_run(filter: SyscallFilter) -> SyscallFilter {
    filter.allow_if(libc::SYS_mprotect, [without(libc::PROT_EXEC)])
}

/// Allows abort(3), and no signal to another process.
fn own_end(filter: SyscallFilter) -> SyscallFilter {
    let own = std::process::id().cast_signed();
    filter.allow_if(libc::SYS_tgkill, [Condition::is(0, &[own])]).allow_if(libc::SYS_tkill, [Condition::is(0, &[own])])
}
