//! `--congestion-control`, and the options of sockets that connections inherit from their listener.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use lab::{clients, report, wait};

/// The congestion control of the gateway's sockets that match this filter of ss(8), each once.
fn algorithms(scene: &Scene, filter: &[&str]) -> Vec<String> {
    let known = sysctl(scene, "net.ipv4.tcp_available_congestion_control");
    let shown = scene.lab.gateway.run(&[&["ss", "-tinH", "state", "established"], filter].concat());
    let mut found: Vec<String> =
        shown.split_whitespace().filter(|word| known.split(' ').any(|name| name == *word)).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn sysctl(scene: &Scene, name: &str) -> String {
    scene.lab.gateway.run(&["sysctl", "-n", name]).trim().to_owned()
}

fn relay(scene: &Scene, algorithm: &[&str]) -> Daemon {
    let begin = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7"];
    scene.relay(&[&begin[..], algorithm, &["10.3.0.3", "7"]].concat())
}

fn echoed(scene: &Scene) -> TcpStream {
    let mut stream = scene.lab.client.enter(|| clients::connect("10.2.0.5:7".parse().unwrap())).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[test]
fn each_side_has_the_congestion_control_that_was_chosen_for_it() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let usual = sysctl(&scene, "net.ipv4.tcp_congestion_control");
    let (client, upstream) = (["sport", "=", ":12970"], ["dport", "=", ":7"]);
    // reno is allowed to everyone on every machine.
    let chosen = format!("reno,{usual}");
    for (algorithm, expected) in [
        (&[][..], [&usual[..], &usual]),
        (&["--congestion-control", "reno"], ["reno", "reno"]),
        (&["--congestion-control", &chosen], ["reno", &usual]),
    ] {
        let mut daemon = relay(&scene, algorithm);
        let stream = echoed(&scene);
        assert_eq!(
            [algorithms(&scene, &client), algorithms(&scene, &upstream)],
            expected.map(|name| vec![name.to_owned()])
        );
        let line = format!("congestion control: {} towards clients, {} towards upstreams", expected[0], expected[1]);
        assert!(daemon.journal.text().contains(&line), "{line}");
        drop(stream);
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_reload_without_the_option_brings_the_usual_congestion_control_back() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let usual = sysctl(&scene, "net.ipv4.tcp_congestion_control");
    let directory = lab::tempdir::TempDir::new();
    let line = "-s 12970 -R '-d moose --dport 7' 10.3.0.3 7\n";
    let path = directory.write("table.conf", &format!("--congestion-control reno\n{line}"));
    let daemon = scene.relay(&["-d", "-r", "nobody", "-c", &path]);
    let first = echoed(&scene);
    assert_eq!(algorithms(&scene, &["sport", "=", ":12970"]), ["reno"]);
    drop(first);
    directory.write("table.conf", line);
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.journal.wait_for("reloaded");
    wait::until_true("the usual one", || {
        let _stream = echoed(&scene);
        algorithms(&scene, &["sport", "=", ":12970"]) == [usual.as_str()]
    });
}

#[test]
fn an_algorithm_that_cannot_be_used_is_refused_before_anything_is_touched() {
    let Some(scene) = Scene::new() else { return };
    let refused = |algorithm: &str| {
        let line = [
            "-d",
            "-s",
            "12970",
            "-r",
            "nobody",
            "-R",
            "--dport 7",
            "--congestion-control",
            algorithm,
            "10.3.0.3",
            "7",
        ];
        let finished = Launch::new(&line).within(&scene.lab.gateway).run();
        assert_eq!(finished.status, 64, "{algorithm}: {}", finished.stderr);
        finished.stderr
    };
    assert!(refused("no-such-thing").contains("--congestion-control: invalid value 'no-such-thing': expected an algorithm that this kernel has (sysctl net.ipv4.tcp_available_congestion_control): "));
    for text in ["", "reno,", "reno,reno,reno", "re no"] {
        assert!(
            refused(text).contains("expected the name of an algorithm such as cubic, or two: CLIENT,UPSTREAM"),
            "{text}"
        );
    }
    let allowed = sysctl(&scene, "net.ipv4.tcp_allowed_congestion_control");
    let known = sysctl(&scene, "net.ipv4.tcp_available_congestion_control");
    let Some(forbidden) = known.split(' ').find(|name| !allowed.split(' ').any(|other| other == *name)) else {
        return report("congestion: every algorithm of this machine is allowed to everyone");
    };
    assert!(
        refused(&format!("reno,{forbidden}")).contains("add it to the sysctl net.ipv4.tcp_allowed_congestion_control")
    );
    // Root may use it towards clients.
    let finished =
        Launch::new(&["--check", "-s", "12970", "--congestion-control", &format!("{forbidden},reno"), "10.3.0.3", "7"]);
    assert_eq!(finished.within(&scene.lab.gateway).run().status, 0);
}

/// Answers each byte with two, the second a moment after the first.
fn answer_in_two_parts(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            stream.set_nodelay(true).unwrap();
            while stream.read_exact(&mut [0]).is_ok() {
                for part in [b"1", b"2"] {
                    if stream.write_all(part).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
    }
}

#[test]
fn answers_through_a_socket_that_was_passed_are_not_held_back() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.cow.enter(|| {
        let listener = TcpListener::bind("0.0.0.0:90").unwrap();
        thread::spawn(move || answer_in_two_parts(&listener));
    });
    let program =
        ["systemd-socket-activate", "-l", "10.1.0.1:8084", env!("CARGO_BIN_EXE_tproxy"), "-d", "-r", "nobody"];
    let _manager = passed::Running::new(&scene, &[&program[..], &["10.3.0.3", "90"]].concat());
    let to = "10.1.0.1:8084".parse().unwrap();
    wait::until_true("the socket", || scene.lab.client.enter(|| clients::connect(to)).is_ok());
    let mut stream = scene.lab.client.enter(|| clients::connect(to)).unwrap();
    let mut times: Vec<Duration> = (0..60)
        .map(|_| {
            let begin = Instant::now();
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    // Nagle's algorithm holds the second part back until the first is acknowledged, 40 ms later.
    assert!(times[45] < Duration::from_millis(25), "{times:?}");
}

#[test]
fn pacing_without_fq_is_hinted_at_once_with_the_interfaces_of_the_clients() {
    let Some(scene) = Scene::new() else { return };
    if !sysctl(&scene, "net.ipv4.tcp_available_congestion_control").contains("bbr") {
        return report("no BBR here");
    }
    let hints = |algorithms: &str, matches: &str| {
        let begin = ["-d", "-s", "12970", "-r", "nobody", "--congestion-control", algorithms, "-R", matches];
        let mut daemon = scene.relay(&[&begin[..], &["10.3.0.3", "7"]].concat());
        let found: Vec<String> = daemon.journal.lines().into_iter().filter(|line| line.contains("hint: ")).collect();
        assert_eq!(daemon.stop(), 0);
        found
    };
    let all = hints("bbr,reno", "-d moose --dport 7");
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("bbr towards clients") && all[0].contains("eth1, eth2, eth3"), "{all:?}");
    let named = hints("bbr,reno", "-i eth1 --dport 7");
    assert!(named[0].contains("missing on eth1;"), "{named:?}");
    assert_eq!(hints("reno,reno", "-d moose --dport 7"), [""; 0]);
    let fq = ["tc", "qdisc", "replace", "dev", "eth1", "root", "fq"];
    if scene
        .lab
        .gateway
        .enter(|| std::process::Command::new(fq[0]).args(&fq[1..]).output())
        .is_ok_and(|done| done.status.success())
    {
        assert_eq!(hints("bbr,reno", "-i eth1 --dport 7"), [""; 0]);
    } else {
        report("no fq here");
    }
}
