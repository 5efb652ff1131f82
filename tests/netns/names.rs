//! Upstream names: followed, survived, waited for.

use super::{MOOSE, STAND_IN, Scene};
use lab::tempdir::TempDir;
use lab::{process, rules, wait};
use nix::sys::signal::Signal;
use std::fs;
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

/// moose's second address, at which it has the same page.
const SECOND: &str = "10.2.0.6:80";

const BOTH_ALIVE: &str = "10.2.0.5 moose\n10.3.0.3 cow\n";

/// The machines, with a second address on moose.
fn two_addresses() -> Option<Scene> {
    let scene = Scene::new()?;
    scene.lab.moose.run(&["ip", "addr", "add", "10.2.0.6/24", "dev", "eth0"]);
    Some(scene)
}

/// A file of `-c` for one start.
fn file(lines: &str) -> (TempDir, String) {
    let directory = TempDir::new();
    let path = directory.write("table.conf", &format!("-r nobody\n{lines}\n"));
    (directory, path)
}

#[test]
fn one_dead_name_holds_back_no_other_redirection() {
    let dead = [
        "-s 12971 -R '-d 10.2.0.6 --dport 80' goat 80",
        "-s 12971 -R '-d 10.2.0.6 --dport 80' goat 80 sheep 81",
        "-s 12971 -R '-d goat --dport 80' cow 80",
        "-s 12971 -R '-d goat,sheep -s 10.1.0.2 --dport 80' cow 80",
        "-s 12971 -X '-d sheep' -R '-d 10.2.0.6 --dport 80' cow 80",
        "--kernel -R '-d 10.2.0.6 --dport 80' goat 80",
        "--local 1113 -R '-d sheep --dport 113'\n-s 12971 -R '-d 10.2.0.6 --dport 80' goat 80",
    ];
    for lines in dead {
        for dead_first in [true, false] {
            let Some(scene) = two_addresses() else { return };
            let living = "-s 12970 -R '-d moose --dport 80' cow 80";
            let (_directory, path) =
                file(&if dead_first { format!("{lines}\n{living}") } else { format!("{living}\n{lines}") });
            let mut daemon = scene.relay(&["-d", "-c", &path]);
            assert_eq!(scene.page(MOOSE), "cow", "{lines}");
            assert_eq!(scene.page(SECOND), "moose", "{lines}");
            daemon.journal.wait_for(" does not resolve: ");
            // goat is moose when it is a destination, and cow when it is an upstream.
            let goat = if lines.contains("-d goat") { "10.2.0.6" } else { "10.3.0.3" };
            scene.lab.gateway.hosts(&format!("{BOTH_ALIVE}{goat} goat\n10.9.9.9 sheep\n"));
            wait::until_within(Duration::from_secs(60), "the rule is installed when the name resolves", || {
                (scene.page(SECOND) == "cow").then_some(())
            });
            assert_eq!(scene.page(MOOSE), "cow", "{lines}");
            assert_eq!(daemon.stop(), 0);
            assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
        }
    }
}

