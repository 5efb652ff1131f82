//! `--intercept tproxy`: connections are taken as they are, and all that it takes is owned like the rules.

use super::{MOOSE, MOOSE6, Scene};
use lab::daemon::Daemon;
use lab::servers::Server;
use lab::tempdir::TempDir;
use lab::{clients, process, rules, wait};
use nix::sys::signal::Signal;
use std::time::Duration;

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
    let _same_port = scene.lab.moose.enter(|| Server::page("[::]:12970", "moose 12970"));
    for firewall in rules::firewalls() {
        let mut daemon = scene.relay(&[&["--firewall", &firewall], INTERCEPT].concat());
        for (at, from) in [MOOSE, MOOSE6].into_iter().enumerate() {
            assert_eq!(scene.page(from), "cow");
            let line = daemon.journal.wait_connections(at + 1).remove(at);
            assert_eq!((line.original.as_str(), line.ending.as_str()), (from, "finished"));
        }
        for through in ["10.2.0.5:12970", "[fd00:2::5]:12970"] {
            assert_eq!(scene.page(through), "moose 12970", "our port, but not our connection");
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
        // For nft the match is translated before anything is touched.
        assert_eq!(done.status, if rules::is_nft() { 64 } else { 71 }, "{done:?}");
        family.wait_gone();
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
    for flush in [&["--flush"][..], &["--flush", "-s", "12970"]] {
        let daemon = scene.relay(INTERCEPT);
        daemon.family.end();
        if rules::is_nft() {
            wait::until_true("the original destination", || scene.page(MOOSE) == "moose");
        }
        assert!(rules::saved_with_routing(gateway).contains("lookup 12970"), "a killed family cannot clean up");
        let done = scene.launch(flush).run();
        assert_eq!(done.status, 0, "{done:?}");
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
    assert_eq!(scene.page(MOOSE), "moose");
}

/// Kills the process to which the table of nft belongs: nobody else can remove its rules. They are gone then for a moment.
pub(super) fn kill_owner(daemon: &Daemon) {
    process::signal(daemon.family.one("tproxy-nft"), Signal::SIGKILL);
    daemon
        .journal
        .wait_for("to which the nft table belongs, was killed by SIGKILL: the rules are gone, and are put back");
}

/// Has another program remove what intercepts.
fn remove_interception(scene: &Scene, daemon: &Daemon, firewall: &str) {
    match firewall {
        "nft" => kill_owner(daemon),
        _ => drop(scene.lab.gateway.run(&["iptables", "-w", "-t", "mangle", "-F"])),
    }
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
    let emptied = match rules::is_nft() {
        false => "chain tproxy.12970.sock has been emptied",
        true => "the rules are gone, and are put back",
    };
    for (command, said) in [
        ("ip rule flush", "the rule 'fwmark 0x10000000/0x10000000 lookup 12970 protocol 129' is gone"),
        ("ip route flush table 12970", "the route 'local default dev lo table 12970 protocol 129' is gone"),
        ("", emptied),
        ("ip rule add from all lookup 99", "has another one before it"),
    ] {
        match command {
            "" => remove_interception(&scene, &daemon, &rules::firewall().unwrap_or_default()),
            _ => drop(gateway.run(&command.split(' ').collect::<Vec<_>>())),
        }
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
        daemon.family.wait_for_rules();
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

#[test]
fn instances_share_the_routing_and_the_last_one_takes_it_away() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved_with_routing(gateway);
    let mut one = scene.relay(INTERCEPT);
    let only_one = rules::saved_with_routing(gateway);
    let other = ["-d", "-s", "1297", "--intercept", "tproxy", "-R", "-d 10.2.0.5 --dport 443", "10.3.0.3", "80"];
    let mut two = scene.relay(&other);
    assert_eq!((scene.page(MOOSE), scene.page("10.2.0.5:443")), ("cow".into(), "cow".into()));
    assert_eq!(two.stop(), 0);
    assert_eq!(rules::saved_with_routing(gateway), only_one);
    assert_eq!(scene.page(MOOSE), "cow");
    let third = scene.relay(&other);
    assert_eq!(one.stop(), 0);
    assert_eq!(scene.page("10.2.0.5:443"), "cow");
    third.family.end();
    assert_eq!(scene.launch(&["--flush", "-s", "12970"]).run().status, 0);
    // A table of nft goes with its last process, and needs no routing then.
    let stays = !rules::is_nft();
    assert_eq!(rules::saved_with_routing(gateway).contains("lookup 12970"), stays, "it belongs to the other instance");
    assert_eq!(scene.launch(&["--flush", "-s", "1297"]).run().status, 0);
    assert_eq!(rules::saved_with_routing(gateway), before);
}

#[test]
fn a_reload_or_upgrade_that_ends_interception_lets_older_connections_go_on() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let _cow = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let directory = TempDir::new();
    for next in ["-s 12970 -R '-d moose --dport 7' 10.3.0.3 7", "-s 12970 10.3.0.3 7"] {
        let before = rules::saved_with_routing(gateway);
        let file = directory.write("table.conf", "-s 12970 --intercept tproxy -R '-d moose --dport 7' 10.3.0.3 7\n");
        let mut daemon = scene.relay(&["-d", "-r", "nobody", "-c", &file]);
        let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
        clients::round_trip(&mut client, b"before").expect("echo");
        directory.write("table.conf", &format!("{next}\n"));
        for (signal, said) in [(Signal::SIGHUP, "reloaded: "), (Signal::SIGUSR2, "upgraded to ")] {
            daemon.signal(signal);
            daemon.journal.wait_for(said);
            clients::round_trip(&mut client, b"after").expect("an older connection goes on");
            assert!(rules::saved_with_routing(gateway).contains("lookup 12970"), "{said}");
        }
        drop(client);
        wait::until_true("the end of the routing", || !rules::saved_with_routing(gateway).contains("lookup 12970"));
        assert!(!rules::intercepts(gateway));
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
}

/// What becomes of a client that asks for moose, within a short time.
fn outcome(scene: &Scene) -> String {
    let got = scene.lab.client.enter(|| {
        let stream = std::net::TcpStream::connect_timeout(&MOOSE.parse().expect("address"), Duration::from_millis(700));
        stream.and_then(clients::ask)
    });
    got.unwrap_or_else(|error| format!("({:?})", error.kind()))
}

#[test]
fn fail_closed_lets_nothing_pass_whoever_is_killed_or_whatever_is_removed() {
    let Some(scene) = Scene::new() else { return };
    rules::firewalls().iter().for_each(|firewall| nothing_passes(&scene, firewall));
}

fn nothing_passes(scene: &Scene, firewall: &str) {
    let gateway = &scene.lab.gateway;
    let args = [&["--firewall", firewall, "--fail", "closed", "--verify", "0"], INTERCEPT].concat();
    let before = rules::saved_with_routing(gateway);
    let daemon = scene.relay(&args);
    assert_eq!(outcome(scene), "cow");
    // Another program removes what intercepts.
    for all_rules in [true, false] {
        match all_rules {
            true => remove_interception(scene, &daemon, firewall),
            false => drop(gateway.run(&["ip", "rule", "del", "lookup", "12970"])),
        }
        assert_ne!(outcome(scene), "moose", "{all_rules}");
        daemon.signal(Signal::SIGHUP);
        wait::until_true("put back", || outcome(scene) == "cow");
        daemon.family.wait_for_rules();
    }
    // Workers die: one after the other is started, until none can be kept alive.
    let mut killed = 0;
    while daemon.journal.count("no worker can be kept alive") == 0 {
        let worker = daemon.family.named("tproxy-worker").first().copied();
        worker.into_iter().for_each(|pid| process::signal(pid, Signal::SIGKILL));
        killed += 1;
        assert_ne!(outcome(scene), "moose", "after {killed} deaths");
    }
    process::signal(daemon.pid(), Signal::SIGKILL);
    assert_ne!(outcome(scene), "moose", "without the guardian");
    daemon.family.end();
    assert_ne!(outcome(scene), "moose", "without any process");
    let mut next = scene.relay(&args);
    assert_eq!(outcome(scene), "cow");
    assert_eq!(next.stop(), 0);
    assert_eq!(rules::saved_with_routing(gateway), before);
    assert_eq!(outcome(scene), "moose");
}

#[test]
fn fail_open_lets_clients_pass_when_no_worker_can_be_kept_alive() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(INTERCEPT);
    wait::until_true("no worker is kept alive", || {
        daemon.family.named("tproxy-worker").into_iter().for_each(|pid| process::signal(pid, Signal::SIGKILL));
        daemon.journal.count("no worker can be kept alive") > 0
    });
    wait::until_true("the original destination", || outcome(&scene) == "moose");
}

#[test]
fn the_first_rule_that_matches_decides_whatever_its_kind() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved_with_routing(gateway);
    let pages = [(81, "redirected"), (82, "intercepted"), (83, "local")];
    let _servers: Vec<Server> = pages
        .into_iter()
        .flat_map(|(port, page)| {
            let net = if page == "local" { gateway } else { &scene.lab.cow };
            [net.enter(move || Server::page(&format!("[::]:{port}"), page))]
        })
        .collect();
    let directory = TempDir::new();
    let file = directory.write(
        "mixed.conf",
        "-r nobody\n\
         -s 1 --intercept redirect -X '--dport 1001' -R '--dport 1000:1009' 10.3.0.3 81\n\
         -s 2 --intercept tproxy --reject '--dport 1012' -R '--dport 1000:1019' -R '-d 10.1.0.1 --dport 1030' 10.3.0.3 82\n\
         --local 83 -R '--dport 1010:1029' --reject '--dport 1000:1039'\n",
    );
    let mut daemon = scene.relay(&["-d", "-c", &file]);
    let ask = |to: &str| scene.lab.client.fetch(to).unwrap_or_else(|error| format!("({:?})", error.kind()));
    for host in ["10.2.0.5", "[fd00:2::5]"] {
        for (port, page) in [(1000, "redirected"), (1010, "intercepted"), (1020, "local")] {
            assert_eq!(ask(&format!("{host}:{port}")), page);
        }
        for port in [1001, 1012, 1031] {
            assert_eq!(ask(&format!("{host}:{port}")), "(ConnectionRefused)", "{port}");
        }
    }
    // An address of the gateway itself.
    assert_eq!(ask("10.1.0.1:1030"), "intercepted");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved_with_routing(gateway), before);
}

