//! Guardian, worker, resolver: who may do what, and what clients see when one of them dies.

use super::{MOOSE, MOOSE6, STAND_IN, Scene, Server, stand_in_detached};
use lab::daemon::Daemon;
use lab::tempdir::TempDir;
use lab::{clients, process, rules, wait};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

#[test]
fn worker_and_resolver_have_no_privilege_left() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    for pid in [daemon.family.worker(), daemon.family.resolver()] {
        let field = |name| process::status_field(pid, name);
        let nobody = "65534 65534 65534 65534";
        assert_eq!((field("Uid"), field("Gid"), field("Groups")), (nobody.into(), nobody.into(), String::new()));
        let none = "0000000000000000";
        assert_eq!((field("CapPrm").as_str(), field("CapEff").as_str()), (none, none));
        assert_eq!((field("CapInh").as_str(), field("CapAmb").as_str()), (none, none));
        assert_eq!(field("NoNewPrivs"), "1");
    }
}

#[test]
fn a_replaced_worker_has_no_privilege_left_either() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    let next = daemon.family.next_worker(worker);
    wait::until_true("privileges are dropped", || process::status_field(next, "Uid") == "65534 65534 65534 65534");
    assert_eq!(process::status_field(next, "CapPrm"), "0000000000000000");
    assert_eq!(process::status_field(next, "NoNewPrivs"), "1");
}

#[test]
fn the_worker_holds_none_of_the_guardians_files() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    for pid in [daemon.family.worker(), daemon.family.resolver()] {
        let open = process::descriptors(pid);
        assert!(open.len() < 30, "{pid}: {open:?}");
        assert!(open.iter().all(|target| !target.contains(".pid") && !target.contains("xtables")), "{open:?}");
    }
}

/// Kills, starts again if the guardian is dead, and compares the rules at each step; then stops.
fn survives(kill: impl Fn(&Daemon) -> Vec<i32>, guardian_dies: bool) {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    let mut daemon = scene.stand_in();
    let running = rules::saved(gateway);
    for _ in 0..3 {
        let victims = kill(&daemon);
        victims.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
        wait::until_true("the victims are dead", || victims.iter().all(|pid| !process::alive(*pid)));
        if guardian_dies {
            let next = scene.stand_in();
            // The old family's orphans serve what they had, which is nothing, and go.
            wait::until_true("orphans have gone", || daemon.family.pids().is_empty());
            daemon = next;
        }
        assert_eq!(scene.page(MOOSE), "cow");
        assert_eq!(rules::saved(gateway), running);
    }
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn killing_the_worker_leaves_the_rules_right() {
    survives(|daemon| vec![daemon.family.worker()], false);
}

#[test]
fn killing_the_resolver_leaves_the_rules_right() {
    survives(|daemon| vec![daemon.family.resolver()], false);
}

#[test]
fn killing_the_guardian_and_starting_again_leaves_the_rules_right() {
    survives(|daemon| vec![daemon.family.guardian()], true);
}

#[test]
fn killing_all_three_and_starting_again_leaves_the_rules_right() {
    survives(|daemon| daemon.family.pids(), true);
}

#[test]
fn killing_worker_and_resolver_together_leaves_the_rules_right() {
    survives(|daemon| vec![daemon.family.worker(), daemon.family.resolver()], false);
}

#[test]
fn a_killed_guardians_worker_serves_on_and_says_so() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let args = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"];
    let daemon = scene.relay(&args);
    let mut old = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut old, b"before").expect("echo");
    process::signal(daemon.family.guardian(), Signal::SIGKILL);
    daemon.journal.wait_for("guardian");
    clients::round_trip(&mut old, b"orphaned").expect("the old connection");
    let mut new = scene.lab.client.connect("10.2.0.5:7").expect("connect to an orphan");
    clients::round_trip(&mut new, b"new").expect("a new connection");
    // The next start takes over; what the orphan serves goes on to its end.
    let mut next = scene.relay(&args);
    clients::round_trip(&mut old, b"taken over").expect("the old connection after the take-over");
    clients::round_trip(&mut new, b"taken over").expect("the orphan's connection after the take-over");
    let mut third = scene.lab.client.connect("10.2.0.5:7").expect("connect to the next");
    clients::round_trip(&mut third, b"third").expect("echo");
    drop((old, new, third));
    wait::until_true("the orphan ends with its last connection", || daemon.family.pids().is_empty());
    assert_eq!(next.stop(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn flush_after_a_killed_guardian_leaves_no_rule() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    let (done, family) = scene.launch(&stand_in_detached(&[])).start();
    assert_eq!(done.status, 0, "{done:?}");
    process::signal(family.guardian(), Signal::SIGKILL);
    assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    assert_eq!(rules::saved(gateway), before);
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn a_terminated_worker_drains_and_is_replaced() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"]);
    let mut old = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut old, b"before").expect("echo");
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGTERM);
    daemon.family.next_worker(worker);
    // For a moment the old one still takes whoever knocks at its door, so this connection may be either's.
    let mut new = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut new, b"new").expect("one of the workers");
    clients::round_trip(&mut old, b"old").expect("the old worker");
    drop((old, new));
    wait::until_true("the old worker goes", || !process::alive(worker));
    let mut next = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut next, b"next").expect("the new worker");
}

