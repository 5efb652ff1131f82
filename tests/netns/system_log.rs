//! syslog: what it gets, and that it never holds up traffic.

use super::{MOOSE, Scene, stand_in_detached};
use lab::process::Family;
use lab::tempdir::TempDir;
use lab::wait;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// A directory that stands in for `/dev`, with the socket of a syslog daemon in it.
pub(super) struct Syslog {
    pub(super) directory: TempDir,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn new() -> Syslog {
        let mut syslog = Syslog { directory: TempDir::new(), socket: None };
        syslog.restart();
        syslog
    }

    /// A new socket in the place of the old one, as a restarted syslog daemon makes it.
    fn restart(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.file("log");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("bind");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("mode");
        socket.set_nonblocking(true).expect("nonblocking");
        self.socket = Some(socket);
    }

    /// Stops taking messages: the queue, whose length is the machine's affair (net.unix.max_dgram_qlen), is full.
    fn fill(&self) {
        let path = self.directory.file("log");
        let until_blocked = || {
            // One sender alone could meet the end of its own send buffer first.
            let sender = UnixDatagram::unbound().expect("socket");
            sender.set_nonblocking(true).expect("nonblocking");
            (0..100_000).take_while(|_| sender.send_to(b"filler", &path).is_ok()).count()
        };
        (0..1_000).find(|_| until_blocked() == 0).expect("a queue that ends");
    }

    /// What has come since the last look.
    pub(super) fn messages(&self) -> Vec<String> {
        let mut buffer = [0; 8192];
        let mut all = Vec::new();
        let socket = self.socket.as_ref().expect("socket");
        while let Ok(count) = socket.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..count]).to_string());
        }
        all
    }

    /// Waits for a message with all of these words.
    pub(super) fn wait_for(&self, words: &[&str]) -> String {
        let mut seen = Vec::new();
        let found = wait::try_until(wait::PATIENCE, || {
            seen.extend(self.messages());
            seen.iter().find(|text| words.iter().all(|word| text.contains(word))).cloned()
        });
        found.unwrap_or_else(|| panic!("no message with {words:?} among {seen:#?}"))
    }
}

fn start(scene: &Scene, syslog: &Syslog, more: &[&str]) -> Family {
    let (done, family) = scene.launch(&stand_in_detached(more)).with_devices_in(&syslog.directory.path).start();
    assert_eq!(done.status, 0, "{done:?}");
    family
}

#[test]
fn syslog_gets_a_line_for_each_connection() {
    let Some(scene) = Scene::new() else { return };
    let syslog = Syslog::new();
    let _family = start(&scene, &syslog, &[]);
    syslog.wait_for(&["tproxy[", "ready: listening on"]);
    assert_eq!(scene.page(MOOSE), "cow");
    let text = syslog.wait_for(&["tproxy[", MOOSE, "10.3.0.3:80", "finished"]);
    // daemon.info is facility 3, severity 6.
    assert!(text.starts_with("<30>"), "{text}");
}

#[test]
fn the_facility_can_be_chosen() {
    let Some(scene) = Scene::new() else { return };
    let syslog = Syslog::new();
    let _family = start(&scene, &syslog, &["--syslog", "local3"]);
    assert_eq!(scene.page(MOOSE), "cow");
    // local3 is facility 19.
    assert!(syslog.wait_for(&[MOOSE, "finished"]).starts_with("<158>"));
}

#[test]
fn a_syslog_daemon_that_is_stuck_does_not_hold_up_traffic_and_losses_are_counted() {
    let Some(scene) = Scene::new() else { return };
    let syslog = Syslog::new();
    let _family = start(&scene, &syslog, &[]);
    syslog.wait_for(&["ready: listening on"]);
    syslog.fill();
    let begin = Instant::now();
    for _ in 0..300 {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "300 connections took {:?}", begin.elapsed());
    let text = wait::until("the count of lost messages", || {
        assert_eq!(scene.page(MOOSE), "cow");
        syslog.messages().into_iter().find(|text| text.contains("lost") || text.contains("dropped"))
    });
    let count = text.split(' ').find_map(|word| word.parse::<u32>().ok()).expect("a count");
    assert!(count >= 290, "{text}");
}

#[test]
fn a_restart_of_the_syslog_daemon_is_survived() {
    let Some(scene) = Scene::new() else { return };
    let mut syslog = Syslog::new();
    let _family = start(&scene, &syslog, &[]);
    assert_eq!(scene.page(MOOSE), "cow");
    syslog.wait_for(&["finished"]);
    syslog.socket = None;
    assert_eq!(scene.page(MOOSE), "cow");
    syslog.restart();
    wait::until("a line at the new socket", || {
        assert_eq!(scene.page(MOOSE), "cow");
        syslog.messages().into_iter().find(|text| text.contains("finished"))
    });
}

#[test]
fn without_a_syslog_daemon_it_relays_all_the_same() {
    let Some(scene) = Scene::new() else { return };
    let mut syslog = Syslog::new();
    syslog.socket = None;
    fs::remove_file(syslog.directory.file("log")).expect("remove");
    let _family = start(&scene, &syslog, &[]);
    assert_eq!(scene.page(MOOSE), "cow");
}
