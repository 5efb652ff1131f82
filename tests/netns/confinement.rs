//! What each process can do: by what the kernel says of it, and by what it can do in the hands of an attacker.
#![cfg(target_arch = "x86_64")]

use super::system_log::Syslog;
use super::tools::script;
use super::{HEAVY, MOOSE, STAND_IN, Scene, Server, stand_in_detached};
use lab::daemon::Daemon;
use lab::process;
use lab::takeover::{Puppet, copy_of_descriptor, line, watch};
use lab::tempdir::TempDir;
use lab::{alone, clients, report, rules, wait};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use tproxy::testing::message::{Answer, Bytes, SIZE, ToGuardian};
use tproxy::testing::{RedirectionId, SocketCounts};

/// No capability in any of the sets.
const NONE: &str = "0000000000000000";

pub(crate) fn expect_confined(pid: i32, user: &str) {
    let field = |name| process::status_field(pid, name);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), NONE, "{set} of {pid}");
    }
    assert_eq!((field("Uid"), field("Groups")), ([user; 4].join(" "), String::new()));
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    // Of a process that can be looked into these belong to its own user.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).expect("environ").uid();
    assert!(user == "0" || owner == 0, "process {pid} can be looked into");
}

pub(crate) fn expect_empty_root(pid: i32) {
    for entry in ["root", "cwd"] {
        let seen = fs::read_dir(format!("/proc/{pid}/{entry}/")).expect("a directory").count();
        assert_eq!(seen, 0, "{entry} of {pid}");
        let link = fs::read_link(format!("/proc/{pid}/{entry}")).expect("link").display().to_string();
        let made = link.strip_suffix(" (deleted)").unwrap_or_else(|| panic!("{link} is left on the disk"));
        assert!(made.contains("/tproxy-") && !fs::exists(made).expect("a place"), "{made}");
    }
}

#[test]
fn nothing_is_left_to_the_processes_that_face_the_network() {
    let Some(scene) = Scene::new() else { return };
    let proxy = ["--via", "http", "--host-check"];
    let daemon = scene.relay(&[&["-w", "2"], &proxy[..], STAND_IN].concat());
    // Each of the two workers has four resolvers, and the guardian has one.
    let workers = daemon.family.named("tproxy-worker");
    wait::until_true("all resolvers", || daemon.family.named("tproxy-resolver").len() == 9);
    let resolvers = daemon.family.named("tproxy-resolver");
    let sealed = || resolvers.iter().all(|pid| process::status_field(*pid, "Seccomp") == "2");
    wait::until_true("all resolvers are ready", sealed);
    resolvers.iter().chain(&workers).for_each(|pid| expect_confined(*pid, "65534"));
    workers.iter().for_each(|pid| expect_empty_root(*pid));
    let killed = workers[0];
    process::signal(killed, Signal::SIGKILL);
    wait::until_true("another one", || {
        let now = daemon.family.named("tproxy-worker");
        !process::alive(killed) && now.len() == 2 && now.iter().all(|pid| process::status_field(*pid, "Seccomp") == "2")
    });
    for pid in daemon.family.named("tproxy-worker") {
        expect_confined(pid, "65534");
        expect_empty_root(pid);
    }
    assert_eq!(process::status_field(daemon.family.guardian(), "Seccomp"), "0");
}

