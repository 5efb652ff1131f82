//! Started by others: a real inetd, and a real systemd-socket-activate.

use std::process::{Child, Command, Stdio};

use super::Scene;
use lab::report;
use lab::tempdir::TempDir;
use lab::{process, wait};

const TPROXY: &str = env!("CARGO_BIN_EXE_tproxy");

/// A program on the gateway, ended by its process id.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(scene: &Scene, words: &[&str]) -> Running {
        let name = scene.lab.gateway.name.as_str();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).args(words).stdin(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().expect("spawn"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in process::children(self.0.id() as i32) {
            process::signal(child, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn inetd_hands_over_connections_and_listening_sockets() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    // goat does not resolve.
    let line = |port, wait, hosts| format!("{port} stream tcp {wait} root {TPROXY} tproxy {hosts}\n");
    let text = line(8081, "nowait", "goat 80 10.3.0.3 80") + &line(8082, "wait", "goat 80 10.3.0.3 80");
    let _inetd = Running::new(&scene, &["inetd", "-i", &directory.write("inetd.conf", &text)]);
    wait::until_true("inetd", || scene.page("10.1.0.1:8081") == "cow");
    for _ in 0..10 {
        assert_eq!(scene.page("10.1.0.1:8081"), "cow", "nowait");
        assert_eq!(scene.page("10.1.0.1:8082"), "cow", "wait");
    }
}

#[test]
fn a_service_manager_hands_over_sockets_by_name() {
    let Some(scene) = Scene::new() else { return };
    let manager = Running::new(
        &scene,
        &[
            "systemd-socket-activate",
            "-l",
            "10.1.0.1:8083",
            "--fdname=web",
            TPROXY,
            "-d",
            "-r",
            "nobody",
            "-s",
            "fd:web",
            "10.3.0.3",
            "80",
        ],
    );
    wait::until_true("the socket", || scene.page("10.1.0.1:8083") == "cow");
    assert_eq!(scene.page("10.1.0.1:8083"), "cow");
    report("passed: inetd nowait and wait, systemd-socket-activate");
    drop(manager);
}

/// systemd-socket-activate on the gateway, with this socket and these arguments.
fn activated(scene: &Scene, socket: &str, args: &[&str]) -> Running {
    let program = ["systemd-socket-activate", "-l", socket, TPROXY, "-d", "-r", "nobody"];
    Running::new(scene, &[&program[..], args].concat())
}

#[test]
fn a_passed_socket_is_redirected_to_in_each_family_that_it_takes() {
    let Some(scene) = Scene::new() else { return };
    let redirected = ["-R", "--dport 80", "10.3.0.3", "80"];
    let manager = activated(&scene, "[::]:8085", &redirected);
    // It starts with the first connection.
    wait::until_true("a start", || scene.page("10.1.0.1:8085") == "cow");
    wait::until_true("both families", || scene.page(super::MOOSE) == "cow" && scene.page(super::MOOSE6) == "cow");
    drop(manager);
    // It was killed.
    assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    let manager = activated(&scene, "0.0.0.0:8086", &redirected);
    wait::until_true("a start", || scene.page("10.1.0.1:8086") == "cow");
    wait::until_true("IPv4", || scene.page(super::MOOSE) == "cow");
    assert_eq!(scene.page(super::MOOSE6), "moose");
    drop(manager);
}

#[test]
fn a_passed_socket_that_redirected_connections_cannot_reach_is_an_error() {
    let Some(scene) = Scene::new() else { return };
    let mut manager = activated(&scene, "127.0.0.1:8087", &["-R", "--dport 80", "10.3.0.3", "80"]);
    wait::until_true("a start", || scene.lab.gateway.connect("127.0.0.1:8087").is_ok());
    let status = wait::until("the end", || manager.0.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(64));
    assert_eq!(lab::rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn a_socket_for_both_families_knows_where_its_ipv4_clients_were_going() {
    let Some(scene) = Scene::new() else { return };
    let rule = ["-p", "tcp", "-d", "10.2.0.5", "--dport", "80", "-j", "REDIRECT", "--to-ports", "8084"];
    let program = [TPROXY, "-d", "-r", "nobody", "-t", "--only-redirected"];
    scene.lab.gateway.run(&[&["iptables", "-w", "-t", "nat", "-A", "PREROUTING"], &rule[..]].concat());
    let manager = Running::new(&scene, &[&["systemd-socket-activate", "-l", "[::]:8084"], &program[..]].concat());
    wait::until_true("moose's page", || scene.page(super::MOOSE) == "moose");
    drop(manager);
}

#[test]
fn a_service_manager_that_accepts_hands_over_each_connection() {
    let Some(scene) = Scene::new() else { return };
    // Standard error of the unit is the journal, or the connection (StandardInput=socket).
    let socket = ["sh", "-c", "exec \"$0\" \"$@\" <&3 >&3 2>&3"];
    for (port, before) in [("8085", &[][..]), ("8086", &socket[..])] {
        for options in [&["-d"][..], &[]] {
            let program = [before, &[TPROXY], options, &["10.3.0.3", "80"]].concat();
            let address = format!("10.1.0.1:{port}");
            let words = [&["systemd-socket-activate", "--accept", "-l", &address], &program[..]].concat();
            let manager = Running::new(&scene, &words);
            wait::until_true("the socket", || scene.page(&address) == "cow");
            assert_eq!(scene.page(&address), "cow", "{program:?}");
            drop(manager);
        }
    }
}

#[test]
fn what_is_passed_and_no_tcp_listener_is_one_sentence() {
    let Some(scene) = Scene::new() else { return };
    let (directory, accepting) = (TempDir::new(), "10.1.0.1:8087");
    let unix = directory.file("socket");
    let table: [(&[&str], &[&str], &str); 4] = [
        (&["-l", &unix], &["10.3.0.3", "80"], "descriptor 3, which was passed as a socket, is a Unix socket"),
        (&["-d", "-l", "10.1.0.1:8088"], &["10.3.0.3", "80"], "is a socket of another protocol"),
        (&["--accept", "-l", accepting], &["-s", "8089", "10.3.0.3", "80"], "a connection was passed"),
        (&["--accept", "-l", accepting], &["-t", "-R", "--dport 80"], "a connection was passed"),
    ];
    for (manager, options, expected) in table {
        let log = directory.file("log");
        let script = format!("exec \"$0\" \"$@\" 2>>{log}");
        let words = [&["systemd-socket-activate"], manager, &["sh", "-c", &script, TPROXY, "-d"], options].concat();
        let running = Running::new(&scene, &words);
        wait::until_true(expected, || {
            let _ = scene.lab.client.connect(accepting);
            let _ = std::os::unix::net::UnixStream::connect(&unix);
            let _ = scene.lab.client.enter(|| {
                let socket = std::net::UdpSocket::bind("10.1.0.2:0")?;
                socket.send_to(b"x", "10.1.0.1:8088")
            });
            std::fs::read_to_string(&log).unwrap_or_default().contains(expected)
        });
        drop(running);
        std::fs::remove_file(&log).expect("log");
    }
}