/// Kills every worker that comes up until `given_up` is true.
fn no_worker_lives(daemon: &Daemon, given_up: impl Fn() -> bool) {
    wait::until_within(Duration::from_secs(60), "the guardian gives up", || {
        daemon.family.named("tproxy-worker").into_iter().for_each(|pid| process::signal(pid, Signal::SIGKILL));
        given_up().then_some(())
    });
}

#[test]
fn without_a_worker_that_lives_fail_open_removes_the_redirection() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let mut daemon = scene.relay(&[&["--fail", "open"], STAND_IN].concat());
    no_worker_lives(&daemon, || rules::jumps_to_ours(gateway) == 0);
    assert_eq!(scene.page(MOOSE), "moose");
    daemon.stop();
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn without_a_worker_that_lives_fail_closed_rejects() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let args = ["-d", "-s", "12970", "-r", "nobody", "--fail", "closed", "-R", "--dport 80", "cow", "80"];
    let mut daemon = scene.relay(&args);
    // One for each family, whose tables change one after the other.
    no_worker_lives(&daemon, || rules::rejections(gateway) == 2);
    for to in [MOOSE, MOOSE6] {
        let error = scene.lab.client.connect(to).expect_err("the connection is rejected");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: at once, with a reset");
    }
    daemon.stop();
    assert_eq!(rules::saved(gateway), before);
    assert_eq!((scene.page(MOOSE), scene.page(MOOSE6)), ("moose".into(), "moose".into()));
}

#[test]
fn redirection_comes_back_when_workers_live_again() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let mut daemon = scene.stand_in();
    let running = rules::saved(gateway);
    no_worker_lives(&daemon, || rules::jumps_to_ours(gateway) == 0);
    // Nobody kills them any more.
    wait::until_within(Duration::from_secs(90), "the rules are back", || {
        (rules::saved(gateway) == running).then_some(())
    });
    wait::until_true("cow answers again", || scene.page(MOOSE) == "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_guardian_that_replaced_many_children_has_grown_by_nothing() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&[STAND_IN, &["--control", "none"]].concat());
    let guardian = daemon.family.guardian();
    let round = || {
        let (worker, resolver) = (daemon.family.worker(), daemon.family.resolver());
        process::signal(worker, Signal::SIGKILL);
        process::signal(resolver, Signal::SIGKILL);
        daemon.family.next_worker(worker);
        wait::until_true("a new resolver", || {
            daemon.family.named("tproxy-resolver").iter().any(|pid| *pid != resolver)
        });
        process::signal(guardian, Signal::SIGHUP);
    };
    round();
    // A child of SIGHUP's may still be looking at the rules.
    let all = 2 + usize::from(rules::is_nft());
    let quiet =
        || wait::until_true("worker and resolver are all children", || process::children(guardian).len() == all);
    quiet();
    let before = process::resting_descriptor_count(guardian);
    for _ in 0..5 {
        round();
    }
    quiet();
    wait::until_true("descriptors return", || process::descriptor_count(guardian) <= before);
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn a_worker_that_hangs_does_not_prevent_the_stop() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.relay(&[&["--drain", "1"], STAND_IN].concat());
    process::signal(daemon.family.worker(), Signal::SIGSTOP);
    daemon.signal(Signal::SIGTERM);
    wait::until_true("the rules go first", || rules::jumps_to_ours(&scene.lab.gateway) == 0);
    assert_eq!(scene.page(MOOSE), "moose");
    daemon.wait();
    daemon.family.wait_gone();
}

