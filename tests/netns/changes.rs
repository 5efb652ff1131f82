//! Changing a daemon that serves: reloads and upgrades in every order, with what an administrator gets wrong.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{HEAVY, MOOSE, Scene, Server};
use lab::daemon::{Daemon, Launch};
use lab::process;
use lab::tempdir::TempDir;
use lab::{AtEnd, alone, clients, report, rules, wait};

const TPROXY: &str = env!("CARGO_BIN_EXE_tproxy");

/// The file of S1.
const STAND_IN: &str = "-r nobody\n-s 12970 -R '-d moose --dport 80' cow 80\n";

/// A daemon with a file, a pid file and a program of its own.
struct Site {
    directory: TempDir,
    file: String,
    pidfile: String,
    program: String,
}

impl Site {
    fn new(text: &str) -> Site {
        let directory = TempDir::new();
        let names = ["table.conf", "pid", "tproxy"].map(|name| directory.file(name));
        let [file, pidfile, program] = names;
        let site = Site { directory, file, pidfile, program };
        site.write(text);
        site.install(&fs::read(TPROXY).expect("the program"));
        site
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).expect("file");
    }

    /// Puts a program in place of the daemon's, as a package manager does.
    fn install(&self, program: &[u8]) {
        use std::os::unix::fs::PermissionsExt;
        let (text, new) = (self.directory.file("text"), self.directory.file("new"));
        fs::write(&text, program).expect("program");
        process::copy_program(&text, &new);
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("mode");
        fs::rename(&new, &self.program).expect("rename");
    }

    fn launch(&self, scene: &Scene) -> Launch {
        let args = ["-d", "-P", &self.pidfile, "-c", &self.file];
        Launch::new(&args).within(&scene.lab.gateway).by_user(0, &self.program)
    }

    /// The guardian, as far as the pid file knows.
    fn guardian(&self) -> Option<i32> {
        fs::read_to_string(&self.pidfile).ok()?.trim().parse().ok()
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.guardian().expect("pid file"), signal);
    }

    /// Reloads, and waits for the end of it.
    fn reload(&self, daemon: &Daemon) {
        let before = daemon.journal.count("reloaded:");
        self.signal(Signal::SIGHUP);
        wait::until_true("a reload", || daemon.journal.count("reloaded:") > before);
    }

    /// Upgrades, and waits for the end of it. The process is the same afterwards.
    fn upgrade(&self, daemon: &Daemon) {
        let (before, guardian) = (daemon.journal.count("upgraded to"), self.guardian());
        self.signal(Signal::SIGUSR2);
        wait::until_true("an upgrade", || daemon.journal.count("upgraded to") > before);
        assert_eq!(self.guardian(), guardian);
        // A child has the name of its parent for a moment.
        wait::until_true("one guardian", || daemon.family.named("tproxy") == [guardian.expect("pid file")]);
    }

    /// Stops whatever runs, as an init script does.
    fn stop(&self, daemon: &Daemon) {
        wait::until_true("the end of all", || {
            self.guardian().iter().for_each(|pid| process::signal(*pid, Signal::SIGTERM));
            daemon.family.pids().is_empty()
        });
    }
}

