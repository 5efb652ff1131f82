//! A guardian that is sent everything at once, one that cannot fork, and one that does not hear of its worker.

use super::HEAVY;
use super::inject::{Call, Role};
use super::scene::{MOOSE, Scene, attempt};
use lab::transfer::{Manners, Order, Transfer};
use lab::{AtEnd, alone, process, report, rules, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_storm_of_signals_leaves_one_guardian_its_workers_and_the_rules() {
    const STORM: usize = 200;
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let gateway = &scene.lab.gateway;
    let clean = rules::saved(gateway);
    let pidfile = scene.file("pid");
    let daemon = scene.launch(&format!("-w 2 -P {pidfile}")).ready();
    let running = rules::saved(gateway);
    let guardian = || -> Option<i32> { fs::read_to_string(&pidfile).ok()?.trim().parse().ok() };
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = Instant::now();
    let took = std::thread::scope(|scope| {
        let _end = AtEnd(&over);
        for thread in 0..3 {
            let (over, count, client) = (&over, &count, &scene.lab.client);
            scope.spawn(move || {
                client.enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        let seed = 1000 * thread + count.fetch_add(1, Ordering::Relaxed);
                        let transfer = Transfer::new(seed, 20_000, 50_000, Order::AtOnce);
                        let outcome = attempt(MOOSE, &transfer, Manners::default());
                        assert_eq!(outcome.cut, None, "during the storm");
                    }
                });
            });
        }
        for number in 0..STORM {
            let signal = match number % 40 {
                39 => Signal::SIGUSR2,
                number if number % 10 == 9 => Signal::SIGUSR1,
                _ => Signal::SIGHUP,
            };
            guardian().iter().for_each(|pid| process::signal(*pid, signal));
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = begin.elapsed();
        let settled = wait::try_until(Duration::from_secs(45), || {
            let alone = daemon.family.named("tproxy").len() == 1 && daemon.family.named("tproxy-rules").is_empty();
            (alone && daemon.family.named("tproxy-worker").len() == 2).then_some(())
        });
        assert!(settled.is_some(), "{:?}", daemon.family.pids().into_iter().map(process::comm).collect::<Vec<_>>());
        took
    });
    assert_eq!(rules::saved(gateway), running);
    assert_eq!(guardian(), Some(daemon.family.guardian()), "the pid file");
    scene.assert_serves("after the storm");
    let told = daemon.journal.lines().len() - daemon.journal.connections().len();
    assert!(told < 5 * STORM, "a flood: {told} lines for {STORM} signals");
    report(&format!(
        "faults: {STORM} signals in {took:.1?}: {} requests meanwhile, none failed; {} reloads, {} upgrades",
        count.into_inner(),
        daemon.journal.count("reloaded:"),
        daemon.journal.count("upgraded to"),
    ));
    process::signal(daemon.family.guardian(), Signal::SIGTERM);
    daemon.family.wait_gone();
    assert_eq!(rules::saved(gateway), clean);
    scene.ledger.assert_right();
    assert_eq!(scene.ledger.truncated(), []);
}

#[test]
fn a_guardian_that_cannot_fork_has_a_worker_again_as_soon_as_it_can() {
    let Some(scene) = Scene::new() else { return };
    let (daemon, faults) = scene.fragile("");
    let running = rules::saved(&scene.lab.gateway);
    let (guardian, worker) = (daemon.family.guardian(), daemon.family.worker());
    scene.assert_serves("before");
    for error in [libc::EAGAIN, libc::ENOMEM] {
        faults.strike(Role::Guardian, Call::Fork, error, 1);
        process::signal(daemon.family.worker(), Signal::SIGKILL);
        wait::until_true("it cannot fork", || faults.hits(Call::Fork) > 0);
        let ticks = process::cpu_ticks(guardian);
        wait::holds_for(Duration::from_millis(1500), "the guardian lives", || process::alive(guardian));
        assert!(process::cpu_ticks(guardian) - ticks < 50, "spinning");
        faults.heal(Call::Fork);
        wait::until_within(Duration::from_secs(40), "the rules are as before", || {
            let back = rules::saved(&scene.lab.gateway) == running;
            (back && daemon.family.named("tproxy-worker").len() == 1).then_some(())
        });
        scene.assert_serves("when it can fork again");
        assert!(daemon.journal.lines().len() < 80, "{}", daemon.journal.text());
    }
    assert_ne!(daemon.family.worker(), worker);
    daemon.journal.wait_for("fork: ");
}

#[test]
fn words_that_a_worker_cannot_send_are_missed_and_hold_nobody_up() {
    let Some(scene) = Scene::new() else { return };
    let (daemon, faults) = scene.fragile("");
    scene.assert_serves("before");
    let counters = |count: usize, end: &str| {
        process::signal(daemon.family.guardian(), Signal::SIGUSR1);
        let told = |line: &String| line.contains("counters: ") && line.ends_with(end);
        wait::until("the counters", || {
            (daemon.journal.lines().iter().filter(|line| told(line)).count() == count).then_some(())
        });
    };
    for (number, error) in [libc::ENOBUFS, libc::EAGAIN, libc::EPERM].into_iter().enumerate() {
        faults.strike(Role::Worker, Call::Send, error, 1);
        counters(number + 1, "1 worker has not answered");
        assert!(faults.hits(Call::Send) > 0);
        faults.heal(Call::Send);
    }
    scene.assert_serves("afterwards");
}
