//! Workers that a reload has retired: they end in time, and opening the log files again retires none.

use super::*;
use lab::clients;
use lab::process;
use lab::tempdir::TempDir;
use lab::wait;
use nix::sys::signal::Signal;
use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Where cow echoes for moose.
const ECHO: &str = "10.2.0.5:7";

/// A daemon with a table, and the connection of a client to an echo.
struct Retiring {
    scene: Scene,
    _echo: Server,
    directory: TempDir,
}

impl Retiring {
    fn new() -> Option<Retiring> {
        let scene = Scene::new()?;
        let echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
        Some(Retiring { scene, _echo: echo, directory: TempDir::new() })
    }

    fn table(&self, options: &str) -> String {
        let text = format!("-r nobody\n{options}\n-s 12971 -R '--dport 7' cow 7\n");
        self.directory.write("table.conf", &text)
    }

    fn start(&self, options: &str) -> Daemon {
        let file = self.table(options);
        self.scene.relay(&["-d", "-c", &file])
    }

    /// A connection that is served.
    fn connection(&self) -> TcpStream {
        let mut client = self.scene.lab.client.connect(ECHO).expect("connect");
        clients::round_trip(&mut client, b"hello").expect("echo");
        client
    }
}

/// Reloads, and waits for the worker that takes over.
fn reload(daemon: &Daemon) -> i32 {
    let (before, count) = (daemon.family.named("tproxy-worker"), daemon.journal.count("reloaded: "));
    daemon.signal(Signal::SIGHUP);
    wait::until_true("the end of the reload", || daemon.journal.count("reloaded: ") > count);
    let workers = daemon.family.named("tproxy-worker");
    *workers.iter().find(|worker| !before.contains(worker)).expect("a new worker")
}

fn wait_gone(worker: i32) {
    wait::until_true("the end of the worker", || !process::alive(worker));
}

#[test]
fn a_retired_worker_ends_in_time_and_says_why() {
    let Some(lab) = Retiring::new() else { return };
    let daemon = lab.start("--retire-timeout 2");
    let (mut client, worker, begin) = (lab.connection(), daemon.family.worker(), Instant::now());
    reload(&daemon);
    clients::round_trip(&mut client, b"still there").expect("echo");
    clients::expect_reset(&mut client);
    assert!((1500..8000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    wait_gone(worker);
    let lines = daemon.journal.wait_connections(1);
    assert_eq!(lines[0].ending, "retired", "{lines:?}");
    daemon.journal.wait_for("1 connections had not ended in time and are reset");
    lab.connection();
}

#[test]
fn without_a_limit_a_retired_worker_serves_on() {
    let Some(lab) = Retiring::new() else { return };
    let daemon = lab.start("--retire-timeout 0");
    let (mut client, worker) = (lab.connection(), daemon.family.worker());
    reload(&daemon);
    wait::holds_for(Duration::from_secs(3), "the worker serves", || process::alive(worker));
    clients::round_trip(&mut client, b"still there").expect("echo");
    drop(client);
    wait_gone(worker);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "finished");
}

#[test]
fn many_reloads_without_connections_leave_no_worker_behind() {
    let Some(lab) = Retiring::new() else { return };
    let daemon = lab.start("-w 2");
    (0..15).for_each(|_| _ = reload(&daemon));
    let gone =
        wait::try_until(Duration::from_secs(3), || (daemon.family.named("tproxy-worker").len() == 2).then_some(()));
    assert!(gone.is_some(), "{:?}", daemon.family.named("tproxy-worker"));
}

#[test]
fn a_shorter_limit_applies_to_workers_that_drain_already() {
    let Some(lab) = Retiring::new() else { return };
    let daemon = lab.start("");
    let (mut client, worker) = (lab.connection(), daemon.family.worker());
    reload(&daemon);
    lab.table("--retire-timeout 1");
    reload(&daemon);
    clients::expect_reset(&mut client);
    wait_gone(worker);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "retired");
}

#[test]
fn a_retired_worker_that_hangs_is_killed() {
    let Some(lab) = Retiring::new() else { return };
    let daemon = lab.start("--retire-timeout 1");
    let (client, worker) = (lab.connection(), daemon.family.worker());
    process::signal(worker, Signal::SIGSTOP);
    reload(&daemon);
    wait_gone(worker);
    daemon.journal.wait_for(&format!("worker {worker} did not end in time and is killed"));
    drop(client);
    lab.connection();
}

#[test]
fn a_retired_worker_can_be_stopped_earlier() {
    let Some(lab) = Retiring::new() else { return };
    let daemon = lab.start("--drain 1");
    let (mut client, worker) = (lab.connection(), daemon.family.worker());
    reload(&daemon);
    process::signal(worker, Signal::SIGTERM);
    clients::round_trip(&mut client, b"still there").expect("echo");
    clients::expect_reset(&mut client);
    wait_gone(worker);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "stopped");
}

#[test]
fn log_files_are_opened_again_without_another_worker() {
    let Some(lab) = Retiring::new() else { return };
    let (file, old) = (lab.directory.file("access.log"), lab.directory.file("access.log.1"));
    let daemon = lab.start(&format!("-l {file}"));
    let lines = |path: &str| fs::read_to_string(path).unwrap_or_default().lines().count();
    let draining = lab.connection();
    let worker = reload(&daemon);
    drop(lab.connection());
    wait::until_true("a line", || lines(&file) == 1);
    fs::rename(&file, &old).expect("rename");
    daemon.signal(Signal::SIGURG);
    wait::until_true("the file is there again", || fs::exists(&file).expect("exists"));
    daemon.journal.wait_for("the log files are opened again");
    drop(lab.connection());
    drop(draining);
    wait::until_true("the lines of both workers", || lines(&file) == 2);
    assert_eq!(lines(&old), 1);
    assert_eq!(daemon.family.worker(), worker, "the same worker");
    assert_eq!(daemon.journal.count("reloaded: "), 1);
}

#[test]
fn a_log_file_that_cannot_be_opened_again_changes_nothing() {
    let Some(lab) = Retiring::new() else { return };
    let directory = lab.directory.path.join("logs");
    fs::create_dir(&directory).expect("mkdir");
    let daemon = lab.start(&format!("-l {}/access.log", directory.display()));
    let moved = lab.directory.path.join("moved");
    fs::rename(&directory, &moved).expect("rename");
    daemon.signal(Signal::SIGURG);
    daemon.journal.wait_for("the access log stays the old one");
    drop(lab.connection());
    wait::until_true("a line", || fs::read_to_string(moved.join("access.log")).is_ok_and(|text| !text.is_empty()));
}