#[test]
fn a_reload_may_change_ports_addresses_users_and_workers() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    let listening = || {
        let text = scene.lab.gateway.run(&["ss", "-Htln"]);
        let mut all: Vec<String> =
            text.lines().filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned())).collect();
        all.sort_unstable();
        all
    };
    let changes: [(&str, &str, &str, &[&str]); 6] = [
        ("nobody", "", "-s 12999", &["0.0.0.0:12999", "[::]:12999"]),
        ("daemon", "", "-s 12999", &["0.0.0.0:12999", "[::]:12999"]),
        ("daemon", "-w 2", "-s 12999", &["0.0.0.0:12999", "0.0.0.0:12999", "[::]:12999", "[::]:12999"]),
        ("daemon", "-w 2", "-b 10.1.0.1 -s 12999", &["10.1.0.1:12999", "10.1.0.1:12999"]),
        ("daemon", "-w 1", "-b 0.0.0.0 -s 12970", &["0.0.0.0:12970"]),
        ("nobody", "-w 1", "-s 12970", &["0.0.0.0:12970", "[::]:12970"]),
    ];
    for (user, workers, listen, wanted) in changes {
        site.write(&format!("-r {user} {workers}\n{listen} -R '-d moose --dport 80' cow 80\n"));
        site.reload(&daemon);
        wait::until_true(listen, || listening() == wanted);
        let uid = if user == "nobody" { "65534 65534 65534 65534" } else { "1 1 1 1" };
        wait::until_true("everybody is the user", || {
            let mut children = process::children(site.guardian().expect("pid file"));
            // What owns the rules is root.
            children.retain(|pid| process::comm(*pid).as_deref() != Some("tproxy-nft"));
            !children.is_empty() && children.iter().all(|pid| process::status_field(*pid, "Uid") == uid)
        });
        assert_eq!(scene.page(MOOSE), "cow", "{user} {workers} {listen}");
    }
    site.stop(&daemon);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// Fetches pages from four threads while `work` is done; gives how many, and how many of them failed.
fn under_load(scene: &Scene, work: impl FnOnce()) -> (usize, usize) {
    let (stop, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                scene.lab.client.enter(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let page = clients::fetch(MOOSE.parse().expect("address"));
                        asked.fetch_add(1, Ordering::Relaxed);
                        failed.fetch_add(usize::from(!page.is_ok_and(|page| page == "cow")), Ordering::Relaxed);
                    }
                });
            });
        }
        let _end = AtEnd(&stop);
        work();
    });
    (asked.into_inner(), failed.into_inner())
}

#[test]
fn more_and_fewer_workers_under_load_refuse_nobody() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    let (asked, failed) = under_load(&scene, || {
        for (round, workers) in [4, 1, 3, 2, 4, 1, 2, 1].into_iter().enumerate() {
            site.write(&format!("-w {workers}\n{STAND_IN}"));
            site.reload(&daemon);
            if round % 4 == 3 {
                site.upgrade(&daemon);
            }
        }
    });
    report(&format!("changes: -w 1 to 4 and back, twice, with two upgrades: {asked} requests, {failed} failed"));
    assert_eq!(failed, 0);
    assert!(asked > 100, "no load: {asked}");
    site.stop(&daemon);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn hangups_in_quick_succession_end_with_the_last_file() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    for moment in MOMENTS {
        // Other ports, so that the rules change, which takes a while.
        for (port, upstream) in [(12971, "cow"), (12972, "cow"), (12973, "moose")] {
            let file = STAND_IN.replace("-s 12970", &format!("-s {port}"));
            site.write(&file.replace("cow 80", &format!("{upstream} 80")));
            site.signal(Signal::SIGHUP);
            // The next one comes in the middle of this one.
            std::thread::sleep(Duration::from_millis(moment));
        }
        wait::until_true("one worker is left", || daemon.family.named("tproxy-worker").len() == 1);
        wait::until_true("the last file", || scene.page(MOOSE) == "moose");
        site.write(STAND_IN);
        site.reload(&daemon);
        wait::until_true("the first file again", || scene.page(MOOSE) == "cow");
    }
    site.stop(&daemon);
}

