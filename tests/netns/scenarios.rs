//! The scenarios of the man page, as clients see them.

use super::{MOOSE, MOOSE6, Scene};
use lab::{clients, rules, wait};

#[test]
fn stand_in_server_answers_for_the_one_that_is_down() {
    let Some(scene) = Scene::new() else { return };
    assert_eq!(scene.page(MOOSE), "moose");
    let mut daemon = scene.stand_in();
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn stand_in_server_answers_over_ipv6() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon =
        scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d fd00:2::5 --dport 80", "fd00:3::3", "80"]);
    assert_eq!(scene.page(MOOSE6), "cow");
    assert_eq!(scene.page(MOOSE), "moose", "the match names an IPv6 address only");
    let line = daemon.journal.wait_connections(1).remove(0);
    assert_eq!((line.original.as_str(), line.upstream.as_str()), (MOOSE6, "[fd00:3::3]:80"));
    assert!(line.client.starts_with("[fd00:1::2]:") && line.local.starts_with("[fd00:3::1]:"), "{line:?}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(scene.page(MOOSE6), "moose");
}

#[test]
fn a_match_without_an_address_catches_both_families() {
    let Some(scene) = Scene::new() else { return };
    let _daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "--dport 80", "10.3.0.3", "80"]);
    assert_eq!((scene.page(MOOSE), scene.page(MOOSE6)), ("cow".into(), "cow".into()));
}

#[test]
fn what_does_not_match_passes_by() {
    let Some(scene) = Scene::new() else { return };
    let _other = scene.lab.moose.enter(|| super::Server::page("[::]:8080", "moose 8080"));
    let daemon = scene.stand_in();
    assert_eq!(scene.page("10.2.0.5:8080"), "moose 8080");
    assert_eq!(scene.page("10.3.0.3:80"), "cow");
    assert_eq!(daemon.journal.connections().len(), 0, "nothing of this was ours");
}

#[test]
fn the_log_names_both_ends_of_a_redirected_connection() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let stream = scene.lab.client.connect(MOOSE).expect("connect");
    let client = stream.local_addr().expect("address");
    assert_eq!(clients::ask(stream).expect("page"), "cow");
    let line = daemon.journal.wait_connection_of(client);
    assert_eq!(
        (line.original.as_str(), line.upstream.as_str(), line.ending.as_str()),
        (MOOSE, "10.3.0.3:80", "finished")
    );
    assert!(line.local.starts_with("10.3.0.1:"), "{line:?}");
    assert_eq!(line.up, 18, "{line:?}");
}

#[test]
fn transparent_mode_relays_to_where_each_was_going() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&["-d", "-s", "8081", "-t", "-R", "--dport 80"]);
    assert_eq!(scene.page(MOOSE), "moose");
    assert_eq!(scene.page("10.3.0.3:80"), "cow");
    assert_eq!(scene.page(MOOSE6), "moose");
    let lines = daemon.journal.wait_connections(3);
    assert!(lines.iter().all(|line| line.original == line.upstream), "{lines:?}");
    let mut seen: Vec<&str> = lines.iter().map(|line| line.original.as_str()).collect();
    seen.sort_unstable();
    assert_eq!(seen, [MOOSE, "10.3.0.3:80", MOOSE6]);
}

#[test]
fn a_rule_made_by_hand_is_served_and_left_alone() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let redirect = ["iptables -w -t nat -A PREROUTING -p tcp -d 10.2.0.5 --dport 80 -j REDIRECT --to-ports 12970"];
    let tproxy = [
        "ip rule add fwmark 0x5/0x5 lookup 5",
        "ip route add local default dev lo table 5",
        "iptables -w -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-xmark 0x5/0x5",
        "iptables -w -t mangle -A PREROUTING -p tcp --syn -d 10.2.0.5 --dport 80 \
         -j TPROXY --on-port 12970 --tproxy-mark 0x5/0x5",
        "iptables -w -t nat -F",
    ];
    for (kind, by_hand) in [("redirect", &redirect[..]), ("tproxy", &tproxy)] {
        by_hand.iter().for_each(|command| drop(gateway.run(&command.split_whitespace().collect::<Vec<_>>())));
        let before = rules::saved_with_routing(gateway);
        let mut daemon = scene.relay(&["-d", "-s", "12970", "--intercept", kind, "10.3.0.3", "80"]);
        assert_eq!(rules::saved_with_routing(gateway), before, "{kind}: while it runs");
        assert_eq!(scene.page(MOOSE), "cow", "{kind}");
        assert_eq!(daemon.journal.wait_connections(1)[0].original, MOOSE, "{kind}");
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before, "{kind}: after its end");
    }
}

