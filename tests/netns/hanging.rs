//! Processes of the daemon that hang: the guardian hears its signals and obeys them all the same.

use super::*;
use lab::process;
use lab::rules;
use lab::tempdir::TempDir;
use lab::wait;
use nix::sys::signal::Signal;
use std::fs;
use std::time::{Duration, Instant};

/// A directory with an iptables-save that takes a minute once there is a file `slow` beside it.
fn slow_tools() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let tools = TempDir::new();
    for name in ["iptables-save", "ip6tables-save"] {
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
