//! The command line of the binary: what it refuses, with which sentence and status, and what it prints.

use lab::daemon::{Finished, Launch, LoopbackRelay, free_port};
use lab::servers::Server;
use lab::tempdir::TempDir;
use lab::{process, report, wait};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use tproxy::testing::{CTL_MARKS, MARKS, OPTIONS, generated, generated_ctl};

/// A command line that is good, to which a bad option is added.
const GOOD: &[&str] = &["-d", "-s", "40123", "127.0.0.1", "40124"];

/// The uid and gid of nobody on every Linux distribution.
const NOBODY: u32 = 65534;

fn refused(args: &[&str]) -> Finished {
    let done = Launch::new(args).run();
    assert_eq!(done.status, 64, "{args:?}: {done:?}");
    assert_eq!(done.stdout, "", "{args:?}");
    assert_eq!(done.stderr.lines().count(), 1, "one sentence for {args:?}: {}", done.stderr);
    assert!(done.stderr.starts_with("tproxy: "), "{args:?}: {}", done.stderr);
    done
}

/// Asserts that a bad value gets a sentence with the option, the value, and what is expected.
fn value_refused(option: &str, value: &str) {
    let mut args = vec![option, value];
    // A good -s beside a bad one would be given more than once.
    args.extend(if matches!(option, "-s" | "--listen") { &["-d", "127.0.0.1", "40124"][..] } else { GOOD });
    let said = refused(&args).stderr;
    assert!(said.starts_with(&format!("tproxy: {option}: ")), "{option} {value:?}: {said}");
    // Of a MATCH only the part that is wrong is named.
    let named = said.split('\'').nth(1).unwrap_or_else(|| panic!("{option} {value:?}: {said}"));
    let part_will_do = matches!(option, "-R" | "-X") && !named.is_empty() && value.contains(named);
    assert!(named == value || part_will_do, "{option} {value:?}: {said}");
    assert!(said.contains(": invalid value '") && said.contains("': expected "), "{option} {value:?}: {said}");
}

/// A copy of the binary that any user may run, wherever it was built.
struct PublicBinary {
    directory: TempDir,
}

impl PublicBinary {
    fn new() -> PublicBinary {
        let directory = TempDir::new();
        process::copy_program(env!("CARGO_BIN_EXE_tproxy"), directory.file("tproxy"));
        PublicBinary { directory }
    }

    fn run_as_nobody(&self, args: &[&str]) -> Finished {
        Launch::new(args).by_user(NOBODY, &self.directory.file("tproxy")).run()
    }
}

fn am_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        report("SKIPPED: not root, cannot become another user");
    }
    root
}

// ---- Bad values ----

#[test]
fn a_bad_port_is_refused() {
    for bad in ["0", "65536", "70000", "-1", "http80", "no-such-service", "", "1.5", "0x50", " 80"] {
        value_refused("-s", bad);
    }
}

#[test]
fn a_match_that_is_not_one_quoted_argument_is_told() {
    let table: [&[&str]; 8] = [
        &["-R", "-d", "10.0.0.2", "--dport", "80"],
        &["-R", "-p", "tcp", "--dport", "80"],
        &["-R", "--dport", "80"],
        &["-X", "-d", "10.0.0.2"],
        &["--reject", "-i", "eth0"],
        &["-R", "“-d", "10.0.0.2", "--dport", "80”"],
        &["-R", "‘--dport", "80’"],
        &["-R", "-d 10.0.0.2 –dport 80"],
    ];
    for args in table {
        let said = refused(&[&["-d", "-s", "40123"], args, &["127.0.0.1", "40124"]].concat()).stderr;
        assert!(
            said.contains(": a MATCH is one quoted argument") || said.contains("; a MATCH is one quoted argument"),
            "{said}"
        );
    }
}

#[test]
fn a_line_of_a_file_is_read_as_it_looks() {
    let directory = TempDir::new();
    let checked = |text: &[u8]| {
        fs::write(directory.file("t.conf"), text).expect("file");
        Launch::new(&["--check", "-c", &directory.file("t.conf")]).run()
    };
    let good: [(&[u8], usize); 4] = [
        (b"# a comment \\\n-s 40123 10.0.0.1 80\n", 1),
        (b"-s 40123 10.0.0.1 80 # a comment \\\n-s 40124 10.0.0.1 80\n", 2),
        (b"\xef\xbb\xbf-s 40123 10.0.0.1 80\r\n", 1),
        (b"# caf\xe9\n-s 40123 \\\n 10.0.0.1 80", 1),
    ];
    for (text, redirections) in good {
        let done = checked(text);
        let count = done.stdout.matches("relay to 10.0.0.1:80").count();
        assert_eq!((done.status, count), (0, redirections), "{}: {done:?}", text.escape_ascii());
    }
    let bad: [(&[u8], &str); 4] = [
        (b"-s 40122 10.0.0.1 80\n-s 40123 \\ \n 10.0.0.1 80\n", "t.conf:2: a blank stands behind the backslash"),
        (b"\n-s 40123 k\xfcche 80\n", "t.conf:2: HOST PORT: invalid value 'k\u{fffd}che': expected UTF-8 text"),
        (b"\xff\xfe-\0s\0", "t.conf:1: the file is UTF-16"),
        (b"\n\n-s 40123 -R -d 10.0.0.2 --dport 80 10.0.0.1 80", "t.conf:3: --dport: no such option"),
    ];
    for (text, sentence) in bad {
        let done = checked(text);
        assert_eq!(done.status, 64, "{}: {done:?}", text.escape_ascii());
        assert!(done.stderr.contains(sentence), "{}: {done:?}", text.escape_ascii());
    }
}

#[test]
fn a_bad_address_to_bind_is_refused() {
    for bad in ["10.0.0.256", "not an address", "", "10.0.0.0/8", "10.0.0.1:80"] {
        value_refused("-b", bad);
    }
}

#[test]
fn an_unknown_user_is_refused() {
    for bad in ["no-such-user-anywhere", "", "#", "#x", "#99999999999"] {
        value_refused("-r", bad);
    }
}

#[test]
fn a_bad_source_is_refused() {
    for bad in ["10.0.0.0/33", "fd00::/129", "10.0.0/x", "no such host", "", "10.0.0.0/-1", "300.1.1.1"] {
        value_refused("-a", bad);
    }
}

#[test]
fn a_bad_number_of_connections_is_refused() {
    for bad in ["0", "-5", "many", "", "1e3", "99999999999999999999"] {
        value_refused("-m", bad);
    }
}

#[test]
fn a_bad_limit_of_a_source_is_refused() {
    for bad in ["0", "-5", "many", "", "1000001"] {
        value_refused("--max-per-source", bad);
    }
    for bad in ["", "32", "32:", ":64", "33:64", "32:129", "0:64", "24:0", "/24", "24:64:1"] {
        value_refused("--source-block", bad);
    }
}

