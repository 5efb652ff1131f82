//! Comments in rules of others may hold anything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use tproxy::testing::Action;
use tproxy::testing::Firewall;

use crate::common::*;

/// What an administrator, or a program with a template, may have written.
const COMMENTS: [&[u8]; 12] = [
    b"one\ntwo",
    b"x\n-A PREROUTING -p tcp -j tproxy.12970",
    b"x\n-A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j tproxy.12970\n",
    b"x\nCOMMIT\n*filter\n:tproxy.12970 - [0:0]",
    b"*nat\n:tproxy.12970.out - [0:0]\n# Table `nat' is incompatible, use 'nft' tool.",
    b"say \"hello\"\n\" -j tproxy.12970",
    b"it's\r\n'a' \\",
    b"\\\"\n\\",
    b"\xff\xfe caf\xe9\n\xc3",
    b"\"",
    b"\n\n",
    b"\x1b[31m\x07\t\rtab",
];

/// Adds a rule with this comment and target.
fn add(tool: &str, table: &str, chain: &str, comment: &[u8], verdict: &[&str]) {
    let mut command = Command::new(tool);
    command.args(["-w", "-t", table, "-A", chain, "-m", "comment", "--comment"]).arg(OsStr::from_bytes(comment));
    assert!(command.args(verdict).status().unwrap().success(), "{}", comment.escape_ascii());
}

fn raw(tool: &str) -> Vec<u8> {
    let output = Command::new(tool).output().unwrap();
    let lines =
        output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"# ") && !line.starts_with(b":"));
    lines.collect::<Vec<_>>().join(&b'\n')
}

fn raw_both(kind: &str) -> Vec<u8> {
    [raw(&format!("iptables{kind}-save")), raw(&format!("ip6tables{kind}-save"))].concat()
}

/// Runs a test with each kind of tools, in namespaces of their own, with the pair of tools and their kind.
fn with_each_kind(test: impl Fn([String; 2], &str) + Send + Sync) {
    for kind in ["-nft", "-legacy"] {
        if Path::new(&format!("/usr/sbin/iptables{kind}")).exists() {
            in_namespace(|| test([format!("iptables{kind}"), format!("ip6tables{kind}")], kind));
        }
    }
}

#[test]
fn comments_of_others_are_no_obstacle_to_installation_check_and_removal() {
    with_each_kind(|tools, kind| {
        for tool in &tools {
            for comment in COMMENTS {
                add(tool, "nat", "PREROUTING", comment, &["-j", "RETURN"]);
                add(tool, "filter", "INPUT", comment, &["-j", "ACCEPT"]);
            }
        }
        let before = raw_both(kind);
        let set = set(&[(TO, "--dport 80"), (Action::Reject, "--dport 81")]);
        let mut firewall = Firewall::find().unwrap();
        for _ in 0..2 {
            firewall.install(&set).unwrap();
            assert_eq!(firewall.check().unwrap(), [""; 0]);
        }
        firewall.unhook("12970").unwrap();
        firewall.remove("12970").unwrap();
        assert_eq!(raw_both(kind), before);
        firewall.install(&set).unwrap();
        assert_eq!(Firewall::find().unwrap().flush_all().unwrap(), 4);
        assert_eq!(raw_both(kind), before);
    });
}

#[test]
fn a_jump_of_others_is_removed_with_our_chains_whatever_its_comment_says() {
    with_each_kind(|tools, kind| {
        for tool in &tools {
            add(tool, "nat", "PREROUTING", b"to make the table", &["-j", "RETURN"]);
        }
        let before = raw_both(kind);
        let set = set(&[(TO, "--dport 80")]);
        for flush in [false, true] {
            let mut firewall = Firewall::find().unwrap();
            firewall.install(&set).unwrap();
            for (tool, comment) in tools.iter().flat_map(|tool| COMMENTS.map(|comment| (tool, comment))) {
                add(tool, "nat", "PREROUTING", comment, &["-j", "tproxy.12970"]);
                add(tool, "nat", "OUTPUT", comment, &["-g", "tproxy.12970"]);
            }
            firewall.unhook("12970").unwrap();
            assert!(!String::from_utf8_lossy(&raw_both(kind)).contains("-g tproxy"), "a jump is left");
            match flush {
                true => drop(firewall.flush_all().unwrap()),
                false => firewall.remove("12970").unwrap(),
            }
            assert_eq!(raw_both(kind), before);
        }
    });
}
