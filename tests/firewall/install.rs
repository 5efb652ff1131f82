//! Rules go in whole or not at all, and come out without a trace.

use std::time::{Duration, Instant};

use tproxy::testing::Firewall;
use tproxy::testing::{Action, Family, RuleSet};

use crate::common::*;

#[test]
fn installed_twice_is_installed_once_and_removed_without_a_trace() {
    in_namespace(|| {
        let before = with_admin_rules();
        let rules = [(Action::Exempt, "-s 10.9.0.0/16"), (Action::Reject, "--dport 81"), (TO, "--dport 80")];
        let set = with_output(RuleSet { own_uid: Some(65534), ..set(&rules) });
        let mut firewall = Firewall::find().unwrap();
        firewall.install(&set).unwrap();
        let once = save_both();
        assert_eq!(others(&once), before);
        assert!(
            once.contains("-A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j tproxy.12970\n-A PREROUTING -d 10.200.0.1/32 -j admin\n"),
            "{once}"
        );
        assert!(once.contains("-A tproxy.12970.out -m owner --uid-owner 65534 -j RETURN\n"), "{once}");
        firewall.install(&set).unwrap();
        assert_eq!(save_both(), once);
        Firewall::find().unwrap().install(&set).unwrap();
        assert_eq!(save_both(), once);
        assert_eq!(firewall.check().unwrap(), [""; 0]);
        firewall.remove("12970").unwrap();
        assert_eq!(save_both(), before);
        firewall.remove("12970").unwrap();
        assert_eq!(save_both(), before);
    });
}

