//! Answers to clients' addresses that do not come back: what is said at start, and what is found out while it runs.

use super::*;
use lab::wait;
use std::time::Duration;

const SOURCE: &[&str] = &["-d", "-s", "12970", "-r", "nobody", "--source", "client"];

/// What `--check` warns of.
fn warned(scene: &Scene, args: &[&str]) -> String {
    let done = scene.launch(&[&["--check"], args].concat()).run();
    assert_eq!(done.status, 0, "{done:?}");
    done.stderr
}

#[test]
fn what_keeps_answers_from_coming_back_is_said_at_start_with_the_name_of_the_setting() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    gateway.sysctl(&["net.ipv4.conf.all.rp_filter=1"]);
    let good = ["-s", "12970", "--source", "client", "-R", "-i eth1 -s 10.1.0.0/24 --dport 80", "10.3.0.3", "80"];
    assert_eq!(warned(&scene, &good), "", "all is well");
    for (setting, bad, good) in [
        ("net.ipv4.conf.eth3.src_valid_mark", 1, 0),
        ("net.ipv4.ip_forward", 0, 1),
        ("net.ipv4.conf.all.src_valid_mark", 1, 0),
    ] {
        gateway.sysctl(&[&format!("{setting}={bad}")]);
        for how in [&["--source", "client"], &["--intercept", "tproxy"]] {
            let said = warned(
                &scene,
                &[&["-s", "12970"], &how[..], &["-R", "-d 10.2.0.5 --dport 80", "10.3.0.3", "80"]].concat(),
            );
            assert!(said.contains(&format!("warning: {setting} is {bad}: ")), "{how:?}: {said}");
        }
        let mut daemon = scene.relay(&[SOURCE, &["-R", "-d moose --dport 80", "cow", "80"]].concat());
        daemon.journal.wait_for(&format!("{setting} is {bad}: "));
        assert_eq!(daemon.stop(), 0);
        let redirected = warned(&scene, &["-s", "12970", "-R", "-d 10.2.0.5 --dport 80", "10.3.0.3", "80"]);
        assert_eq!(redirected, "", "a relay without either needs none of this");
        gateway.sysctl(&[&format!("{setting}={good}")]);
    }
    // What takes over the mark of a connection's first packet keeps its answers here.
    let name = "net.ipv4.tcp_fwmark_accept";
    gateway.sysctl(&[&format!("{name}=1")]);
    let web = ["-s", "12970", "-R", "-d 10.2.0.5 --dport 80", "10.3.0.3", "80"];
    let of_tproxy = warned(&scene, &[&["--intercept", "tproxy"], &web[..]].concat());
    assert!(of_tproxy.contains(&format!("warning: {name} is 1: ")), "{of_tproxy}");
    let with_source = [&["--source", "client"], &web[..]].concat();
    assert_eq!(warned(&scene, &with_source), "", "REDIRECT marks no first packet");
    let mut daemon = scene.relay(&[&["-d", "-r", "nobody"], &with_source[..]].concat());
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    gateway.sysctl(&[&format!("{name}=0")]);
    let said = |matches: &str, upstream: &str| {
        warned(&scene, &["-s", "12970", "--source", "client", "-R", matches, upstream, "80"])
    };
    let strict = said("-i eth1 -s 10.2.0.0/24 --dport 80", "10.3.0.3");
    assert!(
        strict.contains("net.ipv4.conf.all.rp_filter is 1 (strict)") && strict.contains("leads out of eth2"),
        "{strict}"
    );
    let beside = "is on the network of its clients (eth3) and answers them directly";
    for matches in ["-s 10.3.0.0/24 --dport 80", "-i eth3 --dport 80"] {
        assert!(said(matches, "cow").contains(beside), "{matches}");
    }
    assert!(said("-s fd00:3::/64 --dport 80", "fd00:3::3").contains(beside));
    assert_eq!(said("--dport 80", "10.3.0.1"), "", "an upstream on this host answers through it");
    let twice = |matches: &str| {
        let begin = ["-s", "12970", "--source", "client", "--intercept", "tproxy", "-R", matches];
        warned(&scene, &[&begin[..], &["10.3.0.1", "80"]].concat())
    };
    assert!(twice("--dport 80").contains("the upstream 10.3.0.1:80 is on this host, and --intercept tproxy takes"));
    assert_eq!(twice("--dport 81").clone() + &twice("-d 10.2.0.5 --dport 80"), "");
    let nowhere = said("-s 203.0.113.0/24 --dport 80", "cow");
    assert!(nowhere.contains("no route back to the clients in 203.0.113.0/24"), "{nowhere}");
}

#[test]
fn an_upstream_that_answers_this_host_and_no_client_is_named_once() {
    let Some(scene) = Scene::new() else { return };
    let cow = &scene.lab.cow;
    for (asked, upstream, client) in [(MOOSE, "10.3.0.3", "10.1.0.2"), (MOOSE6, "fd00:3::3", "fd00:1::2")] {
        let matches = ["-R", "-d moose,fd00:2::5 --dport 80", "--connect-timeout", "3", upstream, "80"];
        let mut daemon = scene.relay(&[SOURCE, &matches].concat());
        assert_eq!(scene.page(asked), "cow");
        // It has a way of its own to its clients, on which answers are lost.
        cow.run(&["ip", "link", "add", "elsewhere", "type", "veth", "peer", "name", "nobody"]);
        cow.run(&["ip", "link", "set", "elsewhere", "up"]);
        cow.run(&["ip", "route", "add", client, "dev", "elsewhere"]);
        let said = "but not connections from clients' addresses, such as";
        std::thread::scope(|scope| {
            let ask = || {
                let mut stream = scene.lab.client.connect(asked).expect("connect");
                lab::clients::expect_reset(&mut stream);
            };
            (0..4).for_each(|_| drop(scope.spawn(ask)));
            let line = daemon.journal.wait_for(said);
            assert!(line.contains(upstream) && line.contains(client), "{line}");
        });
        // Others wait for their answers, and are not told again.
        lab::clients::expect_reset(&mut scene.lab.client.connect(asked).expect("connect"));
        assert_eq!(daemon.journal.count(said), 1, "{}", daemon.journal.text());
        cow.run(&["ip", "link", "del", "elsewhere"]);
        let again = wait::try_until(Duration::from_secs(20), || (scene.page(asked) == "cow").then_some(()));
        assert!(again.is_some(), "it answers clients again");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn an_upstream_that_answers_nobody_is_not_named() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.cow.run(&["iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"]);
    let matches = ["-R", "-d moose --dport 80", "--connect-timeout", "4", "cow", "80"];
    let daemon = scene.relay(&[SOURCE, &matches].concat());
    for _ in 0..2 {
        lab::clients::expect_reset(&mut scene.lab.client.connect(MOOSE).expect("connect"));
    }
    assert_eq!(daemon.journal.count("clients' addresses"), 0, "{}", daemon.journal.text());
}
