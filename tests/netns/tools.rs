//! The daemon and the tools that hold the tables: what happens when these fail, and how often they are run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{HEAVY, MOOSE, Scene};
use lab::daemon::{Daemon, Launch};
use lab::process;
use lab::tempdir::TempDir;
use lab::{alone, report, rules, wait};

/// The tools that tproxy runs.
const TOOLS: [&str; 5] = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save", "nft"];

/// Puts a script there; an empty one stands for a program that is missing.
pub(super) fn script(directory: &TempDir, name: &str, text: &str) {
    let path = directory.file(name);
    let text = if text.is_empty() { String::new() } else { format!("#!/bin/sh\n{text}\n") };
    // In one step: the program may be started at any time.
    fs::write(format!("{path}.new"), text).expect("script");
    fs::set_permissions(format!("{path}.new"), fs::Permissions::from_mode(0o755)).expect("mode");
    fs::rename(format!("{path}.new"), &path).expect("rename");
}

/// A file of so many redirections, one a line.
fn table_of(count: usize, line_400: &str) -> String {
    let line = |n: usize| match n {
        400 => format!("{line_400}\n"),
        _ => format!("--local {} -R '-d moose --dport {}'\n", 20000 + n, 1000 + n),
    };
    (1..=count).map(line).collect()
}

