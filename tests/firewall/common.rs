//! What the tests of the rules share: a namespace of their own, rule sets, and the tables as text.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::netns::Net;
use lab::rules;
use tproxy::testing::{Action, Family, FirewallChoice, Installation, Match, RedirectionId, RuleSet, RuleSpec};

pub const TO: Action = Action::Redirect { port: 12970 };

/// Rules of an administrator in the tables that are ours too, with texts made to be misread.
pub const ADMIN: &str = r#"*nat
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

/// The rules of an instance, installed with what TPROXY_TEST_FIREWALL says.
pub struct Wall {
    installation: Installation<'static>,
    is_new: bool,
}

impl Wall {
    pub fn find() -> Wall {
        Wall { installation: Installation::find(None).unwrap(), is_new: true }
    }

    pub fn install(&mut self, set: &RuleSet) {
        let firewall = if rules::is_nft() { FirewallChoice::Nft } else { FirewallChoice::Iptables };
        self.installation.install(&RuleSet { firewall, ..set.clone() }, self.is_new).unwrap();
        self.is_new = false;
        assert_eq!(self.installation.verify().unwrap(), [""; 0]);
    }

    pub fn remove(&mut self, instance: &str) {
        self.installation.remove(instance).unwrap();
    }
}

/// Runs a test on a thread that has moved into a fresh namespace; the commands that it starts are there too.
pub fn in_namespace(test: impl FnOnce() + Send) {
    if let Some(net) = Net::alone() {
        net.enter(test);
    }
}

/// An instance with one redirection for each rule. `--kernel` gets a rule in the family of its address only.
pub fn set(rules: &[(Action, &str)]) -> RuleSet {
    named("12970", rules)
}

pub fn named(name: &str, rules: &[(Action, &str)]) -> RuleSet {
    let rules = rules.iter().enumerate();
    let specs = rules.flat_map(|(at, (action, text))| specs(RedirectionId::from(at), *action, text)).collect();
    RuleSet { name: name.into(), specs, ..RuleSet::default() }
}

fn specs(redirection: RedirectionId, action: Action, text: &str) -> Vec<RuleSpec> {
    let found = Match::parse("--redirect", text, &["tcp", "udp"]).unwrap().resolve(&|_| Vec::new()).unwrap();
    let leads_to = |family| match action {
        Action::Kernel { to, .. } => Family::of(&to) == family,
        _ => true,
    };
    let found = found.into_iter().filter(|matching| leads_to(matching.family));
    found.map(|matching| RuleSpec { action, matching, redirection, output: false }).collect()
}

/// The same for this host's own connections too.
pub fn with_output(mut set: RuleSet) -> RuleSet {
    set.specs.iter_mut().for_each(|spec| spec.output = true);
    set
}

/// The rules of one family.
pub fn only(family: Family, mut set: RuleSet) -> RuleSet {
    set.specs.retain(|spec| spec.matching.family == family);
    set
}

pub fn feed(tool: &str, text: &str) {
    use std::io::Write;
    let mut child = Command::new(tool).args(["--noflush", "-w", "10"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{tool}:\n{text}");
}

pub fn feed_both(text: &str) {
    feed("iptables-restore", text);
    feed("ip6tables-restore", text);
}

/// What iptables-save says, without comments (they hold the time) and counters.
pub fn save(tool: &str) -> String {
    let output = Command::new(tool).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())).collect()
}

pub fn save_both() -> String {
    save("iptables-save") + &save("ip6tables-save")
}

/// The same, and our tables of nft.
pub fn save_all() -> String {
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    save_both() + &String::from_utf8(tables.stdout).unwrap()
}

/// The tables without the lines that name a chain of ours outside of quotes.
pub fn others(save: &str) -> String {
    let ours =
        |line: &&str| line.starts_with(":tproxy.") || line.starts_with("-A tproxy.") || line.contains(" -j tproxy.12");
    save.lines().filter(|line| line.contains("look:") || !ours(line)).map(|line| format!("{line}\n")).collect()
}

/// Also makes the tables exist, for an empty one that nobody used yet is not in iptables-save.
pub fn with_admin_rules() -> String {
    let mut v6 = ADMIN.replace("10.200.0.", "fd00::").replace("/32", "/128");
    v6.push_str("*nat\nCOMMIT\n");
    feed("iptables-restore", ADMIN);
    feed("ip6tables-restore", &v6);
    save_both()
}

pub fn connect(port: u16) -> Result<(), ErrorKind> {
    connect_to(SocketAddr::from(([127, 0, 0, 1], port)))
}

pub fn connect_to(address: SocketAddr) -> Result<(), ErrorKind> {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop).map_err(|error| error.kind())
}

/// `--kernel` to this address.
pub fn kernel(address: &str, port: u16) -> Action {
    Action::Kernel { to: address.parse().unwrap(), port: Some(port) }
}