#[test]
fn a_bad_length_of_a_head_is_refused() {
    for bad in ["0", "1023", "1048577", "-1", "64K", "", "99999999999999999999"] {
        let said = refused(&["-d", "-s", "40123", "--via", "http", "--max-head", bad, "127.0.0.1", "40124"]).stderr;
        let wanted =
            format!("tproxy: --max-head: invalid value '{bad}': expected a number of bytes from 1024 to 1048576");
        assert_eq!(said, wanted);
    }
    for good in ["1024", "65536", "1048576"] {
        let words = ["--check", "-s", "40123", "--via", "http", "--max-head", good, "127.0.0.1", "40124"];
        assert_eq!(Launch::new(&words).run().status, 0, "{good}");
    }
}

#[test]
fn a_host_is_an_address_that_one_host_can_have() {
    for (kind, bad) in [
        ("-s 40123", &["224.0.0.1", "255.255.255.255", "ff02::1", "[ff02::1]", "::ffff:224.0.0.1"][..]),
        ("--kernel", &["224.0.0.1", "255.255.255.255", "ff0e::1", "0.0.0.0", "::", "::ffff:0.0.0.0"]),
    ] {
        for host in bad {
            let said = Launch::line(&format!("--check {kind} -R --syn {host} 80")).run();
            assert_eq!(said.status, 64, "{said:?}");
            assert!(said.stderr.ends_with(": expected the address of a host"), "{said:?}");
        }
    }
    let rules = Launch::line("--print-rules --kernel -R --syn ::ffff:10.2.0.2 80").run();
    assert!(rules.stdout.contains("--to-destination 10.2.0.2:80"), "IPv4 that is written as IPv6: {rules:?}");
}

#[test]
fn a_bad_network_to_deny_is_refused() {
    for bad in ["10.0.0.0/33", "fd00::/129", "moose", "", "10.0.0.0", "010.0.0.0/8", "10.009.0.0/16"] {
        let said = refused(&["-d", "-s", "40123", "-t", "--deny", bad]).stderr;
        assert!(said.starts_with(&format!("tproxy: --deny: invalid value '{bad}': expected ")), "{said}");
    }
    for good in ["10.0.0.1", "10.0.0.0/8", "::ffff:10.0.0.0/104", "2001:db8::/32"] {
        assert_eq!(Launch::new(&["--check", "-s", "40123", "-t", "--deny", good]).run().status, 0, "{good}");
    }
}

#[test]
fn where_clients_have_no_choice_nothing_is_denied() {
    let said = refused(&[&["--deny", "10.0.0.0/8"], GOOD].concat()).stderr;
    let sentence = "--deny: needs -t, --fallback or --via http|connect|socks5 (otherwise clients do not choose the \
                    destination)";
    assert_eq!(said, format!("tproxy: {sentence}"));
    for choice in ["--fallback", "--via http", "--via connect", "--via socks5"] {
        let line = format!("--check -s 40123 --deny 10.0.0.0/8 {choice} 127.0.0.1 80");
        assert_eq!(Launch::line(&line).run().status, 0, "{choice}");
    }
}

#[test]
fn each_worker_must_have_a_place_to_offer() {
    let said = refused(&[&["-m", "2", "-w", "3"], GOOD].concat()).stderr;
    assert_eq!(said, "tproxy: -m: invalid value '2': expected at least one connection for each of 3 workers");
}

#[test]
fn bad_seconds_are_refused() {
    for option in ["--connect-timeout", "--idle-timeout", "--fin-timeout", "--drain"] {
        for bad in ["soon", "-1", "", "10s", "99999999999999999999"] {
            value_refused(option, bad);
        }
    }
}

#[test]
fn a_connect_timeout_of_nothing_is_refused() {
    value_refused("--connect-timeout", "0");
}

#[test]
fn a_bad_facility_is_refused() {
    for bad in ["nowhere", "", "local8"] {
        value_refused("--syslog", bad);
    }
}

#[test]
fn a_bad_failure_mode_is_refused() {
    for bad in ["sometimes", "", "OPEN!"] {
        value_refused("--fail", bad);
    }
}

#[test]
fn a_match_that_is_more_than_a_match_is_refused() {
    let more = [
        "-d 10.0.0.1 -j ACCEPT",
        "-j DROP",
        "--jump DROP",
        "-g chain",
        "--goto chain",
        "-A INPUT",
        "-t filter",
        "--table=filter",
        "-I PREROUTING",
        "-D PREROUTING 1",
        "-F",
        "-X",
        "-P INPUT DROP",
        "-N chain",
        "--dport 80 -w",
    ];
    for bad in more {
        for option in ["-R", "-X"] {
            value_refused(option, bad);
        }
    }
}

#[test]
fn what_nft_has_no_words_for_is_refused_by_name() {
    for (rule, named) in [
        ("--dport 80 -m string --algo bm --string x", "-m string"),
        ("-m set --match-set inside src", "-m set --match-set inside (nft cannot look into a set of ipset(8)"),
        ("-m time --timestart 25:00", "this use of -m time"),
        ("--dport no-such-service", "--dport no-such-service"),
        ("-m conntrack --ctexpire 3", "--ctexpire 3"),
    ] {
        let said = refused(&["--firewall", "nft", "-R", rule, "-s", "40123", "127.0.0.1", "40124"]).stderr;
        assert!(said.starts_with(&format!("tproxy: -R '{rule}': {named}")), "{said}");
        assert!(said.trim_end().ends_with(" needs --firewall iptables"), "{said}");
    }
    value_refused("--firewall", "pf");
}

#[test]
fn rules_for_nft_are_one_table_with_a_map_for_many_redirections() {
    let directory = TempDir::new();
    let file = directory.file("table.conf");
    let lines =
        (1..=500).map(|at| format!("--local {} -R '-d 10.0.{}.{} --dport 80'\n", 1000 + at, at / 250, at % 250));
    fs::write(&file, lines.collect::<String>()).unwrap();
    let done = Launch::new(&["--print-rules", "--firewall", "nft", "-c", &file]).run();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert!(done.stdout.starts_with("# nft -f -\ntable inet tproxy.table {\n"), "{}", done.stdout);
    assert_eq!(done.stdout.matches(" : 1").count(), 500, "{}", done.stdout);
    assert_eq!(done.stdout.matches("redirect to ").count(), 1, "{}", done.stdout);
}

