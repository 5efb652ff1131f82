//! Where clients may not go through the gateway, in whatever form they write it and whatever makes it the gateway's own.

use super::Scene;
use lab::clients;
use lab::daemon::{Daemon, Launch};
use lab::netns::Net;
use lab::servers::Server;
use lab::wait;
use std::io::Write;

/// `ip` with these words, split at blanks.
fn ip(net: &Net, words: &str) {
    let words: Vec<&str> = words.split_whitespace().collect();
    net.run(&[&["ip"], &words[..]].concat());
}

/// The client is reset, and the log says where it wanted to go and why it may not.
fn expect_forbidden(scene: &Scene, daemon: &Daemon, to: &str, ground: &str) {
    clients::expect_connect_reset(scene.lab.client.connect(to));
    let line = || daemon.journal.connections().into_iter().find(|line| line.original == to);
    let line = wait::until(to, line);
    assert_eq!((line.ending, line.upstream.as_str()), (format!("forbidden: {ground}"), "-"), "{to}");
}

#[test]
fn what_the_routing_table_calls_local_is_not_reached_from_outside() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for words in [
        "addr add 10.1.0.77/24 dev eth1",
        "addr add 10.1.0.78/32 dev eth1",
        "addr add fd00:1::77/64 dev eth1 nodad preferred_lft 0",
        "route add local 10.71.0.0/16 dev lo",
        "route add local 10.72.0.1 dev eth2 src 10.2.0.1",
        "route add local 10.73.0.0/16 dev lo table 100",
        "rule add to 10.73.0.0/16 lookup 100",
        "route add local 10.74.0.0/16 dev lo table 101",
        "rule add ipproto tcp dport 80 lookup 101",
        "route add local 10.75.0.0/16 dev lo table 102",
        "rule add uidrange 65534-65534 lookup 102",
        "-6 route add local fd00:71::/64 dev lo",
        "-6 route add local fd00:74::/64 dev lo table 101",
        "-6 rule add ipproto tcp dport 80 lookup 101",
    ] {
        ip(gateway, words);
    }
    let (_server, accepted) = gateway.enter(|| Server::handing_over("[::]:80"));
    let daemon = scene.relay(&["-d", "-s", "8081", "-r", "nobody", "-t", "--deny", "10.8.0.0/16", "-R", "--dport 80"]);
    for own in [
        "10.1.0.1",
        "10.3.0.1",
        "10.1.0.77",
        "10.1.0.78",
        "10.71.2.3",
        "10.72.0.1",
        "10.73.1.1",
        "10.74.1.1",
        "10.75.1.1",
        "[fd00:1::1]",
        "[fd00:1::77]",
        "[fd00:71::abcd]",
        "[fd00:74::1]",
        "[fd00:2::]",
        "[64:ff9b::a01:1]",
        "[64:ff9b::a47:101]",
        "[2002:a01:1::1]",
        "[64:ff9b:1::a01:4d]",
    ] {
        expect_forbidden(&scene, &daemon, &format!("{own}:80"), "address of this host");
    }
    for nobody in ["10.2.0.255", "[64:ff9b::e000:1]"] {
        expect_forbidden(&scene, &daemon, &format!("{nobody}:80"), "address of no host");
    }
    accepted.try_recv().expect_err("nobody has reached the gateway");
    assert_eq!([scene.page("10.2.0.5:80"), scene.page("[fd00:2::5]:80")], ["moose", "moose"], "others are reached");
    ip(gateway, "route add local 10.2.0.5 dev lo");
    clients::expect_connect_reset(scene.lab.client.connect("10.2.0.5:80"));
    accepted.try_recv().expect_err("nobody has reached the gateway");
}

