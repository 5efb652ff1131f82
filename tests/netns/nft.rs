//! Rules that belong to the daemon (`--firewall nft`): nobody else can touch them, and they go with its last process.

use super::{MOOSE, MOOSE6, Scene};
use lab::daemon::Daemon;
use lab::netns::Net;
use lab::tempdir::TempDir;
use lab::{clients, process, rules, wait};
use nix::sys::signal::Signal;

/// Scenario S1 with nft.
fn stand_in(scene: &Scene, more: &[&str]) -> Daemon {
    scene.relay(&stand_in_args(more))
}

fn stand_in_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let usual = ["-d", "--firewall", "nft", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"];
    [more, &usual].concat()
}

/// The table of the instance; empty if it is not there.
fn table(net: &Net) -> String {
    net.try_run(&["nft", "list", "table", "inet", "tproxy.12970"]).unwrap_or_default()
}

fn owner(daemon: &Daemon) -> i32 {
    daemon.family.one("tproxy-nft")
}

/// Kills all of these at once: none gets to see that another one has gone.
fn kill(pids: &[i32]) {
    pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
}

#[test]
fn nobody_else_can_change_the_table() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let daemon = stand_in(&scene, &[]);
    assert!(table(gateway).contains("flags owner"), "{}", table(gateway));
    for command in ["flush table inet tproxy.12970", "delete table inet tproxy.12970", "add chain inet tproxy.12970 x"]
    {
        assert_eq!(gateway.try_run(&["nft", command]), None, "{command}");
    }
    gateway.run(&["nft", "flush", "ruleset"]);
    assert_eq!(scene.page(MOOSE), "cow");
    let before = table(gateway);
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded");
    assert_eq!((table(gateway), scene.page(MOOSE)), (before, "cow".into()));
}

#[test]
fn the_table_lives_as_long_as_somebody_serves_and_not_longer() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let daemon = stand_in(&scene, &[]);
    let workers = daemon.family.named("tproxy-worker");
    kill(&[daemon.pid()]);
    daemon.journal.wait_for("the guardian is gone");
    assert_eq!(scene.page(MOOSE), "cow", "workers serve without a guardian");
    kill(&workers);
    wait::until_true("the table goes with the last worker", || table(gateway).is_empty());
    assert_eq!(scene.page(MOOSE), "moose");
    daemon.family.wait_gone();
}

#[test]
fn a_killed_owner_is_replaced_and_the_rules_are_put_back() {
    let Some(scene) = Scene::new() else { return };
    let daemon = stand_in(&scene, &[]);
    let first = owner(&daemon);
    kill(&[first]);
    daemon.journal.wait_for("to which the nft table belongs, was killed by SIGKILL");
    wait::until_true("the rules are put back", || !table(&scene.lab.gateway).is_empty());
    assert_ne!(owner(&daemon), first);
    assert_eq!((scene.page(MOOSE), scene.page(MOOSE6)), ("cow".into(), "moose".into()));
}

#[test]
fn an_owner_that_is_killed_while_the_rules_are_put_back_is_replaced_as_well() {
    let Some(scene) = Scene::new() else { return };
    // No comparison puts right what was missed.
    let daemon = stand_in(&scene, &["--intercept", "tproxy", "--verify", "0"]);
    for _ in 0..3 {
        let mut last = 0;
        for _ in 0..2 {
            let next = || daemon.family.named("tproxy-nft").into_iter().find(|pid| *pid != last);
            last = wait::until("an owner", next);
            kill(&[last]);
        }
        wait::until_true("the rules are put back", || scene.page(MOOSE) == "cow");
    }
}

#[test]
fn with_fail_closed_a_table_rejects_when_all_processes_are_gone() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = stand_in(&scene, &["--fail", "closed"]);
    assert_eq!(scene.page(MOOSE), "cow");
    kill(&daemon.family.pids());
    wait::until_true("the table has gone", || table(gateway).is_empty());
    let refused = scene.lab.client.connect(MOOSE).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(scene.page("10.3.0.3:80"), "cow", "what was not redirected is not rejected");
    let _ = daemon.wait();
    let mut daemon = stand_in(&scene, &["--fail", "closed"]);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!((rules::nft_tables(gateway).as_str(), scene.page(MOOSE).as_str()), ("", "moose"));
    let daemon = stand_in(&scene, &["--fail", "closed"]);
    kill(&daemon.family.pids());
    wait::until_true("the table has gone", || table(gateway).is_empty());
    let done = scene.launch(&["--flush"]).run();
    assert_eq!((done.status, done.stdout.trim()), (0, "1 nft table removed"), "{done:?}");
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn a_start_after_a_killed_guardian_takes_the_table_over() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| super::Server::echo("[::]:7"));
    let args = ["-d", "--firewall", "nft", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"];
    let old = scene.relay(&args);
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"before").expect("echo");
    kill(&[old.pid()]);
    let mut new = scene.relay(&args);
    clients::round_trip(&mut stream, b"after").expect("the connection goes on");
    assert_eq!(rules::nft_tables(&scene.lab.gateway).matches("table inet").count(), 1);
    drop(stream);
    old.family.wait_gone();
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"new").expect("echo");
    drop(stream);
    assert_eq!(new.stop(), 0);
    assert_eq!(rules::nft_tables(&scene.lab.gateway), "");
}

