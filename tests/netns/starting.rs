//! Starting as a daemon: what the shell, an init script and systemd are told, and when.

use super::{MOOSE, Scene, Server, stand_in_detached};
use lab::daemon::Finished;
use lab::process::{self, Family};
use lab::tempdir::TempDir;
use lab::{clients, rules, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

fn started(done: &Finished) {
    assert_eq!(done.status, 0, "{done:?}");
}

fn stop(family: &Family, guardian: i32) {
    process::signal(guardian, Signal::SIGTERM);
    family.wait_gone();
}

#[test]
fn the_shell_gets_its_prompt_when_traffic_flows() {
    let Some(scene) = Scene::new() else { return };
    let before = rules::saved(&scene.lab.gateway);
    let (done, family) = scene.launch(&stand_in_detached(&[])).start();
    // No waiting between these two lines: that is the claim.
    let page = scene.page(MOOSE);
    started(&done);
    assert_eq!(page, "cow");
    stop(&family, family.guardian());
    assert_eq!(rules::saved(&scene.lab.gateway), before);
}

#[test]
fn a_start_that_succeeds_says_nothing() {
    let Some(scene) = Scene::new() else { return };
    let (done, _family) = scene.launch(&stand_in_detached(&[])).start();
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""));
}

#[test]
fn the_daemon_lets_go_of_its_starter() {
    let Some(scene) = Scene::new() else { return };
    let (done, family) = scene.launch(&stand_in_detached(&[])).start();
    started(&done);
    for pid in family.pids() {
        let root = fs::read_link(format!("/proc/{pid}/root")).expect("root").display().to_string();
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("cwd").display().to_string(), root);
        assert!(root == "/" || root.ends_with(" (deleted)"), "process {pid} keeps {root} in use");
        let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).expect("stdin");
        assert_eq!(stdin.display().to_string(), "/dev/null");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let (session, terminal) = (fields[3], fields[4]);
        let own = nix::unistd::getsid(None).expect("session").to_string();
        assert_ne!(session, own, "process {pid} is in the session of its starter");
        assert_eq!(terminal, "0", "process {pid} has a terminal");
    }
}

#[test]
fn the_pid_file_names_the_guardian_and_goes_with_it() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("tproxy.pid");
    let (done, family) = scene.launch(&stand_in_detached(&["-P", &path])).start();
    let text = fs::read_to_string(&path).expect("the pid file is there when the start returns");
    started(&done);
    let pid: i32 = text.trim_end().parse().expect("a number and a line end");
    assert_eq!(text, format!("{pid}\n"));
    assert_eq!(pid, family.guardian());
    stop(&family, pid);
    assert!(!fs::exists(&path).expect("stat"), "the pid file is still there");
}

#[test]
fn a_pid_file_of_a_dead_daemon_is_no_hindrance() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("tproxy.pid");
    fs::write(&path, "999999\n").expect("write");
    let (done, family) = scene.launch(&stand_in_detached(&["-P", &path])).start();
    started(&done);
    assert_eq!(fs::read_to_string(&path).expect("pid file"), format!("{}\n", family.guardian()));
}

#[test]
fn while_the_old_daemon_drains_its_pid_file_forbids_another_start() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("tproxy.pid");
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let args = ["-s", "12970", "-r", "nobody", "-P", &path, "-R", "-d moose --dport 7", "cow", "7"];
    let (done, old) = scene.launch(&args).start();
    started(&done);
    let guardian = old.guardian();
    let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut client, b"before").expect("echo");
    process::signal(guardian, Signal::SIGTERM);
    wait::until_true("the rules go first", || rules::jumps_to_ours(&scene.lab.gateway) == 0);
    let refused = scene.launch(&args).run();
    assert_eq!(refused.status, 69, "{refused:?}");
    assert!(refused.stderr.contains(&guardian.to_string()), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).expect("the pid file"), format!("{guardian}\n"));
    drop(client);
    old.wait_gone();
    let (done, new) = scene.launch(&args).start();
    started(&done);
    assert_eq!(fs::read_to_string(&path).expect("the pid file"), format!("{}\n", new.guardian()));
}

#[test]
fn a_port_that_is_taken_is_status_69_and_leaves_no_rule() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let _other = gateway.enter(|| Server::silent("0.0.0.0:12970"));
    let (done, family) = scene.launch(&stand_in_detached(&[])).start();
    assert_eq!(done.status, 69, "{done:?}");
    assert!(done.stderr.starts_with("tproxy: ") && done.stderr.contains("12970"), "{done:?}");
    family.wait_gone();
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn a_failed_start_leaves_no_pid_file() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("tproxy.pid");
    let bad = ["-s", "12970", "-P", &path, "-R", "-m no-such-module", "10.3.0.3", "80"];
    assert_eq!(scene.launch(&bad).run().status, rules::unknown_match_status());
    assert!(!fs::exists(&path).expect("stat"));
}