#[test]
fn without_a_user_of_their_own_they_have_no_more() {
    let Some(scene) = Scene::new() else { return };
    let args = ["-d", "-s", "12970", "-R", "-d moose --dport 80", "cow", "80"];
    let mut daemon = scene.relay(&args);
    let (worker, resolver) = (daemon.family.worker(), daemon.family.resolver());
    expect_confined(worker, "0");
    expect_empty_root(worker);
    expect_confined(resolver, "0");
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn one_process_without_a_guardian_keeps_its_files_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let (pidfile, log) = (directory.file("pid"), directory.file("access.log"));
    let args = ["-d", "-s", "12970", "-P", &pidfile, "-l", &log, "10.3.0.3", "80"];
    let mut daemon = scene.relay(&args);
    wait::until_true("the filter", || process::status_field(daemon.pid(), "Seccomp") == "2");
    assert_eq!(process::status_field(daemon.pid(), "NoNewPrivs"), "1");
    assert_eq!(process::children(daemon.pid()), [0; 0]);
    assert_eq!(scene.page("10.1.0.1:12970"), "cow");
    fs::rename(&log, directory.file("access.log.1")).expect("rename");
    daemon.signal(Signal::SIGHUP);
    wait::until_true("the log is opened again", || fs::metadata(&log).is_ok());
    assert_eq!(scene.page("10.1.0.1:12970"), "cow");
    let puppet = Puppet::take(daemon.pid());
    let path = puppet.put(b"/bin/sh\0");
    // Removing its pid file takes unlink(2), and the guardian that must not be killed is itself.
    let kept = [libc::SYS_unlink, libc::SYS_tgkill];
    let attempts = to_anybody(daemon.pid(), path).into_iter().filter(|(_, number, ..)| !kept.contains(number));
    expect_refused(&puppet, attempts.collect());
    drop(puppet);
    assert_eq!(daemon.stop(), 0);
    assert!(!fs::exists(&pidfile).expect("directory"), "its pid file is gone");
}

#[test]
fn no_directory_of_a_worker_is_left_on_the_disk() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.relay(&[&["-w", "4"], STAND_IN].concat());
    let first = daemon.family.named("tproxy-worker");
    first.iter().for_each(|pid| expect_empty_root(*pid));
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded:");
    let next = wait::until("the next workers", || {
        let now = daemon.family.named("tproxy-worker");
        (now.len() == 4 && now.iter().all(|pid| !first.contains(pid))).then_some(now)
    });
    next.iter().for_each(|pid| expect_empty_root(*pid));
    assert_eq!(daemon.stop(), 0);
}

