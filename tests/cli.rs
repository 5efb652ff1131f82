//! The command line of the binary: what it refuses, with which sentence and status, and what it prints.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use support::daemon::{Finished, Launch, LoopbackRelay, free_port};
use support::servers::Server;
use support::{process, report};
use tproxy::options::{OPTIONS, man_fragment};

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

/// Asserts that a bad value gets a sentence with the option, the value, and what is wanted.
fn value_refused(option: &str, value: &str) {
    let mut args = vec![option, value];
    // The last one counts for no option: a good -s beside a bad one would be "given twice".
    args.extend(if matches!(option, "-s" | "--listen") { &["-d", "127.0.0.1", "40124"][..] } else { GOOD });
    let said = refused(&args).stderr;
    let letter = OPTIONS.iter().find(|opt| format!("-{}", opt.short) == option);
    let long = letter.map(|opt| format!("--{}", opt.long)).unwrap_or_default();
    assert!(said.contains(option) || (!long.is_empty() && said.contains(&long)), "{option} {value:?}: {said}");
    // Of a MATCH only the part that is wrong is named.
    let named = said.split('\'').nth(1).unwrap_or_else(|| panic!("{option} {value:?}: {said}"));
    let part_will_do = matches!(option, "-R" | "-X") && !named.is_empty() && value.contains(named);
    assert!(named == value || part_will_do, "{option} {value:?}: {said}");
    assert!(said.contains("' given, "), "{option} {value:?}: {said}");
    assert!(said.trim_end().ends_with("wanted"), "{option} {value:?}: {said}");
}

/// A copy of the binary that any user may run, wherever it was built.
struct PublicBinary {
    directory: PathBuf,
}

impl PublicBinary {
    fn new() -> PublicBinary {
        let directory = std::env::temp_dir().join(process::unique("tproxy-bin"));
        fs::create_dir(&directory).expect("directory");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("mode");
        fs::copy(env!("CARGO_BIN_EXE_tproxy"), directory.join("tproxy")).expect("copy");
        PublicBinary { directory }
    }

    fn run_as_nobody(&self, args: &[&str]) -> Finished {
        let path = self.directory.join("tproxy");
        Launch::new(args).by_user(NOBODY, path.to_str().expect("a path")).run()
    }
}

impl Drop for PublicBinary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
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
    assert!(said.contains("twice"), "{said}");
}

#[test]
fn an_option_without_its_value_is_refused() {
    let said = refused(&["-s", "40123", "127.0.0.1", "80", "--drain"]).stderr;
    assert!(said.contains("drain"), "{said}");
}

#[test]
fn options_of_later_versions_are_refused() {
    let later =
        [&["-f", "http://example.com/"][..], &["--via", "http"], &["--proxy-protocol", "v1"], &["--no-such-option"]];
    for option in later {
        let args = [option, GOOD].concat();
        let said = refused(&args).stderr;
        assert!(said.contains(option[0]), "{option:?}: {said}");
    }
}

#[test]
fn replacing_urls_is_refused_with_what_to_use_instead() {
    let said = refused(&[&["-f", "http://example.com/down.html"], GOOD].concat()).stderr;
    assert!(said.contains("HOST PORT"), "{said}");
}