#[test]
fn a_pid_file_that_cannot_be_made_is_status_73() {
    let Some(scene) = Scene::new() else { return };
    let (done, family) = scene.launch(&stand_in_detached(&["-P", "/proc/no/such.pid"])).start();
    assert_eq!(done.status, 73, "{done:?}");
    assert!(done.stderr.contains("/proc/no/such.pid"), "{done:?}");
    family.wait_gone();
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn systemd_is_told_when_traffic_flows_and_how_long_a_stop_may_take() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let mut daemon = scene
        .launch(&[super::STAND_IN, &["--drain-delay", "1", "--drain", "600"][..]].concat())
        .env("NOTIFY_SOCKET", &path)
        .spawn();
    let wait_for = |sure: &dyn Fn(&str) -> bool| {
        let mut buffer = [0; 512];
        loop {
            let count = socket.recv(&mut buffer).expect("a message from the daemon");
            let text = String::from_utf8_lossy(&buffer[..count]).to_string();
            if text.lines().any(sure) {
                return text;
            }
        }
    };
    let text = wait_for(&|line| line == "READY=1");
    assert_eq!(scene.page(MOOSE), "cow", "at the moment of {text:?}");
    // A stop has the time that its options say, whatever the unit says.
    process::signal(daemon.pid(), Signal::SIGTERM);
    wait_for(&|line| line == "EXTEND_TIMEOUT_USEC=46000000");
    wait_for(&|line| line == "STOPPING=1");
    wait_for(&|line| line == "EXTEND_TIMEOUT_USEC=645000000");
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn a_name_that_does_not_resolve_is_status_75_and_the_daemon_keeps_trying() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    gateway.hosts("10.2.0.5 moose\n");
    let begin = Instant::now();
    let (done, family) = scene.launch(&stand_in_detached(&[])).start();
    assert_eq!(done.status, 75, "{done:?}");
    assert!(done.stderr.contains("cow"), "{done:?}");
    assert!(begin.elapsed() < Duration::from_secs(40), "waited {:?}", begin.elapsed());
    assert_eq!(rules::count_of_ours(gateway), 0, "no rule without an upstream");
    assert_eq!(scene.page(MOOSE), "moose");
    gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\n");
    wait::until_within(Duration::from_secs(60), "the redirection begins", || {
        (scene.page(MOOSE) == "cow").then_some(())
    });
    stop(&family, family.guardian());
    assert_eq!(rules::count_of_ours(gateway), 0);
}

#[test]
fn the_access_log_is_reopened_by_a_daemon_that_has_dropped_its_privileges() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o700)).expect("mode");
    let (path, old) = (directory.file("access.log"), directory.file("access.log.1"));
    let (done, family) = scene.launch(&stand_in_detached(&["-l", &path])).start();
    started(&done);
    let lines = |path: &str| fs::read_to_string(path).unwrap_or_default().lines().count();
    assert_eq!(scene.page(MOOSE), "cow");
    wait::until_true("the first line", || lines(&path) == 1);
    fs::rename(&path, &old).expect("rename");
    process::signal(family.guardian(), Signal::SIGHUP);
    wait::until_true("the file is there again", || fs::exists(&path).expect("stat"));
    wait::until_true("lines go to the new file", || {
        assert_eq!(scene.page(MOOSE), "cow");
        lines(&path) > 0
    });
    // A worker that replaces a killed one writes there, too.
    let worker = family.worker();
    process::signal(worker, Signal::SIGKILL);
    family.next_worker(worker);
    let count = lines(&path);
    assert_eq!(scene.page(MOOSE), "cow");
    wait::until_true("a line of the new worker", || lines(&path) > count);
}

/// The init script with a file of defaults of its own.
struct InitScript {
    directory: TempDir,
    script: String,
    family: Family,
}

impl InitScript {
    fn new(options: &str) -> InitScript {
        let directory = TempDir::new();
        let [script, defaults, pidfile] = ["init", "default", "pid"].map(|name| directory.file(name));
        let text = fs::read_to_string("scripts/tproxy.init").expect("the script");
        let usual = "DEFAULTS=/etc/default/tproxy\n";
        assert_eq!(text.matches(usual).count(), 1);
        fs::write(&script, text.replace(usual, &format!("DEFAULTS={defaults}\n"))).expect("script");
        let program = env!("CARGO_BIN_EXE_tproxy");
        let text = format!("DAEMON={program}\nPIDFILE={pidfile}\nSTOP_WAIT=5\nDAEMON_OPTS=\"{options}\"\n");
        fs::write(&defaults, text).expect("defaults");
        InitScript { directory, script, family: Family::new() }
    }