#[test]
fn an_upgrade_hands_the_table_over() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = stand_in(&scene, &[]);
    let (before, first) = (table(gateway), owner(&daemon));
    daemon.signal(Signal::SIGUSR2);
    daemon.journal.wait_for("upgraded to");
    assert_eq!((owner(&daemon), table(gateway)), (first, before));
    assert_eq!(scene.page(MOOSE), "cow");
    kill(&[first]);
    daemon.journal.wait_for("to which the nft table belongs, was killed by SIGKILL");
    wait::until_true("the rules are put back", || !table(gateway).is_empty());
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::nft_tables(gateway), "");
}

#[test]
fn auto_takes_iptables_where_its_nat_table_is_in_use_and_says_so() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let auto = |port: &str, rule: &str| {
        scene.relay(&["-d", "--firewall", "auto", "-s", port, "-r", "nobody", "-R", rule, "10.3.0.3", "80"])
    };
    let mut daemon = auto("12970", "-d moose --dport 80");
    daemon.journal.wait_for("rules are installed with nft: ");
    assert_eq!((scene.page(MOOSE), daemon.stop()), ("cow".into(), 0));
    let mut daemon = auto("12970", "-d moose --dport 80 -m string --algo bm --string x --to 1 -m u32 --u32 0=0");
    daemon.journal.wait_for("rules are installed with iptables: -m string needs --firewall iptables");
    assert_eq!(daemon.stop(), 0);
    rules::add_administrators_rules(gateway);
    let daemon = auto("12970", "-d moose --dport 80");
    daemon.journal.wait_for("rules are installed with iptables: the nat table of iptables is in use");
    assert_eq!((scene.page(MOOSE), rules::nft_tables(gateway).as_str()), ("cow".into(), ""));
}

#[test]
fn without_tables_that_have_an_owner_a_flush_is_noticed_and_repaired() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    // An nft that knows no owner, as before 1.0.
    let programs = TempDir::new();
    let real = programs.path.join("true/nft").display().to_string();
    let text = format!(
        "case \"$*\" in -i) exit 1;; *-f*) text=$(cat); case \"$text\" in *owner*) echo unknown >&2; exit 1;; esac; \
         printf '%s\\n' \"$text\" | exec {real} \"$@\"; exit;; esac; exec {real} \"$@\""
    );
    super::tools::script(&programs, "nft", &text);
    // The comparison comes because of the change: without one it would come after 30 seconds.
    let args = stand_in_args(&[]);
    let daemon = scene.launch(&args).with_programs_in(&programs.path).ready();
    assert!(table(gateway).contains("redirect") && !table(gateway).contains("owner"));
    assert_eq!(scene.page(MOOSE), "cow");
    gateway.run(&["nft", "flush", "ruleset"]);
    daemon
        .journal
        .wait_for("rules were changed by another program and are put back: nft: table inet tproxy.12970 is gone");
    wait::until("the redirection is back", || (scene.page(MOOSE) == "cow").then_some(()));
}

#[test]
fn a_table_that_belongs_to_nobody_is_put_back_as_soon_as_others_remove_it() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = stand_in(&scene, &["--fail", "closed"]);
    let before = rules::nft_tables(gateway);
    for _ in 0..3 {
        gateway.run(&["nft", "flush", "ruleset"]);
        // By itself it would be compared after 30 seconds.
        wait::until_true("both tables", || rules::nft_tables(gateway) == before);
    }
    assert_eq!(daemon.journal.count("are put back: nft: table inet tproxy.12970.closed is gone"), 3);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::nft_tables(gateway), "");
}

#[test]
fn a_daemon_with_a_table_lets_go_of_its_starter() {
    let Some(scene) = Scene::new() else { return };
    let args = stand_in_args(&[]);
    // `-d` is the first.
    let (done, family) = scene.launch(&args[1..]).start();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!((scene.page(MOOSE), rules::nft_tables(&scene.lab.gateway).is_empty()), ("cow".into(), false));
    process::signal(family.guardian(), Signal::SIGTERM);
    family.wait_gone();
    assert_eq!(rules::nft_tables(&scene.lab.gateway), "");
}