#[test]
fn interception_with_nft_is_printed_with_its_policy_routing_and_what_rejects_without_it() {
    let args = "--print-rules --firewall nft -s 40123 -b 0.0.0.0 --intercept tproxy --no-conntrack --fail closed";
    let args: Vec<&str> = args.split(' ').chain(["-R", "-d 10.3.0.2 --dport 80", "10.3.0.3", "81"]).collect();
    let done = Launch::new(&args).run();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    let mut rest = done.stdout.as_str();
    for line in [
        "# ip -4 route add local default dev lo table 12970 protocol 129\n",
        "# ip -4 rule add fwmark 0x10000000/0x10000000 lookup 12970 protocol 129\n# nft -f -\n",
        "table inet tproxy.40123 {\n\tchain mark4.0x10000000/0x10000000 {\n\t\tsocket wildcard 1 return\n",
        "\t\tmeta mark set meta mark & 0xefffffff ^ 0x10000000\n",
        "\t\tmeta l4proto tcp tproxy ip to :40123 meta mark set meta mark & 0xefffffff ^ 0x10000000 accept\n\t\tdrop\n",
        "\tchain filter4 {\n\t\tiifname \"lo\" return\n\t\tmeta mark & 0x10000000 == 0x10000000 return\n",
        "\t\tmeta l4proto tcp ip daddr 10.3.0.2 tcp dport 80 reject with tcp reset\n",
        "\t\tmeta l4proto tcp ip daddr 10.3.0.2 tcp dport 80 notrack accept\n",
        "\t\tmeta l4proto tcp ip daddr 10.3.0.2 tcp dport 80 socket transparent 1 jump untracked4\n",
        "\t\tmeta l4proto tcp ip saddr 10.3.0.3 tcp sport 81 socket transparent { 0, 1 } jump untracked4\n",
        "\tchain mangle4.sock {\n\t\tsocket transparent 1 jump mark4.0x10000000/0x10000000\n",
        "\t\tmeta l4proto tcp ip daddr 10.3.0.2 tcp dport 80 goto to4.40123\n",
        "\tchain mangle.prerouting {\n\t\ttype filter hook prerouting priority -149; policy accept;\n",
        "table inet tproxy.40123.closed {\n",
        "\t\tmeta l4proto tcp ip daddr 10.3.0.2 tcp dport 80 reject with tcp reset\n",
    ] {
        let Some((_, after)) = rest.split_once(line) else { panic!("{line:?} lacks in\n{}", done.stdout) };
        rest = after;
    }
}

#[test]
fn a_match_with_an_open_quote_is_refused() {
    value_refused("-R", "-d 'moose");
    value_refused("-X", "-m comment --comment \"open");
}

#[test]
fn a_match_with_a_line_break_cannot_smuggle_in_a_rule() {
    refused(&["-R", "-d 10.0.0.1\n-A INPUT", "-d", "-s", "40123", "127.0.0.1", "40124"]);
}

#[test]
fn a_match_for_another_protocol_than_tcp_is_refused() {
    value_refused("-R", "-p udp --dport 53");
}

#[test]
fn a_bad_upstream_is_refused() {
    let bad: &[&[&str]] = &[
        &["-d", "-s", "40123"],
        &["-d", "-s", "40123", "127.0.0.1"],
        &["-d", "-s", "40123", "127.0.0.1", "0"],
        &["-d", "-s", "40123", "127.0.0.1", "65536"],
        &["-d", "-s", "40123", "127.0.0.1", "no-such-service"],
        &["-d", "-s", "40123", "127.0.0.1", "80", "81"],
        &["-d", "-s", "40123", "", "80"],
        &["-d", "-s", "40123", "a host", "80"],
        &["-d", "-s", "40123", "a..b", "80"],
        &["-d", "-s", "40123", "10.1", "80"],
        &["-d", "127.0.0.1", "80"],
        &[],
    ];
    for args in bad {
        refused(args);
    }
}

#[test]
fn an_option_given_twice_is_refused() {
    let said = refused(&["-s", "1", "-s", "2", "127.0.0.1", "80"]).stderr;
    assert_eq!(said, "tproxy: -s: given more than once");
}

#[test]
fn an_option_without_its_value_is_refused() {
    let said = refused(&["-s", "40123", "127.0.0.1", "80", "--drain"]).stderr;
    assert_eq!(said, "tproxy: --drain: needs a value: SECONDS");
}

#[test]
fn an_unknown_option_is_refused() {
    let said = refused(&[&["--no-such-option"], GOOD].concat()).stderr;
    assert!(said.contains("--no-such-option: no such option"), "{said}");
}

#[test]
fn a_bad_way_to_speak_to_the_upstream_is_refused() {
    for bad in ["", "https", "HTTP", "socks4", "socks", "direct"] {
        value_refused("--via", bad);
    }
    for bad in ["", "v3", "1", "V1"] {
        value_refused("--proxy-protocol", bad);
    }
    for bad in ["0", "-1", "soon", "", "2592001"] {
        value_refused("--handshake-timeout", bad);
    }
    for (option, bad) in [("--via-fallback", "socks5"), ("--via-fallback", ""), ("--forwarded", "yes")] {
        let said = refused(&[&["--via", "http", option, bad], GOOD].concat()).stderr;
        assert!(said.contains(&format!("{option}: invalid value '{bad}': expected ")), "{said}");
    }
}

#[test]
fn a_bad_url_for_the_page_is_refused() {
    let bad = [
        "",
        "/down.html",
        "cow/down.html",
        "https://cow/down.html",
        "HTTP://cow/",
        "http:/cow/",
        "http://",
        "http:///down.html",
        "http://cow/down now.html",
        " http://cow/",
        "http://cow/a\tb",
        "http://cow/a\r\nHost: moose",
        "http://cow/\u{7f}",
        "http://cow/h\u{f6}rnchen",
        "http://cow/#part",
        "http://user:word@cow/",
        "http://cow:0/",
        "http://cow:65536/",
        "http://cow:/",
        "http://cow:+80/",
        "http://fd00::1/",
        "http://[fd00::1/",
    ];
    for url in bad {
        let said = Launch::new(&[&["--via", "http", "-f", url], GOOD].concat()).run();
        assert_eq!(said.status, 64, "{url:?}: {said:?}");
        assert!(
            said.stderr.contains("-f: invalid value '") && said.stderr.contains("an absolute URL"),
            "{url:?}: {said:?}"
        );
    }
}

#[test]
fn a_good_url_for_the_page_is_taken() {
    for url in ["http://cow", "http://cow:8080/down.html?why=moose", "http://[fd00::1]:80/", "http://10.0.0.1/%20"] {
        for option in ["-f", "--page"] {
            let done = Launch::new(&["--check", "--via", "http", option, url, "-s", "40123", "127.0.0.1", "80"]).run();
            assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{url}");
        }
    }
}

