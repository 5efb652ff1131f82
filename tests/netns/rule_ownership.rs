//! Who owns which rule, and what is left of ours: nothing.

use super::{Launch, MOOSE, STAND_IN, Scene};
use lab::process;
use lab::tempdir::TempDir;
use lab::{AtEnd, rules, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::atomic::Ordering;

/// Options that make rules in every chain that there is.
const EVERYWHERE: &[&str] = &[
    "-d",
    "-s",
    "12970",
    "-r",
    "nobody",
    "-O",
    "-X",
    "-d 10.9.9.9",
    "-R",
    "-d moose --dport 80",
    "-R",
    "--dport 8000:8100",
    "cow",
    "80",
];

#[test]
fn rules_before_start_and_after_stop_are_identical() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    for _ in 0..3 {
        let mut daemon = scene.relay(EVERYWHERE);
        assert!(rules::count_of_ours(gateway) > 0);
        for line in before.lines() {
            assert!(rules::saved(gateway).contains(line), "lost while running: {line}");
        }
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved(gateway), before);
    }
}

#[test]
fn a_failed_start_leaves_the_rules_as_they_were() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    let bad = ["-s", "12970", "-R", "-d moose --dport 80", "-R", "-m no-such-module --dport 80", "10.3.0.3", "80"];
    for foreground in [true, false] {
        let args = if foreground { [&["-d"], &bad[..]].concat() } else { bad.to_vec() };
        let (done, family) = scene.launch(&args).start();
        assert_eq!(done.status, rules::unknown_match_status(), "{done:?}");
        assert!(done.stderr.contains("no-such-module"), "iptables' own words are missing: {done:?}");
        assert!(done.stderr.contains("iptables"), "the command is missing: {done:?}");
        family.wait_gone();
        assert_eq!(rules::saved(gateway), before);
    }
}

#[test]
fn flush_removes_what_a_killed_daemon_left_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    let daemon = scene.relay(EVERYWHERE);
    daemon.family.end();
    if rules::is_nft() {
        wait::until_true("the kernel cleans up", || rules::count_of_ours(gateway) == 0);
    } else {
        assert!(rules::count_of_ours(gateway) > 0, "a killed family cannot clean up");
    }
    let done = scene.launch(&["--flush"]).run();
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(rules::saved(gateway), before);
    assert_eq!(scene.launch(&["--flush"]).run().status, 0, "nothing to do is no failure");
    assert_eq!(rules::saved(gateway), before);
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn a_flush_beside_a_daemon_says_that_it_puts_its_rules_back() {
    let Some(scene) = Scene::new() else { return };
    // Nobody else can remove a table that belongs to a daemon.
    let status = if rules::is_nft() { 69 } else { 0 };
    let gateway = &scene.lab.gateway;
    let mut daemon = scene.relay(&[&["--verify", "1"], STAND_IN].concat());
    let running = rules::saved(gateway);
    for flush in [&["--flush"][..], &["--flush", "-s", "12970"]] {
        let done = scene.launch(flush).run();
        assert_eq!(done.status, status, "{done:?}");
        let holder = format!("the rules '12970' belong to tproxy (process {})", daemon.pid());
        assert!(done.stderr.contains(&holder), "{done:?}");
        wait::until_true("they are back", || rules::saved(gateway) == running);
        daemon.family.wait_for_rules();
    }
    assert_eq!(daemon.stop(), 0);
    assert_eq!(scene.launch(&["--flush"]).run().stderr, "");
}

#[test]
fn a_start_over_leftovers_makes_no_duplicates() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    rules::add_administrators_rules(gateway);
    let before = rules::saved(gateway);
    let first = scene.relay(EVERYWHERE);
    let running = rules::saved(gateway);
    first.family.end();
    let mut second = scene.relay(EVERYWHERE);
    assert_eq!(rules::saved(gateway), running);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(second.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn two_instances_do_not_touch_each_other() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let mut one = scene.stand_in();
    let only_one = rules::saved(gateway);
    let mut two = scene.relay(&["-d", "-s", "1297", "-R", "-d moose --dport 443", "10.3.0.3", "80"]);
    assert_eq!(two.stop(), 0);
    assert_eq!(rules::saved(gateway), only_one);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(one.stop(), 0);
    assert_eq!(rules::saved(gateway), before);
}

