//! What is told at the start about a configuration that looks right and would not work.

use super::{MOOSE, MOOSE6, Scene};
use lab::rules;
use lab::servers::Server;
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn a_condition_of_one_family_makes_rules_of_that_family() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for words in [
        &["create", "inside", "hash:net"][..],
        &["add", "inside", "10.1.0.0/24"],
        &["create", "inside6", "hash:ip", "family", "inet6"],
        &["add", "inside6", "fd00:1::2"],
        &["create", "both", "list:set"],
        &["add", "both", "inside"],
        &["add", "both", "inside6"],
    ] {
        gateway.run(&[&["ipset"], words].concat());
    }
    for (matching, v4, v6) in [
        ("-m iprange --src-range 10.1.0.2-10.1.0.9 --dport 80", "cow", "moose"),
        ("-m iprange --src-range fd00:1::2-fd00:1::9 --dport 80", "moose", "cow"),
        ("-m iprange ! --dst-range 10.2.0.6-10.2.0.9 --dport 80", "cow", "moose"),
        ("-m set --match-set inside src --dport 80", "cow", "moose"),
        ("-m set --match-set inside6 src --dport 80", "moose", "cow"),
        ("-m set --match-set both src --dport 80", "cow", "cow"),
        ("-m set ! --match-set inside6 dst --dport 80", "moose", "cow"),
        ("-m ttl --ttl-gt 1 --dport 80", "cow", "moose"),
        ("-m conntrack --ctorigdst 10.2.0.5 --dport 80", "cow", "moose"),
    ] {
        // What nft has no words for, or cannot look into: that is said (`firewall translation`).
        if rules::is_nft() && (matching.contains("-m set") || matching.contains("-m ttl")) {
            continue;
        }
        let mut daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", matching, "cow", "80"]);
        assert_eq!([scene.page(MOOSE), scene.page(MOOSE6)], [v4, v6], "{matching}");
        assert_eq!(daemon.stop(), 0);
    }
    for wrong in ["-d fd00:2::5 -m iprange --src-range 10.1.0.2", "-s 10.1.0.2 -m set --match-set inside6 dst"] {
        let done = scene.launch(&["-d", "-s", "12970", "-R", wrong, "10.3.0.3", "80"]).run();
        let told =
            if rules::is_nft() && wrong.contains("-m set") { "needs --firewall iptables" } else { "address family" };
        assert!(done.stderr.contains(told), "{done:?}");
    }
}

/// A configuration that works, and the same with something that makes it useless.
struct Case<'a> {
    /// Done on the gateway.
    before: &'a [&'a str],
    args: &'a [&'a str],
    /// What the log must say then.
    said: &'a [&'a str],
    /// Words that it must not say.
    unsaid: &'a [&'a str],
}

/// Words of every warning, for configurations that deserve none.
const ANY: &[&str] =
    &["no IPv4 address", "IPv6 address beside", "REDIRECT", "loopback", "SSH", "drops", "what lacks", "-O:"];

fn tell(cases: &[Case]) {
    let Some(scene) = Scene::new() else { return };
    for case in cases {
        for words in case.before {
            scene.lab.gateway.run(&words.split_whitespace().collect::<Vec<_>>());
        }
        let mut daemon = scene.relay(&[&["-d"], case.args].concat());
        case.expect_in(&daemon.journal.text());
        case.expect_in(&scene.launch(&[&["--check"], case.args].concat()).run().stderr);
        assert_eq!(daemon.stop(), 0);
    }
}

impl Case<'_> {
    fn expect_in(&self, text: &str) {
        for words in self.said {
            assert!(text.contains(words), "{:?}: {words:?} is not in\n{text}", self.args);
        }
        for words in self.unsaid {
            assert!(!text.contains(words), "{:?}: {words:?} is in\n{text}", self.args);
        }
    }
}

