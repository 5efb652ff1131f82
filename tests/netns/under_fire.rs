//! Rules under fire: every process is killed at any moment, or others flush all rules, while clients connect.

use super::{MOOSE, Scene};
use lab::daemon::Daemon;
use lab::dice::Dice;
use lab::tempdir::TempDir;
use lab::{AtEnd, clients, number_from_env, process, report, rules, wait};
use nix::sys::signal::Signal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment of a daemon's life, from its first process on.
const LIFE: u64 = 600;

/// What a client got: when it began, and the page or the error.
type Visit = (Instant, String);

/// Clients that ask moose for a page, one after the other, until `work` is done.
fn under_load(scene: &Scene, work: impl FnOnce(&Mutex<Vec<Visit>>)) -> Vec<Visit> {
    let (over, visits) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    // Each from a port that was not used for a long time. To connection tracking, a client that connects again from a port
    // whose connection the other side has reset goes on with that one, and is translated like it, for 10 seconds
    // (`nf_conntrack_tcp_packet`).
    let port = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                scene.lab.client.enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        let port = 1024 + port.fetch_add(1, Ordering::Relaxed) % 64_000;
                        let connected = clients::connect_from_port(port as u16, MOOSE.parse().expect("address"));
                        let got = connected.and_then(clients::ask).unwrap_or_else(|error| error.to_string());
                        visits.lock().expect("visits").push((began, got));
                        // A pause between two visits of a client: it leaves the processors to others.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            });
        }
        let _end = AtEnd(&over);
        work(&visits);
    });
    visits.into_inner().expect("visits")
}

/// Kills all processes of a daemon at once, nft included: none gets to see that another one has gone.
fn kill_all(daemon: &Daemon) {
    kill_all_seen(daemon);
    // One that executes a program in this moment shows no environment, and so not whose it is (`environ_read`,
    // fs/proc/base.c).
    let mut looks = 0;
    while looks < 3 {
        looks = if daemon.family.pids().is_empty() { looks + 1 } else { 0 };
        kill_all_seen(daemon);
    }
}

fn kill_all_seen(daemon: &Daemon) {
    let mut frozen: Vec<i32> = Vec::new();
    loop {
        let members = daemon.family.pids();
        // nft has no environment that would tell whose it is.
        let all = members.iter().copied().chain(members.iter().flat_map(|pid| process::children(*pid)));
        let new: Vec<i32> = all.filter(|pid| !frozen.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        new.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
        frozen.extend(new);
    }
    frozen.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
}

/// The table of the instance; empty if it is not there.
fn table(scene: &Scene) -> String {
    scene.lab.gateway.try_run(&["nft", "list", "table", "inet", "tproxy.12970"]).unwrap_or_default()
}

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let usual = ["-d", "--firewall", "nft", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"];
    [more, &usual].concat()
}

fn dice() -> Dice {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = number_from_env("TPROXY_SEED", now());
    report(&format!("TPROXY_SEED={seed}"));
    Dice(seed)
}

#[test]
fn after_a_kill_of_all_processes_no_rule_is_left() {
    let Some(scene) = Scene::new() else { return };
    let (times, mut dice) = (number_from_env("TPROXY_KILLS", 5), dice());
    let (mut longest, mut visits_after) = (Duration::ZERO, 0);
    // A gateway tracks connections. Where nothing but our table needs that, the kernel stops with the table
    // (`nf_ct_netns_put`), and a reset that the killed worker's sockets send afterwards is not translated back: its client
    // waits.
    let tracks = "iptables -w -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    scene.lab.gateway.run(&tracks.split(' ').collect::<Vec<_>>());
    under_load(&scene, |visits| {
        for _ in 0..times {
            let daemon = scene.launch(&args(&["-w", "2"])).spawn();
            std::thread::sleep(Duration::from_millis(dice.roll(LIFE)));
            kill_all(&daemon);
            let killed = Instant::now();
            let gone = wait::try_until(wait::PATIENCE, || table(&scene).is_empty().then_some(()));
            assert!(gone.is_some(), "{}\nprocesses: {:?}", table(&scene), daemon.family.pids());
            let gone = Instant::now();
            longest = longest.max(gone - killed);
            assert_eq!(scene.page(MOOSE), "moose", "at once");
            let late = || visits.lock().expect("visits").iter().filter(|(began, _)| *began > gone).count();
            wait::until_true("clients come after that", || late() >= 4);
            let mut visits = visits.lock().expect("visits");
            let diverted = visits.iter().find(|(began, got)| *began > gone && got != "moose");
            let diverted = diverted.map(|(began, got)| (*began - killed, got.clone()));
            visits_after += visits.len();
            visits.clear();
            drop(visits);
            assert_eq!(diverted, None, "after the kill");
        }
    });
    report(&format!(
        "{times} kills of all processes, {visits_after} visits: no rule was left {longest:?} later at most"
    ));
    // Where the machine does nothing else. The figure holds the time that nft takes to look.
    assert!(times < 50 || longest < Duration::from_millis(100), "{longest:?}");
}

#[test]
fn after_a_kill_of_all_processes_fail_closed_lets_nothing_pass() {
    let Some(scene) = Scene::new() else { return };
    let (times, mut dice) = (number_from_env("TPROXY_KILLS", 5), dice());
    let mut counted = [0; 2];
    let mut daemon = scene.relay(&args(&["--fail", "closed"]));
    under_load(&scene, |visits| {
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(dice.roll(LIFE)));
            kill_all(&daemon);
            daemon.family.wait_gone();
            let refused = scene.lab.client.connect(MOOSE).map_err(|error| error.kind());
            assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
            assert_eq!(scene.page("10.3.0.3:80"), "cow", "what was not redirected is not rejected");
            let mut visits = visits.lock().expect("visits");
            assert!(visits.iter().all(|(_, got)| got != "moose"), "somebody has come through");
            counted[0] += visits.iter().filter(|(_, got)| got == "cow").count();
            counted[1] += visits.iter().filter(|(_, got)| got != "cow").count();
            visits.clear();
            daemon = scene.launch(&args(&["--fail", "closed"])).spawn();
        }
    });
    daemon.family.end();
    assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    assert_eq!((rules::nft_tables(&scene.lab.gateway).as_str(), scene.page(MOOSE).as_str()), ("", "moose"));
    let [served, refused] = counted;
    report(&format!("{times} kills with --fail closed: {served} served, {refused} refused or reset, 0 came through"));
}