/// What an attacker would want to do: how it is called, with which arguments, and what must become of it.
pub(super) type Attempt = (&'static str, libc::c_long, Vec<u64>, Errno);

pub(super) fn expect_refused(puppet: &Puppet, attempts: Vec<Attempt>) -> usize {
    let count = attempts.len();
    let outcome = |(what, number, arguments, wanted): Attempt| {
        let answer = puppet.call(number, &arguments);
        (answer != Err(wanted)).then(|| format!("{what}: {answer:?}"))
    };
    let not_refused: Vec<String> = attempts.into_iter().filter_map(outcome).collect();
    assert!(not_refused.is_empty(), "{not_refused:#?}");
    count
}

/// What neither kind of process can do. `path` is the address of "/etc/shadow" in it.
fn to_anybody(guardian: i32, path: u64) -> Vec<Attempt> {
    let guardian = guardian as u64;
    let socket = |family: i32, kind: i32| vec![family as u64, kind as u64];
    let (no_such_call, refused) = (Errno::ENOSYS, Errno::EPERM);
    vec![
        ("execve", libc::SYS_execve, vec![path], no_such_call),
        ("execveat", libc::SYS_execveat, vec![u64::MAX, path], no_such_call),
        ("fork", libc::SYS_fork, vec![], no_such_call),
        ("vfork", libc::SYS_vfork, vec![], no_such_call),
        ("clone", libc::SYS_clone, vec![libc::SIGCHLD as u64], no_such_call),
        ("clone3", libc::SYS_clone3, vec![path, 64], no_such_call),
        ("ptrace of the guardian", libc::SYS_ptrace, vec![libc::PTRACE_ATTACH as u64, guardian], no_such_call),
        ("process_vm_writev", libc::SYS_process_vm_writev, vec![guardian], no_such_call),
        ("pidfd_open", libc::SYS_pidfd_open, vec![guardian], no_such_call),
        ("kill of the guardian", libc::SYS_kill, vec![guardian, 9], no_such_call),
        ("tgkill of the guardian", libc::SYS_tgkill, vec![guardian, guardian, 9], refused),
        ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, vec![guardian, 9, path], no_such_call),
        ("creating a file", libc::SYS_creat, vec![path, 0o600], no_such_call),
        ("mkdir", libc::SYS_mkdir, vec![path, 0o700], no_such_call),
        ("unlink", libc::SYS_unlink, vec![path], no_such_call),
        ("rename", libc::SYS_rename, vec![path, path], no_such_call),
        ("chmod", libc::SYS_chmod, vec![path, 0o777], no_such_call),
        ("chroot", libc::SYS_chroot, vec![path], no_such_call),
        ("chdir", libc::SYS_chdir, vec![path], no_such_call),
        ("mount", libc::SYS_mount, vec![path, path], no_such_call),
        ("unshare", libc::SYS_unshare, vec![libc::CLONE_NEWUSER as u64], no_such_call),
        ("setns", libc::SYS_setns, vec![3, 0], no_such_call),
        ("setuid", libc::SYS_setuid, vec![0], no_such_call),
        ("setresuid", libc::SYS_setresuid, vec![0, 0, 0], no_such_call),
        ("setgroups", libc::SYS_setgroups, vec![0, 0], no_such_call),
        ("capset", libc::SYS_capset, vec![path, path], no_such_call),
        ("prctl", libc::SYS_prctl, vec![libc::PR_SET_DUMPABLE as u64, 1], no_such_call),
        ("another filter", libc::SYS_seccomp, vec![1, 0, path], no_such_call),
        ("bpf", libc::SYS_bpf, vec![0, path, 64], no_such_call),
        ("perf_event_open", libc::SYS_perf_event_open, vec![path, 0, u64::MAX, u64::MAX], no_such_call),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![8, path], no_such_call),
        ("userfaultfd", libc::SYS_userfaultfd, vec![1], no_such_call),
        ("keyctl", libc::SYS_keyctl, vec![0, 0], no_such_call),
        ("add_key", libc::SYS_add_key, vec![path, path, path, 1], no_such_call),
        ("memfd_create", libc::SYS_memfd_create, vec![path], no_such_call),
        ("shmget", libc::SYS_shmget, vec![0, 4096, 0o1777], no_such_call),
        ("init_module", libc::SYS_init_module, vec![path, 0, path], no_such_call),
        ("reboot", libc::SYS_reboot, vec![0, 0, 0], no_such_call),
        ("sethostname", libc::SYS_sethostname, vec![path, 3], no_such_call),
        ("setrlimit", libc::SYS_setrlimit, vec![7, path], no_such_call),
        ("setpriority", libc::SYS_setpriority, vec![0, 0, 19], no_such_call),
        ("listen", libc::SYS_listen, vec![3, 1], no_such_call),
        ("a packet socket", libc::SYS_socket, socket(libc::AF_PACKET, libc::SOCK_RAW), refused),
        ("a raw socket", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_RAW), refused),
        ("a raw socket of IPv6", libc::SYS_socket, socket(libc::AF_INET6, libc::SOCK_RAW), refused),
        (
            "a netlink socket for rules",
            libc::SYS_socket,
            { vec![libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, libc::NETLINK_NETFILTER as u64] },
            refused,
        ),
        ("an AF_ALG socket", libc::SYS_socket, socket(libc::AF_ALG, libc::SOCK_SEQPACKET), refused),
        ("a vsock", libc::SYS_socket, socket(libc::AF_VSOCK, libc::SOCK_STREAM), refused),
        ("typing into a terminal", libc::SYS_ioctl, vec![2, libc::TIOCSTI, path], refused),
    ]
}

