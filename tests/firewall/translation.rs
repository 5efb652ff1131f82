//! A MATCH means the same for nft as for iptables: both are given the same packets, and must agree on each.

#[path = "translation/matches.rs"]
mod matches;
#[path = "translation/packets.rs"]
mod packets;

use std::time::{SystemTime, UNIX_EPOCH};

use lab::dice::Dice;
use lab::netns::Net;
use lab::wait;
use tproxy::testing::{Family, Match, untranslated, without_iptables};

use packets::Packet;

/// One MATCH of one family, for both tools.
struct Pair {
    text: String,
    iptables: String,
    nft: Vec<String>,
    sets: Vec<String>,
}

/// Chains of both tools that count what falls through: each MATCH returns before.
struct Both<'a> {
    gateway: &'a Net,
    family: Family,
    pairs: Vec<Pair>,
}

/// How many MATCHes are generated, or as many as `TPROXY_MATCHES` says.
fn count() -> usize {
    std::env::var("TPROXY_MATCHES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// So many are installed at a time.
const BATCH: usize = 150;

#[test]
fn generated_matches_have_the_same_fate_with_both_tools() {
    let (Some(client), Some(gateway)) = (Net::alone(), Net::alone()) else { return };
    packets::connect(&client, &gateway);
    let seed = std::env::var("TPROXY_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64);
    println!("TPROXY_SEED={seed} TPROXY_MATCHES={}", count());
    let mut dice = Dice(seed);
    let (mut tried, mut matched) = (0, 0);
    while tried < count() {
        let family = if dice.roll(3) == 0 { Family::V6 } else { Family::V4 };
        let pairs: Vec<Pair> = (0..BATCH.min(count() - tried)).map(|_| pair(&mut dice, family)).collect();
        tried += pairs.len();
        let both = Both { gateway: &gateway, family, pairs };
        both.install();
        let sent: Vec<Packet> = (0..60).map(|_| Packet::random(&mut dice, family)).collect();
        client.enter(|| packets::send(family, &sent));
        wait::until_true("all packets arrive", || both.arrived() == sent.len());
        matched += both.compare(sent.len());
    }
    lab::report(&format!("{tried} matches, which matched {matched} packets, seed {seed}"));
    assert!(matched > 0 && tried == count());
}

fn pair(dice: &mut Dice, family: Family) -> Pair {
    let text = matches::random(dice, family);
    let found = Match::parse("-R", &text, &["tcp", "udp"]).unwrap_or_else(|error| panic!("{text}: {error}"));
    let found = found.resolve(&|_| Vec::new()).unwrap();
    let resolved = found.into_iter().find(|one| one.family == family).unwrap_or_else(|| panic!("{text}"));
    let (nft, sets) = without_iptables(&resolved).unwrap_or_else(|what| panic!("{text}: {what}"));
    let iptables = untranslated(&resolved);
    Pair { text, iptables, nft, sets }
}

impl Both<'_> {
    fn install(&self) {
        let tool = if self.family == Family::V4 { "iptables" } else { "ip6tables" };
        let mut iptables = String::from("*mangle\n:PREROUTING ACCEPT [0:0]\n:every - [0:0]\n");
        let mut nft = String::from("table inet compared\ndelete table inet compared\ntable inet compared {\n");
        let (mut jumps, mut nft_jumps) = (String::new(), String::new());
        for (at, pair) in self.pairs.iter().enumerate() {
            iptables += &format!(":m{at} - [0:0]\n");
            jumps += &format!("-A every -j m{at}\n-A m{at} {} -j RETURN\n-A m{at}\n", pair.iptables);
            pair.sets.iter().for_each(|set| nft += set);
            let rules: String = pair.nft.iter().map(|rule| format!("{rule} return\n")).collect();
            nft += &format!("chain m{at} {{\n{rules}counter\n}}\n");
            nft_jumps += &format!("jump m{at}\n");
        }
        jumps += "-A PREROUTING -p tcp -j every\n-A PREROUTING -p udp -j every\n";
        let nfproto = if self.family == Family::V4 { "ipv4" } else { "ipv6" };
        nft += &format!("chain every {{\n{nft_jumps}}}\nchain begin {{\ntype filter hook prerouting priority -140;\n");
        nft += &format!("meta nfproto {nfproto} meta l4proto {{ tcp, udp }} counter jump every\n}}\n}}\n");
        feed(self.gateway, &[&format!("{tool}-restore")], &format!("{iptables}{jumps}COMMIT\n"));
        feed(self.gateway, &["env", "TZ=UTC", "nft", "-f", "-"], &nft);
    }

    /// How many packets the last chain has seen.
    fn arrived(&self) -> usize {
        let chain = self.gateway.run(&["nft", "list", "chain", "inet", "compared", "begin"]);
        chain.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    /// Compares how many packets each MATCH let through. Returns how many they matched.
    fn compare(&self, sent: usize) -> usize {
        let tool = if self.family == Family::V4 { "iptables-save" } else { "ip6tables-save" };
        let saved = self.gateway.run(&[tool, "-c", "-t", "mangle"]);
        let listed = self.gateway.run(&["nft", "list", "table", "inet", "compared"]);
        let mut matched = 0;
        for (at, pair) in self.pairs.iter().enumerate() {
            let mark = format!("] -A m{at}");
            let line = saved.lines().find(|line| line.ends_with(&mark)).expect("a rule");
            let iptables: usize = line[1..].split(':').next().unwrap().parse().unwrap();
            let chain = listed.split(&format!("chain m{at} {{")).nth(1).expect("a chain");
            let nft = chain.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap();
            assert_eq!(
                iptables,
                nft.parse::<usize>().unwrap(),
                "of {sent} packets fell through '{}'\niptables: {}\nnft: {:?}",
                pair.text,
                pair.iptables,
                pair.nft
            );
            matched += sent - iptables;
        }
        matched
    }
}

fn feed(net: &Net, words: &[&str], text: &str) {
    let directory = lab::tempdir::TempDir::new();
    let file = directory.path.join("rules");
    std::fs::write(&file, text).unwrap();
    let script = format!("exec \"$@\" < {}", file.display());
    let mut all = vec!["sh", "-c", &script, "sh"];
    all.extend(words);
    if std::env::var_os("TPROXY_SHOW").is_some() {
        println!("{text}");
    }
    net.run(&all);
}

/// MATCHes for which iptables-translate and we say the same, and what they are.
const LIKE_IPTABLES_TRANSLATE: &[&str] = &[
    "-p tcp --dport 80",
    "-p tcp -s 10.0.0.0/8 -d 10.2.0.5 --dport 80:90",
    "-p udp ! -s 10.0.0.1 --sport 53",
    "-p tcp -m multiport --dports 80,443,1000:2000",
    "-p tcp -m multiport ! --dports 80,443",
    "-p tcp -i eth0 -o eth1",
    "-p tcp -i eth+",
    "-p tcp ! -i eth0",
    "-p tcp --syn",
    "-p tcp --tcp-flags SYN,ACK SYN",
    "-p tcp -m mark --mark 0x1/0xff",
    "-p tcp -m mark ! --mark 0x1",
    "-p tcp -m connmark --mark 0x2/0xf0",
    "-p tcp -m owner --uid-owner 1000",
    "-p tcp -m owner --gid-owner 1-5",
    "-p tcp -m iprange --src-range 10.0.0.1-10.0.0.9",
    "-p tcp -m iprange ! --dst-range 10.0.0.1-10.0.0.9",
    "-p tcp -m mac --mac-source aa:bb:cc:dd:ee:ff",
    "-p tcp -m limit --limit 10/sec --limit-burst 7",
    "-p tcp -m addrtype --dst-type LOCAL",
    "-p tcp -m addrtype ! --src-type UNICAST",
    "-p tcp -m pkttype --pkt-type multicast",
    "-p tcp -m dscp --dscp 10",
    "-p tcp -m dscp --dscp-class EF",
    "-p tcp -m conntrack --ctstate NEW",
    "-p tcp -m conntrack --ctorigdst 10.2.0.5 --ctorigdstport 80",
    "-p tcp -m time --timestart 08:00 --timestop 17:00",
    "-p tcp -m time --weekdays Mon,Tue",
];

#[test]
fn the_translation_is_that_of_iptables_translate() {
    let Some(net) = Net::alone() else { return };
    for text in LIKE_IPTABLES_TRANSLATE {
        let found = Match::parse("-R", text, &["tcp", "udp"]).unwrap().resolve(&|_| Vec::new()).unwrap();
        let (ours, _) = without_iptables(&found[0]).unwrap_or_else(|what| panic!("{text}: {what}"));
        let mut words = vec!["iptables-translate", "-A", "x"];
        words.extend(text.split(' '));
        let theirs = net.run(&words);
        let theirs = theirs.trim().trim_matches('\'').strip_prefix("nft 'add rule ip filter x ").unwrap_or_else(|| {
            theirs.trim().strip_prefix("nft add rule ip filter x ").unwrap_or_else(|| panic!("{theirs}"))
        });
        let theirs = theirs.trim_end_matches("'").trim().trim_end_matches("counter").trim();
        let table = |rule: &str| {
            let text = format!(
                "table ip compared\ndelete table ip compared\ntable ip compared {{ chain x {{ {rule}\n }}\n}}\n"
            );
            feed(&net, &["env", "TZ=UTC", "nft", "-f", "-"], &text);
            let listed = net.run(&["env", "TZ=UTC", "nft", "list", "table", "ip", "compared"]);
            // Which of these stands there, and where, is no difference.
            listed.replace("meta l4proto tcp ", "").replace("ip protocol tcp ", "").replace(" ip protocol tcp", "")
        };
        assert_eq!(table(&ours[0]), table(theirs), "{text}");
    }
}