#[test]
fn a_second_start_on_the_same_port_leaves_the_first_unharmed() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let _daemon = scene.stand_in();
    let running = rules::saved(gateway);
    for args in [STAND_IN, &STAND_IN[1..]] {
        let done = scene.launch(args).run();
        assert_eq!(done.status, 69, "{done:?}");
        assert!(done.stderr.contains("12970"), "{done:?}");
        assert_eq!(rules::saved(gateway), running);
        assert_eq!(scene.page(MOOSE), "cow");
    }
}

#[test]
fn a_second_start_of_the_same_name_leaves_the_firsts_rules_alone() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let (one, two) = (TempDir::new(), TempDir::new());
    let (file, other_file) = (one.file("table.conf"), two.file("table.conf"));
    fs::write(&file, "-s 12970 -R '-d 10.2.0.5 --dport 80' 10.3.0.3 80\n").expect("file");
    fs::write(&other_file, "-s 12971 -R '-d 10.2.0.5 --dport 81' 10.3.0.3 80\n").expect("file");
    scene.lab.client.sysctl(&["net.ipv4.ip_forward=1"]);
    let local = |source| vec!["--local", "1113", "-R", source];
    let kernel = |host| vec!["--kernel", "-R", host, "10.3.0.3", "80"];
    let table: [(&str, Vec<&str>, Vec<&str>); 3] = [
        ("local-1113", local("-s 10.1.0.0/24 --dport 113"), local("-s 10.9.0.0/24 --dport 113")),
        ("kernel-80", kernel("-d 10.2.0.5 --dport 80"), kernel("-d 10.2.0.6 --dport 80")),
        ("table", vec!["-c", &file], vec!["-c", &other_file]),
    ];
    for (name, first, second) in table {
        let mut daemon = scene.relay(&[&["-d"], &first[..]].concat());
        let running = rules::saved(gateway);
        for args in [second.clone(), [&["-d"], &second[..]].concat(), first.clone()] {
            let (done, family) = scene.launch(&args).start();
            assert_eq!(done.status, 69, "{done:?}");
            let holder = format!("the name '{name}' of the rules is in use by tproxy (process {})", daemon.pid());
            assert!(done.stderr.contains(&holder) && done.stderr.lines().count() == 1, "{done:?}");
            family.wait_gone();
            assert_eq!(rules::saved(gateway), running);
        }
        // Another machine has names of its own; a name is free again as soon as its daemon is gone, however it went.
        drop(Launch::new(&[&["-d"], &first[..]].concat()).within(&scene.lab.client).ready());
        daemon.family.end();
        drop(scene.relay(&[&["-d"], &second[..]].concat()));
        assert_eq!(daemon.wait(), 137);
        assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    }
}