#[test]
fn an_interface_of_the_match_without_an_address_is_named() {
    tell(&[
        Case { before: &[], args: &["-s", "8081", "-R", "-i eth1 --dport 80", "cow", "80"], said: &[], unsaid: ANY },
        Case {
            before: &[
                "ip link add bare0 type veth peer name bare1",
                "ip link set bare0 up",
                "ip addr add 10.8.0.1/24 dev bare1",
            ],
            args: &["-s", "8081", "-R", "-i bare0 --dport 80", "cow", "80"],
            said: &[
                "interface bare0 has no IPv4 address",
                "interface bare0 has no IPv6 address beside a link-local one",
            ],
            unsaid: &["bare1", "eth1"],
        },
        Case {
            before: &[],
            args: &["--local", "80", "-R", "--in-interface bare+ -d 10.2.0.5"],
            said: &["interface bare0 has no IPv4 address"],
            unsaid: &["bare1 has no IPv4", "IPv6 address"],
        },
        Case {
            before: &["ip addr add 10.7.0.1/24 dev bare0", "ip addr add fd00:7::1/64 dev bare0 nodad"],
            args: &["-s", "8081", "-R", "-i bare0 --dport 80", "cow", "80"],
            said: &[],
            unsaid: ANY,
        },
        Case {
            before: &["ip addr flush dev bare0"],
            args: &["--kernel", "-R", "-i bare0 --dport 80", "10.3.0.3", "80"],
            said: &[],
            unsaid: ANY,
        },
    ]);
}

#[test]
fn a_destination_that_redirected_connections_do_not_reach_is_named() {
    tell(&[
        Case {
            before: &[],
            args: &["--kernel", "-R", "--dport 80", "127.0.0.1", "8000"],
            said: &["--kernel: the kernel drops", "127.0.0.1", "route_localnet", "--local 8000"],
            unsaid: &[],
        },
        Case {
            before: &[],
            args: &["--kernel", "-R", "--dport 80", "::1", "8000"],
            said: &["--kernel: the kernel drops", "::1", "--local 8000"],
            unsaid: &["route_localnet"],
        },
        Case {
            before: &["sysctl -q -w net.ipv4.conf.eth1.route_localnet=1"],
            args: &["--kernel", "-R", "-i eth1 --dport 80", "127.0.0.1", "8000"],
            said: &[],
            unsaid: &["the kernel drops what"],
        },
        Case {
            before: &[],
            args: &["--kernel", "-R", "-i eth2 --dport 80", "127.1.2.3", "8000"],
            said: &["--kernel: the kernel drops", "127.1.2.3"],
            unsaid: &[],
        },
        Case {
            before: &[],
            args: &["-s", "8081", "-r", "nobody", "-b", "10.1.0.1", "-O", "-R", "--dport 80", "cow", "80"],
            said: &["-O: connections of this host are redirected to 127.0.0.1, and refused", "10.1.0.1"],
            unsaid: &["-b 10.1.0.1: no"],
        },
        Case {
            before: &[],
            args: &["-s", "8081", "-r", "nobody", "-b", "fd00:1::1", "-O", "-R", "--dport 80", "cow", "80"],
            said: &["-O: connections of this host are redirected to ::1, and refused"],
            unsaid: &[],
        },
        Case {
            before: &[],
            args: &["-s", "8081", "-r", "nobody", "-b", "0.0.0.0", "-O", "-R", "--dport 80", "cow", "80"],
            said: &[],
            unsaid: ANY,
        },
        Case {
            before: &["ip addr add 10.1.0.77/24 dev eth1"],
            args: &["-s", "8081", "-b", "10.1.0.77", "-R", "--dport 80", "cow", "80"],
            said: &["-b 10.1.0.77: no redirected connection arrives there"],
            unsaid: &["-O"],
        },
        Case {
            before: &[],
            args: &["-s", "8081", "-b", "10.1.0.1", "-R", "-i eth2 --dport 80", "cow", "80"],
            said: &["-b 10.1.0.1: no redirected connection arrives there"],
            unsaid: &[],
        },
    ]);
}