/// Options that belong to a proxy, and the kinds of `--via` that they go with.
const COMPANY: &[(&[&str], &[&str])] = &[
    (&["--via-fallback", "connect"], &["http"]),
    (&["--via-fallback", "connect", "--sni"], &["http"]),
    (&["--forwarded", "forwarded"], &["http"]),
    (&["--forwarded", "x-forwarded-for"], &["http"]),
    (&["--forwarded", "both"], &["http"]),
    (&["--host-check"], &["http"]),
    (&["-f", "http://cow/"], &["http"]),
    (&["--sni"], &["connect", "socks5"]),
    (&["--auth-file", "/etc/passwd"], &[]),
    (&["--proxy-protocol", "v1"], &["tcp"]),
    (&["--proxy-protocol", "v2"], &["tcp"]),
    (&["--accept-proxy", "-a", "10.0.0.1"], &["tcp", "http", "connect", "socks5"]),
    (&["--handshake-timeout", "1"], &["tcp", "http", "connect", "socks5"]),
    (&["--fallback"], &["tcp", "http", "connect", "socks5"]),
];

#[test]
fn what_belongs_to_a_proxy_goes_with_the_ways_to_speak_to_it() {
    for (options, kinds) in COMPANY {
        for kind in ["tcp", "http", "connect", "socks5"] {
            let line = [&["--check", "-s", "40123", "--via", kind], *options, &["127.0.0.1", "80"]].concat();
            let done = Launch::new(&line).run();
            let wanted = if kinds.contains(&kind) { 0 } else { 64 };
            assert_eq!(done.status, wanted, "{line:?}: {done:?}");
            assert_eq!(done.stderr.lines().count(), usize::from(wanted != 0), "{line:?}: {done:?}");
        }
    }
}

#[test]
fn what_has_no_proxy_to_belong_to_is_refused_with_what_is_wanted() {
    let wrong = [
        (&["--via-fallback", "connect"][..], "--via-fallback: needs --via http"),
        (&["--forwarded", "both"], "--forwarded: needs --via http"),
        (&["--host-check", "--via", "connect"], "--host-check: needs --via http or --sni"),
        (&["-f", "http://cow/"], "-f: needs --via http"),
        (&["--page", "http://cow/", "--via", "socks5"], "-f: needs --via http"),
        (&["--sni"], "--sni: needs --via connect|socks5 or --via-fallback"),
        (&["--sni", "--via", "http"], "--sni: needs --via connect|socks5 or --via-fallback"),
        (&["--auth-file", "/etc/secret"], "--auth-file: needs --via http|connect|socks5"),
        (&["--proxy-protocol", "v2", "--via", "http"], "--proxy-protocol: cannot be used with --via http"),
        (&["--accept-proxy"], "--accept-proxy: needs -a (the balancers that may speak for clients)"),
        (
            &["--accept-proxy", "-a", "10.0.0.1", "--only-redirected"],
            "--only-redirected: cannot be used with --accept-proxy (a balancer connects directly)",
        ),
    ];
    for (options, sentence) in wrong {
        let said = refused(&[options, GOOD].concat()).stderr;
        assert_eq!(said, format!("tproxy: {sentence}"), "{options:?}");
    }
}

#[test]
fn the_original_destination_is_no_proxy() {
    for kind in ["http", "connect", "socks5"] {
        for upstream in [&[][..], &["127.0.0.1", "80"]] {
            let said = refused(&[&["-d", "-s", "40123", "-t", "--via", kind], upstream].concat()).stderr;
            let sentence = format!("-t: cannot be used with --via {kind} (give the proxy's HOST PORT instead)");
            assert_eq!(said, format!("tproxy: {sentence}"));
        }
        // Of -t and -p the last one counts.
        let done = Launch::line(&format!("--check -s 40123 -t -p --via {kind} 127.0.0.1 80")).run();
        assert_eq!(done.status, 0, "{done:?}");
    }
    for options in ["--via tcp", "--proxy-protocol v1", "--proxy-protocol v2 -a 10.0.0.1 --accept-proxy"] {
        let done = Launch::line(&format!("--check -s 40123 -t {options}")).run();
        assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{options}");
    }
}

#[test]
fn what_is_not_relayed_is_not_spoken_to() {
    let options: &[&[&str]] = &[
        &["--via", "http"],
        &["--via", "tcp"],
        &["--via-fallback", "connect"],
        &["--sni"],
        &["--auth-file", "/etc/secret"],
        &["--forwarded", "both"],
        &["--host-check"],
        &["--page", "http://cow/"],
        &["--proxy-protocol", "v1"],
        &["--accept-proxy"],
        &["--handshake-timeout", "5"],
        &["--only-redirected"],
        &["--deny", "10.0.0.0/8"],
    ];
    let targets: &[&[&str]] =
        &[&["--local", "same", "-R", "--dport 80"], &["--kernel", "-R", "--dport 80", "cow", "80"]];
    for option in options {
        for target in targets {
            let said = refused(&[*option, *target].concat()).stderr;
            let opt = OPTIONS.iter().find(|opt| format!("--{}", opt.long) == option[0]).expect("an option");
            let sentence = format!("tproxy: {opt}: cannot be used with {}, which relays nothing", target[0]);
            assert_eq!(said, sentence, "{option:?}");
        }
    }
}