#[test]
fn an_unknown_match_on_line_400_of_500_is_named_and_leaves_the_tables_as_before() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    let directory = TempDir::new();
    let file = directory.file("table.conf");
    let bad = table_of(500, "--local 20400 -R '-d moose --dport 1400 -m no-such-match'");
    fs::write(&file, &bad).expect("file");
    for args in [vec!["-c", &file], vec!["-d", "-c", &file]] {
        let (done, family) = scene.launch(&args).start();
        assert_eq!(done.status, rules::unknown_match_status(), "{done:?}");
        let said = done.stderr.lines().find(|line| line.contains("table.conf:400: ")).unwrap_or_default();
        assert!(said.contains(&rules::unknown_match("no-such-match")), "{done:?}");
        let rule = "at '-A tproxy.table -p tcp -d 10.2.0.5 --dport 1400 -m no-such-match -j ";
        assert!(rules::is_nft() || said.contains(rule), "{done:?}");
        family.wait_gone();
        assert_eq!(rules::saved(gateway), before);
    }
    // The same in a reload.
    fs::write(&file, table_of(500, "--local 20400 -R '-d moose --dport 80'")).expect("file");
    let mut daemon = scene.relay(&["-d", "-c", &file]);
    let running = rules::saved(gateway);
    let _local = gateway.enter(|| super::Server::page("[::]:20400", "line 400"));
    fs::write(&file, &bad).expect("file");
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("table.conf:400: ");
    daemon.journal.wait_for("; nothing has changed");
    assert_eq!(rules::saved(gateway), running);
    assert_eq!(scene.page(MOOSE), "line 400");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn without_ip6tables_a_start_leaves_nothing_and_says_what_to_do() {
    if !rules::with_iptables("nft is one program for both families") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let directory = TempDir::new();
    script(&directory, "ip6tables-restore", "");
    let both = ["-d", "-s", "12970", "-R", "--dport 80", "10.3.0.3", "80"];
    let (done, family) = scene.launch(&both).with_programs_in(&directory.path).start();
    assert_eq!(done.status, 71, "{done:?}");
    assert!(done.stderr.contains("`ip6tables-restore` failed (not found)"), "{done:?}");
    assert!(done.stderr.contains("-b 0.0.0.0 leaves IPv6 out"), "{done:?}");
    family.wait_gone();
    assert_eq!(rules::saved(gateway), before);
    // What it says to do helps.
    let mut daemon = scene.launch(&[&both[..], &["-b", "0.0.0.0"]].concat()).with_programs_in(&directory.path).ready();
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn where_nft_is_not_installed_nobody_misses_it() {
    if !rules::with_iptables("it is about a host without nft") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let before = rules::saved(&scene.lab.gateway);
    let directory = TempDir::new();
    script(&directory, "nft", "");
    for fail in ["open", "closed"] {
        let launch = scene.launch(&[super::STAND_IN, &["--fail", fail][..]].concat());
        let mut daemon = launch.with_programs_in(&directory.path).ready();
        assert_eq!(scene.page(MOOSE), "cow");
        assert_eq!(daemon.stop(), 0);
        let lines = daemon.journal.lines();
        assert!(!lines.iter().any(|line| line.contains("not installed")), "{lines:?}");
        assert_eq!(rules::saved(&scene.lab.gateway), before);
    }
}

/// An iptables-restore that is killed in the middle of its work when its input holds what is in `trigger`: before it has
/// changed the tables, or after that but before it can say so.
fn killed(tool: &str, directory: &TempDir, trigger: &str, after: bool) -> String {
    let real = format!("{}/true/{tool}", directory.path.display());
    let work = if after { format!("echo \"$text\" | {real} \"$@\"; ") } else { String::new() };
    format!(
        "case $1 in --version) exec {real} --version;; esac; text=$(cat); \
         case $text in *\"$(cat {trigger})\"*) {work}kill -9 $$;; esac; echo \"$text\" | {real} \"$@\""
    )
}

#[test]
fn a_killed_iptables_restore_leaves_the_tables_as_before() {
    if !rules::with_iptables("an nft that is killed is the owner of the table: nft::a_killed_owner_is_replaced") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    for (tool, after) in [
        ("iptables-restore", false),
        ("iptables-restore", true),
        ("ip6tables-restore", false),
        ("ip6tables-restore", true),
    ] {
        let directory = TempDir::new();
        let (file, trigger) = (directory.file("table.conf"), directory.file("trigger"));
        script(&directory, tool, &killed(tool, &directory, &trigger, after));
        fs::write(&file, "-r nobody\n-s 12970 -R '--dport 80' 10.3.0.3 80\n").expect("file");
        let launch = || scene.launch(&["-d", "-c", &file]).with_programs_in(&directory.path);
        fs::write(&trigger, "-j REDIRECT").expect("trigger");
        let (done, family) = launch().start();
        assert_eq!(done.status, 71, "{tool} {after}: {done:?}");
        assert!(done.stderr.contains(tool) && done.stderr.contains("signal: 9"), "{tool} {after}: {done:?}");
        family.wait_gone();
        assert_eq!(rules::saved(gateway), before, "{tool} {after}");

        fs::write(&trigger, "--dport 80:81").expect("trigger");
        let mut daemon = launch().ready();
        let (running, worker) = (rules::saved(gateway), daemon.family.worker());
        fs::write(&file, "-r nobody\n-s 12970 -R '--dport 80:81' 10.2.0.5 80\n").expect("file");
        daemon.signal(Signal::SIGHUP);
        daemon.journal.wait_for("failed (signal: 9 (SIGKILL)); nothing has changed");
        assert_eq!(daemon.journal.count("signal: 9"), 1, "{}", daemon.journal.text());
        assert_eq!(rules::saved(gateway), running, "{tool} {after}");
        wait::until_true("the former worker alone", || daemon.family.named("tproxy-worker") == [worker]);
        assert_eq!(scene.page(MOOSE), "cow");
        // Nothing is left over: the next reload does it.
        fs::write(&trigger, "nothing of the kind").expect("trigger");
        daemon.signal(Signal::SIGHUP);
        daemon.journal.wait_for("reloaded: 1 redirection");
        wait::until_true("the new upstream", || scene.page(MOOSE) == "moose");
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved(gateway), before, "{tool} {after}");
    }
}

/// A daemon whose tools are counted.
struct Counted {
    daemon: Daemon,
    log: String,
    file: String,
    _directory: TempDir,
}

impl Counted {
    fn start(launch: impl Fn(&[&str]) -> Launch, table: &str) -> (Counted, usize, Duration) {
        let directory = TempDir::new();
        let (file, log) = (directory.file("table.conf"), directory.file("runs"));
        fs::write(&file, table).expect("file");
        fs::write(&log, "").expect("log");
        for tool in TOOLS {
            let real = format!("{}/true/{tool}", directory.path.display());
            script(&directory, tool, &format!("echo {tool} >>{log}; exec {real} \"$@\""));
        }
        let begin = Instant::now();
        let daemon = launch(&["-d", "-v", "--verify", "0", "-c", &file]).with_programs_in(&directory.path).ready();
        let took = begin.elapsed();
        let mut counted = Counted { daemon, log, file, _directory: directory };
        let count = counted.take();
        (counted, count, took)
    }

