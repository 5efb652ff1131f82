//! Redirections that are taken away while connections are established: new ones reach moose, or are refused; the
//! established ones go on, whatever has taken the redirection away and whatever has installed it.

use super::*;
use lab::controller;
use lab::tempdir::TempDir;
use lab::{clients, process, rules, wait};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Where clients go.
const ECHO: &str = "10.2.0.5:7";

/// A gateway that relays port 7 of moose to an echo server on cow. moose itself speaks first.
struct Site {
    scene: Scene,
    daemon: Daemon,
    directory: TempDir,
    _servers: [Server; 2],
}

impl Site {
    fn new(options: &str) -> Option<Site> {
        let scene = Scene::new()?;
        let directory = TempDir::new();
        let servers = [
            scene.lab.cow.enter(|| Server::echo("0.0.0.0:7")),
            scene.lab.moose.enter(|| {
                Server::threaded("0.0.0.0:7", |mut stream| {
                    let _ = stream.write_all(b"moose").and_then(|()| stream.read(&mut [0; 16]));
                })
            }),
        ];
        let line = format!("-d -s 12970 -r nobody --upstream-grace 1 --control {}", directory.file("c.sock"));
        let words = [line.as_str(), options].join(" ");
        let words: Vec<&str> = words.split(' ').collect();
        let daemon = scene.relay(&[&words[..], &["-R", "-d moose --dport 7", "10.3.0.3", "7"]].concat());
        Some(Site { scene, daemon, directory, _servers: servers })
    }

    /// A connection that has moved something.
    fn established(&self) -> TcpStream {
        let mut stream = self.scene.lab.client.connect(ECHO).expect("connect");
        clients::round_trip(&mut stream, b"before").expect("echo");
        stream
    }

    /// Who answers a new client.
    fn new_client(&self) -> String {
        let answer = self.scene.lab.client.connect(ECHO).and_then(|mut stream| {
            let mut answer = [0; 5];
            stream.write_all(b"hello")?;
            stream.read_exact(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        });
        answer.unwrap_or_else(|error| format!("({:?})", error.kind()))
    }

    fn control(&self, words: &str) -> String {
        controller::run(&self.directory.file("c.sock"), words).succeeded()
    }

    /// From now on cow refuses new connections. Those that it has go on.
    fn refuse_at_cow(&self) {
        let rule = "iptables -w -A INPUT -p tcp --syn --dport 7 -j REJECT --reject-with tcp-reset";
        self.scene.lab.cow.run(&rule.split(' ').collect::<Vec<_>>());
    }
}

/// Small messages, and more than one segment.
fn expect_going_on(stream: &mut TcpStream, when: &str) {
    for message in [&b"after"[..], &[7; 20_000], b"end"] {
        clients::round_trip(stream, message).unwrap_or_else(|error| panic!("{when}: {error}"));
    }
}

fn connections_outlive_their_redirection(options: &str) {
    let Some(site) = Site::new(options) else { return };
    let mut held = site.established();
    assert_eq!(site.control("redirection disable 1"), "ok: redirection 1 is disabled\n");
    assert_eq!(site.new_client(), "moose");
    expect_going_on(&mut held, "disabled");
    assert_eq!(site.control("redirection enable 1"), "ok: redirection 1 is enabled\n");
    assert_eq!(site.new_client(), "hello");
    expect_going_on(&mut held, "enabled again");
    site.refuse_at_cow();
    wait::until_true("the redirection is withdrawn", || site.new_client() == "moose");
    wait::until_true("it is known", || site.control("show redirections").contains("withdrawn"));
    expect_going_on(&mut held, "withdrawn");
}

#[test]
fn connections_outlive_a_redirect_of_iptables() {
    connections_outlive_their_redirection("--firewall iptables --intercept redirect");
}

#[test]
fn connections_outlive_a_redirect_of_nft() {
    connections_outlive_their_redirection("--firewall nft --intercept redirect");
}

#[test]
fn connections_outlive_an_interception() {
    connections_outlive_their_redirection("--firewall iptables --intercept tproxy");
    connections_outlive_their_redirection("--firewall nft --intercept tproxy");
}

#[test]
fn connections_outlive_an_interception_that_is_not_tracked() {
    connections_outlive_their_redirection("--firewall iptables --intercept tproxy --no-conntrack");
}

#[test]
fn connections_outlive_a_redirect_that_becomes_a_reject_and_the_reject_outlives_all() {
    for firewall in ["iptables", "nft"] {
        let Some(site) = Site::new(&format!("--fail closed --firewall {firewall}")) else { return };
        let mut held = site.established();
        site.refuse_at_cow();
        wait::until_true("new connections are refused", || site.new_client() == "(ConnectionRefused)");
        expect_going_on(&mut held, firewall);
        let all = site.daemon.family.pids();
        all.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
        site.daemon.family.wait_gone();
        assert_eq!(site.new_client(), "(ConnectionRefused)", "{firewall}");
    }
}

#[test]
fn connections_outlive_a_reload_that_ends_their_redirection_and_an_upgrade_after_it() {
    let (ended, intercepted) = ("", "--intercept tproxy -R '-d moose --dport 7'");
    for (firewall, next) in [("iptables", ended), ("nft", ended), ("iptables", intercepted), ("nft", intercepted)] {
        let Some(scene) = Scene::new() else { return };
        scene.lab.gateway.hosts("10.2.0.5 moose\nfd00:2::5 moose\n");
        let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
        let directory = TempDir::new();
        let process = format!("-r nobody --firewall {firewall}\n");
        let text = |redirection: &str| format!("{process}-s 12970 {redirection} 10.3.0.3 7\n");
        let file = directory.write("table.conf", &text("-R '-d moose --dport 7'"));
        let mut daemon = scene.relay(&["-d", "-c", &file]);
        let mut held = [ECHO, "[fd00:2::5]:7"].map(|to| scene.lab.client.connect(to).expect("connect"));
        held.iter_mut().for_each(|stream| clients::round_trip(stream, b"before").expect("echo"));
        directory.write("table.conf", &text(next));
        for (signal, said) in [(Signal::SIGHUP, "reloaded:"), (Signal::SIGUSR2, "upgraded to ")] {
            daemon.signal(signal);
            daemon.journal.wait_for(said);
            held.iter_mut().for_each(|stream| expect_going_on(stream, &format!("{firewall}: {said}")));
        }
        drop(held);
        let saved = || rules::saved_with_routing(&scene.lab.gateway);
        wait::until_true("no redirect is left then", || !saved().to_lowercase().contains("redirect"));
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
    }
}