#[test]
fn whoever_takes_over_a_worker_can_relay_and_do_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.stand_in();
    let worker = daemon.family.worker();
    let puppet = Puppet::take(worker);
    // In these hands it does what it may do: what fails below fails for a reason.
    assert_eq!(puppet.call(libc::SYS_getpid, &[]), Ok(worker as u64));
    let socket = puppet.call(libc::SYS_socket, &[libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0]).expect("a socket");
    assert_eq!(puppet.call(libc::SYS_close, &[socket]), Ok(0));

    let path = puppet.put(b"/etc/shadow\0");
    let (no_such_call, refused) = (Errno::ENOSYS, Errno::EPERM);
    let (read, map) = (libc::O_RDONLY as u64, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64);
    let (run, listener) = ((libc::PROT_READ | libc::PROT_EXEC) as u64, 3);
    let mut attempts = to_anybody(daemon.family.guardian(), path);
    attempts.extend([
        ("open", libc::SYS_open, vec![path, read], no_such_call),
        ("openat", libc::SYS_openat, vec![libc::AT_FDCWD as u64, path, read], no_such_call),
        ("openat2", libc::SYS_openat2, vec![libc::AT_FDCWD as u64, path, path, 24], no_such_call),
        ("stat", libc::SYS_stat, vec![path, path], no_such_call),
        ("readlink", libc::SYS_readlink, vec![path, path, 8], no_such_call),
        ("a unix socket", libc::SYS_socket, vec![libc::AF_UNIX as u64, libc::SOCK_STREAM as u64], refused),
        ("a unix datagram socket", libc::SYS_socket, vec![libc::AF_UNIX as u64, libc::SOCK_DGRAM as u64], refused),
        ("a pair of unix sockets", libc::SYS_socketpair, vec![libc::AF_UNIX as u64, 1, 0, path], no_such_call),
        ("a netlink socket", libc::SYS_socket, vec![libc::AF_NETLINK as u64, libc::SOCK_RAW as u64], refused),
        ("memory to run", libc::SYS_mmap, vec![0, 4096, run, map, u64::MAX, 0], refused),
        ("memory made to run", libc::SYS_mprotect, vec![path & !4095, 4096, run], refused),
        ("the end of a listening socket", libc::SYS_shutdown, vec![listener, libc::SHUT_RD as u64], refused),
        (
            "a filter in a socket",
            libc::SYS_setsockopt,
            { vec![listener, libc::SOL_SOCKET as u64, libc::SO_ATTACH_FILTER as u64, path, 16] },
            refused,
        ),
        ("rules by setsockopt", libc::SYS_setsockopt, vec![listener, libc::SOL_IP as u64, 64, path, 8], refused),
        ("signals to another", libc::SYS_fcntl, vec![listener, libc::F_SETOWN as u64, 1], refused),
        ("more time on a processor", libc::SYS_sched_setaffinity, vec![0, 8, path], no_such_call),
    ]);
    let count = expect_refused(&puppet, attempts);
    report(&format!("a worker in an attacker's hands: {count} kinds of system calls tried, none allowed"));
    drop(puppet);
    assert_eq!(scene.page(MOOSE), "cow", "it goes on as if nothing had been");
    assert_eq!(daemon.stop(), 0);
}