#[test]
fn what_is_printed_is_what_gets_installed() {
    in_namespace(|| {
        let rules = [(Action::Reject, "! -s 10.0.0.0/8"), (TO, "--dport 80 -m comment --comment 'a \"b\" \\ #c'")];
        let set = set(&rules);
        for (family, tool) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
            feed(tool, &set.restore_text(family));
        }
        let printed = save_both();
        let mut firewall = Firewall::find().unwrap();
        firewall.flush_all().unwrap();
        firewall.install(&set).unwrap();
        assert_eq!(save_both(), printed);
        assert!(printed.contains(r#"--comment "a \"b\" \\ #c""#), "{printed}");
    });
}

#[test]
fn leftovers_of_a_dead_instance_are_purged() {
    in_namespace(|| {
        let before = with_admin_rules();
        let set = set(&[(TO, "--dport 80")]);
        let mut firewall = Firewall::find().unwrap();
        firewall.install(&set).unwrap();
        let clean = save_both();
        feed_both(
            "*nat\n:tproxy.12970.old - [0:0]\n:tproxy.12970.out - [0:0]\n-A tproxy.12970.old -g tproxy.12970.out\n\
             -A tproxy.12970 -p tcp --dport 99 -j REDIRECT --to-ports 99\n\
             -A PREROUTING -p tcp -j tproxy.12970\n-A PREROUTING -j tproxy.12970\n-I OUTPUT -g tproxy.12970.out\n\
             -A admin -p tcp -m comment --comment \"a \\\"b\\\"\" -j tproxy.12970.old\nCOMMIT\n\
             *filter\n:tproxy.12970 - [0:0]\n-A tproxy.12970 -j DROP\n-I INPUT -j tproxy.12970\nCOMMIT\n",
        );
        assert_ne!(save_both(), clean);
        Firewall::find().unwrap().install(&set).unwrap();
        assert_eq!(save_both(), clean);
        // A family that the instance no longer has is cleaned as well.
        firewall.install(&only(Family::V4, set)).unwrap();
        assert!(!save("ip6tables-save").contains(":tproxy.") && save("iptables-save").contains(":tproxy.12970 "));
        firewall.remove("12970").unwrap();
        assert_eq!(save_both(), before);
    });
}

#[test]
fn a_second_family_that_fails_takes_the_first_back_too() {
    in_namespace(|| {
        let before = with_admin_rules();
        let good = set(&[(TO, "--dport 80")]);
        let bad = set(&[(TO, "--dport 80"), (TO, "-d 10.0.0.1 --dport 81"), (TO, "-d fd00::1 -m nosuchmatch")]);
        let mut firewall = Firewall::find().unwrap();
        let error = firewall.install(&bad).unwrap_err();
        assert_eq!(error.exit_status(), 71);
        let sentence = error.to_string();
        assert!(
            sentence.contains("ip6tables-restore --noflush -w 10") && sentence.contains("nosuchmatch"),
            "{sentence}"
        );
        assert_eq!(save_both(), before);
        firewall.install(&good).unwrap();
        let living = save_both();
        firewall.install(&bad).unwrap_err();
        assert_eq!(save_both(), living);
        assert_eq!(firewall.check().unwrap(), [""; 0]);
    });
}

#[test]
fn a_bad_match_after_many_good_ones_leaves_the_tables_as_they_were() {
    in_namespace(|| {
        let before = with_admin_rules();
        let texts: Vec<String> = (0..500).map(|n| format!("-d 10.1.{}.{} --dport 80", n / 250, n % 250)).collect();
        let mut rules: Vec<(Action, &str)> = texts.iter().map(|text| (TO, text.as_str())).collect();
        let mut firewall = Firewall::find().unwrap();
        let began = Instant::now();
        firewall.install(&set(&rules)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(save_both().matches("-j REDIRECT").count(), 500);
        let living = save_both();
        rules[399] = (TO, "--dport 80 -m nosuchmatch");
        firewall.install(&set(&rules)).unwrap_err();
        assert_eq!(save_both(), living);
        firewall.remove("12970").unwrap();
        rules[399] = (TO, "--dport http-but-not-really");
        firewall.install(&set(&rules)).unwrap_err();
        assert_eq!(save_both(), before);
    });
}

#[test]
fn a_later_table_that_fails_takes_the_earlier_one_back_too() {
    in_namespace(|| {
        let before = with_admin_rules();
        // The filter table, which comes first, takes the reject; the nat table then fails over the redirect.
        let set = set(&[(Action::Reject, "--dport 81"), (TO, "-m nosuchmatch")]);
        let mut firewall = Firewall::find().unwrap();
        let error = firewall.install(&set).unwrap_err().to_string();
        assert!(error.contains("nosuchmatch"), "{error}");
        assert_eq!(save_both(), before);
    });
}

#[test]
fn a_flush_removes_every_instance_and_says_how_many_chains() {
    in_namespace(|| {
        let before = with_admin_rules();
        let one = with_output(named("1", &[(TO, "--dport 80"), (Action::Reject, "--dport 81")]));
        Firewall::find().unwrap().install(&one).unwrap();
        Firewall::find().unwrap().install(&named("2", &[(TO, "-d 10.0.0.1 --dport 80")])).unwrap();
        feed("ip6tables-restore", "*filter\n:tproxy.left.over - [0:0]\n-A FORWARD -j tproxy.left.over\nCOMMIT\n");
        let mut firewall = Firewall::find().unwrap();
        // Two chains in two tables of two families, one chain in one, and the stray one.
        assert_eq!(firewall.flush_all().unwrap(), 2 * 2 * 2 + 1 + 1);
        assert_eq!(save_both(), before);
        assert_eq!(firewall.flush_all().unwrap(), 0);
        assert_eq!(save_both(), before);
    });
}

#[test]
fn removing_where_nothing_is_touches_nothing() {
    in_namespace(|| {
        let before = save_both();
        let mut firewall = Firewall::find().unwrap();
        firewall.remove("12970").unwrap();
        assert_eq!(firewall.flush_all().unwrap(), 0);
        firewall.install(&set(&[])).unwrap();
        assert_eq!(save_both(), before);
    });
}

#[test]
fn matches_with_modules_quotes_interfaces_and_negation_are_installed_as_meant() {
    in_namespace(|| {
        let rules = [
            (TO, "-m comment --comment 'a b'"),
            (TO, "-m multiport --dports 80,443"),
            (TO, "-ieth0 ! -s 10.0.0.0/8"),
            (TO, "! --dport 81 -m comment '--comment=it is \"so\"'"),
            (TO, "-s 10.0.0.1,10.0.0.2 -d 10.1.0.1,10.1.0.2"),
            (TO, "--tcp-flags SYN,ACK SYN"),
            (TO, "-m policy --pol ipsec --dir in"),
        ];
        let mut firewall = Firewall::find().unwrap();
        firewall.install(&set(&rules)).unwrap();
        let found = save("iptables-save");
        for wanted in [
            r#"-p tcp -m comment --comment "a b""#,
            "-p tcp -m multiport --dports 80,443",
            "! -s 10.0.0.0/8 -i eth0 -p tcp",
            r#"-p tcp -m tcp ! --dport 81 -m comment --comment "it is \"so\"""#,
            "-s 10.0.0.2/32 -d 10.1.0.2/32 -p tcp",
            "-p tcp -m tcp --tcp-flags SYN,ACK SYN",
            "-p tcp -m policy --dir in --pol ipsec",
        ] {
            assert!(
                found.contains(&format!("-A tproxy.12970 {wanted} -j REDIRECT --to-ports 12970\n")),
                "{wanted}\n{found}"
            );
        }
        assert_eq!(firewall.check().unwrap(), [""; 0]);
    });
}
