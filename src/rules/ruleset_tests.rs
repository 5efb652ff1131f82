use super::*;
use crate::redirection::RedirectionId;
use crate::rules::chains::{Chain, Rule};
use crate::rules::matching::{Match, ResolvedMatch};
use crate::rules::rule::Action;
use std::net::IpAddr;

fn lookup(name: &str) -> Vec<IpAddr> {
    match name {
        "moose" => vec!["10.2.0.5".parse().unwrap(), "fd00:2::5".parse().unwrap()],
        "cow" => vec!["10.3.0.3".parse().unwrap(), "fd00:3::3".parse().unwrap()],
        _ => Vec::new(),
    }
}

/// The rule for each family that the MATCH holds for. `--kernel` leads to the family's address of cow.
fn specs(id: RedirectionId, action: Action, text: &str) -> Vec<RuleSpec> {
    let found = Match::parse("-R", text, &["tcp", "udp"]).unwrap().resolve(&lookup).unwrap();
    let spec = |matching: ResolvedMatch| {
        let action = match action {
            Action::Kernel { port, .. } => Action::Kernel { to: cow(matching.family), port },
            action => action,
        };
        RuleSpec { action, matching, redirection: id, output: false }
    };
    found.into_iter().map(spec).collect()
}

/// One redirection for each rule.
fn set(rules: &[(Action, &str)]) -> RuleSet {
    let rules = rules.iter().enumerate();
    let specs = rules.flat_map(|(at, (action, text))| specs(RedirectionId::from(at), *action, text)).collect();
    RuleSet { name: "12970".into(), specs, ..RuleSet::default() }
}

fn only(family: Family, mut set: RuleSet) -> RuleSet {
    set.specs.retain(|spec| spec.matching.family == family);
    set
}

/// The same for this host's own connections too.
fn output(mut set: RuleSet) -> RuleSet {
    set.specs.iter_mut().for_each(|spec| spec.output = true);
    set
}

fn cow(family: Family) -> IpAddr {
    lookup("cow").into_iter().find(|ip| Family::of(ip) == family).unwrap()
}

fn kernel(port: u16) -> Action {
    Action::Kernel { to: cow(Family::V4), port: Some(port) }
}

const TO: Action = Action::Redirect { port: 12970 };

#[test]
fn a_redirect_is_printed_for_both_families_word_for_word() {
    let set = set(&[(Action::Exempt, "-s 10.9.0.0/16"), (TO, "-d moose --dport 80 -m comment --comment 'a \"b\"'")]);
    assert_eq!(
        print_rules(&set),
        r#"# iptables-restore --noflush
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p tcp -s 10.9.0.0/16 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 80 -m comment --comment "a \"b\"" -j REDIRECT --to-ports 12970
-I PREROUTING -p tcp --syn -j tproxy.12970
COMMIT
# ip6tables-restore --noflush
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p tcp -d fd00:2::5 --dport 80 -m comment --comment "a \"b\"" -j REDIRECT --to-ports 12970
-I PREROUTING -p tcp --syn -j tproxy.12970
COMMIT
"#
    );
}

#[test]
fn own_connections_are_caught_through_a_chain_that_lets_the_relay_out() {
    let set = RuleSet { own_uid: Some(65534), ..output(set(&[(TO, "--dport 80")])) };
    let wanted = "*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -m owner --uid-owner 65534 -j RETURN
-A tproxy.12970.out -j tproxy.12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
";
    assert_eq!(set.restore_text(Family::V4), wanted);
    assert_eq!(set.restore_text(Family::V6), wanted);
}

