//! Listening sockets, which every worker shares with the guardian and with its successors: what a worker that was taken over
//! does to them ends with it.
#![cfg(target_arch = "x86_64")]

use std::io::Read;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::{MOOSE, Scene, Server};
use lab::daemon::Daemon;
use lab::takeover::Puppet;
use lab::{clients, process, wait};
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// The port itself over IPv6.
const PORT6: &str = "[fd00:1::1]:12970";

/// Descriptors of the process that listen.
fn listeners(puppet: &Puppet) -> Vec<u64> {
    let (size, place) = (puppet.put(&4i32.to_ne_bytes()), puppet.put(&4i32.to_ne_bytes()) + 4);
    let accepts = |fd: &u64| {
        let arguments = [*fd, libc::SOL_SOCKET as u64, libc::SO_ACCEPTCONN as u64, place, size];
        puppet.call(libc::SYS_getsockopt, &arguments) == Ok(0) && puppet.get(place, 1) == [1]
    };
    (3..64).filter(accepts).collect()
}

/// Disconnects all listening sockets of a worker, and connects them to cow if `elsewhere`.
fn sabotage(worker: i32, elsewhere: bool) {
    let puppet = Puppet::take(worker);
    let all = listeners(&puppet);
    assert!(!all.is_empty());
    for listener in all {
        let nobody = puppet.put(&[0; 16]);
        assert_eq!(puppet.call(libc::SYS_connect, &[listener, nobody, 16]), Ok(0));
        if elsewhere {
            let cow = puppet.put(&[2, 0, 0, 80, 10, 3, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
            let connected = puppet.call(libc::SYS_connect, &[listener, cow, 16]);
            // That of IPv6 takes no address of IPv4.
            assert!(
                matches!(connected, Err(Errno::EINPROGRESS | Errno::EAFNOSUPPORT | Errno::EINVAL)),
                "{connected:?}"
            );
        }
    }
}

fn others(daemon: &Daemon, former: &[i32]) -> bool {
    let now = daemon.family.named("tproxy-worker");
    let fresh = now.iter().filter(|pid| !former.contains(pid)).count();
    fresh == former.len() && now.iter().all(|pid| process::status_field(*pid, "Seccomp") == "2")
}

#[test]
fn a_listener_that_a_worker_disconnects_is_replaced_at_once() {
    let Some(scene) = Scene::new() else { return };
    for elsewhere in [false, true] {
        let mut daemon = scene.stand_in();
        let worker = daemon.family.worker();
        sabotage(worker, elsewhere);
        wait::until_true("another worker", || others(&daemon, &[worker]));
        daemon.journal.wait_for(&format!("worker {worker} has stopped a socket from listening"));
        for _ in 0..20 {
            assert_eq!((scene.page(MOOSE), scene.page(PORT6)), ("cow".into(), "cow".into()));
        }
        wait::until_true("the former worker drains and ends", || !process::alive(worker));
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_worker_that_is_killed_leaves_no_deaf_listener() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let guardian = daemon.family.guardian();
    let worker = daemon.family.worker();
    // The guardian learns of both at once.
    process::signal(guardian, Signal::SIGSTOP);
    sabotage(worker, true);
    process::signal(worker, Signal::SIGKILL);
    process::signal(guardian, Signal::SIGCONT);
    wait::until_true("another worker", || others(&daemon, &[worker]));
    wait::until_true("it serves", || scene.page(MOOSE) == "cow" && scene.page(PORT6) == "cow");
}

#[test]
fn of_several_workers_the_others_go_on() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let mut daemon = scene.relay(&["-w", "2", "-d", "-s", "12970", "-r", "nobody", "-R", "--dport 7", "cow", "7"]);
    let mut clients: Vec<TcpStream> =
        (0..20).map(|_| scene.lab.client.connect("10.2.0.5:7").expect("connect")).collect();
    clients.iter_mut().for_each(|client| clients::round_trip(client, b"before").expect("echo"));
    let workers = daemon.family.named("tproxy-worker");
    sabotage(workers[0], true);
    wait::until_true("a third worker", || daemon.family.named("tproxy-worker").len() == 3);
    clients.iter_mut().for_each(|client| clients::round_trip(client, b"after").expect("echo"));
    for _ in 0..40 {
        let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
        clients::round_trip(&mut client, b"new").expect("echo");
    }
    assert!(process::alive(workers[1]));
    drop(clients);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn after_a_reload_and_an_upgrade_it_is_noticed_as_well() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    for (signal, done) in [(Signal::SIGHUP, "reloaded:"), (Signal::SIGUSR2, "upgraded to")] {
        daemon.signal(signal);
        daemon.journal.wait_for(done);
        wait::until_true("the former worker is gone", || daemon.family.named("tproxy-worker").len() == 1);
        let worker = daemon.family.worker();
        sabotage(worker, true);
        wait::until_true("another worker", || others(&daemon, &[worker]));
        wait::until_true("the former one ends", || !process::alive(worker));
        assert_eq!(scene.page(MOOSE), "cow");
    }
    // The successor's socket is watched too.
    let worker = daemon.family.worker();
    sabotage(worker, false);
    wait::until_true("another worker", || others(&daemon, &[worker]));
    assert_eq!(scene.page(MOOSE), "cow");
    let guardian = daemon.family.guardian();
    process::signal(guardian, Signal::SIGTERM);
    daemon.family.wait_gone();
}

#[test]
fn options_of_a_listener_do_not_outlive_the_worker_that_set_them() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let worker = daemon.family.worker();
    let puppet = Puppet::take(worker);
    let options = [
        (libc::SOL_SOCKET, libc::SO_LINGER, 8),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 4),
        (libc::SOL_SOCKET, libc::SO_OOBINLINE, 4),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 4),
    ];
    let read = |puppet: &Puppet, listener: u64| {
        options.map(|(level, option, size)| {
            let (length, place) = (puppet.put(&[size as u8, 0, 0, 0]), puppet.put(&[size as u8, 0, 0, 0]) + 8);
            let arguments = [listener, level as u64, option as u64, place, length];
            assert_eq!(puppet.call(libc::SYS_getsockopt, &arguments), Ok(0));
            puppet.get(place, size)
        })
    };
    let all = listeners(&puppet);
    let before = read(&puppet, all[0]);
    for (level, option, size) in options {
        // Lingering for no time, and the opposite of what the others were.
        let value = if option == libc::SO_LINGER || option == libc::SO_OOBINLINE { 1 } else { 0 };
        for listener in &all {
            let value = puppet.put(&[value, 0, 0, 0, 0, 0, 0, 0]);
            let arguments = [*listener, level as u64, option as u64, value, size as u64];
            let _ = puppet.call(libc::SYS_setsockopt, &arguments);
        }
    }
    drop(puppet);
    process::signal(worker, Signal::SIGKILL);
    wait::until_true("another worker", || others(&daemon, &[worker]));
    let puppet = Puppet::take(daemon.family.worker());
    let next = listeners(&puppet);
    next.iter().for_each(|listener| assert_eq!(read(&puppet, *listener), before));
    assert_eq!(next.len(), all.len());
    drop(puppet);
    // A connection ends with its end, and not with a reset.
    let mut client = scene.lab.client.connect(MOOSE).expect("connect");
    std::io::Write::write_all(&mut client, b"GET / HTTP/1.0\r\n\r\n").expect("write");
    let mut page = String::new();
    client.read_to_string(&mut page).expect("the end");
    assert!(page.ends_with("cow"), "{page}");
}