/// What became of connections while others flushed the rules.
#[derive(Debug, Default)]
struct Flushed {
    flushes: usize,
    served: usize,
    diverted: usize,
    failed: usize,
}

/// Makes so many connections while the rules are flushed again and again, each time after `wait`.
fn flushed(scene: &Scene, connections: usize, flush: &[&str], wait: impl Fn()) -> Flushed {
    let [begun, served, diverted, failed] = [const { AtomicUsize::new(0) }; 4];
    scene.lab.gateway.run(flush);
    let mut flushes = 1;
    std::thread::scope(|scope| {
        let visit = || {
            scene.lab.client.enter(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < connections {
                    let page = clients::fetch(MOOSE.parse().expect("address"));
                    let count = match page.as_deref() {
                        Ok("cow") => &served,
                        Ok(_) => &diverted,
                        Err(_) => &failed,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(visit)).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            wait();
            scene.lab.gateway.run(flush);
            flushes += 1;
        }
    });
    let [served, diverted, failed] = [served, diverted, failed].map(AtomicUsize::into_inner);
    Flushed { flushes, served, diverted, failed }
}

#[test]
fn no_connection_is_refused_or_diverted_while_others_flush_all_rules() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let connections = number_from_env("TPROXY_CONNECTIONS", 500) as usize;
    let daemon = scene.relay(&args(&[]));
    let nft = flushed(&scene, connections, &["nft", "flush", "ruleset"], || {});
    report(&format!("{connections} connections beside nft flush ruleset, --firewall nft: {nft:?}"));
    assert_eq!((nft.served, nft.diverted, nft.failed), (connections, 0, 0));
    drop(daemon);
    // The other one cannot do that: rules that anybody can flush are put back, at the earliest a second later.
    let args: Vec<&str> =
        args(&["--verify", "1"]).into_iter().map(|arg| if arg == "nft" { "iptables" } else { arg }).collect();
    let _daemon = scene.relay(&args);
    let back = || wait::until_true("the rules are put back", || rules::jumps_to_ours(gateway) > 0);
    let iptables = flushed(&scene, connections, &["iptables", "-w", "-t", "nat", "-F"], back);
    report(&format!(
        "{connections} connections beside iptables -F, --firewall iptables: {} were diverted until the rules were put \
         back, {} times",
        iptables.diverted,
        iptables.flushes - 1
    ));
    assert_eq!(iptables.failed, 0);
}

/// Clients ask moose while the redirection is `first`, and then, after one reload each, what `ways` say. Returns what they got
/// that neither server has said.
fn lost_by_reloads(scene: &Scene, firewall: &str, first: &str, ways: &[&str]) -> Vec<Visit> {
    let (directory, slow) = (TempDir::new(), TempDir::new());
    // New workers are ready long before the rules are.
    super::tools::script(&slow, "ip", "sleep 0.03; exec /usr/bin/ip \"$@\"");
    let text = |how: &str| format!("-s 12970 -R '-d moose --dport 80' {how}\n");
    let file = directory.write("table.conf", &text(first));
    let args = ["-d", "-r", "nobody", "--firewall", firewall, "-c", &file];
    let mut daemon = scene.launch(&args).with_programs_in(&slow.path).ready();
    let visits = under_load(scene, |visits| {
        for (count, how) in ways.iter().enumerate() {
            directory.write("table.conf", &text(how));
            daemon.signal(Signal::SIGHUP);
            wait::until_true("reloaded", || daemon.journal.count("reloaded: ") > count);
            let before = visits.lock().expect("visits").len();
            wait::until_true("more visits", || visits.lock().expect("visits").len() > before + 20);
        }
    });
    assert_eq!(daemon.stop(), 0);
    visits.into_iter().filter(|visit| visit.1 != "moose" && visit.1 != "cow").collect()
}

#[test]
fn no_connection_is_lost_by_reloads_that_change_the_interception() {
    let Some(scene) = Scene::new() else { return };
    for firewall in rules::firewalls() {
        let lost = lost_by_reloads(&scene, &firewall, "-t", &["--intercept tproxy -t", "-t"]);
        assert!(lost.is_empty(), "{firewall}: {}: {:?}", lost.len(), lost.first());
    }
}

#[test]
fn answers_to_clients_do_not_stray_while_a_reload_begins_to_show_clients() {
    let Some(scene) = Scene::new() else { return };
    // Clients ask moose only: what cow sends to them has passed the gateway by.
    scene.lab.client.run(&["iptables", "-w", "-A", "INPUT", "-s", "10.3.0.3"]);
    for firewall in rules::firewalls() {
        let lost = lost_by_reloads(&scene, &firewall, "10.3.0.3 80", &["--source client 10.3.0.3 80"]);
        assert!(lost.is_empty(), "{firewall}: {}: {:?}", lost.len(), lost.first());
        let strayed = scene.lab.client.run(&["iptables-save", "-c", "-t", "filter"]);
        assert!(strayed.contains("[0:0] -A INPUT -s 10.3.0.3"), "{firewall}: {strayed}");
    }
}
