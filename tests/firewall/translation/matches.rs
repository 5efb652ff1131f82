//! MATCHes that look random.

use lab::dice::Dice;
use tproxy::testing::Family;

/// A condition with its module. `N` and so on in it are replaced by values.
const CONDITIONS: &[&str] = &[
    "-s ADDRESSES",
    "-d ADDRESSES",
    "! -s SMALL",
    "! -d SMALL",
    "-i IFACE",
    "! -i IFACE",
    "--sport PORTS",
    "--dport PORTS",
    "! --sport SOME",
    "! --dport SOME",
    "-m multiport --dports LIST",
    "-m multiport --sports LIST",
    "-m multiport ! --dports LIST",
    "-m multiport --ports LIST",
    "-m multiport ! --ports LIST",
    "-m mark --mark MARK",
    "-m mark ! --mark MARK",
    "-m connmark --mark MARK",
    "-m connmark ! --mark MARK",
    "-m conntrack --ctstate STATES",
    "-m conntrack ! --ctstate STATES",
    "-m state --state PLAIN",
    "-m conntrack --ctstatus STATUS",
    "-m conntrack --ctorigdst PREFIX",
    "-m conntrack ! --ctorigsrc PREFIX",
    "-m conntrack --ctorigdstport PORTS",
    "-m conntrack --ctdir ORIGINAL",
    "-m iprange --src-range RANGE",
    "-m iprange ! --dst-range RANGE",
    "-m mac --mac-source MAC",
    "-m mac ! --mac-source MAC",
    "-m limit --limit 1/hour --limit-burst N",
    "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst N --hashlimit-mode MODE --hashlimit-name hID",
    "-m hashlimit --hashlimit-above 1/hour --hashlimit-burst N --hashlimit-mode MODE --hashlimit-name hID",
    "-m time --timestart CLOCK --timestop CLOCK",
    "-m time --weekdays Mon,Wed,5",
    "-m time ! --weekdays Sun,Sat",
    "-m time --datestart 2020-01-01 --datestop 2037-12-31T23:59:59",
    "-m addrtype --dst-type TYPES",
    "-m addrtype ! --dst-type TYPES",
    "-m addrtype --src-type TYPES",
    "-m pkttype --pkt-type unicast",
    "-m pkttype ! --pkt-type multicast",
    "-m dscp --dscp DSCP",
    "-m dscp ! --dscp DSCP",
    "-m dscp --dscp-class AF11",
    "-m comment --comment remark",
];

const OF_TCP: &[&str] =
    &["--syn", "! --syn", "--tcp-flags FLAGS FLAGS", "! --tcp-flags FLAGS FLAGS", "--tcp-flags ALL NONE"];

pub fn random(dice: &mut Dice, family: Family) -> String {
    let tcp = dice.roll(2) == 0;
    let mut conditions: Vec<&str> = vec![if tcp { "-p tcp" } else { "-p udp" }];
    for _ in 0..=dice.roll(3) {
        let condition = if tcp && dice.roll(6) == 0 { dice.pick(OF_TCP) } else { dice.pick(CONDITIONS) };
        if conditions.iter().all(|other| option(other) != option(condition)) {
            conditions.push(condition);
        }
    }
    // One of each module, and after `-m multiport` a port of its own would be a list. iptables refuses both.
    let multiport = conditions.iter().any(|one| one.contains("multiport"));
    conditions.retain(|one| !multiport || !(one.contains("--sport ") || one.contains("--dport ")));
    let mut modules: Vec<&str> = Vec::new();
    conditions.retain(|one| match one.split("-m ").nth(1).and_then(|rest| rest.split(' ').next()) {
        Some(module) if modules.contains(&module) => false,
        module => {
            modules.extend(module);
            true
        }
    });
    // iptables takes no list beside a negated address, and only one option about flags.
    if conditions.iter().any(|one| one.starts_with("! -s") || one.starts_with("! -d")) {
        conditions.retain(|one| !one.contains("ADDRESSES"));
    }
    // It makes a rule of each address of a list, and each counts for itself.
    if conditions.iter().any(|one| one.contains("limit")) {
        conditions.retain(|one| !one.contains("ADDRESSES"));
    }
    // iptables 1.8.9 (nf_tables) makes one comparison of these two, and so excludes only packets with both ports.
    if conditions.iter().any(|one| one.starts_with("! --sport")) {
        conditions.retain(|one| !one.starts_with("! --dport"));
    }
    let mut flags = 0;
    conditions.retain(|one| {
        flags += usize::from(OF_TCP.contains(one));
        flags <= 1 || !OF_TCP.contains(one)
    });
    let has_destination = conditions.iter().any(|one| one.contains("-d "));
    let words: Vec<String> =
        conditions.iter().flat_map(|one| one.split(' ')).map(|word| value(dice, family, word)).collect();
    let text = words.join(" ");
    // One of the two families must fit all of it; without an address nothing says which.
    match family {
        Family::V4 if !has_destination => format!("{text} -d 0.0.0.0/0"),
        Family::V6 if !has_destination => format!("{text} -d ::/0"),
        _ => text,
    }
}

