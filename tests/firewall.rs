//! The firewall half against the real iptables, each test in a network namespace of its own.
//!
//! Needs root and network namespaces. Without them the tests say so and pass, unless TPROXY_MUST_NETNS=1.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tproxy::rules::firewall::Firewall;
use tproxy::rules::rule::{Action, Family, Line, Match, RELAYED, RuleSet};

const TO: Action = Action::Redirect { port: 12970 };

/// Rules of an administrator in the tables that are ours too, with texts made to be misread.
const ADMIN: &str = r#"*nat
:admin - [0:0]
-A PREROUTING -d 10.200.0.1/32 -j admin
-A PREROUTING -p tcp -m comment --comment "look: -j tproxy.12970 \"quoted\"" -j ACCEPT
-A OUTPUT -d 10.200.0.2/32 -p tcp -m tcp --dport 99 -j RETURN
-A admin -j RETURN
COMMIT
*filter
:tproxyish - [0:0]
-A INPUT -s 10.200.0.3/32 -j DROP
-A FORWARD -j tproxyish
COMMIT
"#;

/// Deletes the namespace, also when the test fails.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("tpfw-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a test on a thread that has moved into a fresh namespace; the commands that it starts are there too.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = unique();
    let made = nix::unistd::geteuid().is_root()
        && Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !made {
        assert_ne!(std::env::var("TPROXY_MUST_NETNS").as_deref(), Ok("1"), "no root or no network namespaces");
        eprintln!("**** SKIPPED, NOT TESTED: this needs root and network namespaces ****");
        return;
    }
    let namespace = Namespace(name);
    let path = Path::new("/run/netns").join(&namespace.0);
    let thread = std::thread::spawn(move || {
        let file = fs::File::open(path).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn set(lines: &[(Action, &str)]) -> RuleSet {
    named("12970", lines)
}

fn named(name: &str, lines: &[(Action, &str)]) -> RuleSet {
    let line = |(action, text): &(Action, &str)| {
        let found = Match::parse("--redirect", text, RELAYED).unwrap();
        Line { action: *action, matching: found.resolve(&|_| Vec::<IpAddr>::new()).unwrap() }
    };
    let lines = lines.iter().map(line).collect();
    RuleSet { name: name.into(), lines, families: Family::BOTH.to_vec(), output: false, own_uid: None }
}

fn feed(tool: &str, text: &str) {
    use std::io::Write;
    let mut child = Command::new(tool).args(["--noflush", "-w", "10"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{tool}:\n{text}");
}

fn feed_both(text: &str) {
    feed("iptables-restore", text);
    feed("ip6tables-restore", text);
}

/// What iptables-save says, without comments (they hold the time) and counters.
fn save(tool: &str) -> String {
    let output = Command::new(tool).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())).collect()
}

fn save_both() -> String {
    save("iptables-save") + &save("ip6tables-save")
}

/// The tables without the lines that name a chain of ours outside of quotes.
fn others(save: &str) -> String {
    let ours =
        |line: &&str| line.starts_with(":tproxy.") || line.starts_with("-A tproxy.") || line.contains(" -j tproxy.12");
    save.lines().filter(|line| line.contains("look:") || !ours(line)).map(|line| format!("{line}\n")).collect()
}

/// Also makes the tables exist, for an empty one that nobody used yet is not in iptables-save.
fn with_admin_rules() -> String {
    let mut v6 = ADMIN.replace("10.200.0.", "fd00::").replace("/32", "/128");
    v6.push_str("*nat\nCOMMIT\n");
    feed("iptables-restore", ADMIN);
    feed("ip6tables-restore", &v6);
    save_both()
}

fn connect(port: u16) -> Result<(), ErrorKind> {
    connect_to(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn connect_to(address: SocketAddr) -> Result<(), ErrorKind> {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop).map_err(|error| error.kind())
}

#[test]
fn installed_twice_is_installed_once_and_removed_without_a_trace() {
    in_namespace(|| {
        let before = with_admin_rules();
        let lines = [(Action::Exempt, "-s 10.9.0.0/16"), (Action::Reject, "--dport 81"), (TO, "--dport 80")];
        let set = RuleSet { output: true, own_uid: Some(65534), ..set(&lines) };
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
        let lines = [(Action::Reject, "! -s 10.0.0.0/8"), (TO, "--dport 80 -m comment --comment 'a \"b\" \\ #c'")];
        let set = set(&lines);
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
        firewall.install(&RuleSet { families: vec![Family::V4], ..set }).unwrap();
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
        let mut lines: Vec<(Action, &str)> = texts.iter().map(|text| (TO, text.as_str())).collect();
        let mut firewall = Firewall::find().unwrap();
        let began = Instant::now();
        firewall.install(&set(&lines)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(save_both().matches("-j REDIRECT").count(), 500);
        let living = save_both();
        lines[399] = (TO, "--dport 80 -m nosuchmatch");
        firewall.install(&set(&lines)).unwrap_err();
        assert_eq!(save_both(), living);
        firewall.remove("12970").unwrap();
        lines[399] = (TO, "--dport http-but-not-really");
        firewall.install(&set(&lines)).unwrap_err();
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
fn check_says_what_is_wrong_and_installing_again_repairs_it() {
    in_namespace(|| {
        let lines = [(TO, "--dport 80"), (TO, "--dport 82"), (Action::Reject, "--dport 81")];
        let set = set(&lines);
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

#[test]
fn a_flush_removes_every_instance_and_says_how_many_chains() {
    in_namespace(|| {
        let before = with_admin_rules();
        let one = RuleSet { output: true, ..named("1", &[(TO, "--dport 80"), (Action::Reject, "--dport 81")]) };
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
        firewall.install(&set(&[(TO, "--dport 80")]).open()).unwrap();
        assert_eq!(save_both(), before);
    });
}

#[test]
fn failing_open_and_closed_replace_the_rules_in_place() {
    in_namespace(|| {
        let before = with_admin_rules();
        let set = RuleSet { output: true, ..set(&[(TO, "-d 127.0.0.1 --dport 80")]) };
        let web = TcpListener::bind("127.0.0.1:80").unwrap();
        let mut firewall = Firewall::find().unwrap();
        firewall.install(&set).unwrap();
        assert_eq!(connect(80), Err(ErrorKind::ConnectionRefused), "redirected to where nobody listens");
        firewall.install(&set.open()).unwrap();
        assert_eq!(save_both(), before);
        assert_eq!(connect(80), Ok(()));
        firewall.install(&set.closed()).unwrap();
        assert_eq!(connect(80), Err(ErrorKind::ConnectionRefused));
        assert_eq!(firewall.check().unwrap(), [""; 0]);
        firewall.remove("12970").unwrap();
        assert_eq!(connect(80), Ok(()));
        drop(web);
    });
}

#[test]
fn the_order_of_the_lines_decides_who_is_redirected_refused_or_left_alone() {
    in_namespace(|| {
        for local in ["127.0.0.1", "[::1]"] {
            let address = |port| format!("{local}:{port}").parse::<SocketAddr>().unwrap();
            let proxy = TcpListener::bind(address(0)).unwrap();
            proxy.set_nonblocking(true).unwrap();
            let servers: Vec<TcpListener> = (81..=84).map(|port| TcpListener::bind(address(port)).unwrap()).collect();
            let to = Action::Redirect { port: proxy.local_addr().unwrap().port() };
            let lines = [
                (Action::Exempt, "--dport 81"),
                (Action::Reject, "--dport 82"),
                (to, "--dport 80:83"),
                // Holds for redirected connections too, which must not come to harm.
                (Action::Reject, "-m conntrack --ctstate NEW"),
                (Action::Exempt, "--dport 84"),
            ];
            let caught = RuleSet { output: true, own_uid: Some(65534), ..set(&lines) };
            let mut firewall = Firewall::find().unwrap();
            firewall.install(&caught).unwrap();
            let redirected = |port| {
                let answer = connect_to(address(port));
                (answer, proxy.accept().is_ok())
            };
            let refused = (Err(ErrorKind::ConnectionRefused), false);
            assert_eq!(redirected(80), (Ok(()), true));
            assert_eq!(redirected(81), (Ok(()), false));
            assert_eq!(redirected(82), refused);
            assert_eq!(redirected(83), (Ok(()), true));
            assert_eq!(redirected(84), refused, "an exemption after the reject comes too late");
            // The relay's own connections (here: ours) are left alone, on the way out and on the way in.
            firewall.install(&RuleSet { own_uid: Some(0), ..caught.clone() }).unwrap();
            assert_eq!(redirected(82), (Ok(()), false));
            assert_eq!(redirected(83), (Ok(()), false));
            // Without -O this host's own connections are not meant at all.
            firewall.install(&RuleSet { output: false, ..caught }).unwrap();
            assert_eq!(redirected(82), (Ok(()), false));
            firewall.remove("12970").unwrap();
            drop(servers);
        }
    });
}

#[test]
fn a_connection_that_is_open_survives_a_reject_installed_later() {
    use std::io::{Read, Write};
    in_namespace(|| {
        let server = TcpListener::bind("127.0.0.1:81").unwrap();
        let mut firewall = Firewall::find().unwrap();
        // Rules that already track connections, as on any host with a stateful firewall.
        firewall
            .install(&RuleSet { output: true, ..set(&[(TO, "--dport 80"), (Action::Reject, "--dport 82")]) })
            .unwrap();
        let mut client = TcpStream::connect("127.0.0.1:81").unwrap();
        let mut served = server.accept().unwrap().0;
        served.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        firewall.install(&RuleSet { output: true, ..set(&[(Action::Reject, "--dport 81")]) }).unwrap();
        client.write_all(b"still here").unwrap();
        let mut heard = [0; 10];
        served.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
        assert_eq!(connect(81), Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn matches_with_modules_quotes_interfaces_and_negation_are_installed_as_meant() {
    in_namespace(|| {
        let lines = [
            (TO, "-m comment --comment 'a b'"),
            (TO, "-m multiport --dports 80,443"),
            (TO, "-ieth0 ! -s 10.0.0.0/8"),
            (TO, "! --dport 81 -m comment '--comment=it is \"so\"'"),
            (TO, "-s 10.0.0.1,10.0.0.2 -d 10.1.0.1,10.1.0.2"),
            (TO, "--tcp-flags SYN,ACK SYN"),
            (TO, "-m policy --pol ipsec --dir in"),
        ];
        let mut firewall = Firewall::find().unwrap();
        firewall.install(&set(&lines)).unwrap();
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

#[test]
fn legacy_tables_in_use_are_preferred_and_both_kinds_are_cleaned() {
    if !Path::new("/usr/sbin/iptables-legacy-restore").exists() {
        eprintln!("**** SKIPPED, NOT TESTED: no legacy iptables here ****");
        return;
    }
    in_namespace(|| {
        let set = RuleSet { families: vec![Family::V4], ..set(&[(TO, "--dport 80"), (Action::Reject, "--dport 81")]) };
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

/// A directory of tools in which some are replaced by scripts.
struct Tools(PathBuf);

impl Tools {
    fn with(scripts: &[(&str, &str)]) -> Tools {
        let directory = std::env::temp_dir().join(unique());
        fs::create_dir(&directory).unwrap();
        for tool in ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"] {
            let path = directory.join(tool);
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
        Firewall::find_in(&[self.0.to_str().unwrap()]).unwrap()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
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
        firewall.install(&RuleSet { families: vec![Family::V4], ..set }).unwrap();
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
        let count = std::env::temp_dir().join(unique());
        let wrapped = |tool| format!("echo {tool} >>{}; exec /usr/sbin/{tool} \"$@\"", count.display());
        let names = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"];
        let scripts: Vec<String> = names.iter().map(wrapped).collect();
        let pairs: Vec<(&str, &str)> = names.iter().copied().zip(scripts.iter().map(String::as_str)).collect();
        let tools = Tools::with(&pairs);
        let mut spawned = Vec::new();
        for lines in [1, 300] {
            let mut firewall = tools.firewall();
            fs::write(&count, "").unwrap();
            firewall.install(&set(&vec![(TO, "--dport 80"); lines])).unwrap();
            firewall.check().unwrap();
            firewall.remove("12970").unwrap();
            spawned.push(fs::read_to_string(&count).unwrap().lines().count());
        }
        fs::remove_file(&count).unwrap();
        // Per family: four for the installation, one for the check, two for the removal.
        assert_eq!(spawned, [14, 14]);
    });
}