#[test]
fn an_upgrade_that_cannot_be_changes_nothing() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let site = Site::new(STAND_IN);
    let program = fs::read(TPROXY).expect("the program");
    let daemon = site.launch(&scene).ready();
    let (guardian, running, worker) = (site.guardian(), rules::saved(gateway), daemon.family.worker());
    let _taken = gateway.enter(|| Server::silent("0.0.0.0:13000"));
    let fails = |program: &[u8], file: &str, why: &str| {
        site.install(program);
        site.write(file);
        if program.is_empty() {
            fs::remove_file(&site.program).expect("program");
        }
        let before = daemon.journal.count("nothing has changed");
        site.signal(Signal::SIGUSR2);
        daemon.journal.wait_for(why);
        wait::until_true("nothing else runs", || {
            daemon.family.named("tproxy") == [guardian.expect("pid")]
                && daemon.family.named("tproxy-worker") == [worker]
        });
        assert_eq!(site.guardian(), guardian, "{why}");
        assert_eq!(rules::saved(gateway), running, "{why}");
        assert_eq!(scene.page(MOOSE), "cow", "{why}");
        assert_eq!(daemon.journal.count("nothing has changed"), before + 1, "one clear line: {why}");
    };
    let path = &site.program;
    fails(b"#!/bin/sh\nexit 3\n", STAND_IN, "upgrade: the new program ended with status 3; nothing has changed");
    fails(b"#!/bin/sh\nexit 0\n", STAND_IN, "upgrade: the new program cannot take over; nothing has changed");
    fails(b"garbage", STAND_IN, &format!("upgrade: {path}: starting it: Exec format error (os error 8); nothing"));
    fails(b"", STAND_IN, &format!("upgrade: {path}: starting it: No such file or directory (os error 2); nothing"));
    fails(b"#!/bin/sh\nkill -9 $$\n", STAND_IN, "upgrade: the new program was killed by SIGKILL; nothing has changed");
    fails(&program, "-s 70000 cow 80\n", "upgrade: the new program ended with status 64: ");
    // From here on the new program is executed, and serves what served before.
    let taken = format!("{STAND_IN}-s 13000 cow 80\n");
    fails(&program, &taken, "upgrade: -s: port 13000 is in use by ");
    let unknown = STAND_IN.replace("--dport 80", "--dport 80 -m no-such-match");
    fails(&program, &unknown, &rules::unknown_match("no-such-match"));
    // What served is whole: a worker that dies is replaced, as the file said then.
    process::signal(worker, Signal::SIGKILL);
    wait::until_true("another worker", || {
        daemon.family.named("tproxy-worker").iter().any(|pid| *pid != worker) && scene.page(MOOSE) == "cow"
    });
    // And an upgrade that can be.
    site.write(STAND_IN);
    site.upgrade(&daemon);
    assert_eq!(scene.page(MOOSE), "cow");
    site.stop(&daemon);
    assert_eq!(rules::count_of_ours(gateway), 0);
}

/// What stands at the beginning of a handover, with another version of the messages.
const OTHER_VERSION: (&[u8], &[u8]) = (b"tproxy-handover 7 messages 8", b"tproxy-handover 7 messages 9");

/// The program with some bytes in it replaced by others.
fn patched(program: &[u8], (from, to): (&[u8], &[u8])) -> Vec<u8> {
    let mut program = program.to_vec();
    let places: Vec<usize> = (0..program.len() - from.len()).filter(|at| program[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "the program does not hold what is to be replaced");
    places.iter().for_each(|at| program[*at..at + to.len()].copy_from_slice(to));
    program
}

#[test]
fn a_program_of_another_message_version_is_refused_in_the_rehearsal() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(STAND_IN);
    let program = fs::read(TPROXY).expect("the program");
    // The one that runs speaks another version than the one that is installed then.
    site.install(&patched(&program, OTHER_VERSION));
    let daemon = site.launch(&scene).ready();
    let (guardian, worker) = (site.guardian(), daemon.family.worker());
    site.install(&program);
    site.signal(Signal::SIGUSR2);
    daemon.journal.wait_for(
        "the running program hands over as 'tproxy-handover 7 messages 9', this one expects 'tproxy-handover 7 messages \
         8': restart it; nothing has changed",
    );
    assert_eq!((site.guardian(), daemon.family.worker()), (guardian, worker));
    assert_eq!(scene.page(MOOSE), "cow");
    site.stop(&daemon);
}