#[test]
fn upstreams_come_in_pairs_and_not_too_many() {
    refused(&["-d", "-s", "40123", "127.0.0.1", "80", "127.0.0.1"]);
    let many = ["127.0.0.1", "80"].repeat(9);
    let said = refused(&[&["-d", "-s", "40123"], many.as_slice()].concat()).stderr;
    assert!(said.contains("9 upstreams; at most 8"), "{said}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let wrong = [
        (&["--local", "80", "-R", "--dport 80", "-s", "81"][..], "-s: cannot be used with --local"),
        (&["--local", "80", "--kernel", "-R", "--dport 80"], "--local"),
        (&["--local", "80"], "-R"),
        (&["--local", "80", "-R", "--dport 80", "cow", "80"], "--local: cannot be used with HOST PORT"),
        (&["--local", "0", "-R", "--dport 80"], "--local: invalid value '0'"),
        (&["--kernel", "-R", "--dport 80", "cow"], "HOST PORT"),
        (
            &["-s", "40123", "cow", "0"],
            "PORT: invalid value '0': expected a port from 1 to 65535 or the name of a TCP service, or same",
        ),
        (
            &["-s", "40123", "-R", "--dport 80", "--via", "connect", "cow", "same"],
            "PORT: invalid value 'same': expected the port of the proxy (--via), which is one for all clients",
        ),
        (&["-s", "40123", "--proto", "udp", "cow", "80"], "tcp"),
        (&["-s", "40123", "--proto", "sctp", "cow", "80"], "tcp or udp"),
        (&["-s", "40123", "--balance", "best", "cow", "80"], "round-robin"),
        (&["-s", "40123", "-w", "0", "cow", "80"], "from 1 to 64"),
        (&["-c", "/dev/null", "-s", "40123"], "-s: cannot be used with -c; put it on the line of its redirection"),
        (&["-c", "/dev/null", "--fallback"], "--fallback: cannot be used with -c"),
        (&["-c", "/dev/null", "cow", "80"], "cow 80"),
        (&["-c", "/dev/null"], "no redirection"),
    ];
    for (args, part) in wrong {
        let said = refused(args).stderr;
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

#[test]
fn an_error_in_a_file_names_file_line_and_option() {
    let directory = TempDir::new();
    let wrong = [
        ("-s 1 cow 80\n\n-s 70000 cow 80\n", ":3: -s: invalid value '70000': expected a port"),
        (
            "# comment\n-s 1 \\\n cow 80 --drain 3\n",
            ":2: --drain: concerns the whole process, not one redirection; put it on a line of its own",
        ),
        ("-r no-such-user-here\n-s 1 cow 80\n", ":1: -r: invalid value 'no-such-user-here'"),
        ("-s 1 'cow 80\n", ":1: a quote"),
        ("-s 1 cow 80\n--check\n", ":2: --check: cannot stand in a file; use it on the command line"),
        ("-s 1 cow 80\n-s 1 moose 80\n", ":2: -s: another line listens on port 1"),
    ];
    for (text, part) in wrong {
        let file = directory.write("table.conf", text);
        let said = refused(&["-c", &file]).stderr;
        assert!(said.contains(&format!("{file}{part}")), "{text:?}: {said}");
    }
}

#[test]
fn options_of_the_process_stand_beside_c_and_count_more_than_the_file() {
    let directory = TempDir::new();
    let table = directory.file("table.conf");
    fs::write(&table, "-m 2\n-w 9\n-s 1 10.0.0.1 80\n").expect("file");
    assert_eq!(
        refused(&["-c", &table]).stderr,
        "tproxy: -m: invalid value '2': expected at least one connection for each of 9 workers"
    );
    let beside =
        ["-r", "nobody", "--drain", "3", "-w2", "-l", "access", "-P", "pid", "-v", "--fail=closed", "--syslog", "auth"];
    let line = [&["--check", "-c", &table], &beside[..]].concat();
    let done = Launch::new(&line).run();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    let said = refused(&["-c", &table, "--drain", "soon"]).stderr;
    assert_eq!(said, "tproxy: --drain: invalid value 'soon': expected a number of seconds from 0 to 2592000");
}

/// A name that is not UTF-8.
fn odd_name(ending: &str) -> OsString {
    OsString::from_vec([b"caf\xe9 \xff", ending.as_bytes()].concat())
}

#[test]
fn the_names_of_files_need_not_be_text() {
    let directory = TempDir::new();
    let [table, secret, access_log, pidfile] = ["table", "secret", "access", "pid"].map(odd_name);
    let (server, port) = (Server::page("127.0.0.1:0", "page"), free_port());
    let place = |name: &OsString| directory.path.join(name);
    fs::write(place(&secret), SECRET).expect("file");
    fs::set_permissions(place(&secret), fs::Permissions::from_mode(0o600)).expect("mode");
    let line = format!("-b 127.0.0.1 -s {port} 127.0.0.1 {}\n", server.address.port());
    let proxy = b"-s 1 --via connect 127.0.0.1 80 --auth-file '".to_vec();
    let text = [line.as_bytes(), b"-l '", access_log.as_bytes(), b"'\n", &proxy, secret.as_bytes(), b"'\n"].concat();
    fs::write(place(&table), text).expect("file");
    let check = |secret: &OsString| {
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_tproxy"));
        check.args(["--check", "-s", "1", "--via", "socks5", "127.0.0.1", "80", "--auth-file"]).arg(secret);
        check.current_dir(&directory.path).output().expect("output")
    };
    assert!(check(&secret).status.success());
    let missing = String::from_utf8(check(&odd_name("missing")).stderr).expect("text");
    assert!(missing.contains("caf\u{fffd} \u{fffd}missing: No such file"), "{missing}");

    let family = process::Family::new();
    let mut start = std::process::Command::new(env!("CARGO_BIN_EXE_tproxy"));
    start.arg("-c").arg(&table).arg("-P").arg(&pidfile).current_dir(&directory.path).envs([family.entry()]);
    assert!(start.status().expect("start").success());
    let address = ([127, 0, 0, 1], port).into();
    assert_eq!(lab::clients::fetch(address).expect("fetch"), "page");
    let guardian = family.guardian();
    assert_eq!(fs::read_to_string(place(&pidfile)).expect("pid file").trim(), guardian.to_string());
    // An upgrade reads all of it again, from another directory.
    let workers = process::children(guardian);
    process::signal(guardian, Signal::SIGUSR2);
    wait::until_true("an upgrade", || {
        let now = process::children(guardian);
        !now.is_empty() && now.iter().all(|pid| !workers.contains(pid))
    });
    assert_eq!(lab::clients::fetch(address).expect("fetch"), "page");
    process::signal(family.guardian(), Signal::SIGTERM);
    family.wait_gone();
    assert_eq!(fs::read_to_string(place(&access_log)).expect("log").lines().count(), 2);
    assert!(!place(&pidfile).exists(), "the pid file is left");
}

/// `--check -c` of a table whose names and user this machine need not have.
fn check_table(directory: &TempDir, text: &str) -> Finished {
    let names = [("-r tproxy", "-r nobody"), ("moose", "10.2.0.5"), ("cow", "10.3.0.3"), ("proxy ", "10.3.0.9 ")];
    let text = names.iter().fold(text.to_owned(), |text, (name, here)| text.replace(name, here));
    let table = directory.file("table.conf");
    fs::write(&table, text).expect("file");
    Launch::new(&["--check", "-c", &table]).run()
}

#[test]
fn the_sample_of_a_table_is_a_good_one() {
    let sample = fs::read_to_string("scripts/tproxy.conf").expect("sample");
    let text: String = sample.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with('-') || line.starts_with("  ")).collect();
    let done = check_table(&TempDir::new(), &commands.join("\n"));
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    for line in ["at 10.3.0.9:3128 via http", "at 10.3.0.9:3128 via connect", "redirect to port 1113", "forward to"] {
        assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
    }
}

#[test]
fn the_table_in_the_manual_page_is_a_good_one() {
    let page = fs::read_to_string("man/tproxy.conf.5").expect("page");
    let example = page.split(".Sh EXAMPLES\n.Bd -literal\n").nth(1).expect("EXAMPLES");
    let text = example.split(".Ed").next().expect("the end of the example").replace("\\e\n", "\\\n");
    let directory = TempDir::new();
    fs::rename(write_secret(&directory, SECRET, 0o600), directory.file("proxy.auth")).expect("rename");
    let done = check_table(&directory, &text);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert!(done.stdout.contains("relay to 10.3.0.9:3128 at 10.3.0.9:3128 via connect"), "{}", done.stdout);
}

#[test]
fn nothing_is_touched_before_a_bad_value_is_found() {
    let directory = TempDir::new();
    let (log, pid) = (directory.file("log"), directory.file("pid"));
    refused(&["-l", &log, "-P", &pid, "-s", "40123", "127.0.0.1", "80", "--drain", "soon"]);
    assert_eq!(fs::read_dir(&directory.path).expect("directory").count(), 0, "files were made");
}

// ---- Privileges ----

#[test]
fn without_root_what_needs_root_is_refused_with_status_77() {
    if !am_root() {
        return;
    }
    let binary = PublicBinary::new();
    let needs_root: &[&[&str]] = &[
        &["-d", "-s", "40123", "-R", "-d 10.0.0.1 --dport 80", "127.0.0.1", "80"],
        &["-d", "-s", "40123", "-r", "daemon", "127.0.0.1", "80"],
        &["-s", "40123", "-R", "-d 10.0.0.1 --dport 80", "127.0.0.1", "80"],
        &["--flush"],
    ];
    for args in needs_root {
        let done = binary.run_as_nobody(args);
        assert_eq!(done.status, 77, "{args:?}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains("root"), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn without_root_rules_can_be_printed_and_checked() {
    if !am_root() {
        return;
    }
    let binary = PublicBinary::new();
    for what in ["--print-rules", "--check"] {
        let done = binary.run_as_nobody(&[what, "-s", "40123", "-R", "-d 10.0.0.1 --dport 80", "127.0.0.1", "80"]);
        assert_eq!(done.status, 0, "{what}: {done:?}");
        assert_ne!(done.stdout, "", "{what}");
    }
}

#[test]
fn without_root_an_access_log_that_cannot_be_made_is_status_73() {
    if !am_root() {
        return;
    }
    let binary = PublicBinary::new();
    let done = binary.run_as_nobody(&["-d", "-s", "40123", "-l", "/proc/no/such/file", "127.0.0.1", "80"]);
    assert_eq!(done.status, 73, "{done:?}");
    assert!(done.stderr.contains("/proc/no/such/file"), "{done:?}");
}

// ---- The file with credentials ----

/// What must never be seen, and a file that says it.
const SECRET: &str = "squid-user:sesame-of-the-proxy";

fn write_secret(directory: &TempDir, text: &str, mode: u32) -> String {
    let path = directory.file("secret");
    fs::write(&path, text).expect("file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
    path
}

/// `--check` with this file of credentials.
fn with_secret(path: &str) -> Launch {
    Launch::new(&["--check", "-s", "40123", "--via", "connect", "--auth-file", path, "127.0.0.1", "3128"])
}

#[test]
fn credentials_are_read_from_a_file_of_its_owner_alone() {
    let directory = TempDir::new();
    for mode in [0o600, 0o400, 0o700] {
        let path = write_secret(&directory, &format!("{SECRET}\n"), mode);
        for kind in ["http", "connect", "socks5"] {
            let done = Launch::line(&format!("--check -s 40123 --via {kind} --auth-file {path} 127.0.0.1 3128")).run();
            assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{mode:o} {kind}");
            assert!(!done.stdout.contains("sesame") && !done.stdout.contains("squid-user"), "{}", done.stdout);
        }
    }
    let link = directory.file("link");
    std::os::unix::fs::symlink(directory.file("secret"), &link).expect("link");
    assert_eq!(with_secret(&link).run().status, 0, "what a link leads to counts");
}

#[test]
fn a_file_that_others_may_read_or_write_holds_no_secret() {
    let directory = TempDir::new();
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666] {
        let path = write_secret(&directory, SECRET, mode);
        let done = with_secret(&path).run();
        assert_eq!(done.status, 64, "{mode:o}: {done:?}");
        let expected = "a file that nobody but its owner may read or write (chmod 600)";
        let sentence = format!("tproxy: --auth-file: invalid value '{path}': expected {expected}");
        assert_eq!(done.stderr, sentence, "{mode:o}");
    }
}

#[test]
fn what_is_no_file_holds_no_secret() {
    let directory = TempDir::new();
    let fifo = directory.file("fifo");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
    for path in [fifo.as_str(), "/dev/null", "/"] {
        let done = with_secret(path).run();
        assert_eq!(done.status, 64, "{done:?}");
        assert_eq!(done.stderr, format!("tproxy: --auth-file: invalid value '{path}': expected a regular file"));
    }
    let missing = directory.file("missing");
    let done = with_secret(&missing).run();
    assert_eq!(done.status, 73, "{done:?}");
    assert!(done.stderr.starts_with(&format!("tproxy: {missing}: No such file")), "{done:?}");
    refused(&["--check", "-s", "40123", "--via", "connect", "--auth-file", "", "127.0.0.1", "3128"]);
}

#[test]
fn a_file_of_credentials_that_says_something_else_is_named_and_not_shown() {
    let directory = TempDir::new();
    let long = format!("{SECRET}{}", "x".repeat(5000));
    for text in ["", "\n", "sesame-without-a-colon\n", ":sesame\n", "squid-user:sesame\nsesame:squid-user\n", &long] {
        let path = write_secret(&directory, text, 0o600);
        let done = with_secret(&path).run();
        assert_eq!(done.status, 64, "{text:?}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{text:?}: {done:?}");
        assert!(done.stderr.starts_with("tproxy: --auth-file: ") && done.stderr.contains(&path), "{done:?}");
        assert!(!done.stderr.contains("sesame") && !done.stderr.contains("squid-user"), "{done:?}");
    }
    let path = write_secret(&directory, "", 0o600);
    fs::write(&path, b"squid-user:sesame\xff\n").expect("file");
    let done = with_secret(&path).run();
    assert_ne!(done.status, 0, "{done:?}");
    assert!(done.stderr.contains(&path) && !done.stderr.contains("sesame"), "{done:?}");
}

#[test]
fn credentials_of_somebody_else_are_not_used() {
    if !am_root() {
        return;
    }
    let (binary, directory) = (PublicBinary::new(), TempDir::new());
    fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o755)).expect("mode");
    let path = write_secret(&directory, SECRET, 0o600);
    let line = ["--check", "-s", "40123", "--via", "connect", "--auth-file", &path, "127.0.0.1", "3128"];
    let done = binary.run_as_nobody(&line);
    assert_eq!(done.status, 73, "root's file, which nobody cannot read: {done:?}");

    std::os::unix::fs::chown(&path, Some(NOBODY), None).expect("chown");
    let done = with_secret(&path).run();
    assert_eq!(done.status, 64, "nobody's file, which root is to use: {done:?}");
    assert!(done.stderr.contains("expected a file of root or of the user who starts tproxy"), "{done:?}");
    assert_eq!(binary.run_as_nobody(&line).status, 0, "its own file");
}

/// What a proxy hears from the daemon at this port when a client comes by way of a balancer; it refuses then.
fn heard_by(proxy: &TcpListener, daemon: SocketAddr) -> String {
    let mut client = lab::clients::connect(daemon).expect("connect");
    client.write_all(b"PROXY TCP4 10.1.0.2 10.2.0.5 40000 443\r\n").expect("send");
    let (mut stream, _) = proxy.accept().expect("accept");
    stream.set_read_timeout(Some(lab::clients::IO_PATIENCE)).expect("timeout");
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("read");
        heard.extend(byte);
    }
    stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").expect("send");
    String::from_utf8(heard).expect("text")
}