#[test]
fn exemption_before_redirection_wins_and_after_it_loses() {
    let Some(scene) = Scene::new() else { return };
    let upstream = ["10.3.0.3", "80"];
    let before = ["-d", "-s", "12970", "-X", "-s 10.1.0.0/24", "-R", "-d moose --dport 80"];
    let mut daemon = scene.relay(&[&before[..], &upstream].concat());
    assert_eq!(scene.page(MOOSE), "moose");
    assert_eq!(daemon.stop(), 0);
    let after = ["-d", "-s", "12970", "-R", "-d moose --dport 80", "-X", "-s 10.1.0.0/24"];
    let _daemon = scene.relay(&[&after[..], &upstream].concat());
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn a_negated_match_works() {
    let Some(scene) = Scene::new() else { return };
    let _daemon = scene.relay(&["-d", "-s", "12970", "-R", "! -d 10.3.0.0/24 --dport 80", "10.3.0.3", "80"]);
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn own_connections_are_redirected_with_output_but_not_the_relays_own() {
    let Some(scene) = Scene::new() else { return };
    // The upstream's port is inside the match: without an exemption the relay would catch itself.
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-O", "-R", "--dport 80", "cow", "80"]);
    let gateway = &scene.lab.gateway;
    assert_eq!(gateway.fetch(MOOSE).expect("from the gateway itself"), "cow");
    assert_eq!(gateway.fetch(MOOSE6).expect("from the gateway itself, IPv6"), "cow");
    assert_eq!(scene.page(MOOSE), "cow");
    let lines = daemon.journal.wait_connections(3);
    assert_eq!(lines.len(), 3, "three connections, three lines: {lines:?}");
    assert!(lines.iter().all(|line| line.ending == "finished"), "{lines:?}");
}

#[test]
fn own_connections_are_left_alone_without_output() {
    let Some(scene) = Scene::new() else { return };
    let _daemon = scene.stand_in();
    assert_eq!(scene.lab.gateway.fetch(MOOSE).expect("from the gateway itself"), "moose");
}

#[test]
fn a_redirected_source_that_is_not_allowed_is_reset() {
    let Some(scene) = Scene::new() else { return };
    let daemon =
        scene.relay(&["-d", "-s", "12970", "-a", "10.7.0.0/16", "-R", "-d moose --dport 80", "10.3.0.3", "80"]);
    clients::expect_connect_reset(scene.lab.client.connect(MOOSE));
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "denied");
}

#[test]
fn connections_that_were_there_before_the_rules_go_on() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.moose.enter(|| super::Server::echo("[::]:7"));
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"before").expect("echo");
    let mut daemon = scene.relay(&["-d", "-s", "12970", "-R", "-d moose --dport 7", "10.3.0.3", "80"]);
    clients::round_trip(&mut stream, b"while").expect("echo");
    assert_eq!(daemon.stop(), 0);
    clients::round_trip(&mut stream, b"after").expect("echo");
}

#[test]
fn established_connections_keep_flowing_while_the_daemon_drains() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| super::Server::echo("[::]:7"));
    let _moose = scene.lab.moose.enter(|| super::Server::page("[::]:7", "moose"));
    let mut daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"]);
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"before").expect("echo");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    wait::until_true("the rules go first", || rules::jumps_to_ours(&scene.lab.gateway) == 0);
    assert_eq!(scene.page("10.2.0.5:7"), "moose", "new connections go where they wanted to");
    clients::round_trip(&mut stream, b"draining").expect("the old connection still flows");
    drop(stream);
    assert_eq!(daemon.wait(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn a_restart_while_the_old_daemon_drains_keeps_the_new_ones_rules() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let _echo = scene.lab.cow.enter(|| super::Server::echo("[::]:7"));
    let args = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"];
    let mut old = scene.relay(&args);
    let running = rules::saved(gateway);
    let mut draining = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut draining, b"before").expect("echo");
    old.signal(nix::sys::signal::Signal::SIGTERM);
    old.journal.wait_for("stopping");
    wait::until_true("the rules go first", || rules::jumps_to_ours(gateway) == 0);
    let mut new = scene.relay(&args);
    clients::round_trip(&mut draining, b"draining").expect("the old connection still flows");
    drop(draining);
    assert_eq!(old.wait(), 0);
    assert_eq!(rules::saved(gateway), running, "after the end of the old daemon");
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"new").expect("the new daemon");
    drop(stream);
    assert_eq!(new.stop(), 0);
    assert_eq!(rules::count_of_ours(gateway), 0);
}

#[test]
fn a_host_without_ipv6_relays_ipv4() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.sysctl(&["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.lo.disable_ipv6=1"]);
    let mut daemon = scene.stand_in();
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn listening_on_one_address_serves_what_comes_in_there() {
    let Some(scene) = Scene::new() else { return };
    // REDIRECT sends a packet to the primary address of the interface that it came in on: 10.1.0.1.
    let _daemon = scene.relay(&["-d", "-b", "10.1.0.1", "-s", "12970", "-R", "-d moose --dport 80", "10.3.0.3", "80"]);
    assert_eq!(scene.page(MOOSE), "cow");
}
