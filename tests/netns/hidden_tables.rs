//! Tables that iptables-save cannot show, because somebody has added a rule with nft that iptables has no words for.

use super::{MOOSE, MOOSE6, Scene};
use lab::netns::Net;
use lab::{process, rules, wait};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Rules for which iptables has no words, each by another reason. `TABLE` is a table in nft's words.
const HIDING: [&str; 4] = [
    "add rule TABLE tcp dport 99 redirect to :80",
    "insert rule TABLE tcp dport 99 ct state new counter",
    "insert rule TABLE meta mark set 1",
    "add rule TABLE tcp dport 99 dnat to tcp dport map { 99 : ADDRESS }",
];

/// Both families, with a rule in each table that ours use.
const BOTH: &[&str] = &[
    "-d",
    "--verify",
    "1",
    "-s",
    "12970",
    "-r",
    "nobody",
    "--reject",
    "--dport 81",
    "-R",
    "--dport 80",
    "10.3.0.3",
    "80",
];

/// A machine, unless rules are installed with nft.
fn scene() -> Option<Scene> {
    rules::with_iptables("nft shows every table").then(Scene::new).flatten()
}

/// A worker is tried again after 10 seconds, and must live for as long.
const RESPAWN: Duration = Duration::from_secs(60);

fn nft(gateway: &Net, rule: &str, family: &str, chain: &str) {
    let address = if family == "ip" { "10.3.0.3" } else { "fd00:3::3" };
    gateway.run(&["nft", &rule.replace("TABLE", &format!("{family} {chain}")).replace("ADDRESS", address)]);
}

fn listed(gateway: &Net) -> String {
    gateway.run(&["nft", "-s", "list", "ruleset"])
}

/// How many lines mention a chain of ours.
fn ours(gateway: &Net) -> usize {
    listed(gateway).matches("tproxy.").count()
}

#[test]
fn a_start_into_a_table_that_cannot_be_shown_fails_and_touches_nothing() {
    for (at, rule) in HIDING.iter().enumerate() {
        let Some(scene) = scene() else { return };
        let gateway = &scene.lab.gateway;
        let (family, chain) = [("ip", "nat PREROUTING"), ("ip6", "nat PREROUTING")][at % 2];
        nft(gateway, rule, family, chain);
        let before = listed(gateway);
        let table = format!("cannot show the nat table of {}", if family == "ip" { "IPv4" } else { "IPv6" });
        for args in [BOTH, &BOTH[1..]] {
            let (done, family) = scene.launch(args).start();
            assert_eq!(done.status, 71, "{done:?}");
            let errors: Vec<&str> = done.stderr.lines().filter(|line| line.contains("cannot show")).collect();
            assert!(errors.len() == 1 && errors[0].contains(&table), "{done:?}");
            family.wait_gone();
            assert_eq!(listed(gateway), before, "{rule}");
        }
        let checked = scene.launch(&[&["--check"], &BOTH[1..]].concat()).run();
        assert!(checked.status == 71 && checked.stderr.contains(&table), "{checked:?}");
        assert_eq!(listed(gateway), before, "{rule}");
    }
}

#[test]
fn a_table_that_is_not_used_may_hide_what_it_likes() {
    let Some(scene) = scene() else { return };
    let gateway = &scene.lab.gateway;
    gateway.run(&["iptables", "-t", "mangle", "-A", "PREROUTING", "-j", "RETURN"]);
    nft(gateway, HIDING[2], "ip", "mangle PREROUTING");
    nft(gateway, HIDING[1], "ip", "filter INPUT");
    let before = listed(gateway);
    let mut daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"]);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(listed(gateway), before);
}

#[test]
fn a_table_that_is_hidden_while_running_gets_no_second_jump_and_loses_ours_at_the_stop() {
    for (at, rule) in HIDING.iter().enumerate() {
        let Some(scene) = scene() else { return };
        let gateway = &scene.lab.gateway;
        let mut daemon = scene.relay(BOTH);
        let places = [("ip", "nat PREROUTING"), ("ip6", "nat PREROUTING"), ("ip", "filter FORWARD")];
        // dnat is for the nat table only.
        let places = if at == 1 || at == 2 { &places[..] } else { &places[..2] };
        places.iter().for_each(|(family, chain)| nft(gateway, rule, family, chain));
        let running = ours(gateway);
        daemon.journal.wait_for("cannot show it any more");
        daemon.signal(Signal::SIGHUP);
        daemon.journal.wait_for("reloaded:");
        let reloaded = daemon.journal.count("tproxy.");
        wait::until_true("a verification", || daemon.journal.count("tproxy.") >= reloaded && ours(gateway) == running);
        assert_eq!(scene.page(MOOSE), "cow", "{rule}");
        assert_eq!(daemon.stop(), 0);
        assert_eq!(ours(gateway), 0, "{rule}:\n{}", listed(gateway));
        let others = listed(gateway);
        assert!(others.contains("99") || others.contains("mark set"), "{others}");
    }
}

