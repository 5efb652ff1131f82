//! Processes of the daemon that hang: the guardian hears its signals and obeys them all the same.

use super::*;
use lab::process;
use lab::rules;
use lab::tempdir::TempDir;
use lab::wait;
use nix::sys::signal::Signal;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// A directory with an iptables-save and an nft that take a minute once there is a file `slow` beside it.
fn slow_tools() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let tools = TempDir::new();
    for name in ["iptables-save", "ip6tables-save", "nft"] {
        let there = tools.path.display();
        let script = format!("#!/bin/sh\nif [ -e {there}/slow ]; then sleep 60; fi\nexec {there}/true/{name} \"$@\"\n");
        let path = tools.write(name, &script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    tools
}

#[test]
fn a_rules_process_that_hangs_delays_a_stop_and_does_not_prevent_it() {
    let Some(scene) = Scene::new() else { return };
    let tools = slow_tools();
    let arguments = [STAND_IN, &["--verify", "1"]].concat();
    let mut daemon = scene.launch(&arguments).with_programs_in(&tools.path).ready();
    tools.write("slow", "");
    let hung = wait::until("a process that works on the rules", || {
        let all = daemon.family.named("tproxy-rules");
        all.into_iter().find(|pid| !process::children(*pid).is_empty())
    });
    process::signal(hung, Signal::SIGSTOP);
    fs::remove_file(tools.file("slow")).expect("remove");
    // The guardian is not deaf: it answers, and replaces a worker.
    daemon.signal(Signal::SIGUSR1);
    daemon.journal.wait_for("counters: ");
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    daemon.family.next_worker(worker);
    assert_eq!(scene.page(MOOSE), "cow");
    let begin = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    daemon.journal.wait_for("the process that works on the rules takes too long and is killed");
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn a_resolver_that_hangs_delays_nothing() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.stand_in();
    let resolver = daemon.family.resolver();
    process::signal(resolver, Signal::SIGSTOP);
    daemon.signal(Signal::SIGUSR1);
    daemon.journal.wait_for("counters: ");
    assert_eq!(scene.page(MOOSE), "cow");
    let begin = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_worker_that_hangs_makes_the_guardian_wait_for_nothing_but_its_end() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.relay(&[STAND_IN, &["--drain", "1", "-l", "/dev/null"]].concat());
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGSTOP);
    // More orders than its channel holds.
    for _ in 0..500 {
        daemon.signal(Signal::SIGURG);
        daemon.signal(Signal::SIGUSR1);
    }
    daemon.journal.wait_for("1 worker has not answered");
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded: ");
    assert_eq!(scene.page(MOOSE), "cow");
    let begin = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// Stops the next child of a process, which has these so far, before it has come far.
fn stop_next_child(parent: i32, before: &[i32]) -> i32 {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let end = Instant::now() + wait::PATIENCE;
    while Instant::now() < end {
        let now = fs::read_to_string(&path).unwrap_or_default();
        let new = now.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| !before.contains(pid));
        if let Some(pid) = new {
            process::signal(pid, Signal::SIGSTOP);
            return pid;
        }
    }
    panic!("no new child of {parent}");
}

#[test]
fn a_new_worker_that_hangs_ends_the_reload_and_the_former_one_serves_on() {
    let Some(scene) = Scene::new() else { return };
    // The first child of a reload is the worker; with --verify there may be another one before it.
    let caught = ["-R", "-d 10.2.0.5 --dport 80", "10.3.0.3", "80"];
    let mut daemon = scene.relay(&[&["-d", "-s", "12970", "-r", "nobody", "--verify", "0"][..], &caught].concat());
    let guardian = daemon.family.guardian();
    // One that was ready before it was stopped is no use; then the next reload brings the next one.
    let hung = wait::until_within(Duration::from_secs(60), "a worker that was stopped in time", || {
        let reloads = daemon.journal.count("reloaded:");
        std::thread::scope(|scope| {
            let before = process::children(guardian);
            let stopped = scope.spawn(move || stop_next_child(guardian, &before));
            daemon.signal(Signal::SIGHUP);
            let pid = stopped.join().expect("a child");
            let too_late =
                wait::try_until(Duration::from_secs(1), || (daemon.journal.count("reloaded:") > reloads).then_some(()));
            if too_late.is_some() {
                process::signal(pid, Signal::SIGKILL);
                daemon.family.next_worker(pid);
            }
            too_late.is_none().then_some(pid)
        })
    });
    let reloads = daemon.journal.count("reloaded:");
    assert_eq!(scene.page(MOOSE), "cow");
    // A change that is asked for meanwhile follows it.
    daemon.signal(Signal::SIGHUP);
    let said = format!("reload: worker {hung} is not ready after 20 seconds; nothing has changed");
    daemon.journal.wait_within(Duration::from_secs(60), &said);
    wait::until_true("it is killed", || !process::alive(hung));
    wait::until_true("the reload that follows", || daemon.journal.count("reloaded:") > reloads);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// What the daemon tells the service manager, until a message that `is_wanted`.
fn told(socket: &UnixDatagram, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let mut buffer = [0; 2048];
    wait::until_within(Duration::from_secs(60), what, || {
        let count = socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..count]).to_string();
        is_wanted(&text).then_some(text)
    })
}

#[test]
fn a_worker_that_lives_and_does_not_answer_is_replaced_and_the_watchdog_waits_for_the_next_one() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    let daemon = scene.launch(STAND_IN).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000").ready();
    assert_eq!(scene.page(MOOSE), "cow");
    told(&socket, "the watchdog is fed", |text| text.contains("WATCHDOG=1"));
    let status = told(&socket, "the connection is counted", |text| text.contains("STATUS=0 connections, 1 accepted"));
    assert!(status.ends_with("; upstreams: cow:80"), "{status}");
    let worker = daemon.family.worker();
    let mut established = scene.lab.client.connect(MOOSE).expect("connect");
    told(&socket, "it is open", |text| text.contains("STATUS=1 connections, 2 accepted"));
    process::signal(worker, Signal::SIGSTOP);
    // What was sent before is read before it.
    socket.set_nonblocking(true).expect("non-blocking");
    wait::until_true("the worker is stopped", || process::status_field(worker, "State").starts_with('T'));
    while socket.recv(&mut [0; 2048]).is_ok() {}
    socket.set_nonblocking(false).expect("blocking");
    let begin = Instant::now();
    let mut fed = 0;
    let gone = || daemon.journal.text().contains("does not answer and is killed");
    wait::until_within(Duration::from_secs(90), "the worker is replaced", || {
        let mut buffer = [0; 2048];
        if let Ok(count) = socket.recv(&mut buffer) {
            fed += usize::from(buffer[..count].starts_with(b"WATCHDOG=1"));
        }
        gone().then_some(())
    });
    assert!(begin.elapsed() >= Duration::from_secs(15), "{:?}", begin.elapsed());
    // One may have been sent between an answer and the stop, and one by the time that the log was read.
    assert!(fed <= 2, "{fed} in {:?}", begin.elapsed());
    assert!(matches!(established.read(&mut [0; 1]), Ok(0) | Err(_)), "what the worker had is lost");
    daemon.family.next_worker(worker);
    assert_eq!(scene.page(MOOSE), "cow");
    told(&socket, "the watchdog is fed again", |text| text.contains("WATCHDOG=1"));
}