#[test]
fn second_termination_of_the_guardian_resets_what_is_left() {
    second_termination(|_| {}, |daemon| drop(daemon.journal.wait_for("seconds to end")), |_| {});
}

#[test]
fn two_terminations_that_the_worker_gets_at_once_do_not_count_as_one() {
    // The kernel keeps one pending SIGTERM, however many were sent (signal(7)). A worker that is stopped stands for
    // one that has not had its turn yet, as when the guardian is still busy with the rules between the two.
    // The SIGSTOP itself is pending until the worker has its turn, so only the bit of SIGTERM counts (proc(5), ShdPnd).
    let pending = |pid| {
        let signals = u64::from_str_radix(&process::status_field(pid, "ShdPnd"), 16).expect("a mask of signals");
        signals & 1 << (Signal::SIGTERM as u32 - 1) != 0
    };
    second_termination(
        |daemon| process::signal(daemon.family.worker(), Signal::SIGSTOP),
        |daemon| {
            let worker = daemon.family.worker();
            wait::until_true("the first one is pending", || pending(worker));
        },
        |daemon| {
            let guardian = daemon.family.guardian();
            wait::until_true("the guardian has acted on the second one", || {
                !pending(guardian) && process::status_field(guardian, "State").starts_with('S')
            });
            process::signal(daemon.family.worker(), Signal::SIGCONT);
        },
    );
}

/// A connection, what happens before, SIGTERM, what happens between, SIGTERM again, what happens then: the connection
/// must be reset.
fn second_termination(before: impl Fn(&Daemon), between: impl Fn(&Daemon), then: impl Fn(&Daemon)) {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let mut daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"]);
    let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut client, b"before").expect("echo");
    before(&daemon);
    daemon.signal(Signal::SIGTERM);
    between(&daemon);
    daemon.signal(Signal::SIGTERM);
    then(&daemon);
    clients::expect_reset(&mut client);
    assert_eq!(daemon.wait(), 0);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "stopped");
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn user_signal_to_the_guardian_dumps_the_workers_connections() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"]);
    let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut client, b"before").expect("echo");
    daemon.signal(Signal::SIGUSR1);
    daemon.journal.wait_for(&client.local_addr().expect("address").to_string());
}

