//! Every kind of tool there is, and what goes wrong with them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

use tproxy::testing::Firewall;
use tproxy::testing::{Action, Family, RuleSet};

use lab::tempdir::TempDir;

use crate::common::*;

/// A directory of tools in which some are replaced by scripts.
struct Tools(TempDir);

impl Tools {
    fn with(scripts: &[(&str, &str)]) -> Tools {
        let directory = TempDir::new();
        for tool in ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"] {
            let path = directory.path.join(tool);
            match scripts.iter().find(|(name, _)| *name == tool) {
                Some((_, "")) => {}
                Some((_, script)) => {
                    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                }
                None => symlink(format!("/usr/sbin/{tool}"), &path).unwrap(),
            }
        }
        Tools(directory)
    }

    fn firewall(&self) -> Firewall {
        Firewall::find_in(&[self.0.path.to_str().unwrap()]).unwrap()
    }
}

#[test]
fn legacy_tables_in_use_are_preferred_and_both_kinds_are_cleaned() {
    if !Path::new("/usr/sbin/iptables-legacy-restore").exists() {
        eprintln!("**** SKIPPED, NOT TESTED: no legacy iptables here ****");
        return;
    }
    in_namespace(|| {
        let set = only(Family::V4, set(&[(TO, "--dport 80"), (Action::Reject, "--dport 81")]));
        let first = Firewall::find().unwrap();
        assert!(first.description().starts_with("/usr/sbin/iptables-restore ("), "{}", first.description());
        let mut first = first;
        first.install(&set).unwrap();
        assert!(save("iptables-save").contains("tproxy.12970"));
        feed("iptables-legacy-restore", ADMIN);
        let before = save("iptables-legacy-save");
        let mut second = Firewall::find().unwrap();
        assert!(second.description().starts_with("/usr/sbin/iptables-legacy-restore ("), "{}", second.description());
        second.install(&set).unwrap();
        assert!(!save("iptables-nft-save").contains("tproxy"), "left by the first");
        assert_eq!(others(&save("iptables-legacy-save")), before);
        assert!(save("iptables-legacy-save").contains("-j REDIRECT --to-ports 12970"));
        assert_eq!(second.check().unwrap(), [""; 0]);
        second.install(&set).unwrap();
        first.remove("12970").unwrap();
        assert_eq!(save("iptables-legacy-save"), before, "removed by one that would choose nft");
    });
}

#[test]
fn without_ip6tables_nothing_is_left_in_ipv4_and_the_way_out_is_named() {
    in_namespace(|| {
        let before = with_admin_rules();
        let tools = Tools::with(&[("ip6tables-restore", "")]);
        let mut firewall = tools.firewall();
        let set = set(&[(TO, "--dport 80")]);
        let error = firewall.install(&set).unwrap_err().to_string();
        assert!(error.contains("-b 0.0.0.0 leaves IPv6 out"), "{error}");
        assert_eq!(save_both(), before);
        firewall.install(&only(Family::V4, set)).unwrap();
        firewall.remove("12970").unwrap();
        assert_eq!(save_both(), before);
    });
}

#[test]
fn a_kernel_without_the_tables_is_named_at_installation_and_silent_at_removal() {
    in_namespace(|| {
        let before = with_admin_rules();
        let script = "case $1 in --version) echo 'ip6tables-restore v1.8.9 (legacy)';; \
                      *) cat >/dev/null; echo \"ip6tables-restore: unable to initialize table 'nat'\" >&2; exit 1;; esac";
        let tools = Tools::with(&[("ip6tables-restore", script), ("ip6tables-save", "exit 0")]);
        let mut firewall = tools.firewall();
        let error = firewall.install(&set(&[(TO, "--dport 80")])).unwrap_err().to_string();
        assert!(error.contains("unable to initialize table 'nat'; -b 0.0.0.0 leaves IPv6 out"), "{error}");
        firewall.remove("12970").unwrap();
        assert_eq!(firewall.flush_all().unwrap(), 0);
        assert_eq!(save_both(), before);
    });
}

#[test]
fn a_tool_killed_in_the_middle_leaves_no_rule() {
    in_namespace(|| {
        let before = with_admin_rules();
        // Puts the rules in and is killed before it can say so; everything else it does as it should.
        let script = "case $1 in --version) exec /usr/sbin/ip6tables-restore --version;; esac; text=$(cat); \
                      echo \"$text\" | /usr/sbin/ip6tables-restore \"$@\"; \
                      case $text in *REDIRECT*) kill -9 $$;; esac";
        let tools = Tools::with(&[("ip6tables-restore", script)]);
        let error = tools.firewall().install(&set(&[(TO, "--dport 80")])).unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
        assert_eq!(save_both(), before);
    });
}

