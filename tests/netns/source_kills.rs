//! `--source client`: what is left of rules and routes when processes are killed.

use nix::sys::signal::Signal;

use super::{Scene, Server};
use lab::daemon::Daemon;
use lab::{process, rules, wait};
use std::io::Write;

/// Routing and marks of others, in both families.
fn add_policy_routing_of_others(scene: &Scene) {
    for (ip, iptables, host, network, via) in [
        ("-4", "iptables", "10.9.9.9", "10.9.0.0/16", "10.2.0.5"),
        ("-6", "ip6tables", "fd00:9::9", "fd00:9::/64", "fd00:2::5"),
    ] {
        for command in [
            format!("ip {ip} rule add from {host} lookup 77 protocol 4"),
            format!("ip {ip} rule add fwmark 0x1/0xff lookup 78"),
            format!("ip {ip} route add {network} via {via} table 77"),
            format!("ip {ip} route add local default dev lo table 78"),
            format!("{iptables} -w -t mangle -A PREROUTING -p tcp --dport 4444 -j MARK --set-xmark 0x1/0xff"),
            format!("{iptables} -w -t raw -A OUTPUT -p udp --dport 53 -j CT --notrack"),
        ] {
            scene.lab.gateway.run(&command.split(' ').collect::<Vec<_>>());
        }
    }
}

/// Whether clients of both families are served, and the upstream sees them.
fn serves(scene: &Scene) -> bool {
    [("10.2.0.5:7", "10.1.0.2"), ("[fd00:2::5]:7", "fd00:1::2")].into_iter().all(|(to, client)| {
        let stream = scene.lab.client.connect(to);
        stream.is_ok_and(|mut stream| lab::clients::read_all(&mut stream).0 == client.as_bytes())
    })
}

#[test]
fn whoever_is_killed_all_of_ours_goes_in_the_end_and_nothing_of_others() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let _moose = scene.lab.moose.enter(|| {
        Server::inline("[::]:7", 2, |mut stream| {
            let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical());
            let _ = peer.and_then(|peer| write!(stream, "{peer}"));
        })
    });
    rules::add_administrators_rules(gateway);
    add_policy_routing_of_others(&scene);
    let before = rules::saved_with_routing(gateway);
    let kinds = rules::firewalls().into_iter().flat_map(|one| ["redirect", "tproxy"].map(|kind| (one.clone(), kind)));
    for (firewall, interception) in kinds {
        let args = ["-d", "-s", "12970", "-r", "nobody", "--intercept", interception, "--source", "client", "-t"];
        let args = [&args[..], &["--firewall", &firewall, "-R", "-d 10.2.0.5,fd00:2::5 --dport 7"]].concat();
        let start = || -> Daemon { scene.relay(&args) };
        let first = start();
        let running = rules::saved_with_routing(gateway);
        let expect_as_before = |what: &str| {
            wait::until_true(&format!("{firewall} {interception}: service {what}"), || serves(&scene));
            assert_eq!(rules::saved_with_routing(gateway), running, "{firewall} {interception}: {what}");
        };
        expect_as_before("at the start");
        assert!(before.lines().all(|line| running.contains(line)), "nothing of others is lost");
        let worker = first.family.worker();
        process::signal(worker, Signal::SIGKILL);
        first.family.next_worker(worker);
        expect_as_before("after the death of the worker");
        process::signal(first.family.guardian(), Signal::SIGKILL);
        first.journal.wait_for("the guardian is gone");
        expect_as_before("without a guardian");
        let second = start();
        expect_as_before("after another start");
        first.family.wait_gone();
        second.family.end();
        // A table of nft goes with its last process.
        let left = rules::saved_with_routing(gateway);
        assert!(firewall == "nft" || left == running, "nobody is left to remove them: {left}");
        let mut third = start();
        expect_as_before("after the death of all");
        assert_eq!(third.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before, "{firewall} {interception}: after a stop");
        for flush in [&["--flush"][..], &["--flush", "-s", "12970"]] {
            start().family.end();
            assert_eq!(scene.launch(flush).run().status, 0);
            assert_eq!(rules::saved_with_routing(gateway), before, "{firewall} {interception}: {flush:?}");
        }
    }
}