#[test]
fn one_dead_name_holds_back_no_other_host_and_no_other_rule_of_its_redirection() {
    let Some(scene) = two_addresses() else { return };
    let table: [&[&str]; 4] = [
        &["-R", "-d moose --dport 80", "goat", "80", "cow", "80"],
        &["-R", "-d moose --dport 80", "cow", "80", "goat", "80"],
        &["-R", "-d goat --dport 80", "-R", "-d moose --dport 80", "cow", "80"],
        &["-R", "-d goat,moose --dport 80", "-R", "! -d sheep -s 10.9.9.9", "10.3.0.3", "80"],
    ];
    for args in table {
        let mut daemon = scene.relay(&[&["-d", "-s", "12970", "-r", "nobody"], args].concat());
        assert_eq!(scene.page(MOOSE), "cow", "{args:?}");
        assert_eq!(scene.page(SECOND), "moose", "{args:?}");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_rule_that_cannot_be_written_makes_no_other_rule_wider() {
    let Some(scene) = two_addresses() else { return };
    let table: [&[&str]; 4] = [
        &["-R", "! -d goat --dport 80"],
        &["-X", "-d goat", "-R", "--dport 80"],
        &["-X", "-d 10.2.0.6,goat", "-R", "--dport 80"],
        &["--reject", "-d goat", "-R", "--dport 80"],
    ];
    for args in table {
        let before = &["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80"];
        let _daemon = scene.relay(&[&before[..], args, &["cow", "80"]].concat());
        assert_eq!(scene.page(MOOSE), "cow", "{args:?}");
        assert_eq!(scene.page(SECOND), "moose", "{args:?}");
    }
}

#[test]
fn a_name_that_was_dead_before_holds_back_no_reload() {
    let Some(scene) = two_addresses() else { return };
    let dead = "-s 12971 -R '-d 10.2.0.6 --dport 80' goat 80";
    let (directory, path) = file(&format!("{dead}\n-s 12970 -R '-d moose --dport 80' moose 80"));
    let daemon = scene.relay(&["-d", "-c", &path]);
    assert_eq!(scene.page(MOOSE), "moose");
    directory.write("table.conf", &format!("-r nobody\n{dead}\n-s 12970 -R '-d moose --dport 80' cow 80\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_within(Duration::from_secs(20), "reloaded:");
    wait::until_true("the former worker drains", || scene.page(MOOSE) == "cow");
    daemon.signal(Signal::SIGUSR2);
    daemon.journal.wait_within(Duration::from_secs(20), "upgraded to");
    wait::until_true("the first worker has ended", || scene.page(MOOSE) == "cow");
    assert_eq!(scene.page(SECOND), "moose");
}

#[test]
fn a_name_server_that_is_silent_holds_back_only_what_needs_it() {
    let Some(scene) = two_addresses() else { return };
    let gateway = &scene.lab.gateway;
    scene.lab.moose.run(&["iptables", "-A", "INPUT", "-p", "udp", "--dport", "53", "-j", "DROP"]);
    for (file, text) in [("nsswitch.conf", "hosts: files dns\n"), ("resolv.conf", "nameserver 10.2.0.5\n")] {
        fs::write(format!("/etc/netns/{}/{file}", gateway.name), text).expect("a file in /etc/netns");
    }
    let lines =
        "-s 12970 -R '-d 10.2.0.5 --dport 80' 10.3.0.3 80\n-s 12971 -R '-d 10.2.0.6 --dport 80' goat.example 80";
    let (_directory, path) = file(lines);
    let _daemon = scene.relay(&["-d", "-c", &path]);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(scene.page(SECOND), "moose");
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
    let addresses: Vec<&str> = saved.split(|letter: char| !letter.is_ascii_digit() && letter != '.').collect();
    let redirects = |address: &str| addresses.iter().filter(|one| **one == address).count();
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

#[test]
fn a_link_local_upstream_is_reached_behind_its_interface_and_refused_without() {
    let Some(scene) = Scene::new() else { return };
    let shown = scene.lab.cow.run(&["ip", "-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"]);
    let words = shown.split_whitespace().nth(3).expect("a link-local address");
    let cow = words.split('/').next().expect("an address");
    let start = |host: &str, more: &[&str]| {
        let args = [&["-d", "-s", "12970", "-r", "nobody", "-R", "--dport 80", host, "80"], more].concat();
        scene.launch(&args)
    };
    for (host, expected) in [
        (cow.to_owned(), format!("expected the interface of this link-local address, such as {cow}%eth0")),
        (format!("[{cow}]"), format!("such as {cow}%eth0")),
        (format!("{cow}%nothing"), "expected an interface of this host, which nothing is not".to_owned()),
        ("fd00:3::3%eth3".to_owned(), "expected an interface only behind a link-local IPv6 address".to_owned()),
        ("10.3.0.3%eth3".to_owned(), "expected an interface only behind a link-local IPv6 address".to_owned()),
    ] {
        let done = start(&host, &[]).run();
        assert!(done.status == 64 && done.stderr.contains(&expected), "{host}: {done:?}");
    }
    let done = scene.launch(&["--kernel", "-R", "--dport 80", &format!("{cow}%eth3"), "80"]).run();
    assert!(done.status == 64 && done.stderr.contains("which a link-local one is not"), "{done:?}");
    for host in [format!("{cow}%eth3"), format!("[{cow}%eth3]")] {
        let mut daemon = start(&host, &[]).ready();
        assert_eq!([scene.page(MOOSE), scene.page(super::MOOSE6)], ["cow", "cow"]);
        assert_eq!(daemon.stop(), 0);
    }
    // Its health is followed like that of others.
    let host = format!("{cow}%eth3");
    let args = ["-d", "-s", "12970", "-r", "nobody", "-R", "--dport 80", &host, "81", "cow", "80"];
    let daemon = scene.relay(&args);
    for _ in 0..3 {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    daemon.journal.wait_for("is down: Connection refused");
    assert_eq!(daemon.journal.count("is down: Connection refused"), 1);
    // Of a name, nobody knows the interface.
    scene.lab.gateway.hosts(&format!("10.2.0.5 moose\n10.3.0.3 cow\n{cow} doe\n"));
    drop(daemon);
    let daemon = start("doe", &["cow", "80"]).ready();
    assert_eq!(scene.page(MOOSE), "cow");
    daemon.journal.wait_for("'doe' has link-local addresses only");
}