#[test]
fn a_program_that_crashes_when_it_is_executed_leaves_workers_that_serve() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    let running = rules::saved(&scene.lab.gateway);
    // It rehearses well.
    site.install(format!("#!/bin/sh\n[ \"$1\" = --check ] && exec {TPROXY} \"$@\"\nkill -9 $$\n").as_bytes());
    site.signal(Signal::SIGUSR2);
    daemon.journal.wait_for("the guardian is gone: serving on without it");
    assert_eq!(rules::saved(&scene.lab.gateway), running);
    assert_eq!(scene.page(MOOSE), "cow");
    site.install(&fs::read(TPROXY).expect("the program"));
    let next = site.launch(&scene).ready();
    assert_eq!(scene.page(MOOSE), "cow");
    site.stop(&next);
    wait::until_true("the end of all", || daemon.family.pids().is_empty());
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn an_upgrade_puts_back_a_redirection_that_was_withdrawn() {
    let Some(mut scene) = Scene::new() else { return };
    let site = Site::new(&format!("--upstream-grace 1\n{STAND_IN}"));
    let daemon = site.launch(&scene).ready();
    let running = rules::saved(&scene.lab.gateway);
    scene.cow = None;
    wait::until_true("the redirection is withdrawn", || {
        scene.lab.client.fetch(MOOSE).is_ok_and(|page| page == "moose")
    });
    scene.cow = Some(scene.lab.cow.enter(|| Server::page("[::]:80", "cow")));
    site.upgrade(&daemon);
    assert_eq!((rules::saved(&scene.lab.gateway), scene.page(MOOSE)), (running, "cow".into()));
    site.stop(&daemon);
}

#[test]
fn an_upgrade_that_fails_fills_the_slots_that_had_no_worker() {
    let Some(scene) = Scene::new() else { return };
    let _taken = scene.lab.gateway.enter(|| Server::silent("0.0.0.0:13000"));
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    wait::until_true("no worker is tried any more", || {
        daemon.family.named("tproxy-worker").iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
        daemon.journal.count("no worker can be kept alive") > 0
    });
    site.write(&format!("{STAND_IN}-s 13000 cow 80\n"));
    site.signal(Signal::SIGUSR2);
    daemon.journal.wait_for("upgrade: -s: port 13000 is in use by ");
    wait::until_true("a worker and its redirection", || scene.lab.client.fetch(MOOSE).is_ok_and(|page| page == "cow"));
    site.stop(&daemon);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn an_upgrade_goes_on_with_the_access_log_that_is_open() {
    let Some(scene) = Scene::new() else { return };
    let directory = lab::tempdir::TempDir::new();
    let logs = directory.file("logs");
    fs::create_dir(&logs).expect("directory");
    let site = Site::new(&format!("-l {logs}/access.log\n{STAND_IN}"));
    let daemon = site.launch(&scene).ready();
    assert_eq!(scene.page(MOOSE), "cow");
    fs::rename(&logs, directory.file("moved")).expect("rename");
    let guardian = site.guardian();
    site.signal(Signal::SIGUSR2);
    daemon.journal.wait_for("access.log: No such file or directory (os error 2); nothing has changed");
    process::signal(daemon.family.worker(), Signal::SIGKILL);
    wait::until_true("another worker", || scene.lab.client.fetch(MOOSE).is_ok_and(|page| page == "cow"));
    assert_eq!(site.guardian(), guardian);
    let lines = || fs::read_to_string(directory.file("moved/access.log")).expect("the log").lines().count();
    wait::until_true("both pages are in the log", || lines() >= 2);
    site.stop(&daemon);
}

#[test]
fn an_upgrade_goes_on_when_others_have_removed_the_control_socket() {
    let Some(scene) = Scene::new() else { return };
    let directory = lab::tempdir::TempDir::new();
    let socket = directory.file("control.sock");
    let site = Site::new(&format!("--control {socket}\n{STAND_IN}"));
    let daemon = site.launch(&scene).ready();
    fs::remove_file(&socket).expect("the socket");
    site.upgrade(&daemon);
    // Nor does it take away what others have put there.
    fs::write(&socket, "").expect("file");
    site.upgrade(&daemon);
    assert_eq!(scene.page(MOOSE), "cow");
    site.stop(&daemon);
    assert!(fs::exists(&socket).expect("path"));
}

#[test]
fn a_start_that_waits_for_a_name_begins_again_on_a_hangup() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(&STAND_IN.replace("cow 80", "cwo 80"));
    let daemon = site.launch(&scene).spawn();
    daemon.journal.wait_for("cannot resolve 'cwo'");
    site.write(STAND_IN);
    site.signal(Signal::SIGHUP);
    daemon.journal.wait_for("ready:");
    assert_eq!(scene.page(MOOSE), "cow");
    site.stop(&daemon);
}

