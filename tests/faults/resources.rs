//! What runs out, or is forbidden, or is wrong: pipes, room on the disk, the right to accept, the wall clock.

use super::HEAVY;
use super::inject::{Call, Role, compiled};
use super::scene::{ECHO, Holdings, MOOSE, Scene};
use lab::journal::ConnectionLine;
use lab::tempdir::TempDir;
use lab::transfer::{Manners, Order, Transfer};
use lab::{alone, clients, process, raise_open_files, report, rules, wait};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Large enough that some of it is always under way in both directions.
fn large() -> Transfer {
    Transfer::new(5, 24 << 20, 24 << 20, Order::AtOnce)
}

/// A user that no other test relays as, and its number.
const USER: (&str, u32) = ("games", 5);

/// A process that holds all the pipes that a user may have.
struct Hog(Child);

impl Hog {
    fn start() -> Hog {
        raise_open_files();
        // The quota is the user's, wherever it runs.
        let mut command = Command::new(compiled("hog", &[]));
        command.uid(USER.1).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("hog");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut said).expect("a word");
        assert!(said.contains("100 of them small"), "the quota of the user could not be used up: {said}");
        Hog(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("wait").success());
    }
}

#[test]
fn without_a_pipe_quota_data_is_copied_and_later_spliced_again() {
    let Some(scene) = Scene::new() else { return };
    let table = format!("-r {}\n-s 12970 -R '--dport 9' cow 9\n", USER.0);
    let faults = super::inject::Faults::new();
    let daemon = faults.preload(scene.launch_table(&table)).ready();
    let worker = daemon.family.worker();
    let before = Holdings::at_rest(worker);
    let hog = Hog::start();
    faults.watch(Role::Worker, Call::Splice);
    faults.watch(Role::Worker, Call::Pipe2);
    let ticks = process::cpu_ticks(worker);
    let outcome = scene.transfer(&large(), Manners::default());
    assert_eq!(outcome.cut, None);
    assert!(faults.made(Call::Pipe2) > 0, "it has asked for pipes");
    assert_eq!(faults.made(Call::Splice), 0, "pipes of two pages are not worth it");
    let spent = process::cpu_ticks(worker) - ticks;
    before.wait_returned(worker, "without pipes");
    // Nothing of it is worth a word: it goes on, a little slower.
    assert_eq!(daemon.journal.connections().len(), 1);
    hog.end();
    assert_eq!(scene.transfer(&large(), Manners::default()).cut, None);
    assert!(faults.made(Call::Splice) > 0, "it splices again");
    scene.ledger.assert_right();
    report(&format!("faults: 24 MiB each way without a pipe quota: {spent} ticks of 10 ms"));
}

/// A small file system of its own, which goes with the test.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> SmallDisk {
        let disk = SmallDisk(TempDir::new());
        let words = ["-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs"];
        let done = Command::new("mount").args(words).arg(&disk.0.path).status().expect("mount");
        assert!(done.success(), "mount: {done}");
        disk
    }

    /// Uses all the room.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.file("filler")).expect("filler");
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.file("filler")).expect("filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0.path).status();
    }
}

#[test]
fn a_full_disk_under_the_access_log_is_told_once_and_holds_nobody_up() {
    let Some(scene) = Scene::new() else { return };
    let disk = SmallDisk::new();
    let log = disk.0.file("access.log");
    let daemon = scene.launch(&format!("-l {log}")).ready();
    let lines = || fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_string).collect::<Vec<_>>();
    scene.assert_serves("before");
    wait::until_true("a line for it", || lines().len() == 1);
    disk.fill();
    let begin = Instant::now();
    // Enough to come to the end of the last page of the file.
    for _ in 0..60 {
        scene.assert_serves("with a full disk");
    }
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    let told = daemon.journal.wait_for("access log: No space left on device");
    assert!(told.ends_with(" lost"), "{told}");
    assert!(daemon.journal.count("access log: ") <= 2, "{}", daemon.journal.text());
    disk.make_room();
    let lost = lines().len();
    assert!(lost < 61, "no line was lost");
    for _ in 0..10 {
        scene.assert_serves("with room again");
    }
    wait::until_true("lines again", || lines().len() >= lost + 10);
    daemon.journal.wait_for("it can be written again");
    let bad: Vec<String> = lines().into_iter().filter(|line| ConnectionLine::parse(line).is_none()).collect();
    assert!(bad.len() <= 1, "{bad:#?}");
    let last = lines().len() - 10;
    assert!(lines()[last..].iter().all(|line| line.starts_with("20") && line.ends_with(" finished")), "{:#?}", lines());
}

