//! What others do to our rules is seen, said and put right.

use std::process::{Command, Stdio};

use tproxy::testing::Action;
use tproxy::testing::{Firewall, Snapshot};

use crate::common::*;

#[test]
fn check_says_what_is_wrong_and_installing_again_repairs_it() {
    in_namespace(|| {
        let rules = [(TO, "--dport 80"), (TO, "--dport 82"), (Action::Reject, "--dport 81")];
        let set = set(&rules);
        let mut firewall = Firewall::find().unwrap();
        assert_eq!(firewall.check().unwrap(), [""; 0]);
        firewall.install(&set).unwrap();
        let whole = save_both();
        let broken: &[(&str, &str, &[&str])] = &[
            ("iptables", "-t nat -F tproxy.12970", &["IPv4 nat: chain tproxy.12970 has been emptied"]),
            (
                "iptables",
                "-t nat -D tproxy.12970 1",
                &[
                    "IPv4 nat: chain tproxy.12970 has lost the rule '-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 12970'",
                ],
            ),
            (
                "ip6tables",
                "-t nat -A tproxy.12970 -j RETURN",
                &["IPv6 nat: chain tproxy.12970 has got the rule '-j RETURN'"],
            ),
            (
                "iptables",
                "-t nat -F PREROUTING",
                &[
                    "IPv4 nat: the jump '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j tproxy.12970' in PREROUTING is gone",
                ],
            ),
            (
                "ip6tables",
                "-t filter -F FORWARD",
                &[
                    "IPv6 filter: the jump '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j tproxy.12970' in FORWARD is gone",
                ],
            ),
            (
                "iptables",
                "-t nat -I PREROUTING -p udp -j ACCEPT",
                &[
                    "IPv4 nat: the jump '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j tproxy.12970' in PREROUTING has another rule before it",
                ],
            ),
        ];
        for (tool, arguments, sentences) in broken {
            assert!(Command::new(tool).args(arguments.split(' ')).status().unwrap().success());
            assert_eq!(firewall.check().unwrap(), *sentences);
            firewall.install(&set).unwrap();
            assert_eq!(firewall.check().unwrap(), [""; 0]);
            let _ = Command::new(tool)
                .args("-t nat -D PREROUTING -p udp -j ACCEPT".split(' '))
                .stderr(Stdio::null())
                .status();
            assert_eq!(save_both(), whole);
        }
        assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
        let said = firewall.check().unwrap();
        assert!(said.contains(&"IPv4 nat: chain tproxy.12970 is gone".to_string()), "{said:?}");
        assert!(
            said.contains(&"IPv6 filter: the jump '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j tproxy.12970' in INPUT is gone".to_string()),
            "{said:?}"
        );
        firewall.install(&set).unwrap();
        assert_eq!(save_both(), whole);
    });
}

#[test]
fn two_instances_live_side_by_side_and_neither_calls_the_other_out_of_place() {
    in_namespace(|| {
        let before = with_admin_rules();
        let (mut one, mut two) = (Firewall::find().unwrap(), Firewall::find().unwrap());
        one.install(&named("1297", &[(TO, "--dport 80")])).unwrap();
        let alone = save_both();
        two.install(&named("12970", &[(TO, "--dport 81")])).unwrap();
        assert_eq!((one.check().unwrap(), two.check().unwrap()), (vec![], vec![]));
        one.install(&named("1297", &[(TO, "--dport 80")])).unwrap();
        assert_eq!((one.check().unwrap(), two.check().unwrap()), (vec![], vec![]));
        two.remove("12970").unwrap();
        assert_eq!(save_both(), alone);
        one.remove("1297").unwrap();
        assert_eq!(save_both(), before);
    });
}

fn iptables(arguments: &str) {
    assert!(Command::new("iptables").args(arguments.split(' ')).status().unwrap().success());
}

#[test]
fn three_instances_see_a_foreign_rule_and_none_of_each_other() {
    in_namespace(|| {
        let before = with_admin_rules();
        let sets = [
            named("12970", &[(TO, "--dport 80"), (Action::Local { port: None }, "-p udp --dport 53")]),
            named("kernel-80", &[(kernel("10.3.0.3", 80), "--dport 81"), (kernel("fd00:3::3", 80), "--dport 81")]),
            named("local-same", &[(Action::Local { port: None }, "--dport 82"), (Action::Reject, "--dport 83")]),
        ];
        let mut walls: Vec<Firewall> = sets.iter().map(|_| Firewall::find().unwrap()).collect();
        let quiet = |walls: &[Firewall]| walls.iter().all(|wall| wall.check().unwrap().is_empty());
        for turn in [0, 1, 2, 1, 0, 2] {
            walls[turn].install(&sets[turn]).unwrap();
            assert!(walls[..=turn].iter().all(|wall| wall.check().unwrap().is_empty()));
        }
        assert!(quiet(&walls));
        iptables("-t nat -I PREROUTING -p tcp -j ACCEPT");
        iptables("-t nat -I POSTROUTING -p tcp -j ACCEPT");
        for (wall, jumps) in walls.iter().zip([2, 2, 1]) {
            let said = wall.check().unwrap();
            assert_eq!(said.len(), jumps, "{said:?}");
            assert!(
                said.iter().all(|what| what.starts_with("IPv4 nat: ") && what.ends_with(" has another rule before it")),
                "{said:?}"
            );
        }
        for turn in [1, 0, 2] {
            walls[turn].install(&sets[turn]).unwrap();
        }
        assert!(quiet(&walls));
        iptables("-t nat -D PREROUTING -p tcp -j ACCEPT");
        iptables("-t nat -D POSTROUTING -p tcp -j ACCEPT");
        assert!(quiet(&walls));
        for (wall, set) in walls.iter_mut().zip(&sets) {
            wall.remove(&set.name).unwrap();
        }
        assert_eq!(save_both(), before);
    });
}

#[test]
fn rules_that_another_process_has_installed_are_watched_and_put_back() {
    in_namespace(|| {
        let to =
            |address| set(&[(kernel(address, 80), "-s 10.0.0.1,10.0.0.2 --dport 80"), (Action::Reject, "--dport 81")]);
        let mut former = Firewall::find().unwrap();
        former.install(&to("10.3.0.3")).unwrap();
        let living = save_both();
        // As it is handed from one process to the next.
        let text = former.snapshot().to_text();
        let mut next = Firewall::find().unwrap();
        next.resume(Snapshot::from_text(&text).unwrap());
        assert_eq!(next.check().unwrap(), [""; 0]);
        iptables("-t nat -F tproxy.12970.post");
        assert_eq!(next.check().unwrap(), ["IPv4 nat: chain tproxy.12970.post has been emptied"]);
        next.install(&to("10.3.0.3")).unwrap();
        assert_eq!(save_both(), living);
        // An installation that fails leaves what was there.
        next.install(&set(&[(TO, "-m nosuchmatch")])).unwrap_err();
        assert_eq!(save_both(), living);
        next.remove("12970").unwrap();
        assert_eq!(next.snapshot(), Snapshot::default());
    });
}