/// The routing table is asked on a netlink socket, which would tell much more.
#[test]
fn whoever_takes_over_a_worker_learns_routes_one_by_one_and_changes_none() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let puppet = Puppet::take(daemon.family.worker());
    let netlink = |fd: &u64| {
        // The value comes right behind its length.
        let length = puppet.put(&[4, 0, 0, 0, 0, 0, 0, 0]);
        let domain = [*fd, libc::SOL_SOCKET as u64, libc::SO_DOMAIN as u64, length + 4, length];
        puppet.call(libc::SYS_getsockopt, &domain) == Ok(0)
            && puppet.get(length + 4, 4) == (libc::AF_NETLINK as u32).to_ne_bytes()
    };
    let sockets: Vec<u64> = (3..64).filter(netlink).collect();
    assert_eq!(sockets.len(), 1, "one netlink socket");
    let fd = sockets[0];
    let message = |kind: u16, flags: i32| {
        let mut bytes = [28_u32.to_ne_bytes(), [0; 4], [7, 0, 0, 0], [0; 4]].concat();
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        bytes.extend([libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(puppet.call(libc::SYS_sendto, &[fd, puppet.put(&bytes), 28, 0, 0, 0]), Ok(28));
        let answer = puppet.put(&[0; 64]);
        puppet
            .call(libc::SYS_recvfrom, &[fd, answer, 64, libc::MSG_DONTWAIT as u64, 0, 0])
            .map(|_| puppet.get(answer, 20))
    };
    for kind in [libc::RTM_GETLINK, libc::RTM_GETNEIGH, libc::RTM_GETADDR, libc::RTM_GETROUTE, libc::RTM_GETRULE] {
        match message(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP) {
            Err(errno) => assert_eq!(errno, Errno::EAGAIN, "{kind}: no answer"),
            // Nothing but an error.
            Ok(answer) => assert_eq!(answer[4..6], (libc::NLMSG_ERROR as u16).to_ne_bytes(), "{kind}"),
        }
    }
    for kind in [libc::RTM_DELROUTE, libc::RTM_NEWROUTE, libc::RTM_DELADDR, libc::RTM_SETLINK, libc::RTM_DELRULE] {
        let answer = message(kind, libc::NLM_F_REQUEST | libc::NLM_F_ACK).expect("an answer");
        assert_eq!(answer[16..20], (-libc::EPERM).to_ne_bytes(), "{kind}");
    }
    for option in [libc::SO_DETACH_FILTER, libc::SO_ATTACH_FILTER, libc::SO_LOCK_FILTER] {
        let call = [fd, libc::SOL_SOCKET as u64, option as u64, puppet.put(&[0; 16]), 16];
        assert_eq!(puppet.call(libc::SYS_setsockopt, &call), Err(Errno::EPERM));
    }
}

#[test]
fn whoever_takes_over_a_resolver_can_read_what_everybody_can_and_ask() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let resolver = daemon.family.resolver();
    let puppet = Puppet::take(resolver);
    assert_eq!(puppet.call(libc::SYS_getpid, &[]), Ok(resolver as u64));
    let here = libc::AT_FDCWD as u64;
    let readable = puppet.put(b"/etc/hosts\0");
    let file =
        puppet.call(libc::SYS_openat, &[here, readable, libc::O_RDONLY as u64]).expect("what everybody can read");
    assert_eq!(puppet.call(libc::SYS_close, &[file]), Ok(0));

    let path = puppet.put(b"/etc/shadow\0");
    let mut attempts = to_anybody(daemon.family.guardian(), path);
    let flags = |flags: i32| vec![here, path, flags as u64, 0o600];
    attempts.extend([
        ("reading /etc/shadow", libc::SYS_openat, flags(libc::O_RDONLY), Errno::EACCES),
        ("writing", libc::SYS_openat, flags(libc::O_WRONLY), Errno::EPERM),
        ("reading and writing", libc::SYS_openat, flags(libc::O_RDWR), Errno::EPERM),
        ("making", libc::SYS_openat, flags(libc::O_RDONLY | libc::O_CREAT), Errno::EPERM),
        ("emptying", libc::SYS_openat, flags(libc::O_RDONLY | libc::O_TRUNC), Errno::EPERM),
        ("making by open", libc::SYS_open, vec![path, (libc::O_CREAT | libc::O_WRONLY) as u64], Errno::EPERM),
        ("setting a limit", libc::SYS_prlimit64, vec![0, 7, path, 0], Errno::EPERM),
        ("listening", libc::SYS_accept4, vec![0, 0, 0, 0], Errno::ENOSYS),
    ]);
    let count = expect_refused(&puppet, attempts);
    report(&format!("a resolver in an attacker's hands: {count} kinds of system calls tried, none allowed"));
}

#[test]
fn the_numbers_of_another_architecture_end_the_process() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let worker = daemon.family.worker();
    // fork(2) for 32 bits, and the same for x32.
    let puppet = Puppet::take(worker);
    assert_eq!(puppet.call(0x4000_0000 | libc::SYS_fork, &[]), Err(Errno::ENOSYS));
    puppet.run_as_32_bits();
    daemon.journal.wait_for(&format!("worker {worker} was killed by SIGSYS"));
    daemon.family.next_worker(worker);
    assert_eq!(scene.page(MOOSE), "cow");
}