#[test]
fn a_match_that_takes_the_administrators_ssh_is_told_with_what_spares_it() {
    let own = "-X '-d 10.1.0.1,10.2.0.1,10.3.0.1,fd00:1::1,fd00:2::1,fd00:3::1'";
    let refused = "new SSH connections to this host (port 22) are redirected, and refused";
    let spared = &["SSH"];
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&["-d", "-s", "8081", "-t", "-R", "-p tcp"]);
    assert_eq!(daemon.journal.count(&format!("{refused}; before that rule, {own}")), 1);
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["-s", "8081", "-t", "-R", "-p tcp"], &[refused, own], &[]),
        (&["-s", "8081", "-t", "-R", "--dport 1:1023"], &[refused, own], &[]),
        (
            &["-s", "8081", "-t", "-R", "-s 10.1.0.0/24 -m multiport --dports ssh,80"],
            &[refused, "10.1.0.1,10.2.0.1"],
            &[],
        ),
        (&["-s", "8081", "-t", "-R", "-i eth1 -d 10.1.0.0/24"], &[refused, "-X '-d 10.1.0.1'"], &["10.2.0.1"]),
        (
            &["-s", "8081", "-R", "-p tcp", "cow", "80"],
            &["SSH connections to this host (port 22) are redirected;"],
            &[],
        ),
        (&["-s", "8081", "--via", "connect", "-R", "-p tcp", "cow", "80"], &[refused], &[]),
        (&["-s", "8081", "-t", "-X", "-m addrtype --dst-type LOCAL", "-R", "-p tcp"], &[], spared),
        (
            &["-s", "8081", "-t", "-X", "-d 10.1.0.1,10.2.0.1", "-R", "-p tcp -d 0.0.0.0/0"],
            &[refused, "-X '-d 10.3.0.1'"],
            &[],
        ),
        (&["-s", "8081", "-t", "-X", "-d 10.0.0.0/8", "-R", "-d 0.0.0.0/0"], &[], spared),
        (&["-s", "8081", "-t", "-X", "--dport 22", "-R", "-p tcp"], &[], spared),
        (&["-s", "8081", "-t", "-X", "-s 10.1.0.2", "-X", "-s fd00:1::2", "-R", "-p tcp"], &[], spared),
        (&["-s", "8081", "-t", "-R", "-p tcp", "-X", "-m addrtype --dst-type LOCAL"], &[refused], &[]),
        (&["-s", "8081", "-t", "-R", "--dport 80"], &[], spared),
        (&["-s", "8081", "-t", "-R", "! --dport 22"], &[], spared),
        (&["-s", "8081", "-t", "-R", "-d 10.2.0.5"], &[], spared),
        (&["--local", "same", "-R", "-p tcp"], &[], spared),
        (&["--kernel", "-R", "-d 10.1.0.1 --dport 22", "10.2.0.5", "22"], &[], spared),
    ];
    for (args, said, unsaid) in cases {
        let text = scene.launch(&[&["--check"], *args].concat()).run().stderr;
        Case { before: &[], args, said, unsaid }.expect_in(&text);
    }
}

#[test]
fn a_service_that_listens_on_loopback_only_is_named() {
    let Some(scene) = Scene::new() else { return };
    let loopback = scene.lab.gateway.enter(|| Server::page("127.0.0.1:8000", "local"));
    let warning = "tcp port 8000 of this host is listened on at loopback addresses only";
    for args in [&["--local", "8000", "-R", "--dport 80"][..], &["--local", "same", "-R", "--dport 8000"]] {
        let mut daemon = scene.relay(&[&["-d"], args].concat());
        daemon.journal.wait_for(warning);
        assert_eq!(daemon.stop(), 0);
    }
    drop(loopback);
    let _reachable = scene.lab.gateway.enter(|| Server::page("0.0.0.0:8000", "local"));
    let mut daemon = scene.relay(&["-d", "--local", "8000", "-R", "--dport 80"]);
    assert_eq!(scene.page(MOOSE), "local");
    assert!(!daemon.journal.text().contains("loopback"));
    assert_eq!(daemon.stop(), 0);
}

/// A gateway whose firewall may drop what is redirected.
struct Walled {
    scene: Scene,
}

impl Walled {
    fn run(&self, commands: &[&str]) {
        commands.iter().for_each(|words| drop(self.scene.lab.gateway.run(&words.split(' ').collect::<Vec<_>>())));
    }