#[test]
fn a_reload_that_fails_resets_no_connection_of_the_new_workers() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    let (asked, failed) = under_load(&scene, || {
        for _ in 0..5 {
            let before = daemon.journal.count("nothing has changed");
            site.write(&STAND_IN.replace("--dport 80", "--dport 80 -m no-such-match"));
            site.signal(Signal::SIGHUP);
            wait::until_true("the failure", || daemon.journal.count("nothing has changed") > before);
        }
    });
    assert_eq!(failed, 0, "of {asked}");
    wait::until_true("one worker is left", || daemon.family.named("tproxy-worker").len() == 1);
    site.stop(&daemon);
}

/// The kernel calls a program by its real path, and the directory of the package's may be a link (`/usr/sbin`).
#[test]
fn the_script_of_packages_upgrades_what_runs_also_where_its_directory_is_a_link() {
    let Some(scene) = Scene::new() else { return };
    let site = Site::new(STAND_IN);
    let daemon = site.launch(&scene).ready();
    let link = site.directory.file("sbin");
    std::os::unix::fs::symlink(&site.directory.path, &link).expect("link");
    let text = fs::read_to_string("scripts/upgrade-running").expect("the script");
    let usual = "DAEMON=/usr/local/sbin/tproxy\n";
    assert_eq!(text.matches(usual).count(), 1);
    site.install(&fs::read(TPROXY).expect("the program"));
    let script = text.replace(usual, &format!("DAEMON={link}/tproxy\n"));
    let done = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
    assert!(done.status.success(), "{done:?}");
    wait::until_true("the upgrade", || daemon.journal.count("upgraded to") == 1);
    site.stop(&daemon);
}

#[test]
fn twenty_upgrades_under_load_keep_the_process_and_refuse_nobody() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let site = Site::new(&format!("-w 2\n{STAND_IN}-s 12971 -R '-d moose --dport 7' cow 7\n"));
    let daemon = site.launch(&scene).ready();
    let guardian = site.guardian();
    let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut client, b"before").expect("echo");
    let begin = Instant::now();
    let (asked, failed) = under_load(&scene, || (0..20).for_each(|_| site.upgrade(&daemon)));
    report(&format!("changes: 20 upgrades in {:.1?}: {asked} requests, {failed} failed", begin.elapsed()));
    assert_eq!((site.guardian(), failed), (guardian, 0));
    assert!(asked > 100, "no load: {asked}");
    clients::round_trip(&mut client, b"after").expect("a connection from before the first upgrade");
    assert_eq!(daemon.journal.connections().iter().filter(|line| line.ending != "finished").count(), 0);
    drop(client);
    wait::until_true("the former workers are gone", || daemon.family.named("tproxy-worker").len() == 2);
    // Signals that come in between are not lost: they wait for the next program.
    for signal in [Signal::SIGUSR2, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTERM] {
        site.signal(signal);
    }
    daemon.family.wait_gone();
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// For changes that are interrupted: after so many milliseconds.
const MOMENTS: [u64; 7] = [0, 5, 10, 20, 40, 70, 110];

