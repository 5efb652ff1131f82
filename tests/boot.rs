//! The package on a machine that boots (`make test-boot`): systemd, dpkg, logrotate and the journal are real. The machine
//! stands where the gateway of the other tests stands, with a client and servers around it.
//!
//! TPROXY_DEB is the package to try. These tests need root, debootstrap and systemd-nspawn, and fail without them.

#[path = "boot/machine.rs"]
mod machine;

use lab::netns::Lab;
use lab::servers::Server;
use lab::{AtEnd, clients, number_from_env, report, rules, wait};
use machine::Machine;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MOOSE: &str = "10.2.0.5:80";
const HOSTS: &str = "10.2.0.5 moose\n10.3.0.3 cow\n";
/// The lines of the administrator, who sends moose's clients to cow.
const PROCESS: &str = "-r tproxy --drain 3";
const REDIRECTION: &str = "-s 12970 -R '-d moose --dport 80' cow 80";
/// Longest time that systemd may take to notice something.
const SLOW: Duration = Duration::from_secs(60);

struct Scene {
    machine: Machine,
    lab: Lab,
    _servers: [Server; 2],
}

impl Scene {
    fn boot() -> Scene {
        let lab = Lab::new().expect("namespaces");
        let moose = lab.moose.enter(|| Server::page("[::]:80", "moose"));
        let cow = lab.cow.enter(|| Server::page("[::]:80", "cow"));
        let machine = Machine::boot(&lab.gateway, HOSTS);
        Scene { machine, lab, _servers: [moose, cow] }
    }

    /// One in which the package is installed.
    fn installed() -> Scene {
        let scene = Scene::boot();
        let package = scene.machine.give(&package());
        scene.machine.run(&["dpkg", "-i", &package]);
        scene
    }

    /// Whose page the client gets.
    fn page(&self) -> String {
        self.lab.client.fetch(MOOSE).unwrap_or_else(|error| format!("({error})"))
    }

    /// The options of the daemon: those of the administrator, and more.
    fn options(&self, more: &str) {
        let options = format!("{PROCESS} {more} {REDIRECTION}");
        self.machine.write("/etc/default/tproxy", &format!("DAEMON_OPTS=\"{options}\"\n"));
    }

    fn guardian(&self, unit: &str) -> String {
        self.machine.property(unit, "MainPID")
    }

    /// Kills a guardian as a crash does.
    fn crash(&self, unit: &str) {
        self.machine.run(&["kill", "-KILL", &self.guardian(unit)]);
    }

    /// The unit has stopped as an administrator expects it: it was waited for, and nobody was killed for being late. (systemd
    /// may kill a worker that has just ended: its kernel still lists it.)
    fn assert_stopped_by_itself(&self) {
        assert_eq!(self.machine.property("tproxy.service", "ActiveState"), "inactive");
        assert_eq!(self.machine.property("tproxy.service", "Result"), "success");
        let journal = self.machine.journal(&["-u", "tproxy"]);
        let stop = journal.rsplit("Stopping tproxy.service").next().unwrap_or_default();
        let late = stop.contains("stop-sigterm' timed out") || stop.contains("did not end in time and");
        assert!(stop.contains("\nstopped\n") && !late && !stop.contains("could not be"), "{journal}");
    }

    fn wait_page(&self, page: &str) {
        wait::until_within(SLOW, &format!("the page of {page}"), || (self.page() == page).then_some(()));
    }
}

fn package() -> PathBuf {
    PathBuf::from(std::env::var_os("TPROXY_DEB").expect("TPROXY_DEB: run `make test-boot`"))
}

/// The same package with another revision, which dpkg takes for a newer one.
fn next_package(directory: &lab::tempdir::TempDir) -> PathBuf {
    let (tree, next) = (directory.file("tree"), directory.path.join("next.deb"));
    let dpkg = |words: &[&str]| assert!(Command::new("dpkg-deb").args(words).status().expect("dpkg-deb").success());
    dpkg(&["-R", &package().display().to_string(), &tree]);
    let control = format!("{tree}/DEBIAN/control");
    let text = fs::read_to_string(&control).expect("control");
    let text: Vec<String> = text
        .lines()
        .map(|line| if line.starts_with("Version:") { format!("{line}+next") } else { line.into() })
        .collect();
    fs::write(&control, text.join("\n") + "\n").expect("control");
    dpkg(&["-b", "-Znone", &tree, &next.display().to_string()]);
    next
}