#[test]
fn credentials_reach_the_proxy_and_no_log_and_are_read_again_at_a_reload() {
    let (directory, proxy) = (TempDir::new(), TcpListener::bind("127.0.0.1:0").expect("bind"));
    let path = write_secret(&directory, "cow:sesame\n", 0o600);
    // Two workers, so that there is a guardian to reload.
    let options = format!("-v -w 2 -a 127.0.0.1 --accept-proxy --via connect --auth-file {path}");
    let relay = LoopbackRelay::start(&options, proxy.local_addr().expect("address"));
    let (first, second) = ("Y293OnNlc2FtZQ==", "Y293OmJhcmxleQ==");
    let head = |secret| {
        let authority = "10.2.0.5:443";
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {secret}\r\n\r\n")
    };
    assert_eq!(heard_by(&proxy, relay.address), head(first));
    let journal = &relay.daemon.journal;
    assert_eq!(journal.wait_connections(1)[0].ending, "refused by proxy: HTTP/1.1 407 Proxy Authentication Required");

    write_secret(&directory, "cow:barley\n", 0o644);
    relay.daemon.signal(Signal::SIGHUP);
    journal.wait_for("(chmod 600); nothing has changed");
    assert_eq!(heard_by(&proxy, relay.address), head(first));

    write_secret(&directory, "cow:barley\n", 0o600);
    relay.daemon.signal(Signal::SIGHUP);
    journal.wait_for("reloaded: 1 redirection");
    // Until the former workers have closed their sockets, they are given connections too.
    wait::until_true("the new credentials", || heard_by(&proxy, relay.address) == head(second));
    relay.daemon.signal(Signal::SIGUSR1);
    journal.wait_for("counters: ");
    let text = journal.text();
    assert!(!["sesame", "barley", first, second].iter().any(|secret| text.contains(secret)), "{text}");
}

