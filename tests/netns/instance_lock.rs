//! The lock on the name of an instance: nobody but root can take it, and a stop says what it has to leave.

use super::tools::script;
use super::{Launch, MOOSE, STAND_IN, Scene};
use lab::rules;
use lab::tempdir::TempDir;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

#[test]
fn no_user_can_keep_a_name_from_its_instance() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    // What any user of this machine can take: an abstract address.
    let _squatter = gateway.enter(|| {
        let address = SocketAddr::from_abstract_name("tproxy.12970").expect("an address");
        UnixDatagram::bind_addr(&address).expect("the address is free")
    });
    let began = Instant::now();
    let mut daemon = scene.stand_in();
    assert!(began.elapsed() < Duration::from_secs(10), "the start waited {:?}", began.elapsed());
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
    assert!(daemon.journal.lines().last().expect("a line").ends_with(": stopped"), "{}", daemon.journal.text());
}

#[test]
fn rules_that_a_stop_cannot_remove_are_said() {
    if !rules::with_iptables("the kernel removes a table that belongs to the daemon") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let directory = TempDir::new();
    let broken = directory.file("broken");
    let real = format!("{}/true/iptables-restore", directory.path.display());
    script(&directory, "iptables-restore", &format!("[ ! -e {broken} ] || exit 4; exec {real} \"$@\""));
    let mut daemon = scene.launch(STAND_IN).with_programs_in(&directory.path).ready();
    fs::write(&broken, "").expect("file");
    assert_eq!(daemon.stop(), 71);
    let last = daemon.journal.lines().last().expect("a line").clone();
    assert!(last.ends_with("the rules are left behind: `tproxy --flush` removes them"), "{last}");
    assert!(rules::count_of_ours(gateway) > 0);
    assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    assert_eq!(rules::count_of_ours(gateway), 0);
}

#[test]
fn without_a_directory_for_the_lock_a_start_says_so_and_touches_nothing() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let table = [
        ("mount -t tmpfs -o ro none /run", "Read-only file system"),
        ("mount -t tmpfs none /run; mkdir -m 755 /run/tproxy", "chmod 700"),
        ("mount -t tmpfs none /run; mkdir -m 700 /run/tproxy; chown nobody /run/tproxy", "a directory of root"),
        ("mount -t tmpfs none /run; mkdir -m 700 /run/x; ln -s x /run/tproxy", "a directory of root"),
        ("mount -t tmpfs none /run; echo > /run/tproxy", "a directory of root"),
    ];
    for (script, expected) in table {
        for args in [STAND_IN, &STAND_IN[1..]] {
            let (done, family) = Launch::new(args).after(script).within(gateway).start();
            assert_eq!(done.status, 73, "{script}: {done:?}");
            assert!(done.stderr.contains("the lock on the name '12970': /run/tproxy: "), "{script}: {done:?}");
            assert!(done.stderr.contains(expected) && done.stderr.lines().count() == 1, "{script}: {done:?}");
            family.wait_gone();
            assert_eq!(rules::saved(gateway), before);
        }
    }
    // A redirection without rules needs no lock.
    let script = "mount -t tmpfs -o ro none /run";
    let mut daemon = Launch::new(&["-d", "-s", "12970", "10.3.0.3", "80"]).after(script).within(gateway).ready();
    assert_eq!(daemon.stop(), 0);
}