#[test]
fn a_name_is_held_without_a_gap_through_an_upgrade_and_is_free_after_the_stop() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let pidfile = directory.file("pid");
    let args = ["-d", "-P", &pidfile, "--local", "1113", "-R", "--dport 113"];
    let daemon = scene.relay(&args);
    let first = daemon.pid();
    let second = ["-d", "--local", "1113", "-R", "--dport 114"];
    let upgraded = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            while !upgraded.load(Ordering::Relaxed) {
                let done = scene.launch(&second).run();
                assert_eq!(done.status, 69, "{done:?}");
            }
        });
        let end = AtEnd(&upgraded);
        for _ in 0..3 {
            let before = daemon.journal.count("upgraded to");
            process::signal(first, Signal::SIGUSR2);
            wait::until_true("an upgrade", || daemon.journal.count("upgraded to") > before);
        }
        drop(end);
        others.join().expect("the others");
    });
    let last = pid_in(&pidfile);
    assert_eq!(first, last);
    let refused = scene.launch(&second).run();
    assert!(refused.stderr.contains(&format!("(process {last})")), "{refused:?}");
    process::signal(last, Signal::SIGTERM);
    daemon.family.wait_gone();
    let mut next = scene.relay(&second);
    assert_eq!(next.stop(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn a_reload_that_brings_the_first_rules_needs_the_name_too() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let (one, two) = (TempDir::new(), TempDir::new());
    let (file, other_file) = (one.file("table.conf"), two.file("table.conf"));
    fs::write(&file, "-s 12970 10.3.0.3 80\n").expect("file");
    fs::write(&other_file, "--local 1113 -R '--dport 113'\n").expect("file");
    let mut daemon = scene.relay(&["-d", "-r", "nobody", "-c", &file]);
    let mut other = scene.relay(&["-d", "-c", &other_file]);
    let running = rules::saved(gateway);
    fs::write(&file, "-s 12970 -R '-d moose --dport 80' 10.3.0.3 80\n").expect("file");
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reload: the name 'table' of the rules is in use by tproxy");
    assert_eq!(rules::saved(gateway), running);
    assert_eq!(scene.page("10.1.0.1:12970"), "cow", "what served serves on");
    assert_eq!(other.stop(), 0);
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded:");
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::count_of_ours(gateway), 0);
}

/// The process that a pid file names.
fn pid_in(path: &str) -> i32 {
    wait::until("a pid file", || fs::read_to_string(path).ok()?.trim().parse().ok())
}

#[test]
fn hangup_puts_back_rules_that_another_program_wiped() {
    if !rules::with_iptables("no other program can wipe a table that belongs to the daemon") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let daemon = scene.stand_in();
    let running = rules::saved(gateway);
    gateway.run(&["iptables", "-w", "-t", "nat", "-F"]);
    assert_eq!(scene.page(MOOSE), "moose");
    daemon.signal(Signal::SIGHUP);
    wait::until_true("the rules are back", || rules::saved(gateway) == running);
    assert_eq!(scene.page(MOOSE), "cow");
}

#[test]
fn printed_rules_are_the_installed_ones_and_printing_touches_nothing() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let printed = scene.launch(&[&["--print-rules"], EVERYWHERE].concat()).run();
    assert_eq!(printed.status, 0, "{printed:?}");
    assert_eq!(rules::saved(gateway), before);
    let daemon = scene.relay(EVERYWHERE);
    let installed = rules::saved(gateway);
    daemon.family.end();
    assert_eq!(scene.launch(&["--flush"]).run().status, 0);
    let directory = TempDir::new();
    if rules::is_nft() {
        // Nobody owns what is made by hand.
        let file = directory.write("rules", &printed.stdout);
        gateway.run(&["nft", "-f", &file]);
        let unowned = installed.replace(" # progname nft\n\tflags owner\n\n", "\n");
        return assert_eq!(rules::saved(gateway), unowned);
    }
    for tool in ["iptables-restore", "ip6tables-restore"] {
        let text = restore_input(&printed.stdout, tool);
        assert!(!text.is_empty(), "no input for {tool} in {}", printed.stdout);
        let file = directory.write(tool, &text);
        gateway.run(&["sh", "-c", &format!("{tool} -w --noflush < {file}")]);
    }
    assert_eq!(rules::saved(gateway), installed);
}

/// The part of the printed text that is meant for this program: from the line that names it to the next one's.
fn restore_input(printed: &str, tool: &str) -> String {
    let names = |line: &&str| line.starts_with('#') && line.contains("tables-restore");
    let mut text = String::new();
    let mut ours = false;
    for line in printed.lines() {
        if names(&line) {
            ours = line.contains(&format!(" {tool}")) || line.contains(&format!("/{tool}"));
        } else if ours {
            text += &format!("{line}\n");
        }
    }
    text
}