#[test]
fn upstreams_come_in_pairs_and_not_too_many() {
    refused(&["-d", "-s", "40123", "127.0.0.1", "80", "127.0.0.1"]);
    let many = ["127.0.0.1", "80"].repeat(9);
    let said = refused(&[&["-d", "-s", "40123"], many.as_slice()].concat()).stderr;
    assert!(said.contains("9 upstreams given"), "{said}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let wrong = [
        (&["--local", "80", "-R", "--dport 80", "-s", "81"][..], "--listen"),
        (&["--local", "80", "--kernel", "-R", "--dport 80"], "--local"),
        (&["--local", "80"], "-R"),
        (&["--local", "80", "-R", "--dport 80", "cow", "80"], "cow 80"),
        (&["--local", "0", "-R", "--dport 80"], "'0' given"),
        (&["--kernel", "-R", "--dport 80", "cow"], "HOST PORT"),
        (&["-s", "40123", "--proto", "udp", "cow", "80"], "tcp"),
        (&["-s", "40123", "--proto", "sctp", "cow", "80"], "tcp or udp"),
        (&["-s", "40123", "--balance", "best", "cow", "80"], "round-robin"),
        (&["-s", "40123", "-w", "0", "cow", "80"], "from 1 to 64"),
        (&["-c", "/dev/null", "-s", "40123"], "--listen"),
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
    let directory = std::env::temp_dir().join(process::unique("tproxy-conf"));
    fs::create_dir(&directory).expect("directory");
    let file = directory.join("table.conf");
    let wrong = [
        ("-s 1 cow 80\n\n-s 70000 cow 80\n", ":3: -s: '70000' given"),
        ("# comment\n-s 1 \\\n cow 80 --drain 3\n", ":2: --drain: given with a redirection"),
        ("-r no-such-user-here\n-s 1 cow 80\n", ":1: -r: 'no-such-user-here' given"),
        ("-s 1 'cow 80\n", ":1: a quote"),
        ("-s 1 cow 80\n--check\n", ":2: --check: given in a file"),
        ("-s 1 cow 80\n-s 1 moose 80\n", ":2: -s: port 1 given twice"),
    ];
    for (text, part) in wrong {
        fs::write(&file, text).expect("file");
        let said = refused(&["-c", file.to_str().expect("path")]).stderr;
        assert!(said.contains(&format!("{}{part}", file.display())), "{text:?}: {said}");
    }
    fs::remove_dir_all(&directory).expect("clean-up");
}

#[test]
fn nothing_is_touched_before_a_bad_value_is_found() {
    let directory = std::env::temp_dir().join(process::unique("tproxy-cli"));
    fs::create_dir(&directory).expect("directory");
    let (log, pid) = (directory.join("log"), directory.join("pid"));
    let (log, pid) = (log.to_str().expect("path"), pid.to_str().expect("path"));
    refused(&["-l", log, "-P", pid, "-s", "40123", "127.0.0.1", "80", "--drain", "soon"]);
    assert_eq!(fs::read_dir(&directory).expect("directory").count(), 0, "files were made");
    fs::remove_dir_all(&directory).expect("clean up");
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

// ---- Good values ----

#[test]
fn ports_above_32767_work() {
    let server = Server::page("127.0.0.1:0", "high");
    let port = (60_000..65_535).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port");
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let _daemon = Launch::line(&line).ready();
    let page = support::clients::fetch(([127, 0, 0, 1], port).into());
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
        assert_eq!(support::clients::fetch(([127, 0, 0, 1], port).into()).expect("fetch"), "page", "{line}");
        assert_eq!(daemon.stop(), 0, "{line}");
    }
}

#[test]
fn of_transparent_and_proxy_only_the_last_one_counts() {
    let server = Server::page("127.0.0.1:0", "page");
    let relay = LoopbackRelay::start("-t -p", server.address);
    assert_eq!(support::clients::fetch(relay.address).expect("fetch"), "page");
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
        let value = opt.value.map(|value| format!(" {value}")).unwrap_or_default();
        let long = format!("--{}{value}", opt.long);
        let line = done.stdout.lines().find(|line| line.ends_with(&long));
        let line = line.unwrap_or_else(|| panic!("--help does not list {long}"));
        assert!(opt.short.is_empty() || line.contains(&format!("-{},", opt.short)), "{line}");
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

#[test]
fn man_page_options_match_the_table() {
    const FIRST: &str = ".\\\" OPTIONS: generated from src/options.rs, do not edit\n";
    const LAST: &str = ".\\\" END OPTIONS\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/man/tproxy.8");
    let page = fs::read_to_string(path).expect("man/tproxy.8");
    let (head, rest) = page.split_once(FIRST).expect("the first marker line in man/tproxy.8");
    let (options, tail) = rest.split_once(LAST).expect("the last marker line in man/tproxy.8");
    let wanted = man_fragment();
    if std::env::var("TPROXY_BLESS").is_ok_and(|value| value == "1") {
        return fs::write(path, format!("{head}{FIRST}{wanted}{LAST}{tail}")).expect("write man/tproxy.8");
    }
    assert_eq!(options, wanted, "man/tproxy.8 differs from the table; TPROXY_BLESS=1 rewrites it");
}