#[test]
fn a_listener_at_loopback_takes_what_is_intercepted_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let args =
        ["-d", "-s", "12970", "-b", "127.0.0.1", "--intercept", "tproxy", "-R", "-d moose --dport 80", "cow", "80"];
    let _daemon = scene.relay(&args);
    assert_eq!(scene.page(MOOSE), "cow");
    let direct = scene.lab.client.connect("10.1.0.1:12970").expect_err("nobody listens there");
    assert_eq!(direct.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn where_ipv6_is_switched_off_ipv4_is_intercepted_and_ipv6_follows_when_it_is_switched_on() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for firewall in rules::firewalls() {
        gateway.sysctl(&["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]);
        let begin = ["-d", "--firewall", &firewall, "-s", "12970", "-r", "nobody", "--verify", "1"];
        let way = ["--intercept", "tproxy", "--source", "client", "-R", "--dport 80", "10.3.0.3", "80"];
        let mut daemon = scene.relay(&[&begin[..], &way].concat());
        assert_eq!(scene.page(MOOSE), "cow");
        gateway.sysctl(&["net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0"]);
        wait::until_true("IPv6 as well", || gateway.run(&["ip", "-6", "rule"]).contains("lookup 12970"));
        assert_eq!(daemon.stop(), 0);
        assert!(!rules::saved_with_routing(gateway).contains("12970"));
    }
}

#[test]
fn transparent_relays_what_is_intercepted_and_refuses_what_comes_directly() {
    let Some(scene) = Scene::new() else { return };
    let args =
        ["-d", "-s", "8081", "-r", "nobody", "--intercept", "tproxy", "-t", "-R", "--dport 80", "-R", "--dport 8081"];
    let daemon = scene.relay(&args);
    let _high = scene.lab.moose.enter(|| Server::page("[::]:8081", "moose 8081"));
    assert_eq!((scene.page(MOOSE), scene.page(MOOSE6)), ("moose".into(), "moose".into()));
    assert_eq!(scene.page("10.2.0.5:8081"), "moose 8081", "our port, but another host's address");
    for to in ["10.1.0.1:8081", "10.1.0.1:80"] {
        clients::expect_connect_reset(scene.lab.client.connect(to));
    }
    let endings: Vec<String> = daemon.journal.wait_connections(5).into_iter().map(|line| line.ending).collect();
    assert_eq!(endings[3..], ["loop", "forbidden: address of this host"], "{endings:?}");
}

#[test]
fn an_upstream_on_the_gateway_itself_is_reached_and_not_intercepted() {
    let Some(scene) = Scene::new() else { return };
    let _own = scene.lab.gateway.enter(|| Server::page("[::]:80", "gateway"));
    let daemon = scene.relay(&[
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "--intercept",
        "tproxy",
        "-R",
        "--dport 80",
        "10.1.0.1",
        "80",
    ]);
    assert_eq!(scene.page(MOOSE), "gateway");
    assert_eq!(scene.lab.gateway.fetch("10.1.0.1:80").expect("own connection"), "gateway");
    assert_eq!(daemon.journal.wait_connections(1).len(), 1);
}

#[test]
fn without_connection_tracking_no_side_has_an_entry_and_its_limit_does_not_count() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    super::client_source::drop_invalid(gateway);
    let before = rules::saved_with_routing(gateway);
    let untracked = ["-d", "-s", "12970", "-r", "nobody", "--intercept", "tproxy", "--no-conntrack"];
    let six = ["-R", "-d 10.2.0.5 --dport 80", "-R", "-d fd00:2::5 --dport 80"];
    let _own = gateway.enter(|| Server::page("[::]:80", "gateway"));
    let own = ["10.2.0.1", "80", "fd00:2::1", "80"];
    let hosts = [(&["10.3.0.3", "80", "fd00:3::3", "80"][..], "cow"), (&["-t"], "moose"), (&own, "gateway")];
    let firewalls = rules::firewalls();
    for (firewall, (more, page)) in firewalls.iter().flat_map(|firewall| hosts.map(|host| (firewall.as_str(), host))) {
        let mut daemon = scene.relay(&[&["--firewall", firewall], &untracked[..], &six, more].concat());
        gateway.run(&["conntrack", "-F"]);
        for from in [MOOSE, MOOSE6] {
            assert_eq!(scene.page(from), page);
        }
        assert_eq!(daemon.journal.wait_connections(2).len(), 2);
        for family in ["ipv4", "ipv6"] {
            let entries = gateway.run(&["conntrack", "-L", "-f", family, "-p", "tcp"]);
            assert_eq!(entries, "", "{page}");
        }
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
    // Established connections go on when new ones are no longer intercepted.
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let mut daemon =
        scene.relay(&[&untracked[..], &["--drain", "30", "-R", "-d 10.2.0.5 --dport 7", "10.3.0.3", "7"]].concat());
    let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut client, b"before").expect("echo");
    daemon.signal(Signal::SIGTERM);
    daemon.journal.wait_for("stopping: 1 connections");
    clients::round_trip(&mut client, b"after").expect("echo while draining");
    drop(client);
    assert_eq!(daemon.wait(), 0);
    assert_eq!(rules::saved_with_routing(gateway), before);
}

#[test]
fn a_filter_that_drops_is_told_with_the_rule_that_lets_marked_packets_in() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    gateway.run(&["iptables", "-w", "-P", "INPUT", "DROP"]);
    gateway.run(&["iptables", "-w", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]);
    let lacking = "iptables -I INPUT -p tcp -m mark --mark 0x10000000/0x10000000 -j ACCEPT";
    let warning =
        format!("INPUT drops all redirected IPv4 connections to port 80; what lacks is a rule such as `{lacking}`");
    let done = scene.launch(&[&["--check"], &INTERCEPT[1..]].concat()).run();
    assert!(done.stderr.contains(&warning), "{done:?}");
    gateway.run(&lacking.split(' ').collect::<Vec<_>>());
    let daemon = scene.relay(INTERCEPT);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.journal.count("what lacks"), 0);
}

