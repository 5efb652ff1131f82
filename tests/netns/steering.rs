//! What an administrator does with tproxyctl, and what becomes of it on real traffic.

use super::*;
use lab::controller::{self, Controlled};
use lab::journal::ConnectionLine;
use lab::peers::Peer;
use lab::tempdir::TempDir;
use lab::{clients, rules, wait};
use std::fs;
use std::time::{Duration, Instant};

/// A daemon with its control socket.
struct Steered {
    scene: Scene,
    daemon: Daemon,
    directory: TempDir,
}

impl Steered {
    /// Scenario S1 with an access log, and with these options.
    fn new(options: &[&str]) -> Option<Steered> {
        let scene = Scene::new()?;
        let directory = TempDir::new();
        let (socket, log) = (directory.file("c.sock"), directory.file("access.log"));
        let daemon = scene.relay(&[&["--control", &socket, "-l", &log], options, STAND_IN].concat());
        Some(Steered { scene, daemon, directory })
    }

    fn run(&self, words: &str) -> Controlled {
        controller::run(&self.directory.file("c.sock"), words)
    }

    fn control(&self, words: &str) -> String {
        self.run(words).succeeded()
    }

    /// How many connections are in a file of the access log.
    fn logged(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.directory.file(name)).unwrap_or_default();
        text.lines().filter_map(ConnectionLine::parse).count()
    }

    fn fetch(&self) {
        assert_eq!(self.scene.page(MOOSE), "cow");
    }
}

#[test]
fn verbose_shows_debug_messages_until_it_is_off_or_the_next_reload() {
    let Some(steered) = Steered::new(&[]) else { return };
    let shown = || steered.daemon.journal.count("rules installed with");
    // Each changes the rules, which only a debug message tells.
    let change = || {
        assert_eq!(steered.control("redirection disable 1"), "ok: redirection 1 is disabled\n");
        assert_eq!(steered.control("--json redirection enable 1"), "{\"ok\":\"redirection 1 is enabled\"}\n");
    };
    change();
    assert_eq!(shown(), 0, "{}", steered.daemon.journal.text());
    assert_eq!(steered.control("verbose on"), "ok: debug messages are on\n");
    change();
    wait::until_true("a debug message for each", || shown() == 2);
    assert_eq!(steered.control("--json verbose off"), "{\"ok\":\"debug messages are off\"}\n");
    change();
    assert_eq!(steered.control("verbose on"), "ok: debug messages are on\n");
    assert_eq!(steered.control("reload"), "ok: reload done\n");
    change();
    let text = wait::until("all of it", || {
        let text = steered.daemon.journal.text();
        let (_, after) = text.split_once("reloaded: ")?;
        after.contains("redirection 1 is enabled").then(|| after.to_owned())
    });
    assert!(!text.contains("rules installed with"), "{text}");
    let refused = steered.run("verbose loud");
    assert_eq!((refused.status, refused.stdout.as_str()), (64, ""), "{refused:?}");
}

#[test]
fn reopen_opens_the_access_log_again_and_touches_nothing_else() {
    let Some(steered) = Steered::new(&[]) else { return };
    let worker = steered.daemon.family.worker();
    steered.fetch();
    wait::until_true("the first line", || steered.logged("access.log") == 1);
    fs::rename(steered.directory.file("access.log"), steered.directory.file("access.log.1")).expect("rename");
    steered.fetch();
    wait::until_true("it still goes to the same file", || steered.logged("access.log.1") == 2);
    assert_eq!(steered.control("reopen"), "ok: the log files are opened again\n");
    assert!(fs::exists(steered.directory.file("access.log")).expect("look"), "when it says so, it is done");
    steered.fetch();
    wait::until_true("the new file", || steered.logged("access.log") == 1);
    assert_eq!((steered.logged("access.log.1"), steered.daemon.family.worker()), (2, worker));
    assert_eq!(steered.control("--json reopen"), "{\"ok\":\"the log files are opened again\"}\n");
}