    /// Gives the status, and what was said.
    fn run(&self, scene: &Scene, order: &str) -> (i32, String) {
        let words = ["netns", "exec", &scene.lab.gateway.name, "sh", &self.script, order];
        let done = Command::new("ip").args(words).envs([self.family.entry()]).output().expect("ip");
        let said = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn the_init_script_starts_reloads_restarts_and_stops() {
    let Some(scene) = Scene::new() else { return };
    let before = rules::saved(&scene.lab.gateway);
    let file = "-r nobody\n-s 12970 -R '-d moose --dport 80' cow 80\n";
    let init = InitScript::new("-c $(dirname $PIDFILE)/table.conf");
    let write = |text: &str| fs::write(init.directory.file("table.conf"), text).expect("file");
    let pid = || fs::read_to_string(init.directory.file("pid")).unwrap_or_default().trim().to_string();
    write(file);
    let run = |order: &str, status: i32, said: &str| {
        let (got, text) = init.run(&scene, order);
        assert_eq!(got, status, "{order}: {text}");
        assert!(text.contains(said), "{order}: {text}");
    };
    run("status", 3, "tproxy: is not running\n");
    run("reload", 7, "tproxy: is not running\n");
    run("start", 0, "tproxy: started\n");
    assert_eq!(scene.page(MOOSE), "cow");
    let first = pid();
    run("start", 0, &format!("is running already, process {first}"));
    run("status", 0, &format!("is running, process {first}"));
    // What cannot be is refused with its sentence, and what runs goes on.
    let worker = init.family.worker();
    for bad in ["-s 70000 cow 80\n", "-s 12970 --no-such-option cow 80\n", "-s 12970 'cow 80\n"] {
        write(&format!("{file}{bad}"));
        run("reload", 6, "table.conf:3: ");
        run("restart", 6, "tproxy: nothing was changed\n");
    }
    fs::remove_file(init.directory.file("table.conf")).expect("file");
    run("reload", 1, "table.conf: No such file or directory");
    run("restart", 1, "tproxy: nothing was changed\n");
    assert_eq!((pid(), init.family.worker()), (first.clone(), worker));
    assert_eq!(scene.page(MOOSE), "cow");

    write(&file.replace("cow 80", "moose 80"));
    run("reload", 0, "");
    wait::until_true("the new upstream", || scene.page(MOOSE) == "moose");
    assert_eq!(pid(), first);
    write(file);
    run("restart", 0, "tproxy: stopped\ntproxy: started\n");
    assert_ne!(pid(), first);
    assert_eq!(scene.page(MOOSE), "cow");
    // A name that does not resolve now may do so later, and what else there is to serve does not wait for it.
    write(&format!("{file}-s 12971 -R '-d moose --dport 81' nobody.invalid 80\n"));
    run("restart", 0, "tproxy: stopped\ntproxy: started\n");
    assert_eq!(scene.page(MOOSE), "cow");
    // An upgrade in the middle of a stop is stopped as well.
    process::signal(init.family.guardian(), Signal::SIGUSR2);
    run("stop", 0, "tproxy: stopped\n");
    init.family.wait_gone();
    assert_eq!(rules::saved(&scene.lab.gateway), before);
    run("stop", 0, "tproxy: is not running\n");
}

#[test]
fn the_init_script_cleans_up_after_a_killed_daemon() {
    let Some(scene) = Scene::new() else { return };
    let before = rules::saved(&scene.lab.gateway);
    let init = InitScript::new("-s 12970 -r nobody -R '-d moose --dport 80' cow 80");
    assert_eq!(init.run(&scene, "start").0, 0);
    process::signal(init.family.guardian(), Signal::SIGKILL);
    wait::until_true("its end", || init.family.named("tproxy").is_empty());
    let (status, said) = init.run(&scene, "status");
    assert_eq!((status, said.contains("was not stopped")), (1, true), "{said}");
    assert_eq!(init.run(&scene, "start"), (0, "tproxy: started\n".into()));
    assert_eq!(scene.page(MOOSE), "cow");
    wait::until_true("the orphan has gone", || init.family.named("tproxy-worker").len() == 1);
    assert_eq!(init.run(&scene, "stop"), (0, "tproxy: stopped\n".into()));
    init.family.wait_gone();
    assert_eq!(rules::saved(&scene.lab.gateway), before);
}

#[test]
fn a_limit_on_the_size_of_files_is_no_limit_for_rules_or_is_named() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let mut daemon = super::Launch::new(super::STAND_IN).after("ulimit -f 64").within(gateway).ready();
    assert_eq!(scene.page(super::MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    // Not every root may raise it.
    let (done, family) = super::Launch::new(&stand_in_detached(&[])).after("ulimit -f 0").within(gateway).start();
    assert!(done.status == 0 || done.stderr.contains("files are limited to 0 bytes (ulimit -f)"), "{done:?}");
    drop(family);
    scene.launch(&["--flush"]).run();
    assert_eq!(rules::saved(gateway), before);
}
