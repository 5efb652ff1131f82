//! Upstream names: followed, survived, waited for.

use super::{MOOSE, STAND_IN, Scene};
use lab::{process, rules, wait};
use nix::sys::signal::Signal;
use std::time::Duration;

#[test]
fn a_name_is_looked_up_again_when_its_address_stops_answering() {
    let Some(mut scene) = Scene::new() else { return };
    let _daemon = scene.stand_in();
    assert_eq!(scene.page(MOOSE), "cow");
    scene.lab.gateway.hosts("10.2.0.5 moose cow\n");
    scene.cow = None;
    wait::until_within(Duration::from_secs(30), "the name's new address is used", || {
        (scene.page(MOOSE) == "moose").then_some(())
    });
    drop(scene.moose.take());
}

#[test]
fn a_name_is_looked_up_again_after_a_while() {
    let Some(scene) = Scene::new() else { return };
    let _daemon = scene.stand_in();
    assert_eq!(scene.page(MOOSE), "cow");
    scene.lab.gateway.hosts("10.2.0.5 moose cow\n");
    // The old address still answers: only time can tell.
    wait::until_within(Duration::from_secs(60), "the name's new address is used", || {
        (scene.page(MOOSE) == "moose").then_some(())
    });
}

#[test]
fn a_dead_resolver_leaves_the_last_good_answer() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    assert_eq!(scene.page(MOOSE), "cow");
    scene.lab.gateway.hosts("10.2.0.5 moose\n");
    process::signal(daemon.family.resolver(), Signal::SIGKILL);
    assert_eq!(scene.page(MOOSE), "cow");
    // The answer outlives the worker as well: it is the guardian's.
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    daemon.family.next_worker(worker);
    for _ in 0..20 {
        assert_eq!(scene.page(MOOSE), "cow");
    }
}

#[test]
fn a_killed_resolver_is_replaced() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let resolver = daemon.family.resolver();
    process::signal(resolver, Signal::SIGKILL);
    wait::until_true("a new resolver", || daemon.family.named("tproxy-resolver").iter().any(|pid| *pid != resolver));
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn every_address_of_the_name_is_tried() {
    let Some(scene) = Scene::new() else { return };
    // Nobody listens on the first address.
    scene.lab.gateway.hosts("10.2.0.5 moose\n10.3.0.1 cow\n10.3.0.3 cow\n");
    let daemon = scene.stand_in();
    for _ in 0..5 {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    let lines = daemon.journal.wait_connections(5);
    assert!(lines.iter().all(|line| line.upstream == "10.3.0.3:80"), "{lines:?}");
}

#[test]
fn rules_wait_until_the_name_resolves() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    gateway.hosts("10.2.0.5 moose\n");
    let daemon = scene.launch(STAND_IN).spawn();
    daemon.journal.wait_for("cow");
    wait::holds_for(Duration::from_millis(1500), "no rule before the first answer", || {
        rules::count_of_ours(gateway) == 0
    });
    assert_eq!(scene.page(MOOSE), "moose");
    gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\n");
    daemon.journal.wait_within(Duration::from_secs(30), "ready: listening on");
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn a_stop_while_waiting_for_the_name_is_heeded() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.hosts("10.2.0.5 moose\n");
    let mut daemon = scene.launch(STAND_IN).spawn();
    daemon.journal.wait_for("cow");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
    daemon.family.wait_gone();
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// A name with this many IPv4 addresses in front of moose's, as lines of hosts(5).
fn herd(count: u32) -> String {
    let line = |number: u32| format!("10.9.{}.{} herd\n", number / 200, number % 200 + 1);
    (0..count).map(line).collect::<String>() + "10.2.0.5 moose herd\n10.3.0.3 cow\n"
}

#[test]
fn every_address_of_a_name_in_a_match_is_redirected() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.hosts(&herd(300));
    let _daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d herd --dport 80", "cow", "80"]);
    assert_eq!(scene.page(MOOSE), "cow", "the last of 301 addresses");
    let saved = rules::saved(&scene.lab.gateway);
    let redirects = |address: &str| saved.matches(&format!(" -d {address}/32 ")).count();
    assert!((0..300).all(|number| redirects(&format!("10.9.{}.{}", number / 200, number % 200 + 1)) == 1), "{saved}");
}

#[test]
fn a_name_with_more_addresses_than_are_supported_is_said_and_not_cut() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.hosts(&herd(1024));
    let launch = || scene.launch(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d herd --dport 80", "cow", "80"]);
    let checked = launch().arg("--check").run();
    let sentence = "cannot resolve 'herd': the name has 1025 addresses, and at most 1024 are supported";
    assert!(checked.stderr.contains(sentence), "{checked:?}");
    let daemon = launch().spawn();
    daemon.journal.wait_for("the name has 1025 addresses, and at most 1024 are supported");
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}
