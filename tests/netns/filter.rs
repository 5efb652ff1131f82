//! The system call filters, argument by argument: what a worker and a resolver must not do with the calls that they have.
#![cfg(target_arch = "x86_64")]

use super::confinement::{Attempt, expect_refused};
use super::{MOOSE, STAND_IN, Scene};
use lab::process;
use lab::report;
use lab::takeover::{Puppet, line};
use lab::tempdir::TempDir;
use nix::errno::Errno;
use std::fs;

const REFUSED: Errno = Errno::EPERM;
const NO_SUCH_CALL: Errno = Errno::ENOSYS;

/// linux/in.h, linux/net.h and others, where libc has no name.
const IPPROTO_L2TP: i32 = 115;
const NETLINK_PKTINFO: i32 = 3;
const SOL_NETLINK: i32 = 270;
const TCP_AO_ADD_KEY: i32 = 38;
const IPT_SO_SET_REPLACE: i32 = 64;

/// Sockets that neither kind of process can make: family, type and protocol.
const SOCKETS: &[(&str, i32, i32, i32)] = &[
    ("MPTCP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
    ("MPTCP over IPv6", libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
    ("SCTP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
    ("SCTP of packets", libc::AF_INET, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP),
    ("UDP-Lite", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
    ("UDP-Lite over IPv6", libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
    ("L2TP", libc::AF_INET, libc::SOCK_DGRAM, IPPROTO_L2TP),
    ("a socket for echo requests", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
    ("DCCP", libc::AF_INET, libc::SOCK_DCCP, libc::IPPROTO_DCCP),
    ("raw TCP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
    ("raw IPv6", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW),
    ("a type with a bit of another one", libc::AF_INET, libc::SOCK_STREAM | 0x10, 0),
    ("packets", libc::AF_PACKET, libc::SOCK_DGRAM, 0x0003),
    ("XDP", libc::AF_XDP, libc::SOCK_RAW, 0),
    ("ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
    ("virtual machines", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
    ("virtual machines, datagrams", libc::AF_VSOCK, libc::SOCK_DGRAM, 0),
    ("Bluetooth", libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
    ("CAN", libc::AF_CAN, libc::SOCK_RAW, 1),
    ("TIPC", libc::AF_TIPC, libc::SOCK_STREAM, 0),
    ("RDS", libc::AF_RDS, libc::SOCK_SEQPACKET, 0),
    ("KCM", 41, libc::SOCK_DGRAM, 0),
    ("SMC", 43, libc::SOCK_STREAM, 0),
    ("netlink of netfilter", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
    ("netlink of sockets", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG),
    ("netlink of audit", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
    ("netlink of IPsec", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_XFRM),
    ("netlink of anything", libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_GENERIC),
    ("netlink of devices", libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_KOBJECT_UEVENT),
];

/// Options that no process of ours sets once it serves.
const OPTIONS: &[(&str, i32, i32)] = &[
    ("TCP_MD5SIG", libc::IPPROTO_TCP, libc::TCP_MD5SIG),
    ("TCP_MD5SIG_EXT", libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT),
    ("TCP_AO_ADD_KEY", libc::IPPROTO_TCP, TCP_AO_ADD_KEY),
    ("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    ("TCP_FASTOPEN", libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    ("TCP_ULP", libc::IPPROTO_TCP, libc::TCP_ULP),
    ("TCP_CONGESTION", libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    ("TCP_MAXSEG", libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    ("TCP_CORK", libc::IPPROTO_TCP, libc::TCP_CORK),
    ("TCP_WINDOW_CLAMP", libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    ("TCP_REPAIR", libc::IPPROTO_TCP, libc::TCP_REPAIR),
    ("TCP_SAVE_SYN", libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    ("SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF),
    ("SO_SNDBUF", libc::SOL_SOCKET, libc::SO_SNDBUF),
    ("SO_RCVLOWAT", libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    ("SO_RCVTIMEO", libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    ("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK),
    ("SO_PRIORITY", libc::SOL_SOCKET, libc::SO_PRIORITY),
    ("SO_BINDTODEVICE", libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    ("SO_REUSEADDR", libc::SOL_SOCKET, libc::SO_REUSEADDR),
    ("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT),
    ("SO_ATTACH_FILTER", libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
    ("SO_ATTACH_BPF", libc::SOL_SOCKET, libc::SO_ATTACH_BPF),
    ("SO_ATTACH_REUSEPORT_CBPF", libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF),
    ("SO_LOCK_FILTER", libc::SOL_SOCKET, libc::SO_LOCK_FILTER),
    ("SO_PASSCRED", libc::SOL_SOCKET, libc::SO_PASSCRED),
    ("SO_ZEROCOPY", libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    ("SO_BUSY_POLL", libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    ("SO_INCOMING_CPU", libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    ("IP_TTL", libc::SOL_IP, libc::IP_TTL),
    ("IP_MINTTL", libc::SOL_IP, libc::IP_MINTTL),
    ("IP_TOS", libc::SOL_IP, libc::IP_TOS),
    ("IP_OPTIONS", libc::SOL_IP, libc::IP_OPTIONS),
    ("IP_TRANSPARENT", libc::SOL_IP, libc::IP_TRANSPARENT),
    ("IP_FREEBIND", libc::SOL_IP, libc::IP_FREEBIND),
    ("IP_ADD_MEMBERSHIP", libc::SOL_IP, libc::IP_ADD_MEMBERSHIP),
    ("rules by setsockopt", libc::SOL_IP, IPT_SO_SET_REPLACE),
    ("rules of IPv6 by setsockopt", libc::SOL_IPV6, IPT_SO_SET_REPLACE),
    ("IPV6_V6ONLY", libc::SOL_IPV6, libc::IPV6_V6ONLY),
    ("IPV6_ADDRFORM", libc::SOL_IPV6, libc::IPV6_ADDRFORM),
    ("IPV6_RTHDR", libc::SOL_IPV6, libc::IPV6_RTHDR),
    ("IPV6_UNICAST_HOPS", libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS),
    ("memberships of netlink", SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP),
    ("TLS in the kernel", libc::SOL_TLS, 1),
    ("MPTCP_INFO", 284, 1),
];

/// Calls of which neither kind of process has any, whatever the arguments.
const CALLS: &[(&str, libc::c_long)] = &[
    ("pwrite64", libc::SYS_pwrite64),
    ("pwritev", libc::SYS_pwritev),
    ("pwritev2", libc::SYS_pwritev2),
    ("truncate", libc::SYS_truncate),
    ("ftruncate", libc::SYS_ftruncate),
    ("fallocate", libc::SYS_fallocate),
    ("sendfile", libc::SYS_sendfile),
    ("copy_file_range", libc::SYS_copy_file_range),
    ("vmsplice", libc::SYS_vmsplice),
    ("tee", libc::SYS_tee),
    ("sync_file_range", libc::SYS_sync_file_range),
    ("fchmod", libc::SYS_fchmod),
    ("fchown", libc::SYS_fchown),
    ("fsetxattr", libc::SYS_fsetxattr),
    ("flock", libc::SYS_flock),
    ("utimensat", libc::SYS_utimensat),
    ("linkat", libc::SYS_linkat),
    ("symlinkat", libc::SYS_symlinkat),
    ("mknodat", libc::SYS_mknodat),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("open_tree", libc::SYS_open_tree),
    ("fsopen", libc::SYS_fsopen),
    ("pivot_root", libc::SYS_pivot_root),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("signalfd4", libc::SYS_signalfd4),
    ("memfd_secret", libc::SYS_memfd_secret),
    ("pkey_mprotect", libc::SYS_pkey_mprotect),
    ("remap_file_pages", libc::SYS_remap_file_pages),
    ("process_madvise", libc::SYS_process_madvise),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("mbind", libc::SYS_mbind),
    ("migrate_pages", libc::SYS_migrate_pages),
    ("mlockall", libc::SYS_mlockall),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("io_setup", libc::SYS_io_setup),
    ("io_submit", libc::SYS_io_submit),
    ("request_key", libc::SYS_request_key),
    ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
    ("personality", libc::SYS_personality),
    ("arch_prctl", libc::SYS_arch_prctl),
    ("modify_ldt", libc::SYS_modify_ldt),
    ("iopl", libc::SYS_iopl),
    ("ioperm", libc::SYS_ioperm),
    ("kcmp", libc::SYS_kcmp),
    ("rseq", libc::SYS_rseq),
    ("membarrier", libc::SYS_membarrier),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("timer_create", libc::SYS_timer_create),
    ("setitimer", libc::SYS_setitimer),
    ("alarm", libc::SYS_alarm),
    ("clock_settime", libc::SYS_clock_settime),
    ("adjtimex", libc::SYS_adjtimex),
    ("syslog", libc::SYS_syslog),
    ("kexec_load", libc::SYS_kexec_load),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("swapon", libc::SYS_swapon),
    ("quotactl", libc::SYS_quotactl),
    ("acct", libc::SYS_acct),
    ("shmat", libc::SYS_shmat),
    ("semget", libc::SYS_semget),
    ("msgget", libc::SYS_msgget),
    ("mq_open", libc::SYS_mq_open),
    ("sched_setscheduler", libc::SYS_sched_setscheduler),
    ("sched_setattr", libc::SYS_sched_setattr),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("setsid", libc::SYS_setsid),
    ("setpgid", libc::SYS_setpgid),
    ("capget", libc::SYS_capget),
    ("accept", libc::SYS_accept),
    ("listen", libc::SYS_listen),
    ("socketpair", libc::SYS_socketpair),
];

fn numbers(values: &[i32]) -> Vec<u64> {
    values.iter().map(|value| *value as u64).collect()
}

/// All that neither kind of process can do. The options are tried on `socket`; `memory` can be written.
fn to_anybody(socket: i32, memory: u64) -> Vec<Attempt> {
    let sockets = SOCKETS.iter().map(|(what, family, kind, protocol)| {
        (*what, libc::SYS_socket, numbers(&[*family, *kind, *protocol]), REFUSED)
    });
    let options = OPTIONS.iter().map(|(what, level, option)| {
        let arguments = [numbers(&[socket, *level, *option]), vec![memory, 4]].concat();
        (*what, libc::SYS_setsockopt, arguments, REFUSED)
    });
    let calls = CALLS.iter().map(|(what, number)| (*what, *number, vec![memory; 6], NO_SUCH_CALL));
    let both = libc::PROT_WRITE | libc::PROT_EXEC;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let map = |prot: i32, flags: i32| vec![0, 4096, prot as u64, flags as u64, u64::MAX, 0];
    let page = memory & !4095;
    let others = [
        ("memory to write and to run", libc::SYS_mmap, map(both | libc::PROT_READ, anonymous), REFUSED),
        ("memory to run", libc::SYS_mmap, map(libc::PROT_READ | libc::PROT_EXEC, anonymous), REFUSED),
        ("shared memory to run", libc::SYS_mmap, map(libc::PROT_EXEC, libc::MAP_SHARED | libc::MAP_ANONYMOUS), REFUSED),
        ("memory made to run", libc::SYS_mprotect, vec![page, 4096, libc::PROT_EXEC as u64], REFUSED),
        ("memory made to write and run", libc::SYS_mprotect, vec![page, 4096, both as u64], REFUSED),
        ("an owner of signals", libc::SYS_fcntl, numbers(&[socket, libc::F_SETOWN, 1]), REFUSED),
        ("a signal of its own", libc::SYS_fcntl, numbers(&[socket, 10, 9]), REFUSED),
        ("a lease", libc::SYS_fcntl, numbers(&[socket, libc::F_SETLEASE, 0]), REFUSED),
        ("a lock", libc::SYS_fcntl, [numbers(&[socket, libc::F_SETLK]), vec![memory]].concat(), REFUSED),
        ("news of a directory", libc::SYS_fcntl, numbers(&[socket, libc::F_NOTIFY, 1]), REFUSED),
        ("seals", libc::SYS_fcntl, numbers(&[socket, libc::F_ADD_SEALS, 1]), REFUSED),
        ("a pipe of packets", libc::SYS_pipe2, vec![memory, libc::O_DIRECT as u64], REFUSED),
        ("a pipe of notifications", libc::SYS_pipe2, vec![memory, libc::O_EXCL as u64], REFUSED),
        ("an ioctl of sockets", libc::SYS_ioctl, vec![socket as u64, libc::SIOCGIFCONF, memory], REFUSED),
        ("an ioctl of files", libc::SYS_ioctl, vec![2, libc::FIOASYNC, memory], REFUSED),
        ("blocking of what others have open", libc::SYS_ioctl, vec![2, libc::FIONBIO, memory], REFUSED),
        ("the other way", libc::SYS_fcntl, numbers(&[2, libc::F_SETFL, 0]), REFUSED),
    ];
    sockets.chain(options).chain(calls).chain(others).collect()
}

/// The descriptor of a process that is this file.
fn descriptor_of(pid: i32, path: &str) -> i32 {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let mut found = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == path));
    found.next().expect("the file").file_name().to_string_lossy().parse().expect("a number")
}

fn listener_of(puppet: &Puppet) -> i32 {
    let listens = |fd: &u64| puppet.call(libc::SYS_accept4, &[*fd]) == Err(Errno::EAGAIN);
    (3..64).find(listens).expect("a listener") as i32
}

#[test]
fn a_worker_has_no_call_with_arguments_that_a_relay_does_not_use() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.stand_in();
    let worker = daemon.family.worker();
    let puppet = Puppet::take(worker);
    let memory = puppet.put(&[0; 64]);
    let listener = listener_of(&puppet);
    let stream = puppet.call(libc::SYS_socket, &numbers(&[libc::AF_INET, libc::SOCK_STREAM, 0])).expect("a socket");
    let datagram = puppet.call(libc::SYS_socket, &numbers(&[libc::AF_INET, libc::SOCK_DGRAM, 0])).expect("a socket");
    let socket = |family, kind, protocol| (libc::SYS_socket, numbers(&[family, kind, protocol]));
    let mut attempts = to_anybody(listener, memory);
    let channel = line(worker) as u64;
    attempts.extend([
        ("an address of its own", libc::SYS_bind, vec![stream, memory, 16], NO_SUCH_CALL),
        ("a datagram to an address", libc::SYS_sendto, vec![datagram, memory, 1, 0, memory, 16], REFUSED),
        ("sendmsg", libc::SYS_sendmsg, vec![channel, memory, 0], NO_SUCH_CALL),
        ("sendmmsg", libc::SYS_sendmmsg, vec![channel, memory, 1, 0], NO_SUCH_CALL),
        ("descriptors from elsewhere", libc::SYS_recvmsg, vec![stream, memory, 0], REFUSED),
        ("recvmmsg", libc::SYS_recvmmsg, vec![channel, memory, 1, 0, 0], NO_SUCH_CALL),
        ("a connection to a name", libc::SYS_connect, vec![stream, memory, 110], REFUSED),
        ("a connection to a short name", libc::SYS_connect, vec![stream, memory, 12], REFUSED),
        ("another descriptor of the same", libc::SYS_fcntl, numbers(&[listener, libc::F_DUPFD, 0]), REFUSED),
        ("dup", libc::SYS_dup, vec![listener as u64], NO_SUCH_CALL),
        ("dup2", libc::SYS_dup2, vec![listener as u64, 2], NO_SUCH_CALL),
        ("dup3", libc::SYS_dup3, vec![listener as u64, 2, 0], NO_SUCH_CALL),
        ("a listener that blocks", libc::SYS_ioctl, vec![listener as u64, libc::FIONBIO, memory], REFUSED),
        ("a listener that blocks, by fcntl", libc::SYS_fcntl, numbers(&[listener, libc::F_SETFL, 0]), REFUSED),
        ("reading at a place", libc::SYS_pread64, vec![2, memory, 1, 0], NO_SUCH_CALL),
        ("another place", libc::SYS_lseek, vec![2, 0, 0], NO_SUCH_CALL),
        ("splice to a place", libc::SYS_splice, vec![stream, 0, 2, memory, 1, 0], REFUSED),
        ("splice from a place", libc::SYS_splice, vec![2, memory, stream, 0, 1, 0], REFUSED),
        ("epoll_create1", libc::SYS_epoll_create1, vec![0], NO_SUCH_CALL),
        ("eventfd2", libc::SYS_eventfd2, vec![0, 0], NO_SUCH_CALL),
        ("timerfd_create", libc::SYS_timerfd_create, vec![0, 0], NO_SUCH_CALL),
    ]);
    let (call, arguments) = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    attempts.push(("netlink of routes", call, arguments, REFUSED));
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let (call, arguments) = socket(libc::AF_UNIX, kind, 0);
        attempts.push(("a unix socket", call, arguments, REFUSED));
    }
    let (shared, write) = (libc::MAP_SHARED as u64, (libc::PROT_READ | libc::PROT_WRITE) as u64);
    attempts.push(("a file in memory", libc::SYS_mmap, vec![0, 4096, write, shared, 2, 0], REFUSED));
    attempts.push(("shared memory", libc::SYS_mmap, vec![0, 4096, write, shared | 0x20, u64::MAX, 0], REFUSED));
    let count = expect_refused(&puppet, attempts);
    report(&format!("a worker in an attacker's hands: {count} kinds of arguments tried, none allowed"));
    // What a relay does set, it still can.
    let one = puppet.put(&1i32.to_ne_bytes());
    for (level, option) in [(libc::IPPROTO_TCP, libc::TCP_NODELAY), (libc::SOL_SOCKET, libc::SO_KEEPALIVE)] {
        let arguments = [numbers(&[stream as i32, level, option]), vec![one, 4]].concat();
        assert_eq!(puppet.call(libc::SYS_setsockopt, &arguments), Ok(0));
    }
    for socket in [stream, datagram] {
        assert_eq!(puppet.call(libc::SYS_close, &[socket]), Ok(0));
    }
    drop(puppet);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_control_process_has_no_call_with_arguments_that_answering_does_not_use() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let socket = directory.file("c.sock");
    let mut daemon = scene.relay(&[STAND_IN, &["--control", &socket]].concat());
    let control = lab::wait::until("the control process", || daemon.family.named("tproxy-control").first().copied());
    lab::wait::until_true("the filter", || process::status_field(control, "Seccomp") == "2");
    super::confinement::expect_confined(control, "65534");
    super::confinement::expect_empty_root(control);
    let puppet = Puppet::take(control);
    let memory = puppet.put(&[0; 64]);
    let listener = listener_of(&puppet);
    let stream = puppet.call(libc::SYS_socket, &numbers(&[libc::AF_INET, libc::SOCK_STREAM, 0])).expect("a socket");
    let path = puppet.put(b"/etc/passwd\0");
    let mut attempts = to_anybody(listener, memory);
    let channel = line(control) as u64;
    let (shared, write) = (libc::MAP_SHARED as u64, (libc::PROT_READ | libc::PROT_WRITE) as u64);
    let datagram = numbers(&[libc::AF_INET, libc::SOCK_DGRAM, 0]);
    attempts.extend([
        ("a file", libc::SYS_openat, vec![libc::AT_FDCWD as u64, path, 0], NO_SUCH_CALL),
        ("a program", libc::SYS_execve, vec![path, 0, 0], NO_SUCH_CALL),
        ("a process", libc::SYS_fork, vec![], NO_SUCH_CALL),
        ("a signal", libc::SYS_kill, vec![1, 0], NO_SUCH_CALL),
        ("a name", libc::SYS_bind, vec![stream, memory, 110], REFUSED),
        ("listening", libc::SYS_listen, vec![stream, 1], NO_SUCH_CALL),
        ("datagrams", libc::SYS_socket, datagram, REFUSED),
        ("a unix socket", libc::SYS_socket, numbers(&[libc::AF_UNIX, libc::SOCK_STREAM, 0]), REFUSED),
        ("sendmsg", libc::SYS_sendmsg, vec![channel, memory, 0], NO_SUCH_CALL),
        ("descriptors from elsewhere", libc::SYS_recvmsg, vec![stream, memory, 0], REFUSED),
        ("a connection to a name", libc::SYS_connect, vec![stream, memory, 110], REFUSED),
        ("dup", libc::SYS_dup, vec![channel], NO_SUCH_CALL),
        ("a pipe", libc::SYS_pipe2, vec![memory, libc::O_CLOEXEC as u64], NO_SUCH_CALL),
        ("memory of others, to write", libc::SYS_mmap, vec![0, 4096, write, shared, 2, 0], REFUSED),
        ("splice", libc::SYS_splice, vec![stream, 0, 2, 0, 1, 0], NO_SUCH_CALL),
    ]);
    let attempts =
        attempts.into_iter().filter(|(_, number, ..)| *number != libc::SYS_pipe2 && *number != libc::SYS_ioctl);
    let count = expect_refused(&puppet, attempts.collect());
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[libc::AF_INET as u8, 0, 0x10, 0xe1]);
    let port = vec![stream, puppet.put(&address), 16];
    expect_refused(&puppet, vec![("a port of its choice", libc::SYS_bind, port, Errno::EACCES)]);
    report(&format!("a control process in an attacker's hands: {count} kinds of arguments tried, none allowed"));
    drop(puppet);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn whoever_takes_over_a_worker_can_add_to_its_log_and_change_nothing_in_it() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let log = directory.file("access.log");
    let mut daemon = scene.relay(&[&["-l", &log], STAND_IN].concat());
    assert_eq!(scene.page(MOOSE), "cow");
    lab::wait::until_true("a line", || fs::read_to_string(&log).expect("log").contains(" finished"));
    let before = fs::read_to_string(&log).expect("log");
    let worker = daemon.family.worker();
    let file = descriptor_of(worker, &log);
    let puppet = Puppet::take(worker);
    let memory = puppet.put(&[0; 64]);
    let descriptor = file as u64;
    let ends = puppet.call(libc::SYS_pipe2, &[memory, (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64]);
    assert_eq!(ends, Ok(0), "a relay makes pipes");
    let read = u64::from(puppet.get(memory, 1)[0]);
    expect_refused(
        &puppet,
        vec![
            ("clearing O_APPEND", libc::SYS_fcntl, numbers(&[file, libc::F_SETFL, libc::O_NONBLOCK]), REFUSED),
            ("writing at a place", libc::SYS_pwrite64, vec![descriptor, memory, 1, 0], NO_SUCH_CALL),
            ("writing at a place, by splice", libc::SYS_splice, vec![read, 0, descriptor, memory, 1, 0], REFUSED),
            ("another place", libc::SYS_lseek, vec![descriptor, 0, 0], NO_SUCH_CALL),
            ("emptying", libc::SYS_ftruncate, vec![descriptor, 0], NO_SUCH_CALL),
            ("a hole", libc::SYS_fallocate, vec![descriptor, 3, 0, 4096], NO_SUCH_CALL),
            ("another mode", libc::SYS_fchmod, vec![descriptor, 0o777], NO_SUCH_CALL),
            ("attributes", libc::SYS_ioctl, vec![descriptor, 0x4008_6602, memory], REFUSED),
            ("mapping it", libc::SYS_mmap, vec![0, 4096, 2, libc::MAP_SHARED as u64, descriptor, 0], REFUSED),
        ],
    );
    assert_eq!(puppet.call(libc::SYS_write, &[descriptor, puppet.put(b"forged\n"), 7]), Ok(7));
    drop(puppet);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    let after = fs::read_to_string(&log).expect("log");
    assert!(after.starts_with(&format!("{before}forged\n")), "{after}");
}

#[test]
fn a_resolver_has_no_call_with_arguments_that_looking_up_does_not_use() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.stand_in();
    let resolver = daemon.family.resolver();
    let puppet = Puppet::take(resolver);
    let memory = puppet.put(&[0; 64]);
    let socket = |family, kind, protocol| {
        puppet.call(libc::SYS_socket, &numbers(&[family, kind, protocol])).expect("a socket") as i32
    };
    let datagram = socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
    let stream = socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    let unix = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
    let netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    let mut attempts = to_anybody(datagram, memory);
    attempts.extend([
        ("a port of its own", libc::SYS_bind, vec![datagram as u64, memory, 16], REFUSED),
        ("a port of IPv6", libc::SYS_bind, vec![datagram as u64, memory, 28], REFUSED),
        ("a name of its own", libc::SYS_bind, vec![unix as u64, memory, 110], REFUSED),
        ("a name that the kernel gives", libc::SYS_bind, vec![unix as u64, memory, 2], REFUSED),
        ("accept4", libc::SYS_accept4, vec![stream as u64], NO_SUCH_CALL),
        ("splice", libc::SYS_splice, vec![stream as u64, 0, 2, 0, 1, 0], NO_SUCH_CALL),
        ("another place in what others read", libc::SYS_lseek, vec![2, 0, 0], REFUSED),
        ("the same by another number", libc::SYS_dup, vec![2], REFUSED),
        ("the same by dup2", libc::SYS_dup2, vec![2, 9], REFUSED),
        ("the same by dup3", libc::SYS_dup3, vec![2, 9, 0], REFUSED),
        ("the same by fcntl", libc::SYS_fcntl, numbers(&[2, libc::F_DUPFD_CLOEXEC, 3]), REFUSED),
        ("a file in memory to write", libc::SYS_mmap, vec![0, 4096, 3, libc::MAP_SHARED as u64, 2, 0], REFUSED),
    ]);
    let count = expect_refused(&puppet, attempts);
    report(&format!("a resolver in an attacker's hands: {count} kinds of arguments tried, none allowed"));
    // What the C library does, it still can.
    let one = puppet.put(&1i32.to_ne_bytes());
    let set = |fd: i32, level, option| {
        puppet.call(libc::SYS_setsockopt, &[numbers(&[fd, level, option]), vec![one, 4]].concat())
    };
    assert_eq!(set(datagram, libc::SOL_IP, libc::IP_RECVERR), Ok(0));
    assert_eq!(set(netlink, SOL_NETLINK, NETLINK_PKTINFO), Ok(0));
    let address = puppet.put(&[[libc::AF_NETLINK as u8, 0].as_slice(), &[0; 10]].concat());
    assert_eq!(puppet.call(libc::SYS_bind, &[netlink as u64, address, 12]), Ok(0));
    let library = fs::read_to_string(format!("/proc/{resolver}/maps")).expect("maps");
    let library = library.lines().find_map(|line| Some(line.split_once('/')?.1.to_owned())).expect("a library");
    let path = puppet.put(format!("/{library}\0").as_bytes());
    let file = puppet.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, 0]).expect("a library");
    let run = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let mapped = puppet.call(libc::SYS_mmap, &[0, 4096, run, libc::MAP_PRIVATE as u64, file, 0]).expect("its code");
    // Changed, it is no code any more.
    let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    assert_eq!(puppet.call(libc::SYS_mprotect, &[mapped, 4096, writable]), Ok(0));
    assert_eq!(puppet.call(libc::SYS_mprotect, &[mapped, 4096, run]), Err(REFUSED));
    for descriptor in [datagram as u64, stream as u64, unix as u64, netlink as u64, file] {
        assert_eq!(puppet.call(libc::SYS_close, &[descriptor]), Ok(0));
    }
    drop(puppet);
    assert_eq!(process::comm(resolver).as_deref(), Some("tproxy-resolver"));
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}
