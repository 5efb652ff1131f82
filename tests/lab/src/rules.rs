//! The kernel's rules as `iptables-save`, `ip6tables-save` and nft print them, made comparable.

use crate::netns::Net;

/// What tests pass as `--firewall` where rules are asked for and nothing is said, so that a test need not be written twice;
/// `None` leaves it to the program.
pub fn firewall() -> Option<String> {
    std::env::var("TPROXY_TEST_FIREWALL").ok().filter(|name| !name.is_empty())
}

/// Whether rules are installed with nft where a test says nothing.
pub fn is_nft() -> bool {
    firewall().as_deref() == Some("nft")
}

/// What tests run with that are about both: each in turn, or only what is asked for.
pub fn firewalls() -> Vec<String> {
    firewall().map_or_else(|| ["iptables", "nft"].map(String::from).into(), |name| vec![name])
}

/// Whether a test about iptables itself is run; where rules are installed with nft it is not, and `why` says why that loses
/// nothing.
pub fn with_iptables(why: &str) -> bool {
    if is_nft() {
        crate::report(&format!("NOT WITH nft: {why}"));
    }
    !is_nft()
}

/// The program that reads or writes the rules, and that a test puts its own in the place of.
pub fn tool() -> &'static str {
    if is_nft() { "nft" } else { "iptables-restore" }
}

/// What an error says of a match module that nobody has.
pub fn unknown_match(name: &str) -> String {
    if is_nft() {
        format!("-m {name} needs --firewall iptables")
    } else {
        format!("Couldn't load match `{name}':No such file or directory")
    }
}

/// The exit status of a start with such a match: iptables has failed, or the command line is wrong.
pub fn unknown_match_status() -> i32 {
    if is_nft() { 64 } else { 71 }
}

/// How many redirections to a port of this host are in the rules of both families.
pub fn redirections(net: &Net) -> usize {
    let saved = saved(net);
    let is_port = |rest: &&str| rest.starts_with(|digit: char| digit.is_ascii_digit());
    let alone = saved.split("redirect to :").skip(1).filter(is_port).count();
    let maps = saved.split("type inet_service : inet_service").skip(1).filter_map(|map| map.split('}').next());
    let elements: usize = maps.map(|map| map.matches(" : ").count()).sum();
    saved.matches("-j REDIRECT").count() + alone + elements
}

/// How many rules of an instance redirect to this port.
pub fn redirections_to(net: &Net, port: u16) -> usize {
    let saved = saved(net);
    saved.matches(&format!("--to-ports {port}\n")).count() + saved.matches(&format!("redirect to :{port}\n")).count()
}

/// How many rules reject, without those for a time when nobody serves any more.
pub fn rejections(net: &Net) -> usize {
    let saved = saved(net);
    let tables =
        saved.split("table inet ").filter(|table| !table.split(' ').next().unwrap_or_default().ends_with(".closed"));
    tables.map(|table| table.matches("-j REJECT").count() + table.matches(" reject with ").count()).sum()
}

/// Both families' tables without what changes by itself: comments with dates, and packet counters.
pub fn saved(net: &Net) -> String {
    let mut text = String::new();
    for family in ["iptables", "ip6tables"] {
        text += &format!("{family}:\n{}", comparable(&net.run(&[&format!("{family}-save")])));
    }
    text + &nft_tables(net)
}

/// The tables of nft that are ours.
pub fn nft_tables(net: &Net) -> String {
    let tables = net.run(&["nft", "list", "tables", "inet"]);
    let ours = tables.lines().filter_map(|line| line.strip_prefix("table inet tproxy."));
    // It may have gone in between.
    let list = |name| net.try_run(&["nft", "-s", "list", "table", "inet", &format!("tproxy.{name}")]);
    ours.filter_map(list).collect()
}

/// The same, with the rules and routes of policy routing, except those of link-local addresses: these come by themselves.
pub fn saved_with_routing(net: &Net) -> String {
    let mut text = saved(net);
    for family in ["-4", "-6"] {
        for what in [&["rule", "show"][..], &["route", "show", "table", "all"]] {
            let shown = net.run(&[&["ip", family], what].concat());
            let lasting = |line: &&str| !line.contains("fe80:");
            text += &shown.lines().filter(lasting).map(|line| format!("{}\n", line.trim_end())).collect::<String>();
        }
    }
    text
}

/// Drops comments and counters.
fn comparable(saved: &str) -> String {
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    let mut kept: Vec<String> = lines.map(|line| line.split(" [").next().unwrap_or(line).to_string()).collect();
    // The order of tables is the order of their creation, which is no property of the rules.
    kept = order_tables(&kept);
    kept.join("\n") + "\n"
}

fn order_tables(lines: &[String]) -> Vec<String> {
    let mut tables: Vec<Vec<String>> = Vec::new();
    for line in lines {
        if line.starts_with('*') || tables.is_empty() {
            tables.push(Vec::new());
        }
        tables.last_mut().expect("a table").push(line.clone());
    }
    tables.sort();
    tables.concat()
}

/// How many rules of others' chains lead to ours: without one, traffic passes us by.
pub fn jumps_to_ours(net: &Net) -> usize {
    let saved = saved(net);
    let iptables = |line: &&str| line.contains("-j tproxy.") && !line.starts_with("-A tproxy.");
    let nft = |line: &&str| line.trim_start().starts_with("meta nfproto ") && line.contains(" jump ");
    saved.lines().filter(|line| iptables(line) || nft(line)).count()
}

/// Whether a rule intercepts by TPROXY.
pub fn intercepts(net: &Net) -> bool {
    let saved = saved(net);
    [" -j TPROXY ", " tproxy ip to ", " tproxy ip6 to "].iter().any(|target| saved.contains(target))
}

/// How many lines of both families' rules mention tproxy.
pub fn count_of_ours(net: &Net) -> usize {
    saved(net).lines().filter(|line| line.contains("tproxy.")).count()
}

/// Puts an administrator's own rules into nat and filter of both families.
pub fn add_administrators_rules(net: &Net) {
    for family in ["iptables", "ip6tables"] {
        let (host, cidr) =
            if family == "iptables" { ("10.9.9.9", "10.9.0.0/16") } else { ("fd00:9::9", "fd00:9::/64") };
        net.run(&[family, "-w", "-t", "nat", "-N", "admin"]);
        net.run(&[
            family,
            "-w",
            "-t",
            "nat",
            "-A",
            "admin",
            "-p",
            "tcp",
            "-d",
            host,
            "--dport",
            "8080",
            "-j",
            "REDIRECT",
            "--to-ports",
            "3128",
        ]);
        net.run(&[family, "-w", "-t", "nat", "-A", "PREROUTING", "-j", "admin"]);
        net.run(&[family, "-w", "-t", "nat", "-A", "POSTROUTING", "-s", cidr, "-j", "MASQUERADE"]);
        net.run(&[family, "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", host, "--dport", "81", "-j", "RETURN"]);
        net.run(&[family, "-w", "-A", "INPUT", "-p", "tcp", "--dport", "2323", "-j", "DROP"]);
        net.run(&[
            family,
            "-w",
            "-A",
            "FORWARD",
            "-s",
            cidr,
            "-m",
            "comment",
            "--comment",
            "the admin's, not tproxy's",
            "-j",
            "DROP",
        ]);
    }
}