#[test]
fn the_number_of_processes_does_not_grow_with_the_rules() {
    in_namespace(|| {
        let directory = TempDir::new();
        let count = directory.file("count");
        let wrapped = |tool| format!("echo {tool} >>{count}; exec /usr/sbin/{tool} \"$@\"");
        let names = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"];
        let scripts: Vec<String> = names.iter().map(wrapped).collect();
        let pairs: Vec<(&str, &str)> = names.iter().copied().zip(scripts.iter().map(String::as_str)).collect();
        let tools = Tools::with(&pairs);
        // Per family: four for the installation, one for the check, two for the removal.
        for rules in [1, 500] {
            let mut firewall = tools.firewall();
            let set = set(&vec![(TO, "-m multiport --dports 80,443"); rules]);
            fs::write(&count, "").unwrap();
            let mut times = Vec::new();
            let mut timed = |what: &str, work: &mut dyn FnMut(&mut Firewall)| {
                let began = Instant::now();
                work(&mut firewall);
                times.push(format!("{what} {} ms", began.elapsed().as_millis()));
            };
            timed("install", &mut |firewall| firewall.install(&set).unwrap());
            timed("check", &mut |firewall| assert_eq!(firewall.check().unwrap(), [""; 0]));
            timed("remove", &mut |firewall| firewall.remove("12970").unwrap());
            let spawned = fs::read_to_string(&count).unwrap().lines().count();
            lab::report(&format!("{rules} rules: {spawned} processes; {}", times.join(", ")));
            assert_eq!(spawned, 14);
        }
    });
}

/// Every action, protocol and condition there is, in an instance with the longest name.
fn everything() -> RuleSet {
    let (to, to_v6) = (kernel("10.3.0.3", 8080), kernel("fd00:3::3", 8080));
    with_output(named(
        "sixteen-letters-",
        &[
            (Action::Exempt, "-d 10.1.0.1 --dport 80:90"),
            (Action::Exempt, "! -d fd00:1::/64 -m multiport --dports 22,80:90"),
            (Action::Reject, "--sport 1:9 ! --dport 80"),
            (
                to,
                "-s 10.0.0.1,10.0.0.2 -d 10.2.0.5,10.2.0.6 -m multiport --dports 80,443 -m comment --comment 'a \"b\"'",
            ),
            (to_v6, "! -s fd00:1::/64 -d ::/0 ! --dport 81:"),
            (to, "-p udp -d 0.0.0.0/0 --dport domain"),
            (Action::Local { port: Some(53) }, "-p udp -m multiport --sports 5,6 -d 10.2.0.5"),
            (Action::Local { port: None }, "-i eth0 -d 10.2.0.5"),
            (Action::Local { port: None }, "-p udp"),
            (TO, "--dport 80"),
            (Action::Reject, "--dport 1:1024"),
        ],
    ))
}

#[test]
fn every_kind_of_rule_is_taken_and_recognised_by_both_kinds_of_tools() {
    for kind in ["nft", "legacy"] {
        if !Path::new(&format!("/usr/sbin/iptables-{kind}-restore")).exists() {
            eprintln!("**** SKIPPED, NOT TESTED: no iptables-{kind} here ****");
            continue;
        }
        in_namespace(move || {
            if kind == "legacy" {
                feed("iptables-legacy-restore", ADMIN);
                feed("ip6tables-legacy-restore", "*nat\n-A PREROUTING -d fd00::1 -j RETURN\nCOMMIT\n");
            }
            let saved = || save(&format!("iptables-{kind}-save")) + &save(&format!("ip6tables-{kind}-save"));
            let set = everything();
            let mut firewall = Firewall::find().unwrap();
            firewall.install(&set).unwrap();
            let once = saved();
            assert!(once.contains("-A tproxy.sixteen-letters-.post "), "{kind}:\n{once}");
            assert!(once.contains("--ctorigdst 10.2.0.6 --ctorigdstport 443 -j MASQUERADE"), "{once}");
            assert_eq!(firewall.check().unwrap(), [""; 0]);
            firewall.install(&set).unwrap();
            assert_eq!(saved(), once);
            firewall.remove(&set.name).unwrap();
            assert!(!saved().contains("sixteen"));
        });
    }
}