#[test]
fn a_reject_fills_the_filter_table_and_stays_out_of_the_redirect() {
    let rules =
        [(Action::Exempt, "-s 10.9.0.1"), (Action::Reject, "! -s 10.0.0.0/8 --dport 80"), (TO, "-d moose --dport 80")];
    let set = only(Family::V4, output(set(&rules)));
    assert_eq!(
        print_rules(&set),
        "# iptables-restore --noflush
*filter
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp --dport 12970 -m conntrack --ctstate DNAT -j RETURN
-A tproxy.12970 -p tcp -s 10.9.0.1 -j RETURN
-A tproxy.12970 -p tcp ! -s 10.0.0.0/8 --dport 80 -j REJECT --reject-with tcp-reset
-A tproxy.12970.out -j tproxy.12970
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp -s 10.9.0.1 -j RETURN
-A tproxy.12970 -p tcp ! -s 10.0.0.0/8 --dport 80 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -j tproxy.12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
"
    );
}

#[test]
fn each_redirect_port_is_let_through_the_filter_once() {
    let to = |port| Action::Redirect { port };
    let set =
        set(&[(to(2), "--dport 80"), (to(1), "--dport 81"), (to(2), "--dport 82"), (Action::Reject, "--dport 1:99")]);
    let text = set.restore_text(Family::V4);
    let ports: Vec<&str> = text.lines().filter(|line| line.contains("--ctstate DNAT")).collect();
    let line = |port| format!("-A tproxy.12970 -p tcp --dport {port} -m conntrack --ctstate DNAT -j RETURN");
    assert_eq!(ports, [line(2), line(1)]);
}

#[test]
fn a_redirect_that_is_refused_or_withdrawn_stays_where_nothing_reaches_it() {
    let set = set(&[(Action::Exempt, "-s 10.9.0.1"), (TO, "--dport 80")]);
    let nat = "*nat
:tproxy.12970.idle - [0:0]
-A tproxy.12970.idle -p tcp --dport 80 -j REDIRECT --to-ports 12970
COMMIT
";
    let filter = "*filter
:tproxy.12970 - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp --dport 12970 -m conntrack --ctstate DNAT -j RETURN
-A tproxy.12970 -p tcp -s 10.9.0.1 -j RETURN
-A tproxy.12970 -p tcp --dport 80 -j REJECT --reject-with tcp-reset
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
COMMIT
";
    assert_eq!(set.with_gates(|_| Gate::Rejected).restore_text(Family::V4), format!("{filter}{nat}"));
    assert_eq!(set.with_gates(|_| Gate::Withdrawn).restore_text(Family::V4), nat);
}

