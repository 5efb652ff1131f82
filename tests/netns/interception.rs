//! `--intercept tproxy`: connections are taken as they are, and all that it takes is owned like the rules.

use super::{MOOSE, MOOSE6, Scene};
use lab::servers::Server;
use lab::{clients, rules, wait};

/// Scenario S1 for both families.
const INTERCEPT: &[&str] = &[
    "-d",
    "-s",
    "12970",
    "-r",
    "nobody",
    "--intercept",
    "tproxy",
    "-R",
    "-d moose --dport 80",
    "-R",
    "-d fd00:2::5 --dport 80",
    "cow",
    "80",
];

#[test]
fn what_is_intercepted_is_relayed_in_both_families_and_nothing_is_left() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    scene.lab.gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\nfd00:3::3 cow\n");
    let before = rules::saved_with_routing(gateway);
    for _ in 0..2 {
        let mut daemon = scene.relay(INTERCEPT);
        for (at, from) in [MOOSE, MOOSE6].into_iter().enumerate() {
            assert_eq!(scene.page(from), "cow");
            let line = daemon.journal.wait_connections(at + 1).remove(at);
            assert_eq!((line.original.as_str(), line.ending.as_str()), (from, "finished"));
        }
        let running = rules::saved_with_routing(gateway);
        for line in before.lines() {
            assert!(running.contains(line), "lost while running: {line}");
        }
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before);
        assert_eq!((scene.page(MOOSE), scene.page(MOOSE6)), ("moose".into(), "moose".into()));
    }
}

#[test]
fn a_failed_start_and_a_flush_after_a_kill_leave_rules_and_routing_as_they_were() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    gateway.run(&["ip", "rule", "add", "from", "10.9.9.9", "lookup", "77"]);
    let before = rules::saved_with_routing(gateway);
    let bad = [&INTERCEPT[1..INTERCEPT.len() - 2], &["-R", "-m no-such-module --dport 80", "10.3.0.3", "80"]].concat();
    for foreground in [true, false] {
        let args = if foreground { [&["-d"], &bad[..]].concat() } else { bad.clone() };
        let (done, family) = scene.launch(&args).start();
        assert_eq!(done.status, 71, "{done:?}");
        family.wait_gone();
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
    for flush in [&["--flush"][..], &["--flush", "-s", "12970"]] {
        let daemon = scene.relay(INTERCEPT);
        daemon.family.end();
        assert!(rules::saved_with_routing(gateway).contains("lookup 12970"), "a killed family cannot clean up");
        let done = scene.launch(flush).run();
        assert_eq!(done.status, 0, "{done:?}");
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn rules_and_routing_that_others_remove_are_put_back_and_connections_go_on() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let _cow = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let port = ["-d", "-s", "12970", "-r", "nobody", "--intercept", "tproxy", "--verify", "1"];
    let daemon = scene.relay(&[&port[..], &["-R", "-d moose --dport 7", "10.3.0.3", "7"]].concat());
    let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut client, b"before").expect("echo");
    let ours = |text: String| text.lines().filter(|line| line.contains("12970")).map(String::from).collect::<Vec<_>>();
    let running = ours(rules::saved_with_routing(gateway));
    for (command, said) in [
        ("ip rule flush", "the rule 'fwmark 0x10000000/0x10000000 lookup 12970 protocol 129' is gone"),
        ("ip route flush table 12970", "the route 'local default dev lo table 12970 protocol 129' is gone"),
        ("iptables -w -t mangle -F", "chain tproxy.12970.sock has been emptied"),
        ("ip rule add from all lookup 99", "has another one before it"),
    ] {
        gateway.run(&command.split(' ').collect::<Vec<_>>());
        // The rules of the kernel's own tables go as well.
        if command == "ip rule flush" {
            gateway.run(&["ip", "rule", "add", "lookup", "main", "pref", "32766"]);
        }
        daemon.journal.wait_for(said);
        wait::until_true("they are back", || {
            let mut now = ours(rules::saved_with_routing(gateway));
            now.iter_mut().for_each(|line| *line = line.split_once(":\t").map_or(line.as_str(), |rule| rule.1).into());
            let as_before = running.iter().map(|line| line.split_once(":\t").map_or(line.as_str(), |rule| rule.1));
            now.iter().map(String::as_str).eq(as_before)
        });
        clients::round_trip(&mut client, command.as_bytes()).expect("an older connection goes on");
        let mut new = scene.lab.client.connect("10.2.0.5:7").expect("connect");
        clients::round_trip(&mut new, b"new").expect("a new one");
    }
}

#[test]
fn a_mark_or_table_of_others_is_named_and_nothing_is_touched() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for (add, remove, said) in [
        (
            "ip rule add fwmark 0x10000000/0x30000000 lookup 5",
            "ip rule del lookup 5",
            "--tproxy-mark: 0x10000000/0x10000000 is taken by the rule '32765: from all fwmark 0x10000000/0x30000000 lookup 5' of IPv4",
        ),
        (
            "ip -6 rule add from fd00:9::9 lookup 12970",
            "ip -6 rule del lookup 12970",
            "--tproxy-table: 12970 is taken by the rule '32765: from fd00:9::9 lookup 12970' of IPv6",
        ),
        (
            "ip route add 10.9.0.0/16 via 10.2.0.5 table 12970",
            "ip route flush table 12970",
            "--tproxy-table: 12970 is taken by the route '",
        ),
    ] {
        gateway.run(&add.split(' ').collect::<Vec<_>>());
        let before = rules::saved_with_routing(gateway);
        let done = scene.launch(INTERCEPT).run();
        assert!(done.status == 69 && done.stderr.contains(said), "{done:?}");
        assert_eq!(rules::saved_with_routing(gateway), before);
        let mut other = scene.relay(&[&["--tproxy-mark", "0x4/0xc", "--tproxy-table", "6"], INTERCEPT].concat());
        assert_eq!(scene.page(MOOSE), "cow");
        assert_eq!(other.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before);
        gateway.run(&remove.split(' ').collect::<Vec<_>>());
    }
}