#[test]
fn a_right_to_accept_that_is_taken_away_makes_nobody_spin() {
    // As a security module may do it: accept4(2) fails and the client stays in the queue.
    let Some(scene) = Scene::new() else { return };
    let (daemon, faults) = scene.fragile("");
    let worker = daemon.family.worker();
    let mut old = scene.lab.client.connect(ECHO).expect("connect");
    clients::round_trip(&mut old, b"before").expect("echo");
    for error in [libc::EPERM, libc::EACCES, libc::ECONNABORTED] {
        faults.strike(Role::Worker, Call::Accept4, error, 1);
        let mut waiting = scene.lab.client.connect(ECHO).expect("the kernel connects it");
        waiting.write_all(b"late").expect("write");
        wait::until_true("accepting fails", || faults.hits(Call::Accept4) > 0);
        let ticks = process::cpu_ticks(worker);
        let begin = Instant::now();
        let mut rounds = 0;
        while begin.elapsed() < Duration::from_millis(1500) {
            clients::round_trip(&mut old, b"meanwhile").expect("the established connection");
            rounds += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        let spent = process::cpu_ticks(worker) - ticks;
        faults.heal(Call::Accept4);
        assert!(rounds > 30, "the established connection was starved: {rounds} round trips");
        assert!(spent < 60, "spinning: {spent} ticks of 10 ms in 1.5 s, {} times", faults.hits(Call::Accept4));
        let mut answer = [0; 4];
        waiting.read_exact(&mut answer).expect("served when it is over");
        assert_eq!(&answer, b"late");
        assert!(daemon.journal.lines().len() < 30, "{}", daemon.journal.text());
    }
}

#[test]
fn a_connection_that_cannot_be_watched_is_reset_and_logged() {
    let Some(scene) = Scene::new() else { return };
    let (daemon, faults) = scene.fragile("");
    scene.assert_serves("before");
    let before = Holdings::at_rest(daemon.family.worker());
    let (lines, ends) = (daemon.journal.lines().len(), daemon.journal.connections().len());
    faults.strike(Role::Worker, Call::EpollCtl, libc::ENOSPC, 1);
    for _ in 0..50 {
        // One that says nothing: its end must not look like a regular one all the same.
        clients::expect_connect_reset(scene.lab.client.connect(ECHO));
    }
    faults.heal(Call::EpollCtl);
    daemon.journal.wait_connections(ends + 50);
    assert!(daemon.journal.connections()[ends..].iter().all(|line| line.ending.starts_with("no resources: No space")));
    let told = daemon.journal.lines().len() - lines - 50;
    assert!(told <= 3, "a flood: {told} lines");
    before.wait_returned(daemon.family.worker(), "afterwards");
    scene.assert_serves("afterwards");
}

#[test]
fn a_wall_clock_that_jumps_changes_no_timeout() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let log = scene.file("access.log");
    let table = format!("-r nobody -l {log} --verify 1\n-s 12970 --idle-timeout 2 -R '--dport 7:9' cow 7\n");
    fs::write(&log, "").expect("log");
    let faults = super::inject::Faults::new();
    let daemon = faults.preload(scene.launch_table(&table)).ready();
    let gateway = &scene.lab.gateway;
    let running = rules::saved(gateway);
    let stamps = || -> Vec<String> {
        let text = fs::read_to_string(&log).expect("log");
        text.lines().map(|line| line.chars().take(13).collect()).collect()
    };
    for (number, jump) in [0, 3600, -7200].into_iter().enumerate() {
        let mut client = scene.lab.client.connect(ECHO).expect("connect");
        clients::round_trip(&mut client, b"now").expect("echo");
        let begin = Instant::now();
        faults.set_clock(jump);
        assert_eq!(clients::read_all(&mut client), (Vec::new(), Some(ErrorKind::ConnectionReset)));
        let took = begin.elapsed();
        assert!(took > Duration::from_millis(1700) && took < Duration::from_secs(5), "clock {jump}: {took:?}");
        wait::until_true("its line", || stamps().len() == number + 1);
    }
    let stamps = stamps();
    assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2], "the clock has jumped: {stamps:?}");
    // The guardian looks at the rules when it is time.
    gateway.run(&["iptables", "-w", "-t", "nat", "-D", "PREROUTING", "1"]);
    wait::until_true("the rules are put back", || rules::saved(gateway) == running);
    faults.set_clock(100_000);
    gateway.run(&["ip6tables", "-w", "-t", "nat", "-D", "PREROUTING", "1"]);
    wait::until_true("the rules are put back", || rules::saved(gateway) == running);
    drop(daemon);
}

#[test]
fn an_established_transfer_survives_a_worker_without_descriptors() {
    let Some(scene) = Scene::new() else { return };
    // As root: the limits of another user's process take a capability more.
    let daemon = scene.launch_table("-s 12970 -R '--dport 9' cow 9\n").ready();
    let worker = daemon.family.worker();
    let limit = |number: &str| {
        // The soft one: only root may raise the hard one again.
        let words = ["--pid", &worker.to_string(), &format!("--nofile={number}:")].map(String::from);
        assert!(Command::new("prlimit").args(words).status().expect("prlimit").success());
    };
    scene.assert_serves("before");
    let before = Holdings::at_rest(worker);
    std::thread::scope(|scope| {
        let old = scope.spawn(|| scene.transfer(&large(), Manners::pausing(Duration::from_millis(1200))));
        wait::until_true("it is under way", || Holdings::of(worker).descriptors > before.descriptors);
        limit(&process::next_descriptor(worker).to_string());
        let new = scope.spawn(|| scene.transfer(&Transfer::new(6, 1000, 1000, Order::AfterEnd), Manners::default()));
        daemon.journal.wait_for("accepting pauses");
        let ticks = process::cpu_ticks(worker);
        assert_eq!(old.join().expect("the old one").cut, None);
        assert!(process::cpu_ticks(worker) - ticks < 150, "spinning");
        limit("4096");
        assert_eq!(new.join().expect("the new one").cut, None, "who has waited is served");
    });
    before.wait_returned(worker, "afterwards");
    let line =
        daemon.journal.connections().into_iter().find(|line| line.up > 1 << 20).expect("the line of the old one");
    assert_eq!(line.original, MOOSE);
    scene.ledger.assert_right();
}