/// Traffic of all kinds, a dump, a reload and an end.
fn all_that_workers_do(scene: &Scene, daemon: &mut Daemon) {
    for _ in 0..3 {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    let mut copy = stream.try_clone().expect("clone");
    let writer = std::thread::spawn(move || copy.write_all(&vec![7; 4 << 20]).expect("write"));
    let mut back = vec![0; 4 << 20];
    stream.read_exact(&mut back).expect("read");
    writer.join().expect("join");
    daemon.signal(Signal::SIGUSR1);
    daemon.journal.wait_for("counters: ");
    clients::reset(stream);
    // Nobody listens there.
    let closed = scene.lab.client.connect("10.2.0.5:81");
    clients::expect_connect_reset(closed);
    wait::until_true("the access log", || daemon.journal.count(":81 ") > 0);
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded:");
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn nothing_that_a_worker_or_a_resolver_does_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let directory = TempDir::new();
    let file = directory.file("table.conf");
    let lines =
        ["80 -R '-d moose --dport 80' cow 80", "7 -R '-d moose --dport 7' cow 7", "1 -R '-d moose --dport 81' cow 81"];
    let lines: String = lines.iter().map(|line| format!("-s 1297{line}\n")).collect();
    fs::write(&file, format!("-r nobody --upstream-grace 60\n{}", lines.replace("129780", "12980"))).expect("file");
    let mut daemon = scene.relay(&["-d", "-v", "-c", &file]);
    let watched = [daemon.family.worker(), daemon.family.resolver()].map(|pid| (pid, watch(pid)));
    all_that_workers_do(&scene, &mut daemon);
    assert_eq!(daemon.stop(), 0);
    for (pid, watched) in watched {
        let calls = watched.join().expect("the watch");
        let all: usize = calls.values().map(|(count, _)| count).sum();
        let refused: Vec<_> = calls.iter().filter(|(_, (_, refused))| *refused > 0).collect();
        assert!(refused.is_empty(), "process {pid}: {refused:?}");
        report(&format!("process {pid}: {all} system calls of {} kinds, none refused", calls.len()));
        assert!(calls.len() >= 5, "{calls:?}");
    }
}

#[test]
fn a_worker_that_runs_wild_is_replaced_and_leaves_no_core() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.stand_in();
    let worker = daemon.family.worker();
    Puppet::take(worker).run_wild();
    let said = daemon.journal.wait_for(&format!("worker {worker} was killed by SIGSEGV"));
    assert!(said.contains("another one is started"), "{said}");
    daemon.family.next_worker(worker);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_panic_in_a_worker_is_told_with_its_place_and_the_worker_replaced() {
    let Some(scene) = Scene::new() else { return };
    let syslog = Syslog::new();
    let launch = scene.launch(&stand_in_detached(&[])).with_devices_in(&syslog.directory.path);
    let (done, family) = launch.start();
    assert_eq!(done.status, 0, "{done:?}");
    let worker = family.worker();
    // A kernel that says it had filled a buffer with more than there is room for: what our code makes of it is a panic,
    // as a mistake of our own in the arithmetic of buffers would be.
    let mut client = scene.lab.client.connect(MOOSE).expect("connect");
    syslog.wait_for(&["ready: "]);
    let liar = Puppet::take(worker);
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("write");
    liar.lie(libc::SYS_recvfrom, 1 << 30);
    let mut seen = Vec::new();
    let death = format!("worker {worker} was killed by SIGABRT: another one is started");
    wait::until_true("the death in the log", || {
        seen.extend(syslog.messages());
        seen.iter().any(|text| text.contains(&death))
    });
    let said =
        seen.iter().find(|text| text.contains("internal error: panicked at src/")).expect("the panic in the log");
    assert!(said.contains(&format!("tproxy[{worker}]")) && said.contains("out of range"), "{said}");
    // <27>: the facility of a daemon, the severity of an error.
    assert!(said.starts_with("<27>"), "{said}");
    family.next_worker(worker);
    assert_eq!(scene.page(MOOSE), "cow");
}

/// Everything that a process could put into its line, meant or not.
pub(super) struct Enemy {
    line: std::os::fd::OwnedFd,
    random: u64,
    tried: u64,
    pub(super) taken: u64,
}

impl Enemy {
    pub(super) fn instead_of(pid: i32) -> Enemy {
        Enemy { line: copy_of_descriptor(pid, line(pid)), random: 0x9e37_79b9_7f4a_7c15, tried: 0, taken: 0 }
    }

    /// xorshift: the same enemy each time.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(super) fn noise(&mut self) -> Bytes {
        let mut bytes = [0; SIZE];
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.random().to_ne_bytes()));
        bytes
    }

    /// Says it, without waiting for room.
    pub(super) fn say(&mut self, bytes: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let said = sendmsg::<()>(self.line.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None);
        self.tried += 1;
        self.taken += u64::from(said.is_ok());
    }

    /// One thing or another.
    fn rave(&mut self, file: RawFd) {
        let random = self.random();
        let line = (random >> 8) as u16;
        let words = [
            ToGuardian::Ready,
            ToGuardian::Leaving,
            ToGuardian::Unheard,
            ToGuardian::Unreachable(RedirectionId(line)),
            ToGuardian::Reachable(RedirectionId(line)),
        ];
        let mut noise = self.noise();
        match random % 16 {
            at @ 0..5 => self.say(&words[at as usize].encode(), &[]),
            5 if random % 32 < 16 => self.say(&ToGuardian::LostLines(random).encode(), &[]),
            5 => self.say(&ToGuardian::Answered.encode(), &[]),
            6 => self.say(&ToGuardian::Unreachable(RedirectionId(0)).encode(), &[]),
            7 => self.say(&words[random as usize % 5].encode(), &[file]),
            8 => self.say(&noise, &[file; 100]),
            9 => self.say(&noise[..random as usize / 16 % SIZE + 1], &[]),
            10 => self.say(&[1; 20_000], &[]),
            11 => self.say(&ToGuardian::Sockets(SocketCounts([line; 4])).encode(), &[]),
            kind => {
                noise[0] = kind as u8 % 8;
                self.say(&noise, &[]);
            }
        }
    }
}