#[test]
fn a_denied_network_is_denied_in_every_form_that_stands_for_it() {
    let Some(scene) = Scene::new() else { return };
    // moose translates: it answers for all of these.
    for net in ["64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fd00:5efe::/64", "::ffff:0:0:0/96"] {
        ip(&scene.lab.gateway, &format!("-6 route add {net} via fd00:2::5"));
        ip(&scene.lab.moose, &format!("-6 route add local {net} dev lo"));
    }
    let daemon = scene.relay(&["-d", "-s", "8081", "-r", "nobody", "-t", "--deny", "10.9.0.0/16", "-R", "--dport 80"]);
    let forms = |second: &str| {
        [
            format!("[64:ff9b::a{second}:1]:80"),
            format!("[64:ff9b:1::a{second}:1]:80"),
            format!("[64:ff9b:1:2:3:4:a{second}:1]:80"),
            format!("[64:ff9b:1:a{second}:0:100::]:80"),
            format!("[2002:a{second}:1::1]:80"),
            format!("[::ffff:0:a{second}:1]:80"),
            format!("[fd00:5efe::5efe:a{second}:1]:80"),
            format!("[fd00:5efe::200:5efe:a{second}:1]:80"),
        ]
    };
    for to in forms("09") {
        expect_forbidden(&scene, &daemon, &to, "in --deny");
    }
    // The client's address is inverted in Teredo's.
    expect_forbidden(&scene, &daemon, "[2001:0:c000:201::f5f6:fffe]:80", "in --deny");
    for to in forms("08") {
        assert_eq!(scene.page(&to), "moose", "{to}");
    }
    expect_forbidden(&scene, &daemon, "[64:ff9b::7f00:1]:80", "loopback address");
    expect_forbidden(&scene, &daemon, "[64:ff9b::a9fe:a9fe]:80", "link-local address");
    expect_forbidden(&scene, &daemon, "[2002:7f00:1::1]:80", "loopback address");
}

/// A client on the machine of the balancer is no client on this one, whatever its address is.
#[test]
fn a_balancer_elsewhere_does_not_make_a_client_local() {
    let Some(scene) = Scene::new() else { return };
    let (_server, accepted) = scene.lab.gateway.enter(|| Server::handing_over("[::]:80"));
    for to in ["-t", "--via connect 10.2.0.5 9", "--fallback 10.2.0.5 9"] {
        let options = format!("-d -s 8081 -r nobody -a 10.1.0.2 --accept-proxy {to}");
        let mut daemon = Launch::line(&options).within(&scene.lab.gateway).ready();
        for (client, own) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "10.1.0.1"), ("10.1.0.1", "10.2.0.1")] {
            let mut stream = scene.lab.client.connect("10.1.0.1:8081").expect("connect");
            stream.write_all(format!("PROXY TCP4 {client} {own} 7000 80\r\n").as_bytes()).expect("header");
            clients::expect_reset(&mut stream);
        }
        accepted.try_recv().expect_err(to);
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_destination_without_a_way_is_not_taken_for_our_own() {
    let Some(scene) = Scene::new() else { return };
    for kind in ["blackhole", "prohibit", "unreachable", "throw"] {
        ip(&scene.lab.gateway, &format!("route add {kind} 10.66.0.1"));
        ip(&scene.lab.gateway, &format!("-6 route add {kind} fd00:66::1"));
        let daemon = scene.relay(&["-d", "-s", "8081", "-r", "nobody", "-t", "-R", "--dport 80"]);
        for to in ["10.66.0.1:80", "[fd00:66::1]:80"] {
            clients::expect_connect_reset(scene.lab.client.connect(to));
            let line = || daemon.journal.connections().into_iter().find(|line| line.original == to);
            let ending = wait::until(to, line).ending;
            assert!(ending.starts_with("connect failed: "), "{kind} {to}: {ending}");
        }
        assert_eq!(scene.page("10.2.0.5:80"), "moose", "others are served");
        ip(&scene.lab.gateway, &format!("route del {kind} 10.66.0.1"));
        ip(&scene.lab.gateway, &format!("-6 route del {kind} fd00:66::1"));
        drop(daemon);
    }
}