#[test]
fn a_stop_with_drain_takes_nothing_new_and_lets_what_is_there_end() {
    for (seconds, goes_on) in [(60, true), (1, false)] {
        // The option says otherwise.
        let Some(mut steered) = Steered::new(&["--drain", "5"]) else { return };
        let held = steered.scene.lab.client.connect(MOOSE).expect("connect");
        wait::until_true("it is open", || steered.control("show summary").contains("\nopen: 1\n"));
        let begin = Instant::now();
        assert_eq!(steered.control(&format!("stop --drain {seconds}")), "ok: stopping\n");
        wait::until_true("new clients go to moose itself", || steered.scene.page(MOOSE) == "moose");
        assert_eq!(rules::jumps_to_ours(&steered.scene.lab.gateway), 0);
        if goes_on {
            let health = steered.run("health");
            assert_eq!((health.status, health.stdout.as_str()), (1, "draining: the instance stops\n"));
            // Longer than the option would have let it.
            wait::holds_for(Duration::from_secs(6), "the daemon drains", || steered.daemon.running());
            assert_eq!(clients::ask(held).expect("the page"), "cow");
        } else {
            let mut held = held;
            clients::expect_reset(&mut held);
            assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
        }
        assert_eq!(steered.daemon.wait(), 0);
        assert!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
        assert_eq!(rules::count_of_ours(&steered.scene.lab.gateway), 0);
        assert_eq!(steered.run("health").status, 2);
    }
}

#[test]
fn a_check_with_tls_takes_an_upstream_out_that_does_not_speak_it() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let socket = directory.file("c.sock");
    let state = || {
        let text = controller::run(&socket, "--json show upstreams").succeeded();
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\":\"")).unwrap_or_default();
            rest.split('"').next().unwrap_or_default().to_owned()
        };
        (field("state"), field("check"), field("check_result"))
    };
    let is = |wanted: (&str, &str)| {
        let (state, check, _) = state();
        (state.as_str(), check.as_str()) == wanted
    };
    let server = Peer::openssl(&scene.lab.cow, "443");
    let checks = ["--check-interval", "1", "--check-tls", "--rise", "1", "--fall", "1"];
    let begin = ["-d", "-s", "12970", "-r", "nobody", "--control", &socket, "-R", "-d moose --dport 443"];
    let mut daemon = scene.relay(&[&begin[..], &checks, &["10.3.0.3", "443"]].concat());
    wait::until_true("it speaks TLS", || is(("up", "passing")));
    drop(server);
    wait::until_true("nobody is there", || is(("down", "failing")));
    daemon.journal.wait_for("upstream 10.3.0.3:443 (10.3.0.3:443) of redirection 1 is down: check: ");
    let plain = scene.lab.cow.enter(|| {
        wait::until("the port", || std::net::TcpListener::bind("0.0.0.0:443").ok().map(drop));
        Server::echo("0.0.0.0:443")
    });
    // An echo of the hello is no answer to it.
    wait::until_true("it speaks no TLS", || state().2 == "no TLS");
    assert!(is(("down", "failing")), "{:?}", state());
    drop(plain);
    let _server = wait::until("the port", || {
        let free = scene.lab.cow.enter(|| std::net::TcpListener::bind("0.0.0.0:443").is_ok());
        free.then(|| Peer::openssl(&scene.lab.cow, "443"))
    });
    wait::until_true("it speaks TLS again", || is(("up", "passing")));
    daemon.journal.wait_for("upstream 10.3.0.3:443 (10.3.0.3:443) of redirection 1 is up again: check: ");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn show_rules_prints_them_for_the_firewall_that_has_them() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let socket = directory.file("c.sock");
    for (firewall, command) in [("iptables", "# iptables-restore"), ("nft", "# nft -f -"), ("auto", "# nft -f -")] {
        let options = [&["--control", &socket, "--firewall", firewall], STAND_IN].concat();
        let printed = scene.launch(&[&["--print-rules"], &options[..]].concat()).run();
        assert!(printed.status == 0 && printed.stdout.starts_with(command), "{printed:?}");
        let mut daemon = scene.relay(&options);
        let shown = || controller::run(&socket, "show rules").succeeded();
        let as_printed = format!("state: in place\n{}\n", printed.stdout.trim_end());
        wait::until_true("the rules as printed", || shown() == as_printed);
        controller::run(&socket, "redirection disable 1").succeeded();
        assert!(shown().contains(command) && shown().contains(".idle"), "{}", shown());
        controller::run(&socket, "redirection enable 1").succeeded();
        assert_eq!(shown(), as_printed);
        assert_eq!(daemon.stop(), 0);
    }
}