/// Clients that come at a steady rate until they are told to stop.
struct Load<'a> {
    stop: AtEnd<'a>,
    clients: Vec<std::thread::ScopedJoinHandle<'a, (usize, Vec<String>)>>,
}

impl<'a> Load<'a> {
    const THREADS: u32 = 4;

    /// `rate` connections a second.
    fn begin<'b>(scope: &'a std::thread::Scope<'a, 'b>, lab: &'a Lab, stop: &'a AtomicBool, rate: u32) -> Load<'a> {
        let to: SocketAddr = MOOSE.parse().expect("an address");
        let begin = Instant::now();
        let client = move || {
            lab.client.enter(|| {
                let (mut count, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match clients::connect(to).and_then(clients::ask) {
                        Ok(page) if page == "cow" => {}
                        other => failed.push(format!("after {:?}: {other:?}", begin.elapsed())),
                    }
                    count += 1;
                    let due = begin + Duration::from_secs(1) * count as u32 * Load::THREADS / rate;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                (count, failed)
            })
        };
        Load { stop: AtEnd(stop), clients: (0..Load::THREADS).map(|_| scope.spawn(client)).collect() }
    }

    /// How many connections there were, and what went wrong.
    fn end(self) -> (usize, Vec<String>) {
        drop(self.stop);
        let all: Vec<_> = self.clients.into_iter().map(|client| client.join().expect("a client")).collect();
        (all.iter().map(|(count, _)| count).sum(), all.into_iter().flat_map(|(_, failed)| failed).collect())
    }
}

/// All files that a package could leave, and all users.
fn files_and_users(machine: &Machine) -> String {
    machine.script(
        "cd /; find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp -o -path ./root \
             -o -path ./var/tmp -o -path ./var/log/journal -o -path ./var/cache -o -path ./var/lib/dpkg -o -path ./var/lib/apt \
             -o -path ./var/log/apt -o -path ./run/systemd -o -path ./run/log -o -path ./run/udev -o -path ./run/user \
             -o -path ./run/lock -o -path ./run/dbus \\) -prune -o ! -path './var/log/dpkg.log' ! -path './var/lib/systemd/*' \
             ! -path './var/lib/logrotate/*' ! -path './run/xtables.lock' ! -path './run/*.pid' ! -path './etc/*-' -printf '%p %M %u %g\\n' | sort; \
         ls /run/*.pid 2>/dev/null | grep tproxy || :; \
         cat /etc/passwd /etc/group /etc/shadow /etc/gshadow; ls /run/systemd/system /etc/systemd/system/*.wants",
    )
}

/// The first lines that only one of the two has.
fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |a: &str, b: &str, sign: char| -> Vec<String> {
        let b: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    [only(before, after, '-'), only(after, before, '+')].concat()
}

#[test]
#[ignore = "boots a machine: make test-boot"]
fn from_nothing_to_a_purge_that_leaves_nothing() {
    let begin = Instant::now();
    let scene = Scene::boot();
    let (machine, booted) = (&scene.machine, begin.elapsed());
    let (files, firewall) = (files_and_users(machine), rules::saved(&scene.lab.gateway));
    let package = machine.give(&package());
    machine.run(&["apt-get", "-q", "-y", "install", &package]);
    assert_eq!(machine.property("tproxy.service", "ActiveState"), "inactive", "nothing starts without a configuration");
    assert_eq!(machine.say(&["systemctl", "is-enabled", "tproxy.service"]).text.trim(), "disabled");
    machine.run(&[
        "systemd-analyze",
        "verify",
        "--man=no",
        "/lib/systemd/system/tproxy.service",
        "/lib/systemd/system/tproxy@.service",
    ]);
    scene.options("");
    machine.run(&["systemctl", "enable", "--now", "tproxy.service"]);
    assert_eq!(scene.page(), "cow", "the start has ended, so traffic flows");
    let answered = begin.elapsed();
    let status = wait::until_within(SLOW, "the status", || {
        let text = machine.say(&["systemctl", "status", "tproxy.service"]).text;
        text.contains("Status: \"0 connections, 1 accepted; upstreams: cow:80\"").then_some(text)
    });
    assert!(status.contains("enabled"), "{status}");
    // A crash leaves nothing, either.
    scene.crash("tproxy.service");
    scene.wait_page("cow");
    machine.run(&["apt-get", "-q", "-y", "purge", "tproxy"]);
    assert_eq!(scene.page(), "moose");
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
    assert_eq!(rules::saved(&scene.lab.gateway), firewall);
    let left = difference(&files, &files_and_users(machine));
    assert!(left.is_empty(), "{}", left.join("\n"));
    report(&format!(
        "boot: booted after {:.1} s, a redirected request answered after {:.1} s, purged after {:.1} s",
        booted.as_secs_f64(),
        answered.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ));
}