#[test]
fn an_ip_that_is_too_old_is_said_and_nothing_is_left() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved_with_routing(gateway);
    let directory = TempDir::new();
    for (script, said) in [
        ("echo 'Option \"-N\" is unknown, try \"ip -help\".' >&2; exit 255", "iproute2 5.1 or later is needed"),
        ("echo \"ip: unrecognized option: N\" >&2; exit 1", "iproute2 5.1 or later is needed"),
        (
            "case $* in *'rule add'*) echo 'RTNETLINK answers: Operation not permitted' >&2; exit 2;; esac; exec /usr/bin/ip \"$@\"",
            "RTNETLINK answers: Operation not permitted",
        ),
    ] {
        let path = directory.write("ip", &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        let (done, family) = scene.launch(INTERCEPT).with_programs_in(&directory.path).start();
        assert!(done.status == 71 && done.stderr.contains(said), "{done:?}");
        family.wait_gone();
        assert_eq!(rules::saved_with_routing(gateway), before);
        let mut redirected = scene.launch(super::STAND_IN).with_programs_in(&directory.path).ready();
        assert_eq!(redirected.stop(), 0, "who does not need it does not run it");
    }
}

#[test]
fn a_socket_that_a_service_manager_passes_can_intercept() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    super::client_source::drop_invalid(gateway);
    let tproxy = ["-d", "-s", "fd:web", "-r", "nobody", "--intercept", "tproxy", "-R", "-d 10.2.0.5 --dport 80"];
    let kinds = [&[][..], &["--no-conntrack"], &["--no-conntrack", "--source", "client"]];
    for (at, more) in ["127.0.0.1:8084", "127.0.0.1:8085", "127.0.0.1:8086"].into_iter().zip(kinds) {
        let activate = ["systemd-socket-activate", "-l", at, "--fdname=web", env!("CARGO_BIN_EXE_tproxy")];
        let words = [&activate[..], &tproxy, more, &["10.3.0.3", "80"]].concat();
        let manager = super::passed::Running::new(&scene, &words);
        // The first connection starts it; nobody relays it.
        wait::until_true("started and intercepting", || {
            let _ = gateway.connect(at);
            scene.page(MOOSE) == "cow"
        });
        gateway.run(&["conntrack", "-F"]);
        assert_eq!(scene.page(MOOSE), "cow", "{more:?}");
        let entries = gateway.run(&["conntrack", "-L", "-f", "ipv4", "-p", "tcp", "--dport", "80"]);
        assert_eq!(entries.is_empty(), !more.is_empty(), "{more:?}: {entries}");
        drop(manager);
        assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    }
}