    /// How many tools were run since the last time, by jobs that are over.
    fn take(&mut self) -> usize {
        self.daemon.family.wait_for_rules();
        let count = fs::read_to_string(&self.log).expect("log").lines().count();
        fs::write(&self.log, "").expect("log");
        count
    }

    /// Reloads, and waits until nothing is under way any more.
    fn reload(&mut self) -> (usize, Duration) {
        let (begin, before) = (Instant::now(), self.daemon.journal.count("reloaded:"));
        self.daemon.signal(Signal::SIGHUP);
        wait::until_true("a reload", || self.daemon.journal.count("reloaded:") > before);
        let took = begin.elapsed();
        (self.take(), took)
    }
}

#[test]
fn five_hundred_redirections_run_as_many_programs_as_one() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let mut runs = Vec::new();
    for lines in [1, 500] {
        let table: String =
            (0..=lines).map(|n| format!("--local {} -R '--dport {}'\n", 20000 + n, 1000 + n)).skip(1).collect();
        let (mut counted, start, start_time) = Counted::start(|args| scene.launch(args), &table);
        assert_eq!(rules::redirections(&scene.lab.gateway), 2 * lines);
        let last = scene.lab.gateway.enter(|| super::Server::page(&format!("[::]:{}", 20000 + lines), "the last"));
        assert_eq!(scene.page(&format!("10.2.0.5:{}", 1000 + lines)), "the last");
        drop(last);
        // Nothing has changed: this reload is a comparison of the rules, as `--verify` makes it.
        let (verify, verify_time) = counted.reload();
        fs::write(&counted.file, table.replace("--dport 1001'", "--dport 999'")).expect("file");
        let (reload, reload_time) = counted.reload();
        let saved = rules::saved(&scene.lab.gateway);
        assert_eq!(saved.matches("dport 999 ").count() + saved.matches(" 999 : ").count(), 2);
        let begin = Instant::now();
        assert_eq!(counted.daemon.stop(), 0);
        let (stop, stop_time) = (counted.take(), begin.elapsed());
        report(&format!(
            "table: {lines} redirections in two families: start {start} programs {start_time:.0?}, \
             verify {verify} programs {verify_time:.0?}, reload {reload} programs {reload_time:.0?}, \
             stop {stop} programs {stop_time:.0?}"
        ));
        assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
        runs.push([start, verify, reload, stop]);
    }
    assert_eq!(runs[0], runs[1], "start, verify, reload, stop");
    // What the other tool may have is looked for as well.
    assert!(runs[0].iter().all(|count| (2..=20).contains(count)), "{runs:?}");
}

#[test]
fn a_daemon_that_is_killed_while_its_rules_process_waits_can_be_started_again() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let directory = TempDir::new();
    let (slow, count) = (directory.file("slow"), directory.file("count"));
    let real = format!("{}/true/{}", directory.path.display(), rules::tool());
    // Waits for the file to go, as for a lock.
    script(
        &directory,
        rules::tool(),
        &format!("echo >>{count}; while [ -e {slow} ]; do sleep 0.02; done; exec {real} \"$@\""),
    );
    let file = directory.file("table.conf");
    fs::write(&file, "--local 1113 -R '--dport 113'\n").expect("file");
    let launch = || scene.launch(&["-d", "-c", &file]).with_programs_in(&directory.path);
    let daemon = launch().ready();
    fs::write(&slow, "").expect("file");
    fs::write(&count, "").expect("file");
    fs::write(&file, "--local 1114 -R '--dport 113'\n").expect("file");
    daemon.signal(Signal::SIGHUP);
    wait::until_true("the rules process is at work", || fs::read_to_string(&count).is_ok_and(|text| !text.is_empty()));
    let rules_process = daemon.family.one("tproxy-rules");
    process::signal(daemon.family.guardian(), Signal::SIGKILL);
    fs::write(&file, "--local 1115 -R '--dport 113'\n").expect("file");
    // That process is still changing rules of that name: the next daemon waits for it.
    let next = launch().spawn();
    wait::holds_for(Duration::from_millis(1500), "it waits", || {
        process::alive(rules_process) && next.journal.count("ready:") == 0
    });
    fs::remove_file(&slow).expect("file");
    next.journal.wait_for("ready:");
    assert_eq!((rules::redirections_to(gateway, 1115), rules::redirections(gateway)), (2, 2));
}