#[test]
fn a_stop_in_the_middle_of_a_change_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    let before = rules::saved(&scene.lab.gateway);
    for signal in [Signal::SIGHUP, Signal::SIGUSR2] {
        for moment in MOMENTS {
            let site = Site::new(STAND_IN);
            let daemon = site.launch(&scene).ready();
            site.signal(signal);
            // The moment of the interruption, not a wait for readiness.
            std::thread::sleep(Duration::from_millis(moment));
            site.signal(Signal::SIGTERM);
            wait::until_true("the end of all", || daemon.family.pids().is_empty());
            site.stop(&daemon);
            assert_eq!(rules::saved(&scene.lab.gateway), before, "{signal} {moment} ms");
        }
    }
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn a_guardian_killed_in_the_middle_of_a_change_is_followed_by_one_that_serves() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    for signal in [Signal::SIGHUP, Signal::SIGUSR2] {
        for moment in MOMENTS {
            let site = Site::new(STAND_IN);
            let daemon = site.launch(&scene).ready();
            let running = rules::saved(gateway);
            let guardian = daemon.pid();
            process::signal(guardian, signal);
            std::thread::sleep(Duration::from_millis(moment));
            process::signal(guardian, Signal::SIGKILL);
            let what = format!("{signal} {moment} ms");
            // Either a successor is about to serve, or the next start does.
            wait::until_true("the guardian is dead", || !process::alive(guardian));
            // A child that was forked a moment ago has its parent's name, but not for long.
            let is_alone = || daemon.family.named("tproxy").is_empty().then_some(());
            let alone = wait::try_until(Duration::from_millis(300), is_alone).is_some();
            let next = alone.then(|| site.launch(&scene).ready());
            wait::until_true(&what, || {
                let families = [Some(&daemon), next.as_ref()].into_iter().flatten();
                let workers: usize = families.map(|daemon| daemon.family.named("tproxy-worker").len()).sum();
                workers == 1 && site.guardian() != Some(guardian)
            });
            assert_eq!(rules::saved(gateway), running, "{what}");
            assert_eq!(scene.page(MOOSE), "cow", "{what}");
            site.stop(next.as_ref().unwrap_or(&daemon));
            wait::until_true("the end of all", || daemon.family.pids().is_empty());
            assert_eq!(rules::saved(gateway), before, "{what}");
        }
    }
}

#[test]
fn a_killed_guardian_of_five_hundred_redirections_is_followed_at_once() {
    let Some(scene) = Scene::new() else { return };
    let lines: String = (0..500).map(|n| format!("-s {} cow 80\n", 20000 + n)).collect();
    let site = Site::new(&format!("-r nobody\n{lines}"));
    let daemon = site.launch(&scene).ready();
    process::signal(daemon.pid(), Signal::SIGKILL);
    wait::until_true("the guardian is dead", || !process::alive(daemon.pid()));
    let begin = Instant::now();
    let next = site.launch(&scene).ready();
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    wait::until_true("the orphan has gone", || daemon.family.pids().is_empty());
    assert_eq!(scene.page("10.1.0.1:20499"), "cow");
    site.stop(&next);
}

#[test]
fn a_name_that_moves_is_followed_by_every_one_of_many_redirections() {
    let Some(mut scene) = Scene::new() else { return };
    let lines: String = (0..300).map(|n| format!("-b 0.0.0.0 -s {} cow 80\n", 20000 + n)).collect();
    let site = Site::new(&format!("-r nobody\n{lines}"));
    let _daemon = site.launch(&scene).ready();
    assert_eq!(scene.page("10.1.0.1:20299"), "cow");
    scene.lab.gateway.hosts("10.2.0.5 moose cow\n");
    scene.cow = None;
    // The first that cannot be served has the name looked up.
    let _ = scene.lab.client.fetch("10.1.0.1:20000");
    wait::until_true("the first one", || scene.page("10.1.0.1:20000") == "moose");
    for port in [20001, 20150, 20299] {
        assert_eq!(scene.page(&format!("10.1.0.1:{port}")), "moose");
    }
}
