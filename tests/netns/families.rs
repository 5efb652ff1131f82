//! A redirection that leads to no rule is an error; nothing is ready that serves nobody.

use super::{MOOSE, MOOSE6, Scene};
use lab::tempdir::TempDir;
use lab::{rules, wait};
use std::time::Duration;

#[test]
fn a_redirection_that_leads_to_no_rule_is_an_error() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\nfd00:2::5 moose6\n");
    let table: [&[&str]; 7] = [
        &["-s", "12970", "-b", "::", "-R", "-d 10.2.0.5 --dport 80", "10.3.0.3", "80"],
        &["-s", "12970", "-b", "fd00:1::1", "-R", "-s 10.1.0.0/24", "-R", "-d moose", "10.3.0.3", "80"],
        &["-s", "12970", "-b", "0.0.0.0", "-R", "-d fd00:2::5", "10.3.0.3", "80"],
        &["-s", "12970", "-b", "10.1.0.1", "-R", "-d moose6 --dport 80", "10.3.0.3", "80"],
        &["-s", "12970", "-b", "::", "-X", "-d 10.9.9.9", "-R", "-d moose", "cow", "80"],
        &["--kernel", "-R", "-d fd00:2::5 --dport 80", "10.3.0.3", "80"],
        &["--kernel", "-R", "-d 10.2.0.5 --dport 80", "fd00:3::3", "80"],
    ];
    for args in table {
        for mode in [&["-d"][..], &["--check"], &["--print-rules"], &[]] {
            let (done, family) = scene.launch(&[mode, args].concat()).start();
            assert_eq!(done.status, 64, "{args:?}: {done:?}");
            assert!(done.stderr.contains(": redirects nothing, for it matches IPv"), "{done:?}");
            assert!(done.stdout.is_empty(), "{done:?}");
            family.wait_gone();
            assert_eq!(rules::count_of_ours(gateway), 0);
        }
    }
}

#[test]
fn the_line_of_a_file_is_named() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory
        .write("t.conf", "-s 12971 -R '--dport 80' 10.3.0.3 80\n-s 12970 -b :: -R '-s 10.0.0.1' 10.3.0.3 80\n");
    let done = scene.launch(&["-d", "-c", &path]).run();
    assert_eq!(done.status, 64, "{done:?}");
    assert!(done.stderr.contains("t.conf:2: -R '-s 10.0.0.1': redirects nothing"), "{done:?}");
}

#[test]
fn one_redirect_that_leads_nowhere_beside_others_is_said() {
    let Some(scene) = Scene::new() else { return };
    let args = ["-d", "-s", "12970", "-b", "0.0.0.0", "-R", "-d fd00:2::5", "-R", "-d moose --dport 80", "cow", "80"];
    let daemon = scene.relay(&args);
    daemon
        .journal
        .wait_for("-R '-d fd00:2::5': redirects nothing, for it matches IPv6 only, and leads to 0.0.0.0:12970");
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(scene.page(MOOSE6), "moose");
    let checked = scene.launch(&[&["--check"], &args[1..]].concat()).run();
    assert!(checked.status == 0 && checked.stderr.contains("redirects nothing"), "{checked:?}");
}

#[test]
fn an_upstream_that_moves_to_the_other_family_is_said() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&["-d", "--kernel", "-R", "-d 10.2.0.5 --dport 80", "cow", "80"]);
    assert_eq!(scene.page(MOOSE), "cow");
    scene.lab.gateway.hosts("10.2.0.5 moose\nfd00:3::3 cow\n");
    daemon.journal.wait_within(
        Duration::from_secs(60),
        "redirects nothing, for it matches IPv4 only, and leads to [fd00:3::3]:80",
    );
    wait::until_true("it is withdrawn", || scene.page(MOOSE) == "moose");
}