#[test]
fn a_bad_file_of_credentials_in_a_table_names_the_line() {
    let directory = TempDir::new();
    let path = write_secret(&directory, SECRET, 0o644);
    let table = directory.file("table.conf");
    fs::write(&table, format!("-s 1 cow 80\n-s 2 --via socks5 --auth-file {path} cow 80\n")).expect("file");
    let said = refused(&["-c", &table]).stderr;
    assert!(said.starts_with(&format!("tproxy: {table}:2: --auth-file: invalid value '{path}'")), "{said}");
}

// ---- Good values ----

#[test]
fn ports_above_32767_work() {
    let server = Server::page("127.0.0.1:0", "high");
    let port = (60_000..65_535).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port");
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let _daemon = Launch::line(&line).ready();
    let page = lab::clients::fetch(([127, 0, 0, 1], port).into());
    assert_eq!(page.expect("fetch"), "high");
}

#[test]
fn service_names_are_ports() {
    let done = Launch::line("--print-rules -s ssh -R --dport=80 127.0.0.1 http").run();
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.stdout.contains("tproxy.22"), "{done:?}");
}

#[test]
fn the_order_of_options_is_free() {
    let server = Server::page("127.0.0.1:0", "page");
    let up = server.address.port();
    let port = free_port();
    let orders = [
        format!("127.0.0.1 {up} -s {port} -b 127.0.0.1 -d"),
        format!("-b 127.0.0.1 127.0.0.1 -d {up} -s {port}"),
        format!("--bind=127.0.0.1 --foreground -a 127.0.0.1 --listen {port} -- 127.0.0.1 {up}"),
        format!("-ds{port} -p -b127.0.0.1 -v -m 10 127.0.0.1 {up}"),
    ];
    for line in orders {
        let mut daemon = Launch::line(&line).ready();
        assert_eq!(lab::clients::fetch(([127, 0, 0, 1], port).into()).expect("fetch"), "page", "{line}");
        assert_eq!(daemon.stop(), 0, "{line}");
    }
}

#[test]
fn of_transparent_and_proxy_only_the_last_one_counts() {
    let server = Server::page("127.0.0.1:0", "page");
    let relay = LoopbackRelay::start("-t -p", server.address);
    assert_eq!(lab::clients::fetch(relay.address).expect("fetch"), "page");
}

#[test]
fn a_daemon_finds_its_files_again_from_the_root_directory() {
    let server = Server::page("127.0.0.1:0", "page");
    let (directory, family) = (TempDir::new(), process::Family::new());
    let ports = [free_port(), free_port()];
    let table = |port: u16| {
        let text = format!("-l access.log\n-b 127.0.0.1 -s {port} 127.0.0.1 {}\n", server.address.port());
        fs::write(directory.file("table.conf"), text).expect("file");
    };
    table(ports[0]);
    let mut start = std::process::Command::new(env!("CARGO_BIN_EXE_tproxy"));
    start.args(["-c", "table.conf", "-P", "pid"]).current_dir(&directory.path).envs([family.entry()]);
    assert!(start.status().expect("start").success());
    let page = |port: u16| lab::clients::fetch(([127, 0, 0, 1], port).into());
    assert_eq!(page(ports[0]).expect("fetch"), "page");
    table(ports[1]);
    process::signal(family.guardian(), Signal::SIGHUP);
    wait::until_true("the new port is open", || page(ports[1]).is_ok_and(|page| page == "page"));
    process::signal(family.guardian(), Signal::SIGTERM);
    family.wait_gone();
    let log = fs::read_to_string(directory.file("access.log")).expect("log");
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(!directory.path.join("pid").exists(), "the pid file is left");
}

#[test]
fn check_says_what_would_be_done_and_touches_nothing() {
    let port = free_port();
    let done = Launch::line(&format!("--check -s {port} 127.0.0.1 40124")).run();
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.stdout.contains(&port.to_string()) && done.stdout.contains("127.0.0.1:40124"), "{done:?}");
    // The port is not needed: another process may have it, as when a running daemon's new options are checked.
    let _other = std::net::TcpListener::bind(("0.0.0.0", port)).expect("bind");
    assert_eq!(Launch::line(&format!("--check -s {port} 127.0.0.1 40124")).run().status, 0);
}

