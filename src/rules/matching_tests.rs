use super::*;

fn lookup(name: &str) -> Vec<IpAddr> {
    let answer: &[&str] = match name {
        "moose" => &["10.2.0.5", "fd00:2::5"],
        "herd" => &["10.2.0.7", "10.2.0.6"],
        "only6" => &["fd00:2::6"],
        _ => &[],
    };
    answer.iter().map(|a| a.parse().unwrap()).collect()
}

fn parse(text: &str) -> Result<Match, Error> {
    Match::parse("--redirect", text, RELAYED)
}

fn words(text: &str, family: Family) -> Option<String> {
    let resolved = parse(text).unwrap().resolve(&lookup).unwrap();
    resolved.iter().find(|found| found.family == family).map(|found| found.words.join(" "))
}

#[test]
fn each_spelling_gives_the_words_in_normal_form() {
    let table = [
        ("--dport 80", "-p tcp --dport 80"),
        ("--dport 80 -p tcp", "-p tcp --dport 80"),
        ("-ptcp --dport=80", "-p tcp --dport=80"),
        ("--protocol=TCP --dport 80", "-p tcp --dport 80"),
        ("--proto 6", "-p tcp"),
        ("-s 10.0.0.0/8", "-p tcp -s 10.0.0.0/8"),
        ("-s10.0.0.0/8", "-p tcp -s 10.0.0.0/8"),
        ("--source 10.0.0.0/8", "-p tcp -s 10.0.0.0/8"),
        ("--source=10.0.0.0/8", "-p tcp -s 10.0.0.0/8"),
        ("--src 10.0.0.0/8", "-p tcp -s 10.0.0.0/8"),
        ("--sour=10.0.0.0/8", "-p tcp -s 10.0.0.0/8"),
        ("-d 10.0.0.1,10.0.0.2", "-p tcp -d 10.0.0.1,10.0.0.2"),
        ("--destination 10.0.0.1", "-p tcp -d 10.0.0.1"),
        ("--dst=10.0.0.1", "-p tcp -d 10.0.0.1"),
        ("! -s 10.0.0.0/8 -d 10.0.0.1 --dport 80", "-p tcp ! -s 10.0.0.0/8 -d 10.0.0.1 --dport 80"),
        ("-ieth0 ! -o eth1", "-p tcp -i eth0 ! -o eth1"),
        ("-i eth+ -m multiport --dports 80,443", "-p tcp -i eth+ -m multiport --dports 80,443"),
        ("-m comment --comment 'a b'", "-p tcp -m comment --comment a b"),
        ("-mcomment --comment ''", "-p tcp -m comment --comment "),
        ("! --dport 80:90", "-p tcp ! --dport 80:90"),
        ("--tcp-flags SYN,ACK SYN", "-p tcp --tcp-flags SYN,ACK SYN"),
        ("-m set --match-set inside src", "-p tcp -m set --match-set inside src"),
        ("-m policy --pol ipsec --dir in", "-p tcp -m policy --pol ipsec --dir in"),
        ("-m recent --set --name x", "-p tcp -m recent --set --name x"),
        ("--src-range 1.1.1.1-1.1.1.2 -m iprange", "-p tcp --src-range 1.1.1.1-1.1.1.2 -m iprange"),
        ("-m limit --limit 5/s -m helper --helper ftp", "-p tcp -m limit --limit 5/s -m helper --helper ftp"),
        ("-d moose", "-p tcp -d 10.2.0.5"),
        ("-s herd", "-p tcp -s 10.2.0.6,10.2.0.7"),
    ];
    for (given, wanted) in table {
        assert_eq!(words(given, Family::V4).as_deref(), Some(wanted), "{given}");
    }
}