fn option(condition: &str) -> &str {
    condition.trim_start_matches("! ").split(' ').next().unwrap_or_default()
}

fn value(dice: &mut Dice, family: Family, word: &str) -> String {
    match word {
        "ADDRESSES" => (0..=dice.roll(3)).map(|_| network(dice, family)).collect::<Vec<_>>().join(","),
        "NETWORK" => network(dice, family),
        // The kernel takes no rule that excludes everything.
        "PREFIX" => network(dice, family).split("/2").next().unwrap().split("/f").next().unwrap().replace("/0", "/16"),
        "SMALL" => network(dice, family).replace("/0", ""),
        "IFACE" => dice.pick(&["eth0", "eth+", "eth1", "e+", "lo", "+"]).into(),
        "PORTS" => dice.pick(&["80", "1000:2000", ":100", "1500:", "0:65535", "53", "domain"]).into(),
        // iptables 1.8.9 (nf_tables) takes the negation of all ports for all ports.
        "SOME" => dice.pick(&["80", "1000:2000", ":100", "1500:", "53", "domain"]).into(),
        "LIST" => dice.pick(&["80", "80,443", "53,80,1000:2000", "domain,1:20,15:30", "1024:65535"]).into(),
        "MARK" => dice.pick(&["0", "1", "0x10", "0x10/0xff", "16/0xf0", "0/1", "0x12/0x2"]).into(),
        "STATES" => {
            dice.pick(&["NEW", "INVALID", "NEW,ESTABLISHED", "UNTRACKED", "RELATED,INVALID", "DNAT", "NEW,DNAT"]).into()
        }
        "PLAIN" => dice.pick(&["NEW", "INVALID", "NEW,ESTABLISHED", "UNTRACKED", "RELATED,INVALID"]).into(),
        "STATUS" => dice.pick(&["CONFIRMED", "ASSURED,CONFIRMED", "SEEN_REPLY", "EXPECTED"]).into(),
        "RANGE" => match family {
            Family::V4 => dice.pick(&["10.1.0.1-10.1.0.5", "10.0.0.0-10.255.255.255", "10.2.0.2", "0.0.0.1-10.1.0.3"]),
            Family::V6 => dice.pick(&["fd00:1::1-fd00:1::5", "fd00::-fdff::", "fd00:2::2", "::1-fd00:1::3"]),
        }
        .into(),
        "MAC" => dice.pick(&["02:00:00:00:00:02", "02:00:00:00:00:03"]).into(),
        "N" => (1 + dice.roll(6)).to_string(),
        "MODE" => dice.pick(&["srcip", "dstip", "srcip,dstip", "srcip,dstport", "dstip,srcport,dstport"]).into(),
        "CLOCK" => format!("{:02}:{:02}", dice.roll(24), dice.roll(60)),
        // IPv6 has no broadcast, and several types must be all of them there.
        "TYPES" if family == Family::V6 => dice.pick(&["LOCAL", "UNICAST", "MULTICAST"]).into(),
        "TYPES" => dice.pick(&["LOCAL", "UNICAST", "LOCAL,BROADCAST", "MULTICAST", "UNICAST,LOCAL"]).into(),
        "DSCP" => dice.pick(&["0", "10", "0x2e", "46"]).into(),
        "FLAGS" => dice.pick(&["SYN", "SYN,ACK", "FIN,SYN,RST,ACK", "ACK", "RST", "PSH,ACK"]).into(),
        // A name that was never used: the kernel keeps the settings of a table of the same name.
        other => other.replace("ID", &dice.roll(u64::MAX).to_string()),
    }
}

fn network(dice: &mut Dice, family: Family) -> String {
    let (subnet, host) = (1 + dice.roll(3), dice.roll(6));
    match family {
        Family::V4 => {
            let mask = dice.pick(&["", "", "/32", "/24", "/16", "/8", "/0", "/31", "/255.255.0.0", "/255.0.0.255"]);
            format!("10.{subnet}.0.{host}{mask}")
        }
        Family::V6 => {
            let mask = dice.pick(&["", "", "/128", "/64", "/32", "/16", "/0", "/127", "/ffff:ffff::", "/ffff::ffff"]);
            format!("fd00:{subnet}::{host}{mask}")
        }
    }
}