#[test]
#[ignore = "boots a machine: make test-boot"]
fn a_daemon_of_systemd_reloads_logs_and_ends_as_its_unit_says() {
    let scene = Scene::installed();
    let machine = &scene.machine;
    scene.options("-l /var/log/tproxy/access.log");
    machine.run(&["systemctl", "start", "tproxy.service"]);
    assert_eq!(scene.page(), "cow");

    // logrotate, with a connection that lasts.
    let mut lasting = scene.lab.client.connect(MOOSE).expect("connect");
    let lines = |name: &str| machine.say(&["wc", "-l", &format!("/var/log/tproxy/{name}")]).text;
    wait::until_true("a line", || lines("access.log").starts_with("1 "));
    let guardian = scene.guardian("tproxy.service");
    machine.run(&["logrotate", "--force", "/etc/logrotate.d/tproxy"]);
    assert_eq!(scene.page(), "cow");
    wait::until_true("a line in the new file", || lines("access.log").starts_with("1 "));
    assert!(lines("access.log.1").starts_with("1 "), "{}", lines("access.log.1"));

    // A reload keeps the process and the connection.
    machine.run(&["systemctl", "reload", "tproxy.service"]);
    machine.wait_journal(&["-u", "tproxy"], "reloaded: ");
    assert_eq!((scene.page().as_str(), scene.guardian("tproxy.service")), ("cow", guardian));
    lasting.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("the old connection goes on");
    let mut answer = String::new();
    lasting.read_to_string(&mut answer).expect("answer");
    assert!(answer.contains("cow"), "{answer}");

    // The journal: one name in front of a line, and that is journald's; each line has its severity.
    let worker = machine.run(&["pgrep", "-n", "-x", "tproxy-worker"]);
    machine.run(&["kill", "-KILL", worker.trim()]);
    machine.wait_journal(&["-u", "tproxy", "-p", "warning"], "another one is started");
    scene.wait_page("cow");
    let whole = machine.journal(&["-u", "tproxy"]);
    assert!(!whole.contains("tproxy[") && !whole.contains('<'), "{whole}");
    let trouble = machine.journal(&["-u", "tproxy", "-p", "warning", "_COMM=tproxy"]);
    assert_eq!(trouble.lines().count(), 1, "{trouble}");

    // The guardian crashes: for a moment clients reach moose, and then cow again.
    machine.write("/etc/systemd/system/tproxy.service.d/slow.conf", "[Service]\nRestartSec=4\n");
    machine.run(&["systemctl", "daemon-reload"]);
    scene.crash("tproxy.service");
    wait::until_within(SLOW, "no rule points at nobody", || (scene.page() == "moose").then_some(()));
    scene.wait_page("cow");

    // --fail closed stays closed.
    scene.options("--fail closed");
    machine.run(&["systemctl", "restart", "tproxy.service"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut pages = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                pages.push(scene.page());
                std::thread::sleep(Duration::from_millis(20));
            }
            pages
        });
        let end = AtEnd(&stop);
        scene.crash("tproxy.service");
        wait::until_within(SLOW, "rejects", || rules::saved(&scene.lab.gateway).contains("REJECT").then_some(()));
        scene.wait_page("cow");
        drop(end);
        let pages = watch.join().expect("watch");
        assert!(!pages.contains(&"moose".to_owned()), "{pages:?}");
    });

    // The stop drains: the connection ends by itself, and nobody is killed.
    let mut lasting = scene.lab.client.connect(MOOSE).expect("connect");
    machine.run(&["systemctl", "stop", "tproxy.service"]);
    assert!(lasting.read(&mut [0; 1]).is_err(), "it was reset after --drain");
    assert_eq!((scene.page().as_str(), rules::count_of_ours(&scene.lab.gateway)), ("moose", 0));
    scene.assert_stopped_by_itself();
}

