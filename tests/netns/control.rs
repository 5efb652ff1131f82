//! The control socket, the metrics, the checks of upstreams and the process that has them.

use super::*;
use lab::clients;
use lab::journal::ConnectionLine;
use lab::process;
use lab::rules;
use lab::tempdir::TempDir;
use lab::wait;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A directory with the control socket, the socket for metrics and the access log of a daemon.
struct Desk {
    directory: TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { directory: TempDir::new() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.file(name)
    }

    /// The arguments for the sockets and the log, with others.
    fn arguments<'a>(&self, more: &[&'a str], own: &'a [String; 3]) -> Vec<&'a str> {
        let [control, metrics, log] = own;
        [more, &["--control", control, "--metrics", metrics, "-l", log]].concat()
    }

    fn paths(&self) -> [String; 3] {
        ["c.sock", "m.sock", "access.log"].map(|name| self.path(name))
    }

    /// The answer to a command.
    fn ask(&self, command: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(format!("{command}\n").as_bytes()).expect("write");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn connect(&self) -> UnixStream {
        let stream = wait::until("the control socket", || UnixStream::connect(self.path("c.sock")).ok());
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream
    }

    /// The value of a field of a JSON answer, as it stands there.
    fn field(&self, command: &str, name: &str) -> String {
        let answer = self.ask(&format!("json {command}"));
        let start = format!("\"{name}\":");
        let (_, rest) = answer.split_once(&start).unwrap_or_else(|| panic!("{name} in {answer}"));
        let end = rest.find([',', '}', '\n']).unwrap_or(rest.len());
        rest[..end].trim_matches('"').to_owned()
    }

    fn number(&self, name: &str) -> u64 {
        self.field("show summary", name).parse().expect("a number")
    }

    /// The metrics, each sample with its labels as one key.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let mut stream = UnixStream::connect(self.path("m.sock")).expect("connect");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').expect("a sample"))
            .map(|(key, value)| (key.to_owned(), value.parse().expect("a value")))
            .collect()
    }

    /// Kills the first worker in whose row this stands.
    fn kill_worker(&self, mark: &str) {
        let workers = self.ask("json show workers");
        let row = workers.lines().find(|line| line.contains(mark)).expect("a worker");
        let pid = row.split("\"pid\":").nth(1).and_then(|rest| rest.split(',').next()).expect("a pid");
        process::signal(pid.parse().expect("a pid"), Signal::SIGKILL);
    }

    /// The lines of the access log.
    fn log(&self) -> Vec<ConnectionLine> {
        let text = fs::read_to_string(self.path("access.log")).unwrap_or_default();
        text.lines().filter_map(ConnectionLine::parse).collect()
    }
}

/// What stands in front of a colon.
fn kind(ending: &str) -> String {
    ending.split(':').next().unwrap_or_default().to_owned()
}

/// Every number of the summary and of the metrics against the log.
fn compare(desk: &Desk, lost: u64) {
    wait::until_true("all lines", || {
        desk.number("open") == 0 && desk.log().len() as u64 + lost == desk.number("accepted")
    });
    let lines = desk.log();
    let summary = desk.ask("json show summary");
    let metrics = desk.metrics();
    let (_, reasons) = summary.split_once("\"reasons\":{").expect("reasons");
    let reasons = reasons.split('}').next().expect("reasons");
    let mut sum = 0;
    for pair in reasons.split(',') {
        let (name, count) = pair.rsplit_once(':').expect("a pair");
        let (name, count) = (name.trim_matches('"'), count.parse::<u64>().expect("a count"));
        let logged =
            if name == "lost" { lost } else { lines.iter().filter(|line| kind(&line.ending) == name).count() as u64 };
        assert_eq!(count, logged, "{name}");
        sum += count;
        let metric: f64 = (1..=3)
            .filter_map(|id| {
                metrics.get(&format!("tproxy_connections_total{{redirection=\"{id}\",reason=\"{name}\"}}"))
            })
            .sum();
        assert_eq!(metric as u64, count, "{name}");
    }
    assert_eq!((desk.number("accepted"), desk.number("open")), (sum, 0), "{summary}");
    assert_eq!(sum, lines.len() as u64 + lost);
    for (direction, bytes) in
        [("up", lines.iter().map(|line| line.up).sum::<u64>()), ("down", lines.iter().map(|line| line.down).sum())]
    {
        let lost = desk.number(&format!("lost_bytes_{direction}"));
        assert_eq!(desk.number(&format!("bytes_{direction}")), bytes + lost, "{direction}");
        assert_eq!(metrics[&format!("tproxy_bytes_total{{direction=\"{direction}\"}}")] as u64, bytes + lost);
        assert_eq!(metrics[&format!("tproxy_lost_bytes_total{{direction=\"{direction}\"}}")] as u64, lost);
    }
}