#[test]
fn between_two_tables_nothing_is_open_that_was_closed_before_or_after() {
    let set = set(&[(TO, "--dport 80")]);
    let (open, closed) = (set.plan(Family::V4), set.with_gates(|_| Gate::Rejected).plan(Family::V4));
    let tables = |from: &[crate::rules::chains::Table], to: &[crate::rules::chains::Table]| -> Vec<String> {
        crate::rules::chains::restore_text(from, to)
            .lines()
            .filter(|line| line.starts_with('*'))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(tables(&open, &closed), ["*filter", "*nat"], "the reject comes before the redirect goes");
    assert_eq!(tables(&closed, &open), ["*nat", "*filter"], "the redirect comes before the reject goes");
}

#[test]
fn a_family_without_a_spec_gets_no_rule() {
    let set = set(&[(TO, "-d fd00::1 --dport 80")]);
    assert!(set.plan(Family::V4).is_empty());
    assert_eq!(set.plan(Family::V6).len(), 1);
    assert!(only(Family::V4, set).plan(Family::V6).is_empty());
}

#[test]
fn each_protocol_has_its_jump_and_only_tcp_asks_for_a_syn() {
    let local = Action::Local { port: Some(53) };
    let set = set(&[(local, "-p udp --dport 53"), (Action::Reject, "--dport 53"), (Action::Exempt, "--dport 54")]);
    let wanted = "*filter
:tproxy.12970 - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp --dport 53 -j REJECT --reject-with tcp-reset
-A tproxy.12970 -p tcp --dport 54 -j RETURN
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
COMMIT
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p udp --dport 53 -j REDIRECT --to-ports 53
-I PREROUTING -p udp -j tproxy.12970
COMMIT
";
    assert_eq!(set.restore_text(Family::V4), wanted);
    let mut both = set.clone();
    both.specs.extend(specs(RedirectionId(3), TO, "--dport 80"));
    assert!(
        both.restore_text(Family::V6)
            .contains("\n-I PREROUTING -p tcp --syn -j tproxy.12970\n-I PREROUTING -p udp -j tproxy.12970\n")
    );
}

#[test]
fn a_local_service_is_reached_without_a_relay_and_before_any_reject() {
    let rules = [
        (Action::Reject, "-d 10.1.0.1 --dport 113"),
        (Action::Local { port: Some(1113) }, "-s 10.0.0.0/8 --dport 113"),
        (Action::Local { port: None }, "-d moose --dport 79"),
        (Action::Reject, "--dport 1:1024"),
    ];
    let set = only(Family::V4, set(&rules));
    assert_eq!(
        set.restore_text(Family::V4),
        "*filter
:tproxy.12970 - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp --dport 1113 -m conntrack --ctstate DNAT -j RETURN
-A tproxy.12970 -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 79 -j RETURN
-A tproxy.12970 -p tcp -d 10.1.0.1 --dport 113 -j REJECT --reject-with tcp-reset
-A tproxy.12970 -p tcp -s 10.0.0.0/8 --dport 113 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 79 -j RETURN
-A tproxy.12970 -p tcp --dport 1:1024 -j REJECT --reject-with tcp-reset
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
COMMIT
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p tcp -d 10.1.0.1 --dport 113 -j RETURN
-A tproxy.12970 -p tcp -s 10.0.0.0/8 --dport 113 -j REDIRECT --to-ports 1113
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 79 -j REDIRECT
-A tproxy.12970 -p tcp --dport 1:1024 -j RETURN
-I PREROUTING -p tcp --syn -j tproxy.12970
COMMIT
"
    );
}

#[test]
fn a_kernel_rule_translates_in_its_family_and_masquerades_only_what_it_translated() {
    let rules = [
        (Action::Exempt, "-s 10.9.0.1 --dport 80"),
        (Action::Exempt, "-i eth9"),
        (kernel(8080), "-d moose -m multiport --dports 80,81"),
        (kernel(53), "-p udp -d moose --dport 53"),
        (TO, "--dport 25"),
    ];
    assert_eq!(
        set(&rules).restore_text(Family::V4),
        "*nat
:tproxy.12970 - [0:0]
:tproxy.12970.post - [0:0]
-A tproxy.12970 -p tcp -s 10.9.0.1 --dport 80 -j RETURN
-A tproxy.12970 -p tcp -i eth9 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 -m multiport --dports 80,81 -j DNAT --to-destination 10.3.0.3:8080
-A tproxy.12970 -p udp -d 10.2.0.5 --dport 53 -j DNAT --to-destination 10.3.0.3:53
-A tproxy.12970 -p tcp --dport 25 -j REDIRECT --to-ports 12970
-A tproxy.12970.post -p tcp -s 10.9.0.1 -m conntrack --ctstate DNAT --ctorigdstport 80 -j RETURN
-A tproxy.12970.post -p tcp -d 10.3.0.3 --dport 8080 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 80 -j MASQUERADE
-A tproxy.12970.post -p tcp -d 10.3.0.3 --dport 8080 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 81 -j MASQUERADE
-A tproxy.12970.post -p udp -d 10.3.0.3 --dport 53 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 53 -j MASQUERADE
-I PREROUTING -p tcp --syn -j tproxy.12970
-I PREROUTING -p udp -j tproxy.12970
-I POSTROUTING -p tcp --syn -m conntrack --ctstate DNAT -j tproxy.12970.post
-I POSTROUTING -p udp -m conntrack --ctstate DNAT -j tproxy.12970.post
COMMIT
"
    );
    let v6 = set(&rules).restore_text(Family::V6);
    assert!(v6.contains("-j DNAT --to-destination \"[fd00:3::3]:8080\"\n"), "{v6}");
    assert!(v6.contains(" -d fd00:3::3 --dport 53 -m conntrack --ctstate DNAT --ctorigdst fd00:2::5 "), "{v6}");
    assert!(only(Family::V4, set(&[(kernel(80), "--dport 80")])).plan(Family::V6).is_empty());
}

#[test]
fn what_the_kernel_sends_on_is_not_refused_on_its_way() {
    let set = set(&[(kernel(80), "-d moose --dport 80"), (kernel(80), "--dport 81"), (Action::Reject, "--dport 80")]);
    let text = set.restore_text(Family::V6);
    assert!(
        text.contains(
            "-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp -d fd00:3::3 --dport 80 -m conntrack --ctstate DNAT -j RETURN
-A tproxy.12970 -p tcp -d fd00:2::5 --dport 80 -j RETURN
"
        ),
        "{text}"
    );
}

#[test]
fn this_hosts_own_connections_meet_only_the_rules_that_ask_for_them() {
    let mut set = set(&[(TO, "--dport 80"), (Action::Exempt, "--dport 81"), (TO, "--dport 81:82")]);
    set.own_uid = Some(9);
    set.specs.iter_mut().for_each(|spec| spec.output = spec.redirection.0 > 0);
    assert_eq!(
        set.restore_text(Family::V4),
        "*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970 -p tcp --dport 81 -j RETURN
-A tproxy.12970 -p tcp --dport 81:82 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -m owner --uid-owner 9 -j RETURN
-A tproxy.12970.out -p tcp --dport 81 -j RETURN
-A tproxy.12970.out -p tcp --dport 81:82 -j REDIRECT --to-ports 12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
"
    );
    // An exemption alone is no reason for a chain.
    set.specs.iter_mut().for_each(|spec| spec.output = spec.redirection.0 == 1);
    assert!(!set.restore_text(Family::V4).contains(".out"));
}

#[test]
fn one_redirection_can_be_withdrawn_or_refused_while_the_others_stay() {
    let mut set = set(&[(TO, "--dport 80"), (TO, "--dport 81"), (Action::Local { port: Some(9) }, "--dport 82")]);
    set.specs.iter_mut().for_each(|spec| spec.redirection.0 = spec.redirection.0.min(1));
    let actions = |gate: Gate| -> Vec<Action> {
        let gated = set.with_gates(|id| if id.0 == 1 { gate } else { Gate::Normal });
        only(Family::V4, gated).specs.iter().map(|spec| spec.action).collect()
    };
    let local = Action::Local { port: Some(9) };
    assert_eq!(actions(Gate::Normal), [TO, TO, local]);
    assert_eq!(actions(Gate::Withdrawn), [TO, Action::Exempt, local]);
    assert_eq!(actions(Gate::Rejected), [TO, Action::Reject, local]);
    assert_eq!(actions(Gate::Disabled), [TO, Action::Exempt, Action::Exempt]);
    assert!(
        set.with_gates(|_| Gate::Withdrawn).restore_text(Family::V4).contains("--dport 82 -j REDIRECT --to-ports 9")
    );
}

#[test]
fn udp_is_rejected_with_an_error_of_icmp_and_answers_are_not() {
    let kept = "-p tcp --dport 80";
    let set =
        set(&[(Action::Exempt, "-p udp -s 10.1.0.9,fd00:1::9"), (Action::Reject, "-p udp --dport 443"), (TO, kept)]);
    let text = |address: &str, error: &str| {
        format!(
            "*filter
:tproxy.12970 - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p udp -m conntrack --ctdir REPLY -j RETURN
-A tproxy.12970 -p udp -s {address} -j RETURN
-A tproxy.12970 -p udp --dport 443 -j REJECT --reject-with {error}
-I INPUT -p udp -j tproxy.12970
-I FORWARD -p udp -j tproxy.12970
COMMIT
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p tcp --dport 80 -j REDIRECT --to-ports 12970
-I PREROUTING -p tcp --syn -j tproxy.12970
COMMIT
"
        )
    };
    for (family, address, error) in
        [(Family::V4, "10.1.0.9", "icmp-port-unreachable"), (Family::V6, "fd00:1::9", "icmp6-port-unreachable")]
    {
        assert_eq!(set.restore_text(family), text(address, error));
    }
}

#[test]
fn a_translation_without_a_port_leaves_the_port_and_is_known_by_the_original_destination() {
    let same = Action::Kernel { to: cow(Family::V4), port: None };
    let set = set(&[(same, "-d moose -m multiport --dports 80,8000:8010"), (Action::Reject, "--dport 80")]);
    assert_eq!(
        only(Family::V4, set.clone()).restore_text(Family::V4),
        "*filter
:tproxy.12970 - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp -d 10.3.0.3 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 80 -j RETURN
-A tproxy.12970 -p tcp -d 10.3.0.3 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 8000:8010 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 -m multiport --dports 80,8000:8010 -j RETURN
-A tproxy.12970 -p tcp --dport 80 -j REJECT --reject-with tcp-reset
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
COMMIT
*nat
:tproxy.12970 - [0:0]
:tproxy.12970.post - [0:0]
-A tproxy.12970 -p tcp -d 10.2.0.5 -m multiport --dports 80,8000:8010 -j DNAT --to-destination 10.3.0.3
-A tproxy.12970 -p tcp --dport 80 -j RETURN
-A tproxy.12970.post -p tcp -d 10.3.0.3 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 80 -j MASQUERADE
-A tproxy.12970.post -p tcp -d 10.3.0.3 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 8000:8010 -j MASQUERADE
-I PREROUTING -p tcp --syn -j tproxy.12970
-I POSTROUTING -p tcp --syn -m conntrack --ctstate DNAT -j tproxy.12970.post
COMMIT
"
    );
    assert!(only(Family::V6, set).restore_text(Family::V6).contains("-j DNAT --to-destination fd00:3::3\n"));
}

#[test]
fn another_address_replaces_the_old_one_within_one_transaction() {
    let to = |ip: &str| {
        let mut set = set(&[(kernel(80), "-d moose --dport 80")]);
        set.specs[0].action = Action::Kernel { to: ip.parse().unwrap(), port: Some(80) };
        set.plan(Family::V4)
    };
    let text = restore_text(&to("10.3.0.3"), &to("10.3.0.4"));
    assert_eq!(
        text,
        "*nat
:tproxy.12970 - [0:0]
:tproxy.12970.post - [0:0]
-D PREROUTING -p tcp --syn -j tproxy.12970
-D POSTROUTING -p tcp --syn -m conntrack --ctstate DNAT -j tproxy.12970.post
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 80 -j DNAT --to-destination 10.3.0.4:80
-A tproxy.12970.post -p tcp -d 10.3.0.4 --dport 80 -m conntrack --ctstate DNAT --ctorigdst 10.2.0.5 --ctorigdstport 80 -j MASQUERADE
-I PREROUTING -p tcp --syn -j tproxy.12970
-I POSTROUTING -p tcp --syn -m conntrack --ctstate DNAT -j tproxy.12970.post
COMMIT
"
    );
}

#[test]
fn lists_count_as_the_rules_that_they_become() {
    let set = set(&[(TO, "-s 10.0.0.1,10.0.0.2 -d 10.1.0.1,10.1.0.2,10.1.0.3")]);
    assert_eq!(set.plan(Family::V4)[0].chains[0].rules[0].expands_to, 6);
}

#[test]
fn the_longest_name_makes_chains_that_iptables_takes() {
    let set = RuleSet { name: "sixteen-letters-".into(), ..output(set(&[(kernel(80), "--dport 80")])) };
    let tables = set.plan(Family::V4);
    let longest = tables[0].chains.iter().map(|chain: &Chain| chain.name.len()).max();
    // XT_EXTENSION_MAXNAMELEN counts the end of the string too.
    assert_eq!(longest, Some(28));
    assert!(tables[0].chains.iter().flat_map(|chain| &chain.rules).all(|rule: &Rule| rule.expands_to == 1));
}