/// A program on the gateway, ended by its process id.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        process::signal(self.0.id() as i32, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn a_socket_that_was_passed_is_replaced_for_all_who_share_it() {
    let Some(scene) = Scene::new() else { return };
    let name = scene.lab.gateway.name.as_str();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name, "systemd-socket-activate", "-l", "[::]:8085", env!("CARGO_BIN_EXE_tproxy")]);
    command.args(["-d", "-w", "2", "-r", "nobody", "10.3.0.3", "80"]);
    let started = Started(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn"));
    wait::until_true("the socket", || scene.page("10.1.0.1:8085") == "cow");
    let workers = || process::children(started.0.id() as i32);
    // The first one may serve before there is the second one.
    let former = wait::until("two workers", || Some(workers()).filter(|all| all.len() == 2));
    sabotage(former[0], true);
    wait::until_true("other workers", || {
        let now = workers();
        now.len() == 2 && former.iter().all(|pid| !now.contains(pid))
    });
    for _ in 0..20 {
        assert_eq!(scene.page("10.1.0.1:8085"), "cow", "IPv4");
        assert_eq!(scene.page("[fd00:1::1]:8085"), "cow", "IPv6");
    }
}

#[test]
fn a_retired_worker_keeps_no_listener() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"]);
    let retire: [&dyn Fn(i32); 3] =
        [&|_| daemon.signal(Signal::SIGHUP), &|worker| process::signal(worker, Signal::SIGTERM), &|worker| {
            process::signal(worker, Signal::SIGHUP)
        }];
    let mut clients = Vec::new();
    for retire in retire {
        let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
        clients::round_trip(&mut client, b"before").expect("echo");
        let served = daemon.family.named("tproxy-worker");
        let holds = |pid: &i32| !listeners(&Puppet::take(*pid)).is_empty();
        let worker =
            wait::until("one that listens", || match served.iter().filter(|pid| holds(pid)).collect::<Vec<_>>()[..] {
                [worker] => Some(*worker),
                _ => None,
            });
        retire(worker);
        wait::until_true("the next one", || {
            daemon.family.named("tproxy-worker").iter().any(|pid| !served.contains(pid))
        });
        wait::until_true("it has closed its listeners", || !holds(&worker));
        clients::round_trip(&mut client, b"after").expect("echo");
        clients.push(client);
    }
}