#[test]
#[ignore = "boots a machine: make test-boot"]
fn instances_sockets_and_the_watchdog_of_systemd() {
    let scene = Scene::installed();
    let machine = &scene.machine;
    // Two instances of the template.
    machine.write("/etc/tproxy/web.conf", &format!("{PROCESS}\n{REDIRECTION}\n"));
    machine.write("/etc/tproxy/mail.conf", "-r tproxy\n-s 12971 -R '-d moose --dport 25' cow 80\n");
    machine.run(&["systemctl", "start", "tproxy@web.service", "tproxy@mail.service"]);
    assert_eq!(scene.page(), "cow");
    let mail = || scene.lab.client.fetch("10.2.0.5:25");
    assert_eq!(mail().expect("mail"), "cow");
    machine.run(&["systemctl", "stop", "tproxy@web.service"]);
    assert_eq!((scene.page().as_str(), mail().expect("mail").as_str()), ("moose", "cow"));
    let second = machine.say(&["tproxy", "-d", "-c", "/etc/tproxy/mail.conf"]);
    assert_eq!(second.status, 69, "the name is still locked: {}", second.text);
    machine.run(&["systemctl", "stop", "tproxy@mail.service"]);

    // A socket that systemd holds.
    machine.write("/etc/systemd/system/tproxy.socket", "[Socket]\nListenStream=12970\n");
    let passed = format!("{PROCESS} {}", REDIRECTION.replace("-s 12970 ", ""));
    machine.write("/etc/default/tproxy", &format!("DAEMON_OPTS=\"{passed}\"\n"));
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "tproxy.socket", "tproxy.service"]);
    assert_eq!(scene.page(), "cow");
    machine.run(&["systemctl", "stop", "tproxy.socket", "tproxy.service"]);

    // The watchdog: nothing happens while all answer, and a worker that does not ends it.
    machine.write("/etc/systemd/system/tproxy.service.d/watchdog.conf", "[Service]\nWatchdogSec=4\n");
    machine.run(&["rm", "/etc/systemd/system/tproxy.socket"]);
    scene.options("");
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "tproxy.service"]);
    wait::holds_for(Duration::from_secs(9), "it is fed", || {
        machine.property("tproxy.service", "NRestarts") == "0" && scene.page() == "cow"
    });
    let worker = machine.run(&["pgrep", "-n", "-x", "tproxy-worker"]);
    machine.run(&["kill", "-STOP", worker.trim()]);
    wait::until_within(SLOW, "systemd restarts it", || {
        (machine.property("tproxy.service", "NRestarts") == "1").then_some(())
    });
    assert!(machine.journal(&[]).contains("Watchdog timeout"), "{}", machine.journal(&["-n", "40"]));
    scene.wait_page("cow");
}

/// TPROXY_UPGRADES is how often; `make test-upgrades` does it fifty times.
#[test]
#[ignore = "boots a machine: make test-boot"]
fn upgrades_of_the_package_refuse_and_reset_nobody() {
    let upgrades = number_from_env("TPROXY_UPGRADES", 2);
    let scene = Scene::installed();
    let machine = &scene.machine;
    let directory = lab::tempdir::TempDir::new();
    let packages = [machine.give(&next_package(&directory)), machine.give(&package())];
    scene.options("");
    machine.run(&["systemctl", "start", "tproxy.service"]);
    let guardian = scene.guardian("tproxy.service");
    // cow gives up a client that asks for nothing for half a minute.
    let mut lasting = None;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = Load::begin(scope, &scene.lab, &stop, 500);
        let begin = Instant::now();
        for number in 1..=upgrades {
            lasting = Some(scene.lab.client.connect(MOOSE).expect("connect"));
            machine.run(&["dpkg", "-i", &packages[(number as usize + 1) % 2]]);
            wait::until_within(SLOW, "the upgrade", || {
                let done = machine.journal(&["-u", "tproxy"]).matches("upgraded to tproxy").count();
                (done as u64 >= number).then_some(())
            });
        }
        let seconds = begin.elapsed().as_secs_f64();
        let (count, failed) = load.end();
        report(&format!(
            "boot: {upgrades} upgrades of the package in {seconds:.0} s, {count} connections ({:.0} a second), {} failed",
            count as f64 / seconds,
            failed.len()
        ));
        assert!(failed.is_empty(), "{failed:?}");
    });
    assert_eq!(scene.guardian("tproxy.service"), guardian, "the process is the same");
    let mut lasting = lasting.expect("a connection from before the last upgrade");
    lasting.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it goes on");
    let mut answer = String::new();
    lasting.read_to_string(&mut answer).expect("answer");
    assert!(answer.contains("cow"), "{answer}");
    // A connection of an old worker drains at the stop.
    let mut lasting = scene.lab.client.connect(MOOSE).expect("connect");
    machine.run(&["dpkg", "-i", &packages[0]]);
    machine.run(&["systemctl", "stop", "tproxy.service"]);
    assert!(lasting.read(&mut [0; 1]).is_err(), "it was reset after --drain");
    scene.assert_stopped_by_itself();
}