    /// The commands that the log tells, and whether the client gets a connection.
    fn told(&self, args: &[&str]) -> (Vec<String>, bool) {
        let mut daemon = self.scene.relay(args);
        let moose = MOOSE.parse().expect("an address");
        let connect = || TcpStream::connect_timeout(&moose, Duration::from_millis(700));
        let connected = self.scene.lab.client.enter(connect).is_ok();
        let text = daemon.journal.text();
        assert_eq!(daemon.stop(), 0);
        let lines = text.lines().filter(|line| line.contains("what lacks is a rule"));
        (lines.filter_map(|line| Some(line.split('`').nth(1)?.to_owned())).collect(), connected)
    }

    /// Nothing gets through, and these commands are told; once they are run, all is well.
    fn expect_remedy(&self, args: &[&str], commands: &[&str]) {
        let (told, connected) = self.told(args);
        assert_eq!(told, commands);
        assert!(!connected);
        self.run(commands);
        assert_eq!(self.told(args), (Vec::new(), true), "what was told helps");
    }
}

const RELAY: [&str; 9] = ["-d", "-s", "8081", "-r", "nobody", "-R", "-i eth1 -d 10.2.0.5 --dport 80", "cow", "80"];
const KERNEL: [&str; 6] = ["-d", "--kernel", "-R", "-d 10.2.0.5 --dport 80", "cow", "80"];

#[test]
fn a_firewall_that_lets_nothing_in_is_told_with_the_rule_that_lacks() {
    let Some(scene) = Scene::new() else { return };
    let gateway = Walled { scene };
    assert_eq!(gateway.told(&RELAY), (Vec::new(), true));
    gateway.run(&[
        "iptables -A INPUT -i lo -j ACCEPT",
        "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "iptables -A INPUT -p tcp --dport 22 -j ACCEPT",
    ]);
    for closing in ["iptables -P INPUT DROP", "iptables -A INPUT -j REJECT"] {
        gateway.run(&[closing]);
        gateway.expect_remedy(&RELAY, &["iptables -I INPUT -i eth1 -p tcp --dport 8081 -j ACCEPT"]);
        gateway.run(&["iptables -D INPUT -i eth1 -p tcp --dport 8081 -j ACCEPT", "iptables -P INPUT ACCEPT"]);
    }
    gateway.run(&["iptables -F INPUT", "iptables -P FORWARD DROP"]);
    let answers = "iptables -I FORWARD -p tcp -s 10.3.0.3 --sport 80 -m conntrack --ctstate ESTABLISHED -j ACCEPT";
    gateway.expect_remedy(&KERNEL, &["iptables -I FORWARD -p tcp -d 10.3.0.3 --dport 80 -j ACCEPT", answers]);
}

#[test]
fn a_firewall_of_nft_that_lets_nothing_in_is_told_with_the_rule_that_lacks() {
    let Some(scene) = Scene::new() else { return };
    let gateway = Walled { scene };
    gateway.run(&[
        "nft add table inet filter",
        "nft add chain inet filter in { type filter hook input priority 0; policy drop; }",
        "nft add chain inet filter out { type filter hook output priority 0; policy accept; }",
        "nft add rule inet filter in ct state vmap { established : accept, related : accept, invalid : drop }",
        "nft add rule inet filter in iif lo accept",
        "nft add rule inet filter in meta l4proto { icmp, ipv6-icmp } accept",
        "nft add rule inet filter in tcp dport { 22, 80-443 } counter accept",
    ]);
    gateway.expect_remedy(&RELAY, &["nft insert rule inet filter in iifname eth1 tcp dport 8081 accept"]);
    gateway.run(&[
        "nft delete table inet filter",
        "nft add table ip walls",
        "nft add chain ip walls forward { type filter hook forward priority 0; policy drop; }",
        "nft add rule ip walls forward tcp dport 443 accept",
    ]);
    let answers = "nft insert rule ip walls forward ip saddr 10.3.0.3 tcp sport 80 ct state established accept";
    gateway
        .expect_remedy(&KERNEL, &["nft insert rule ip walls forward ip daddr 10.3.0.3 tcp dport 80 accept", answers]);
}
