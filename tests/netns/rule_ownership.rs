//! Who owns which rule, and what is left of ours: nothing.

use super::support::process;
use super::support::{rules, wait};
use super::{MOOSE, STAND_IN, Scene};
use nix::sys::signal::Signal;

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
        assert_eq!(done.status, 71, "{done:?}");
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
    assert!(rules::count_of_ours(gateway) > 0, "a killed family cannot clean up");
    let done = scene.launch(&["--flush"]).run();
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(rules::saved(gateway), before);
    assert_eq!(scene.launch(&["--flush"]).run().status, 0, "nothing to do is no failure");
    assert_eq!(rules::saved(gateway), before);
    assert_eq!(scene.page(MOOSE), "moose");
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
fn hangup_puts_back_rules_that_another_program_wiped() {
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
    for (family, tool) in [("v4", "iptables-restore"), ("v6", "ip6tables-restore")] {
        let text = restore_input(&printed.stdout, tool);
        assert!(!text.is_empty(), "no input for {tool} in {}", printed.stdout);
        let file = std::env::temp_dir().join(process::unique("tproxy-rules"));
        std::fs::write(&file, &text).expect("write");
        gateway.run(&["sh", "-c", &format!("{tool} -w --noflush < {}", file.display())]);
        std::fs::remove_file(&file).expect("remove");
        assert!(!family.is_empty());
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