/// What must stay as it is, whatever is said to the guardian.
fn figures(guardian: i32) -> (usize, u64) {
    (process::descriptor_count(guardian), process::anonymous_memory(guardian))
}

#[test]
fn an_enemy_in_the_workers_place_gets_nothing_from_the_guardian() {
    const SPAN: Duration = Duration::from_secs(5);
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let _alone = alone(&HEAVY);
    let mut daemon = scene.relay(&[STAND_IN, &["--control", "none"]].concat());
    let running = rules::saved(gateway);
    let guardian = daemon.family.guardian();
    let mut enemy = Enemy::instead_of(daemon.family.worker());
    let file = fs::File::open("/etc/hosts").expect("file");
    // The first of each kind, with what it costs once: a worker in the place of the one that "leaves".
    (0..1000).for_each(|_| enemy.rave(file.as_raw_fd()));
    wait::until_true("another worker", || daemon.family.named("tproxy-worker").len() == 2);
    // With nft there is also what owns the rules.
    let all = 3 + usize::from(rules::is_nft());
    let quiet = || wait::until_true("two workers and a resolver", || process::children(guardian).len() == all);
    quiet();
    let (descriptors, memory) = process::at_rest(|| figures(guardian));
    let (begin, ticks) = (Instant::now(), process::cpu_ticks(guardian));
    while begin.elapsed() < SPAN {
        (0..1000).for_each(|_| enemy.rave(file.as_raw_fd()));
    }
    let busy = (process::cpu_ticks(guardian) - ticks) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    quiet();
    let grown = process::anonymous_memory(guardian).saturating_sub(memory);
    report(&format!(
        "an enemy in the worker's place: {} messages in {:.1?}, of which {} found room; guardian: {:.1} % of a \
         processor, {grown} bytes more",
        enemy.tried,
        begin.elapsed(),
        enemy.taken,
        100.0 * busy
    ));
    assert!(enemy.tried > 100_000 && enemy.taken > 1000, "{} {}", enemy.tried, enemy.taken);
    assert!(busy < 0.3, "the guardian is busy: {busy:.2}");
    assert!(grown < 1 << 20, "{grown} bytes more");
    wait::until_true("no descriptor more", || process::descriptor_count(guardian) <= descriptors);
    assert_eq!(rules::saved(gateway), running);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.journal.count("panicked"), 0);
    assert_eq!(daemon.family.guardian(), guardian);
    // It does as it is told, in the midst of it.
    daemon.signal(Signal::SIGHUP);
    wait::until_true("a reload", || {
        (0..1000).for_each(|_| enemy.rave(file.as_raw_fd()));
        daemon.journal.count("reloaded:") == 1
    });
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(rules::saved(gateway), running);
    daemon.signal(Signal::SIGTERM);
    wait::until_true("it stops", || {
        (0..1000).for_each(|_| enemy.rave(file.as_raw_fd()));
        !process::alive(guardian)
    });
    assert_eq!(daemon.wait(), 0);
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn an_enemy_in_the_resolvers_place_is_replaced() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = scene.stand_in();
    let running = rules::saved(gateway);
    let guardian = daemon.family.guardian();
    let resolver = daemon.family.resolver();
    let before = process::resting_descriptor_count(guardian);
    let mut enemy = Enemy::instead_of(resolver);
    // moose's own address, so that it would be seen.
    let answer = Answer::Addresses(vec!["10.2.0.5".parse().expect("address")]).encode();
    for _ in 0..1000 {
        enemy.say(&answer, &[]);
        let noise = enemy.noise();
        enemy.say(&noise, &[]);
    }
    wait::until_true("it is killed", || !process::alive(resolver));
    daemon.journal.wait_for("the resolver has sent an answer without a question");
    assert_eq!(scene.page(MOOSE), "cow");
    // The next question, which comes in time, starts another one.
    let next = daemon.family.one("tproxy-resolver");
    assert_ne!(next, resolver);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(rules::saved(gateway), running);
    wait::until_true("no descriptor more", || process::descriptor_count(guardian) <= before);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_programs_that_hold_the_rules_get_nothing_of_ours() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let (environment, descriptors) = (directory.file("environment"), directory.file("descriptors"));
    let real = format!("{}/true/{}", directory.path.display(), rules::tool());
    // ls(1) has one more, of the directory itself. An nft that stays is looked at, not one that is asked something.
    let seen = format!("env >{environment}; ls /proc/self/fd >{descriptors}");
    let text = format!("case $*-{0} in -i-nft|*-iptables-restore) {seen};; esac; exec {real} \"$@\"", rules::tool());
    script(&directory, rules::tool(), &text);
    let launch = scene.launch(STAND_IN).env("LD_BIND_NOW", "1").env("XTABLES_LIBDIR", "/nonexistent");
    let mut daemon =
        launch.env("PATH", &std::env::var("PATH").expect("PATH")).with_programs_in(&directory.path).ready();
    let seen = fs::read_to_string(&environment).expect("environment");
    let mut seen: Vec<&str> =
        seen.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
    seen.sort_unstable();
    let descriptors = fs::read_to_string(&descriptors).expect("descriptors");
    if rules::is_nft() {
        assert_eq!(seen, ["HOME=/dev/null", "LC_ALL=C", "TERM=dumb", "TZ=UTC"]);
        assert_eq!(descriptors.lines().count(), 5, "its streams, and the file that it reads: {descriptors}");
    } else {
        assert_eq!(seen, ["LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        assert_eq!(descriptors.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    }
    assert_eq!(daemon.stop(), 0);
}