#[test]
fn rules_follow_their_gate_although_the_table_cannot_be_shown() {
    let Some(scene) = scene() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = scene.relay(BOTH);
    nft(gateway, HIDING[2], "ip", "nat PREROUTING");
    nft(gateway, HIDING[0], "ip6", "nat PREROUTING");
    daemon.journal.wait_for("cannot show it any more");
    wait::until_true("the redirection is withdrawn", || {
        process::signal(daemon.family.worker(), Signal::SIGKILL);
        daemon.journal.count("no worker can be kept alive") > 0
    });
    wait::until_true("moose itself answers", || scene.page(MOOSE) == "moose" && scene.page(MOOSE6) == "moose");
    daemon.journal.wait_within(RESPAWN, "a worker is alive again");
    wait::until_true("the redirection is back", || scene.page(MOOSE) == "cow" && scene.page(MOOSE6) == "cow");
    let jumps = listed(gateway).matches("jump tproxy.").count();
    assert_eq!(jumps, 6, "{}", listed(gateway));
    gateway.run(&["nft", "flush", "chain", "ip", "nat", "PREROUTING"]);
    daemon.journal.wait_for("does not begin with");
    gateway.run(&["nft", "flush", "chain", "ip6", "nat", "PREROUTING"]);
    wait::until_true("the rules are put back", || rules::jumps_to_ours(gateway) == 6);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::count_of_ours(gateway), 0);
}

#[test]
fn flush_removes_rules_from_a_table_that_cannot_be_shown() {
    let Some(scene) = scene() else { return };
    let gateway = &scene.lab.gateway;
    for (at, rule) in HIDING.iter().enumerate() {
        for flush in [&["--flush"][..], &["--flush", "-s", "12970"]] {
            let daemon = scene.relay(&[BOTH, &["-O"]].concat());
            daemon.family.end();
            nft(gateway, rule, ["ip", "ip6"][at % 2], "nat PREROUTING");
            nft(gateway, rule, "ip", "nat OUTPUT");
            assert!(ours(gateway) > 0);
            let done = scene.launch(flush).run();
            assert_eq!(done.status, 0, "{done:?}");
            assert!(flush.len() > 1 || !done.stdout.contains("no rules"), "{done:?}");
            assert_eq!(ours(gateway), 0, "{}", listed(gateway));
            for chain in ["PREROUTING", "OUTPUT"] {
                gateway.run(&["nft", "flush", "chain", "ip", "nat", chain]);
            }
            gateway.run(&["nft", "flush", "chain", "ip6", "nat", "PREROUTING"]);
        }
    }
}

#[test]
fn a_jump_that_iptables_does_not_show_keeps_no_rule_of_ours() {
    let Some(scene) = scene() else { return };
    let gateway = &scene.lab.gateway;
    for flush in [false, true] {
        let mut daemon = scene.relay(BOTH);
        for family in ["ip", "ip6"] {
            let own = format!("add chain {family} nat own {{ type nat hook prerouting priority -105; }}");
            gateway.run(&["nft", &format!("{own}; add rule {family} nat own tcp dport 99 jump tproxy.12970")]);
        }
        if flush {
            daemon.family.end();
            assert_eq!(scene.launch(&["--flush"]).run().status, 0);
        } else {
            assert_eq!(daemon.stop(), 0);
        }
        assert_eq!(ours(gateway), 0, "{}", listed(gateway));
        ["ip", "ip6"].iter().for_each(|family| drop(gateway.run(&["nft", "delete", "chain", family, "nat", "own"])));
    }
}

#[test]
fn a_map_of_others_that_leads_to_a_chain_of_ours_leaves_the_chain_empty() {
    let Some(scene) = scene() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = scene.relay(BOTH);
    gateway.run(&["nft", "add map ip nat m { type inet_service : verdict; elements = { 99 : jump tproxy.12970 } }"]);
    assert_eq!(daemon.stop(), 71);
    assert!(daemon.journal.text().contains("the rules could not be removed"), "{}", daemon.journal.text());
    assert!(!listed(gateway).contains("dport 80"), "{}", listed(gateway));
    gateway.run(&["nft", "delete", "map", "ip", "nat", "m"]);
    assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    assert_eq!(ours(gateway), 0, "{}", listed(gateway));
}

#[test]
fn what_cannot_be_removed_is_said() {
    let Some(scene) = scene() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = scene.relay(BOTH);
    // A jump in a verdict map is none that could be deleted without the rule of the administrator.
    nft(gateway, "add rule TABLE tcp dport vmap { 99 : jump tproxy.12970 }", "ip", "nat PREROUTING");
    nft(gateway, HIDING[0], "ip", "nat PREROUTING");
    daemon.stop();
    let said = daemon.journal.text();
    assert!(said.contains("the rules could not be removed") && said.contains("nft -f -"), "{said}");
    assert!(!listed(gateway).contains("dport 80 counter"), "the jumps and the redirect are gone: {}", listed(gateway));
}