#[test]
fn every_number_is_that_of_the_log() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let desk = Desk::new();
    let file = desk.path("table.conf");
    let [control, metrics, log] = desk.paths();
    let text = format!(
        "-r nobody -w 2 --control {control} --metrics {metrics} -l {log}\n\
         -s 12970 -R '-d moose --dport 80' cow 80\n\
         -s 12971 -R '-d moose --dport 7' --idle-timeout 1 cow 7\n\
         -s 12972 -R '-d moose --dport 81' cow 81\n"
    );
    fs::write(&file, text).expect("file");
    let mut daemon = scene.relay(&["-d", "-c", &file]);
    let fetch = |count: usize| (0..count).for_each(|_| assert_eq!(scene.page(MOOSE), "cow"));
    fetch(20);
    // A reset, an idle one, one that nobody serves, and one that comes to the port by itself.
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"before").expect("echo");
    clients::reset(stream);
    let mut idle = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut idle, b"idle").expect("echo");
    clients::expect_connect_reset(scene.lab.client.connect("10.2.0.5:81"));
    clients::expect_reset(&mut idle);
    wait::until_true("all have ended", || desk.number("open") == 0 && desk.number("accepted") == 23);
    compare(&desk, 0);
    // A worker that is killed with a connection that has moved something.
    let mut stream = scene.lab.client.connect("10.2.0.5:7").expect("connect");
    clients::round_trip(&mut stream, b"lost").expect("echo");
    let worker = desk.field("show connections state open port 7", "worker");
    desk.kill_worker(&format!("\"worker\":{worker},"));
    wait::until_true("another one", || desk.number("worker_deaths") == 1 && desk.number("workers") == 2);
    fetch(10);
    compare(&desk, 1);
    assert_eq!((desk.number("lost_bytes_up"), desk.number("lost_bytes_down")), (4, 4));
    // One that drains is counted as well.
    let held = scene.lab.client.connect(MOOSE).expect("connect");
    wait::until_true("it is there", || desk.number("open") == 1);
    assert_eq!(desk.ask("reload"), "ok: reload done\n");
    wait::until_true("only its worker drains", || desk.number("draining") == 1);
    desk.kill_worker("\"state\":\"draining\"");
    wait::until_true("it is lost", || desk.number("worker_deaths") == 2 && desk.number("draining") == 0);
    drop(held);
    fetch(10);
    // A control process that begins later knows as much.
    let former = daemon.family.one("tproxy-control");
    process::signal(former, Signal::SIGKILL);
    wait::until_true("another control process", || {
        daemon.family.named("tproxy-control").iter().any(|pid| *pid != former)
    });
    fetch(5);
    compare(&desk, 2);
    let mut monitor = desk.connect();
    monitor.write_all(b"json monitor\n").expect("write");
    assert_eq!(desk.ask("upgrade"), "ok: upgrade done\n");
    // Its process ends with the upgrade. New clients were served all the time.
    let mut events = String::new();
    monitor.read_to_string(&mut events).expect("events");
    assert!(events.contains("\"event\":\"upgrade\"") && !events.contains("withdrawn"), "{events}");
    fetch(5);
    compare(&desk, 2);
    assert_eq!((desk.number("reloads"), desk.number("accepted"), desk.number("worker_deaths")), (2, 55, 2));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn upstreams_redirections_and_connections_are_taken_out_and_put_back() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::echo("[::]:7"));
    let desk = Desk::new();
    let own = desk.paths();
    let table = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80", "moose", "80"];
    let mut daemon = scene.relay(&desk.arguments(&table, &own));
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(desk.ask("upstream disable cow:80"), "ok: upstream cow:80 is disabled\n");
    // The next worker knows it, too.
    wait::until_true("the other upstream", || scene.page(MOOSE) == "moose");
    assert_eq!(desk.field("show upstreams", "state"), "disabled");
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    daemon.family.next_worker(worker);
    assert_eq!(scene.page(MOOSE), "moose");
    assert_eq!(desk.ask("reload"), "ok: reload done\n");
    assert_eq!(scene.page(MOOSE), "moose");
    assert_eq!(desk.ask("upstream enable cow:80"), "ok: upstream cow:80 is enabled\n");
    wait::until_true("the first upstream", || scene.page(MOOSE) == "cow");
    assert!(desk.ask("upstream disable dog:80").starts_with("error: no redirection has the upstream dog:80"));

    // The rule goes, the connection stays. A page that has been read may have its connection still.
    let none_is_open = || wait::until_true("none is open", || desk.number("open") == 0);
    none_is_open();
    let mut held = scene.lab.client.connect(MOOSE).expect("connect");
    wait::until_true("it is there", || desk.number("open") == 1);
    assert_eq!(desk.ask("redirection disable 1"), "ok: redirection 1 is disabled\n");
    assert_eq!(scene.page(MOOSE), "moose");
    assert_eq!(desk.ask("health"), "withdrawn: redirection 1 is disabled\n");
    assert_eq!(desk.field("show redirections", "state"), "disabled");
    held.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("write");
    let mut page = String::new();
    held.read_to_string(&mut page).expect("read");
    assert!(page.ends_with("cow"), "{page}");
    drop(held);
    assert_eq!(desk.ask("redirection enable 1"), "ok: redirection 1 is enabled\n");
    assert_eq!((scene.page(MOOSE).as_str(), desk.ask("health").as_str()), ("cow", "serving\n"));
    assert!(desk.ask("redirection disable 2").starts_with("error: there is no redirection 2"));

    // One connection, and then all of a client.
    none_is_open();
    let mut first = scene.lab.client.connect(MOOSE).expect("connect");
    wait::until_true("it is there", || desk.number("open") == 1);
    let id = desk.field("show connections", "id");
    assert_eq!(desk.ask(&format!("kill {id}")), "ok: 1 connection is reset\n");
    clients::expect_reset(&mut first);
    none_is_open();
    let mut more: Vec<_> = (0..3).map(|_| scene.lab.client.connect(MOOSE).expect("connect")).collect();
    wait::until_true("they are there", || desk.number("open") == 3);
    assert_eq!(desk.ask("kill source 10.3.0.0/16"), "error: no such connection\n");
    assert_eq!(desk.ask("kill source 10.1.0.2"), "ok: 3 connections are reset\n");
    more.iter_mut().for_each(clients::expect_reset);
    wait::until_true("the log", || desk.log().iter().filter(|line| line.ending == "killed").count() == 4);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_monitor_follows_what_happens_and_a_stop_makes_health_bad_first() {
    let Some(scene) = Scene::new() else { return };
    let desk = Desk::new();
    let own = desk.paths();
    let health = desk.path("health");
    let more = ["--health-file", &health, "--drain-delay", "2", "--drain", "1", "--verify", "1"];
    let mut daemon = scene.relay(&desk.arguments(&[STAND_IN, &more].concat(), &own));
    let read = || fs::read_to_string(&health).unwrap_or_default();
    wait::until_true("the health file", || read() == "0\n");
    let mut monitor = desk.connect();
    monitor.write_all(b"json monitor\n").expect("write");
    let mut lines = BufReader::new(monitor).lines();
    let mut follow = |event: &str| {
        let wanted = format!("\"event\":\"{event}\"");
        lines.by_ref().map(|line| line.expect("an event")).find(|line| line.contains(&wanted)).expect("the event")
    };
    assert!(follow("monitor").contains("\"health\":\"serving\""));
    process::signal(daemon.family.worker(), Signal::SIGKILL);
    assert!(follow("worker died").contains("\"worker\":1"));
    follow("worker started");
    // Others take our rules away.
    if rules::is_nft() {
        process::signal(daemon.family.one("tproxy-nft"), Signal::SIGKILL);
    } else {
        scene.lab.gateway.run(&["iptables", "-w", "-t", "nat", "-F", "tproxy.12970"]);
    }
    follow("rules restored");
    assert_eq!(desk.ask("reload"), "ok: reload done\n");
    follow("reload");
    desk.ask("upstream drain cow:80");
    follow("upstream draining");
    follow("upstream drained");
    desk.ask("upstream enable cow:80");
    follow("upstream enabled");
    // A health file that cannot be written is tried again.
    fs::remove_file(&health).expect("remove");
    fs::create_dir(&health).expect("a directory");
    desk.ask("redirection disable 1");
    follow("health");
    fs::remove_dir(&health).expect("remove");
    wait::until_true("the health file", || {
        desk.ask("verbose off");
        read() == "1\n"
    });
    desk.ask("redirection enable 1");
    follow("health");
    assert_eq!(desk.ask("stop --drain 0"), "ok: stopping\n");
    let begin = Instant::now();
    follow("health");
    assert_eq!((read().as_str(), desk.ask("health").as_str()), ("1\n", "draining: the instance stops\n"));
    // Clients are still served until the time is over.
    if begin.elapsed() < Duration::from_secs(1) {
        assert_eq!(scene.page(MOOSE), "cow");
        assert!(rules::count_of_ours(&scene.lab.gateway) > 0);
    }
    assert_eq!(daemon.wait(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
    daemon.family.wait_gone();
    assert!(!fs::exists(desk.path("c.sock")).expect("look"), "the socket goes with the daemon");
}

#[test]
fn checks_take_an_upstream_out_and_back() {
    let Some(mut scene) = Scene::new() else { return };
    let desk = Desk::new();
    let own = desk.paths();
    let table = [
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "-R",
        "-d moose --dport 80",
        "--check-interval",
        "1",
        "--check-http",
        "/",
        "--rise",
        "2",
        "--fall",
        "1",
    ];
    let mut daemon = scene.relay(&desk.arguments(&[&table[..], &["cow", "80", "moose", "80"]].concat(), &own));
    wait::until_true("a check", || desk.field("show upstreams", "check") == "passing");
    assert_eq!(desk.field("show upstreams", "check_result"), "status 200");
    scene.cow = None;
    let broken = scene.lab.cow.enter(broken_server);
    wait::until_true("the check fails", || desk.field("show upstreams", "check") == "failing");
    daemon.journal.wait_for("upstream cow:80 (10.3.0.3:80) of redirection 1 is down: check: status 503");
    wait::until_true("the other upstream", || scene.page(MOOSE) == "moose");
    assert_eq!(desk.field("show upstreams", "state"), "down");
    // A worker that begins now is told.
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    daemon.family.next_worker(worker);
    wait::until_true("the other upstream", || scene.page(MOOSE) == "moose");
    drop(broken);
    scene.cow = Some(scene.lab.cow.enter(mended_server));
    daemon.journal.wait_for("upstream cow:80 (10.3.0.3:80) of redirection 1 is up again: check: status 200");
    wait::until_true("the first upstream", || scene.page(MOOSE) == "cow");

    // A control process that begins now does not know that it was out.
    scene.cow = None;
    let broken = scene.lab.cow.enter(broken_server);
    wait::until_true("the check fails", || desk.field("show upstreams", "state") == "down");
    drop(broken);
    scene.cow = Some(scene.lab.cow.enter(mended_server));
    process::signal(daemon.family.one("tproxy-control"), Signal::SIGKILL);
    wait::until_true("the first upstream", || scene.page(MOOSE) == "cow");
    assert_eq!(daemon.stop(), 0);
}

/// Answers each request with an error, as soon as the port is free.
fn broken_server() -> Server {
    wait::until("the port", || std::net::TcpListener::bind("[::]:80").ok().map(drop));
    Server::threaded("[::]:80", |mut stream| {
        let mut buffer = [0; 512];
        let _ = stream.read(&mut buffer);
        let _ = stream.write_all(b"HTTP/1.0 503 Broken\r\n\r\n");
    })
}

fn mended_server() -> Server {
    wait::until("the port", || std::net::TcpListener::bind("[::]:80").ok().map(drop));
    Server::page("[::]:80", "cow")
}

#[test]
fn hostile_clients_of_the_socket_cost_nobody_anything() {
    let Some(scene) = Scene::new() else { return };
    let desk = Desk::new();
    let own = desk.paths();
    let mut daemon = scene.relay(&desk.arguments(STAND_IN, &own));
    let control = daemon.family.one("tproxy-control");
    // Some that never read, some that say nothing, many more than there may be, and garbage.
    let held: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = desk.connect();
            stream.write_all(b"prompt\n").expect("write");
            stream.set_nonblocking(true).expect("non-blocking");
            while stream.write(b"json show summary\n").is_ok() {}
            stream
        })
        .collect();
    let mut crowd: Vec<UnixStream> = Vec::new();
    for _ in 0..1000 {
        crowd.extend(UnixStream::connect(desk.path("c.sock")).ok());
    }
    assert!(process::descriptor_count(control) < 200, "{}", process::descriptor_count(control));
    let mut full = 0;
    wait::until_true("most are refused", || {
        for stream in &mut crowd {
            let mut answer = [0; 24];
            let _ = stream.set_nonblocking(true);
            let read = stream.read(&mut answer);
            full += usize::from(read.is_ok_and(|count| answer[..count] == *b"error: too many clients\n"));
        }
        full > 800
    });
    assert_eq!(scene.page(MOOSE), "cow");
    drop((held, crowd));
    wait::until_true("room again", || {
        UnixStream::connect(desk.path("c.sock")).is_ok_and(|mut stream| {
            let _ = stream.write_all(b"health\n");
            let mut answer = String::new();
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.read_to_string(&mut answer);
            answer == "serving\n"
        })
    });
    let mut random = lab::dice::Dice(7);
    for _ in 0..200 {
        let mut stream = desk.connect();
        let bytes: Vec<u8> = (0..random.roll(3000)).map(|_| random.roll(256) as u8).collect();
        let _ = stream.write_all(&bytes);
        let mut scrape = UnixStream::connect(desk.path("m.sock")).expect("connect");
        let _ = scrape.write_all(&bytes);
    }
    assert_eq!(desk.ask(&"x".repeat(2000)), "error: line too long\n");
    assert_eq!(daemon.family.one("tproxy-control"), control, "it is still the same");
    wait::until_true("all are gone", || process::descriptor_count(control) < 40);
    // Killed, it is replaced; the socket is the same, and nobody else notices.
    let worker = daemon.family.worker();
    process::signal(control, Signal::SIGKILL);
    assert_eq!(scene.page(MOOSE), "cow");
    wait::until_true("another one", || daemon.family.named("tproxy-control").iter().any(|pid| *pid != control));
    assert_eq!((desk.ask("health").as_str(), daemon.family.worker()), ("serving\n", worker));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_reader_may_look_and_change_nothing() {
    let Some(scene) = Scene::new() else { return };
    let desk = Desk::new();
    let own = desk.paths();
    let mut daemon = scene.relay(&desk.arguments(&[STAND_IN, &["--control-group", "nogroup"]].concat(), &own));
    desk.ask("health");
    let directory = desk.directory.path.clone();
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let about = fs::metadata(desk.path("c.sock")).expect("about");
    let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o777;
    assert_eq!((mode, std::os::unix::fs::MetadataExt::uid(&about)), (0o660, 0));
    let as_nobody = |command: &str| {
        let script = format!(
            "echo {command} | setpriv --reuid nobody --regid nogroup --clear-groups socat -t 5 - UNIX-CONNECT:{}",
            desk.path("c.sock")
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("socat");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(as_nobody("health"), "serving\n");
    for command in [
        "reload",
        "reopen",
        "upgrade",
        "stop",
        "verbose on",
        "kill 1-1",
        "kill source ::1",
        "upstream disable cow:80",
        "redirection disable 1",
    ] {
        assert_eq!(as_nobody(command), "error: permission denied\n", "{command}");
    }
    assert_eq!(as_nobody("json reload"), "{\"error\":\"permission denied\"}\n");
    assert_eq!(daemon.stop(), 0);
}