#[test]
fn check_says_how_the_upstream_is_spoken_to() {
    let ways = [
        ("127.0.0.1 40124", "at 127.0.0.1:40124\n"),
        ("--proxy-protocol v1 127.0.0.1 40124", "at 127.0.0.1:40124 with a PROXY header, v1\n"),
        ("--proxy-protocol v2 127.0.0.1 40124", "at 127.0.0.1:40124 with a PROXY header, v2\n"),
        ("-t --proxy-protocol v2", "relay to the original destination with a PROXY header, v2\n"),
        ("--via http 127.0.0.1 40124", "at 127.0.0.1:40124 via http\n"),
        ("--via http --via-fallback connect 127.0.0.1 40124", " via http, what is not HTTP via connect\n"),
        ("--via connect 127.0.0.1 40124", "at 127.0.0.1:40124 via connect\n"),
        ("--via socks5 127.0.0.1 40124", "at 127.0.0.1:40124 via socks5\n"),
    ];
    for (line, said) in ways {
        let done = Launch::line(&format!("--check -s 40123 {line}")).run();
        assert_eq!(done.status, 0, "{line}: {done:?}");
        assert!(format!("{}\n", done.stdout).contains(said), "{line}: {}", done.stdout);
    }
}

#[test]
fn check_refuses_what_a_start_would_refuse() {
    refused(&["--check", "-s", "40123", "--drain", "soon", "127.0.0.1", "40124"]);
}

#[test]
fn a_port_that_another_has_is_status_69() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = other.local_addr().expect("address").port();
    for mode in ["-d", ""] {
        let done = Launch::line(&format!("{mode} -b 127.0.0.1 -s {port} 127.0.0.1 80")).run();
        assert_eq!(done.status, 69, "{done:?}");
        assert!(done.stderr.contains(&port.to_string()), "{done:?}");
    }
}

/// What is fed to the kernel for `-s 12970 -r nobody -O` and the lines of the test below.
const PRINTED: &str = "\
# iptables-restore --noflush
*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp -d 10.9.9.9 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970 -p tcp --dport 8000:8100 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -m owner --uid-owner 65534 -j RETURN
-A tproxy.12970.out -j tproxy.12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
# ip6tables-restore --noflush
*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp -d fd00:2::5 --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970 -p tcp --dport 8000:8100 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -m owner --uid-owner 65534 -j RETURN
-A tproxy.12970.out -j tproxy.12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT";

#[test]
fn rules_are_printed_exactly() {
    let lines = ["-X", "-d 10.9.9.9", "-R", "-d 10.2.0.5 --dport 80", "-R", "-d fd00:2::5 --dport 80"];
    let rest = ["-R", "--dport 8000:8100", "cow", "80"];
    let args = [&["--print-rules", "-s", "12970", "-r", "nobody", "-O"], &lines[..], &rest].concat();
    let done = Launch::new(&args).run();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(done.stdout, PRINTED);
}

#[test]
fn rules_that_stay_with_one_family_are_printed_for_that_one() {
    let done = Launch::new(&["--print-rules", "-s", "12970", "-R", "-d 10.2.0.5 --dport 80", "cow", "80"]).run();
    assert!(done.stdout.contains("# iptables-restore") && !done.stdout.contains("ip6tables"), "{done:?}");
}

// ---- What it prints about itself ----

#[test]
fn help_lists_every_option() {
    let done = Launch::new(&["--help"]).run();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert_eq!(Launch::new(&["-h"]).run().stdout, done.stdout);
    for opt in OPTIONS {
        let letter = if opt.short.is_empty() { "    ".to_owned() } else { format!("-{}, ", opt.short) };
        let value = opt.value.map(|value| format!(" {}", value.names().join("|"))).unwrap_or_default();
        let names = format!("  {letter}--{}{value}", opt.long);
        let listed =
            |line: &str| line.strip_prefix(&names).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        assert!(done.stdout.lines().any(listed), "--help does not list {names}");
    }
}

#[test]
fn version_is_the_package_version() {
    for option in ["--version", "-V"] {
        let done = Launch::new(&[option]).run();
        let wanted = format!("tproxy {}", env!("CARGO_PKG_VERSION"));
        assert_eq!((done.status, done.stdout, done.stderr), (0, wanted, String::new()));
    }
}

/// The manual pages and the completions. `make man` writes them.
#[test]
fn generated_files_match_the_table_of_options() {
    let of_options = generated().into_iter().map(|(path, text)| (path, text, MARKS));
    let of_commands = generated_ctl().into_iter().map(|(path, text)| (path, text, CTL_MARKS));
    for (path, wanted, marks) in of_options.chain(of_commands) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let found = fs::read_to_string(&path).unwrap_or_default();
        let wanted = match found.split_once(marks.0) {
            Some((head, rest)) => {
                let (_, tail) = rest.split_once(marks.1).expect("the last mark");
                [head, marks.0, &wanted, marks.1, tail].concat()
            }
            None => wanted,
        };
        if std::env::var("TPROXY_BLESS").is_ok_and(|value| value == "1") {
            fs::write(&path, wanted).expect("write");
        } else {
            assert!(found == wanted, "{} differs from the table of options; `make man` rewrites it", path.display());
        }
    }
}

/// What bash suggests for the last of these words.
fn completed(words: &[&str]) -> Vec<String> {
    let script = "source scripts/completions/tproxy.bash 2>&1; compopt() { :; }; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                  _tproxy 2>&1; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let done = std::process::Command::new("bash").args(["-c", script, "bash", "tproxy"]).args(words).output();
    let text = String::from_utf8(done.expect("bash").stdout).expect("text");
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_options_and_their_values() {
    let all: Vec<String> = completed(&["-"]);
    for opt in OPTIONS {
        assert!(all.contains(&format!("--{}", opt.long)), "{}", opt.long);
    }
    assert_eq!(completed(&["-s", "80", "--via-"]), ["--via-fallback"]);
    assert_eq!(completed(&["--via", "s"]), ["socks5"]);
    // Readline makes three words of --via=s.
    assert_eq!(completed(&["--via", "=", "s"]), ["socks5"]);
    assert_eq!(completed(&["--fail", "="]), ["open", "closed"]);
    assert_eq!(completed(&["--drain", ""]), [""; 0]);
    assert_eq!(completed(&["-r", "roo"]), ["root"]);
    assert_eq!(completed(&["-c", "scripts/completions/tproxy.b"]), ["scripts/completions/tproxy.bash"]);
}