#[test]
fn whatever_is_not_a_match_is_refused_by_name() {
    let table = [
        "-j ACCEPT",
        "-jACCEPT",
        "--jump ACCEPT",
        "--jump=ACCEPT",
        "--jum ACCEPT",
        "--j=ACCEPT",
        "-g x",
        "-gx",
        "--goto x",
        "--got=x",
        "-A INPUT",
        "-AINPUT",
        "--append x",
        "--app x",
        "-I x",
        "-D x",
        "-R x",
        "-N x",
        "-X",
        "-F",
        "-Z",
        "-P x",
        "-E x",
        "-L",
        "-S",
        "-C x",
        "--insert x",
        "--in x",
        "--delete x",
        "--del x",
        "--replace x",
        "--rep x",
        "--new-chain x",
        "--new x",
        "--delete-chain",
        "--flush",
        "--fl",
        "--zero",
        "--policy x",
        "--po x",
        "--pol x",
        "--rename-chain x",
        "--list",
        "--list-rules",
        "--li",
        "--check x",
        "-t nat",
        "-tnat",
        "--table nat",
        "--tab=nat",
        "-w",
        "-w5",
        "--wait",
        "--wait=5",
        "--wait-interval 1",
        "-W 1",
        "-v",
        "--verbose",
        "-4",
        "-6",
        "--ipv4",
        "--ipv6",
        "-n",
        "-x",
        "-V",
        "-h",
        "--help",
        "-M x",
        "--modprobe=/tmp/x",
        "-c 1 1",
        "--set-counters 1 1",
        "--set",
        "-fjACCEPT",
        "-fj",
        "--",
        "-",
        "--=x",
        "-b",
        "-0",
    ];
    for bad in table {
        for text in [bad.to_string(), format!("--dport 80 {bad}"), format!("-m comment --comment {bad}")] {
            let error = parse(&text).unwrap_err().to_string();
            let word = bad.split(' ').next().unwrap();
            let wanted = format!("--redirect: invalid value '{word}': expected {ONLY_A_MATCH}");
            assert_eq!(error, wanted, "{text}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let table = [
        ("", "a match, for example '--dport 80' (all of tcp is '-p tcp')"),
        ("  ", "a match, for example '--dport 80' (all of tcp is '-p tcp')"),
        ("INPUT --dport 80", "an option before the value"),
        ("80", "an option before the value"),
        ("-s 10.0.0.1 10.0.0.2", "an option before the value"),
        ("--dport '80", "every quote closed"),
        ("--dport ! 80", "an option after '!'"),
        ("--dport 80 !", "an option after '!'"),
        ("! ! --dport 80", "an option after '!'"),
        ("-s", "a value after it"),
        ("-s ! 10.0.0.1", "a value after it"),
        ("-i --dport 80", "a value after it"),
        ("--source=", "a value after it"),
        ("-s 10.0.0.1 --src 10.0.0.2", "each of -s and -d only once"),
        ("-p tcp --proto tcp", "-p only once"),
        ("-p udp --dport 53", "-p tcp (a relay takes tcp)"),
        ("-p all", "-p tcp (a relay takes tcp)"),
        ("! -p tcp", "-p tcp (a relay takes tcp)"),
        ("-s 10.0.0.1 -d fd00::1", "source and destination of one address family"),
        ("! -s moose,herd", "a single address after '!' (as in iptables)"),
    ];
    for (text, wants) in table {
        let error = parse(text).unwrap_err();
        assert_eq!(error.exit_status(), 64, "{text}");
        assert!(error.to_string().ends_with(&format!("': expected {wants}")), "{text}: {error}");
    }
}

#[test]
fn control_characters_and_endless_texts_are_refused() {
    let long = format!("-m comment --comment {}", "x".repeat(LONGEST));
    for text in ["--dport 80\n-A INPUT", "--dport\t80", "-m comment --comment 'a\u{7f}'", "a\0b", long.as_str()] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.ends_with("without control characters") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn protocols_are_the_callers_choice() {
    let both = Match::parse("--redirect", "-p udp --dport 53", &["tcp", "udp"]).unwrap();
    let resolved = both.resolve(&lookup).unwrap();
    assert_eq!(resolved[0].protocol, "udp");
    assert_eq!(resolved[0].words.join(" "), "-p udp --dport 53");
    let error = Match::parse("--redirect", "-p icmp", &["tcp", "udp"]).unwrap_err();
    assert_eq!(error.to_string(), "--redirect: invalid value '-p icmp': expected -p tcp or -p udp");
}

#[test]
fn an_address_picks_the_family_and_without_one_both_are_meant() {
    let table = [
        ("--dport 80", true, true),
        ("-s 10.0.0.0/8", true, false),
        ("-d fd00::1", false, true),
        ("! -s 10.0.0.0/8 -d moose", true, false),
        ("-d moose", true, true),
        ("-d only6", false, true),
        ("-s 10.0.0.1,fd00::1 -d moose", true, true),
    ];
    for (text, v4, v6) in table {
        let found = (words(text, Family::V4).is_some(), words(text, Family::V6).is_some());
        assert_eq!(found, (v4, v6), "{text}");
    }
}

#[test]
fn the_rules_that_iptables_makes_of_lists_are_counted() {
    let resolved = parse("-s 10.0.0.1,10.0.0.2,10.0.0.3 -d herd").unwrap().resolve(&lookup).unwrap();
    assert_eq!((resolved.len(), resolved[0].expands_to), (1, 6));
}

#[test]
fn names_are_listed_once_and_keep_their_text() {
    let found = parse("-s moose,herd -d moose,10.0.0.1").unwrap();
    assert_eq!(found.names(), ["moose", "herd"]);
    assert_eq!(found.shown(), "--redirect '-s moose,herd -d moose,10.0.0.1'");
    assert!(parse("-s 10.0.0.1 --dport 80").unwrap().names().is_empty());
}

#[test]
fn a_name_without_an_address_is_left_out() {
    let resolved = |text: &str| parse(text).unwrap().resolve(&lookup).unwrap();
    for text in ["-d nobody.example", "! -d nobody.example", "-s nobody.example -d 10.0.0.1"] {
        assert_eq!(resolved(text), [], "{text}");
    }
    assert_eq!(resolved("-d nobody.example,10.0.0.1"), resolved("-d 10.0.0.1"));
}

#[test]
fn a_name_that_cannot_be_used_is_said() {
    let table = [
        (
            "! -d herd",
            "--redirect '! -d herd': '! -d herd' cannot be one rule, for it has several addresses: 10.2.0.6, 10.2.0.7",
        ),
        (
            "-s 10.0.0.1 -d only6",
            "--redirect '-s 10.0.0.1 -d only6': source and destination have no address family in common",
        ),
    ];
    for (text, sentence) in table {
        assert_eq!(parse(text).unwrap().resolve(&lookup).unwrap_err().to_string(), sentence);
    }
}
