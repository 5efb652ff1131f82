//! `HOST same`: one redirection for many ports, relayed or by the kernel alone.

use super::*;
use lab::{clients, rules};

const MATCH: &str = "-d 10.2.0.5,fd00:2::5 -m multiport --dports 80,8001:8003";

/// Three more ports of cow, each with a page of its own.
fn more_of_cow(scene: &Scene) -> Vec<Server> {
    let pages = [("[::]:8001", "cow 8001"), ("[::]:8002", "cow 8002"), ("[::]:8003", "cow 8003")];
    pages.map(|(at, text)| scene.lab.cow.enter(|| Server::page(at, text))).into()
}

/// What a client gets at each port of moose, over both families.
fn pages(scene: &Scene) -> Vec<String> {
    let at = |port: u16| [format!("10.2.0.5:{port}"), format!("[fd00:2::5]:{port}")];
    [80, 8001, 8003].into_iter().flat_map(at).map(|to| scene.page(&to)).collect()
}

const OF_COW: [&str; 6] = ["cow", "cow", "cow 8001", "cow 8001", "cow 8003", "cow 8003"];

#[test]
fn each_connection_is_relayed_to_the_port_that_its_client_asked_for() {
    let Some(scene) = Scene::new() else { return };
    let _more = more_of_cow(&scene);
    let mut daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", MATCH, "cow", "same"]);
    daemon.journal.wait_for("relaying to cow:same (10.3.0.3:same)");
    assert_eq!(pages(&scene), OF_COW);
    let lines = daemon.journal.wait_connections(6);
    for port in [80, 8001, 8003] {
        let upstream = format!("10.3.0.3:{port}");
        let same = |line: &&lab::journal::ConnectionLine| line.upstream == upstream;
        assert!(lines.iter().filter(same).all(|line| line.original.ends_with(&format!(":{port}"))), "{lines:?}");
        assert_eq!(lines.iter().filter(same).count(), 2, "{lines:?}");
    }
    // A connection to the port of -s itself asks for no port of the upstream.
    clients::expect_connect_reset(scene.lab.client.connect("10.1.0.1:12970"));
    assert_eq!(daemon.journal.wait_connections(7)[6].ending, "loop");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn a_port_that_nobody_serves_takes_no_upstream_and_no_redirection_out() {
    let Some(scene) = Scene::new() else { return };
    let _more = more_of_cow(&scene);
    let grace = ["-d", "-s", "12970", "-r", "nobody", "--upstream-grace", "1"];
    let daemon = scene.relay(&[&grace[..], &["-R", MATCH, "moose", "same", "cow", "same"]].concat());
    // moose serves port 80 only: others get the second upstream, and this is not held against the first one.
    for _ in 0..3 {
        assert_eq!([MOOSE, "10.2.0.5:8001", MOOSE].map(|to| scene.page(to)), ["moose", "cow 8001", "moose"]);
    }
    drop(_more);
    for _ in 0..20 {
        clients::expect_connect_reset(scene.lab.client.connect("10.2.0.5:8001"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(scene.page(MOOSE), "moose");
    assert!(rules::jumps_to_ours(&scene.lab.gateway) > 0, "{}", daemon.journal.text());
    assert_eq!(daemon.journal.count("is down") + daemon.journal.count("withdrawn"), 0, "{}", daemon.journal.text());
}

#[test]
fn a_stranger_that_the_balancer_names_brings_its_port() {
    let Some(scene) = Scene::new() else { return };
    let _more = more_of_cow(&scene);
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-a", "10.1.0.2", "--accept-proxy", "cow", "same"]);
    let ask = |header: &str| {
        use std::io::Write;
        let mut stream = scene.lab.client.connect("10.1.0.1:12970").expect("connect");
        stream.write_all(header.as_bytes()).expect("header");
        stream
    };
    let page = clients::ask(ask("PROXY TCP4 192.0.2.1 192.0.2.2 50000 8002\r\n"));
    assert_eq!(page.expect("a page"), "cow 8002");
    clients::expect_reset(&mut ask("PROXY UNKNOWN\r\n"));
    assert_eq!(daemon.journal.wait_connections(2)[1].ending, "loop");
}

#[test]
fn the_kernel_translates_the_address_and_leaves_the_port() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\nfd00:3::3 cow\n");
    let _more = more_of_cow(&scene);
    let before = rules::saved(gateway);
    let mut daemon =
        scene.relay(&["-d", "-r", "nobody", "--kernel", "-R", MATCH, "--reject", "--dport 8000:8003", "cow", "same"]);
    daemon.journal.wait_for("the kernel sends to cow:same (");
    assert!(rules::saved(gateway).contains("tproxy.kernel-same"), "the instance is kernel-same");
    assert_eq!(pages(&scene), OF_COW);
    let direct = scene.lab.client.connect("10.3.0.3:8001").expect_err("rejected");
    assert_eq!(direct.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
}