/// Fetches so many pages, and waits until their connections are over.
fn fetch(scene: &Scene, daemon: &Daemon, count: usize) {
    let finished = || daemon.journal.connections().iter().filter(|line| line.ending == "finished").count();
    let before = finished();
    for _ in 0..count {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    wait::until_true("the ends of the connections", || finished() >= before + count);
}

/// The counters that the guardian tells when it is asked.
fn counters(daemon: &Daemon) -> String {
    let before = daemon.journal.count("counters: ");
    process::signal(daemon.family.guardian(), Signal::SIGUSR1);
    wait::until_true("the counters", || daemon.journal.count("counters: ") > before);
    assert_eq!(daemon.journal.count("counters: "), before + 1, "one line: {}", daemon.journal.text());
    let lines = daemon.journal.lines();
    let line = lines.iter().rfind(|line| line.contains("counters: ")).expect("the line");
    line.split_once("counters: ").expect("the line").1.to_string()
}

#[test]
fn counters_are_the_sum_of_all_workers_that_there_were() {
    let Some(scene) = Scene::new() else { return };
    for workers in [1, 2] {
        let args = [&["-w", if workers == 1 { "1" } else { "2" }], STAND_IN].concat();
        let mut daemon = scene.relay(&args);
        fetch(&scene, &daemon, 40);
        let served = |daemon: &Daemon| {
            let lines = daemon.journal.connections();
            let served: BTreeSet<String> = lines.iter().map(|line| line.before.clone()).collect();
            served.len()
        };
        assert_eq!(served(&daemon), workers, "each of them has served");
        let open = scene.lab.client.connect(MOOSE).expect("connect");
        let said = wait::until("the open connection is there", || {
            Some(counters(&daemon)).filter(|said| said.contains("1 open"))
        });
        let bytes = format!("{} bytes up, {} bytes down", 40 * 18, 40 * 41);
        assert!(said.starts_with("41 accepted, 1 open, 40 finished, 0 reset") && said.contains(&bytes), "{said}");

        drop(open);
        wait::until_true("its end", || counters(&daemon).starts_with("41 accepted, 0 open, 41 finished"));

        // One that hangs holds nobody up, and counts with what it said last.
        let victim = daemon.family.named("tproxy-worker")[0];
        process::signal(victim, Signal::SIGSTOP);
        let begin = Instant::now();
        let said = counters(&daemon);
        assert!(said.starts_with("41 accepted") && said.ends_with("; 1 worker has not answered"), "{said}");
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        // So does one that is dead.
        process::signal(victim, Signal::SIGKILL);
        wait::until_true("another one", || {
            !process::alive(victim) && daemon.family.named("tproxy-worker").len() == workers
        });
        let said = counters(&daemon);
        assert!(said.starts_with("41 accepted") && !said.contains("answered"), "{said}");

        // Those that retire say at their end what has happened since.
        fetch(&scene, &daemon, 10);
        let open = scene.lab.client.connect(MOOSE).expect("connect");
        wait::until_true("it is there", || counters(&daemon).contains("1 open"));
        let former = daemon.family.named("tproxy-worker");
        process::signal(daemon.family.guardian(), Signal::SIGHUP);
        daemon.journal.wait_for("reloaded:");
        drop(open);
        wait::until_true("they are gone", || former.iter().all(|pid| !process::alive(*pid)));
        fetch(&scene, &daemon, 5);
        let said = counters(&daemon);
        assert!(said.starts_with("57 accepted, 0 open, 57 finished"), "{said}");
        assert_eq!(daemon.stop(), 0);
        let last = daemon.journal.lines().into_iter().rfind(|line| line.contains("counters: ")).expect("the last ones");
        assert!(last.contains("57 accepted, 0 open"), "{last}");
    }
}

#[test]
fn no_two_connections_of_a_daemon_have_the_same_number() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let pidfile = directory.file("pid");
    let daemon = scene.relay(&[&["-w", "2", "-P", &pidfile], STAND_IN].concat());
    fetch(&scene, &daemon, 20);
    let worker = daemon.family.named("tproxy-worker")[0];
    process::signal(worker, Signal::SIGKILL);
    wait::until_true("another one", || !process::alive(worker) && daemon.family.named("tproxy-worker").len() == 2);
    fetch(&scene, &daemon, 20);
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded:");
    fetch(&scene, &daemon, 20);
    daemon.signal(Signal::SIGUSR2);
    daemon.journal.wait_for("upgraded to");
    fetch(&scene, &daemon, 20);
    let lines = daemon.journal.connections();
    let numbers: BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    assert_eq!((lines.len(), numbers.len()), (80, 80), "{numbers:?}");
    let workers: BTreeSet<&str> = numbers.iter().filter_map(|id| id.split('-').next()).collect();
    assert!(workers.len() >= 6, "{workers:?}");
    for worker in workers {
        assert!(numbers.contains(format!("{worker}-1").as_str()), "{worker} counts from 1: {numbers:?}");
    }
    let guardian = std::fs::read_to_string(&pidfile).expect("pid file").trim().parse().expect("pid");
    process::signal(guardian, Signal::SIGTERM);
    daemon.family.wait_gone();
}

#[test]
fn after_a_crash_the_rules_become_what_fail_says() {
    let Some(scene) = Scene::new() else { return };
    for (fail, page) in [("open", "moose"), ("closed", "(Connection refused (os error 111))")] {
        let arguments = [&["--fail", fail], STAND_IN].concat();
        let after_crash = || scene.launch(&[&["--after-crash"], &arguments[..]].concat()).run();
        let daemon = scene.relay(&arguments);
        let early = after_crash();
        assert_eq!(early.status, 69, "it lives: {early:?}");
        assert_eq!(scene.page(MOOSE), "cow");
        daemon.family.pids().into_iter().for_each(|pid| process::signal(pid, Signal::SIGKILL));
        daemon.family.wait_gone();
        assert_eq!(after_crash().status, 0);
        assert_eq!(scene.page(MOOSE), page, "--fail {fail}");
        // Nothing is made where nothing was left.
        assert_eq!(scene.launch(&["--flush"]).run().status, 0);
        assert_eq!((after_crash().status, rules::count_of_ours(&scene.lab.gateway)), (0, 0));
        assert_eq!(scene.page(MOOSE), "moose");
    }
}
