//! `--reject` of UDP and `--reject-quic`: the client learns it at once, and nothing passes.

use super::*;
use lab::netns::Net;
use lab::{process, rules, wait};
use nix::sys::signal::Signal;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Says back what it hears, and counts it.
struct Echo {
    heard: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn new(net: &Net, port: u16) -> Echo {
        let (heard, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&heard), Arc::clone(&over));
        let socket = net.enter(|| UdpSocket::bind(("::", port)).expect("UDP port"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(&bytes[..length], peer);
                }
            }
        });
        Echo { heard, over, thread: Some(thread) }
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn socket(net: &Net, to: &str) -> UdpSocket {
    let socket = net.enter(|| {
        let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).expect("socket");
        socket.connect(to).expect("connect");
        socket
    });
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    socket
}

/// Sends until there is an answer (true) or a refusal (false). The kernel limits how many refusals a host gets.
fn talk(socket: &UdpSocket) -> bool {
    wait::until("an answer or a refusal", || {
        let answer = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 64]));
        match answer {
            Ok(_) => Some(true),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(false),
            // What local rules reject.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(false),
            Err(_) => None,
        }
    })
}

fn passes(net: &Net, to: &str) -> bool {
    talk(&socket(net, to))
}

const MOOSE_QUIC: [&str; 2] = ["10.2.0.5:443", "[fd00:2::5]:443"];

#[test]
fn udp_is_refused_through_the_gateway_and_to_it_and_nothing_of_it_arrives() {
    let Some(scene) = Scene::new() else { return };
    let (client, gateway) = (&scene.lab.client, &scene.lab.gateway);
    let (moose, here) = (Echo::new(&scene.lab.moose, 443), Echo::new(gateway, 443));
    let other = Echo::new(&scene.lab.moose, 53);
    let targets = [MOOSE_QUIC[0], MOOSE_QUIC[1], "10.1.0.1:443", "[fd00:1::1]:443"];
    // They were there before the rules.
    let old: Vec<UdpSocket> = targets.iter().map(|to| socket(client, to)).collect();
    assert!(old.iter().all(talk));
    let before = rules::saved(gateway);
    let heard = (moose.heard(), here.heard());
    let args = ["-d", "-s", "12970", "-r", "nobody", "--verify", "1", "--reject", "-p udp --dport 443"];
    let mut daemon = scene.relay(&[&args[..], &["-R", "-d moose --dport 80", "cow", "80"]].concat());
    for (to, old) in targets.iter().zip(&old) {
        assert!(!passes(client, to) && !talk(old), "{to}");
    }
    assert_eq!((moose.heard(), here.heard()), heard);
    assert!(passes(client, "10.2.0.5:53") && passes(client, "[fd00:2::5]:53"), "other ports are not concerned");
    assert!(passes(gateway, MOOSE_QUIC[0]), "this host itself, without -O");
    assert_eq!(scene.page(MOOSE), "cow");
    // Flushed by another program.
    if rules::is_nft() {
        super::interception::kill_owner(&daemon);
    } else {
        for tool in ["iptables", "ip6tables"] {
            gateway.run(&[tool, "-w", "-F", "FORWARD"]);
            gateway.run(&[tool, "-w", "-F", "tproxy.12970"]);
        }
        daemon.journal.wait_for("filter: chain tproxy.12970 has been emptied");
    }
    wait::until_true("the rules are put back", || !passes(client, MOOSE_QUIC[0]) && !passes(client, MOOSE_QUIC[1]));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
    assert!(targets.iter().all(|to| passes(client, to)) && old.iter().all(talk));
    assert!(other.heard() >= 2);
}

#[test]
fn answers_of_a_host_whose_udp_is_rejected_still_reach_who_has_asked() {
    let Some(scene) = Scene::new() else { return };
    let (moose, client) = (Echo::new(&scene.lab.moose, 53), Echo::new(&scene.lab.client, 53));
    let reject = ["--reject", "-p udp -s 10.2.0.5", "--reject", "-p udp -s fd00:2::5"];
    let args = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80"];
    let _daemon = scene.relay(&[&args[..], &reject, &["cow", "80"]].concat());
    for (to, back) in [("10.2.0.5:53", "10.1.0.2:53"), ("[fd00:2::5]:53", "[fd00:1::2]:53")] {
        assert!(passes(&scene.lab.client, to), "an answer to {to}");
        assert!(!passes(&scene.lab.moose, back), "a question from {to}");
    }
    assert!(moose.heard() >= 2 && client.heard() == 0);
}

#[test]
fn http3_of_what_is_redirected_is_refused_and_of_what_is_exempt_is_not() {
    let Some(scene) = Scene::new() else { return };
    let (client, gateway) = (&scene.lab.client, &scene.lab.gateway);
    client.run(&["ip", "addr", "add", "10.1.0.9/24", "dev", "eth0"]);
    let moose = Echo::new(&scene.lab.moose, 443);
    let cow = Echo::new(&scene.lab.cow, 443);
    let before = rules::saved(gateway);
    let redirect = ["-X", "-s 10.1.0.9", "-R", "-d moose,fd00:2::5 -m multiport --dports 80,443"];
    let args = [&["-d", "-s", "12970", "-r", "nobody", "-O"][..], &redirect, &["--reject-quic", "cow", "80"]].concat();
    let daemon = scene.relay(&args);
    assert!(!passes(client, MOOSE_QUIC[0]) && !passes(client, MOOSE_QUIC[1]));
    assert!(!passes(gateway, MOOSE_QUIC[0]) && !passes(gateway, MOOSE_QUIC[1]), "with -O this host, too");
    assert_eq!(moose.heard(), 0);
    assert!(passes(client, "10.3.0.3:443") && cow.heard() > 0, "the match names moose only");
    let exempt = client.enter(|| UdpSocket::bind("10.1.0.9:0").expect("socket"));
    exempt.connect(MOOSE_QUIC[0]).expect("connect");
    exempt.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    assert!(talk(&exempt));
    assert_eq!((scene.page(MOOSE), scene.page(MOOSE6)), ("cow".into(), "cow".into()));
    // Whoever dies, and whoever starts again: nothing passes.
    let workers = daemon.family.named("tproxy-worker");
    workers.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
    assert!(!passes(client, MOOSE_QUIC[0]));
    // Rules of nft go with the last process.
    wait::until_true("other workers", || daemon.family.named("tproxy-worker").iter().any(|pid| !workers.contains(pid)));
    process::signal(daemon.family.guardian(), Signal::SIGKILL);
    assert!(!passes(client, MOOSE_QUIC[0]));
    let mut next = scene.relay(&args);
    assert!(!passes(client, MOOSE_QUIC[0]));
    assert_eq!(next.stop(), 0);
    daemon.family.wait_gone();
    assert_eq!(rules::saved(gateway), before);
    assert!(passes(client, MOOSE_QUIC[0]));
}
