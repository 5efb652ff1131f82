//! Beside other programs that have rules on the gateway: ours and theirs work, also when theirs are made anew, and theirs
//! are the same before and after. With both backends.

use super::{MOOSE, Scene};
use lab::netns::Net;
use lab::tempdir::TempDir;
use lab::{rules, wait};

/// What firewalld 1.3 gives nft for three interfaces in a zone in which a port is forwarded, also when it is reloaded. It
/// needs a message bus, so this is what it did in one run. `firewall-cmd --complete-reload` of the real one leaves ours
/// alone as well.
const FIREWALLD: &str = include_str!("../fixtures/firewalld.nft");

/// What nftables.service of Debian reads, with a port that is forwarded.
const NFTABLES_CONF: &str = "flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 22, 12970, 12971 } accept
    }
    chain forward { type filter hook forward priority filter; policy accept; }
    chain output { type filter hook output priority filter; policy accept; }
}
table ip translation {
    chain prerouting { type nat hook prerouting priority dstnat; policy accept;
        tcp dport 8080 dnat to 10.3.0.3:80
    }
}
";

/// The chains of docker 20.10, with port 8080 published of a container: cow. It makes them when it starts, and whenever
/// firewalld says that it has made its own anew.
const DOCKER: &str = "
set -e
net() { iptables -w -t nat \"$@\"; }
filter() { iptables -w \"$@\"; }
ensure() { \"$1\" -C $2 2>/dev/null || \"$1\" ${3:--A} $2; }
for chain in DOCKER; do net -N $chain 2>/dev/null || net -F $chain; done
for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2; do
    filter -N $chain 2>/dev/null || filter -F $chain
done
filter -N DOCKER-USER 2>/dev/null || true
filter -P FORWARD DROP
ensure net 'POSTROUTING -s 10.3.0.0/24 ! -o eth3 -j MASQUERADE' -I
ensure net 'PREROUTING -m addrtype --dst-type LOCAL -j DOCKER'
ensure net 'OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER'
net -A DOCKER -i eth3 -j RETURN
net -A DOCKER ! -i eth3 -p tcp --dport 8080 -j DNAT --to-destination 10.3.0.3:80
filter -A DOCKER -d 10.3.0.3 ! -i eth3 -o eth3 -p tcp --dport 80 -j ACCEPT
net -A POSTROUTING -s 10.3.0.3 -d 10.3.0.3 -p tcp --dport 80 -j MASQUERADE
filter -A DOCKER-ISOLATION-STAGE-1 -i eth3 ! -o eth3 -j DOCKER-ISOLATION-STAGE-2
filter -A DOCKER-ISOLATION-STAGE-1 -j RETURN
filter -A DOCKER-ISOLATION-STAGE-2 -o eth3 -j DROP
filter -A DOCKER-ISOLATION-STAGE-2 -j RETURN
ensure filter 'DOCKER-USER -j RETURN'
for rule in '-o eth3 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT' '-o eth3 -j DOCKER' \\
    '-i eth3 ! -o eth3 -j ACCEPT' '-i eth3 -o eth3 -j ACCEPT'; do ensure filter \"FORWARD $rule\"; done
for chain in DOCKER-ISOLATION-STAGE-1 DOCKER-USER; do
    filter -D FORWARD -j $chain 2>/dev/null || true
    filter -I FORWARD -j $chain
done
";

/// The variant of iptables that writes to tables of its own in the kernel.
const LEGACY: &str = "
iptables-legacy-restore -w <<END
*nat
:own - [0:0]
-A PREROUTING -p tcp --dport 8080 -j own
-A own -p tcp -j DNAT --to-destination 10.3.0.3:80
COMMIT
*filter
-A FORWARD -p tcp --dport 25 -j REJECT
COMMIT
END
";

/// ufw with a configuration of its own. It reads its rules for NAT from before.rules, at each reload anew.
const UFW: &str = "
set -e
cd DIRECTORY
[ -e ufw ] || {
    cp -a /etc/ufw ufw
    cp /etc/default/ufw default
    sed -i s/DEFAULT_FORWARD_POLICY=.*/DEFAULT_FORWARD_POLICY=ACCEPT/ default
    { echo '*nat'; echo ':PREROUTING ACCEPT [0:0]'; echo '-F PREROUTING'
      echo '-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.3.0.3:80'; echo COMMIT
      cat /etc/ufw/before.rules; } >ufw/before.rules
}
mount --bind ufw /etc/ufw
mount --bind default /etc/default/ufw
mount -t tmpfs none /run
ufw allow 12970:12971/tcp >/dev/null
if ufw status | grep -q inactive; then ufw --force enable; else ufw reload; fi >/dev/null
";

/// A program with rules of its own.
struct Neighbour<'a> {
    name: &'a str,
    /// Makes its rules, or makes them anew.
    make: Box<dyn Fn() + 'a>,
    /// Where the client goes whom its rules send to cow.
    address: &'a str,
}

impl<'a> Neighbour<'a> {
    fn new(name: &'a str, make: impl Fn() + 'a) -> Neighbour<'a> {
        Neighbour { name, make: Box::new(make), address: "10.1.0.1:8080" }
    }
}

/// The rules of others, in whatever tables.
fn of_others(gateway: &Net) -> Vec<String> {
    let ours = |line: &str| line.contains("-j tproxy.") || line.contains("-A tproxy.") || line.starts_with(":tproxy.");
    let mut all = Vec::new();
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let saved = gateway.run(&[&format!("{tool}-save")]);
        // A table that is there without a rule is as good as none.
        let says = |line: &&str| line.starts_with("-A") || line.starts_with(':') && !line.contains(" ACCEPT ");
        let lines = saved.lines().filter(says).filter(|line| !ours(line));
        all.extend(lines.map(|line| format!("{tool} {}", line.split(" [").next().unwrap_or(line))));
    }
    for line in gateway.run(&["nft", "list", "tables"]).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let is_iptables = ["nat", "filter", "mangle", "raw", "security"].contains(&words[2]) && words[1] != "inet";
        if !is_iptables && !words[2].starts_with("tproxy.") {
            all.push(gateway.run(&["nft", "-s", "list", "table", words[1], words[2]]));
        }
    }
    all
}

fn ours(backend: &str) -> [&str; 13] {
    let rule = "-d moose --dport 80";
    ["-d", "--verify", "1", "--firewall", backend, "-s", "12970", "-r", "nobody", "-R", rule, "10.3.0.3", "80"]
}

/// Runs tproxy beside a program, with each backend.
fn beside(scene: &Scene, neighbour: &Neighbour) {
    let gateway = &scene.lab.gateway;
    let theirs = || assert_eq!(scene.page(neighbour.address), "cow", "beside {}", neighbour.name);
    (neighbour.make)();
    theirs();
    for backend in ["nft", "iptables"] {
        let what = format!("--firewall {backend} beside {}", neighbour.name);
        let before = of_others(gateway);
        assert!(!before.is_empty(), "{what}");
        let mut daemon = scene.relay(&ours(backend));
        assert_eq!(scene.page(MOOSE), "cow", "{what}");
        theirs();
        assert_eq!(of_others(gateway), before, "{what}, at work");
        (neighbour.make)();
        wait::until_true(&format!("{what}: ours, although theirs are new"), || scene.page(MOOSE) == "cow");
        theirs();
        let before = of_others(gateway);
        assert_eq!(daemon.stop(), 0, "{what}");
        assert_eq!((of_others(gateway), rules::count_of_ours(gateway)), (before, 0), "{what}, after the stop");
        theirs();
    }
}

fn shell(gateway: &Net, script: &str) {
    gateway.run(&["sh", "-c", script]);
}

#[test]
fn docker_and_tproxy_leave_each_other_alone() {
    let Some(scene) = Scene::new() else { return };
    beside(&scene, &Neighbour::new("docker", || shell(&scene.lab.gateway, DOCKER)));
}

#[test]
fn ufw_and_tproxy_leave_each_other_alone() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let script = UFW.replace("DIRECTORY", &directory.path.display().to_string());
    beside(&scene, &Neighbour::new("ufw", || shell(&scene.lab.gateway, &script)));
}

#[test]
fn firewalld_and_tproxy_leave_each_other_alone() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let file = directory.write("firewalld.nft", FIREWALLD);
    beside(&scene, &Neighbour::new("firewalld", || drop(scene.lab.gateway.run(&["nft", "-f", &file]))));
}

#[test]
fn a_file_for_nft_that_flushes_everything_and_tproxy_leave_each_other_alone() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let file = directory.write("nftables.conf", NFTABLES_CONF);
    beside(&scene, &Neighbour::new("nftables.conf", || drop(scene.lab.gateway.run(&["nft", "-f", &file]))));
}

#[test]
fn iptables_legacy_and_tproxy_leave_each_other_alone() {
    let Some(scene) = Scene::new() else { return };
    beside(&scene, &Neighbour::new("iptables-legacy", || shell(&scene.lab.gateway, LEGACY)));
}

#[test]
fn two_instances_with_different_backends_leave_each_other_alone() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for [first, second] in [["nft", "iptables"], ["iptables", "nft"]] {
        let other =
            ["-d", "--firewall", second, "-s", "12971", "-r", "nobody", "-R", "-d moose --dport 81", "cow", "80"];
        let both = || [scene.page(MOOSE), scene.page("10.2.0.5:81")];
        let mut one = scene.relay(&ours(first));
        let alone = rules::saved(gateway);
        let mut two = scene.relay(&other);
        assert_eq!(both(), ["cow", "cow"], "{first} and {second}");
        assert_eq!(two.stop(), 0);
        assert_eq!((rules::saved(gateway), scene.page(MOOSE)), (alone, "cow".into()));
        let mut two = scene.relay(&other);
        assert_eq!(one.stop(), 0);
        assert_eq!((scene.page(MOOSE).as_str(), scene.page("10.2.0.5:81").as_str()), ("moose", "cow"));
        assert_eq!(two.stop(), 0);
        assert_eq!(rules::count_of_ours(gateway), 0);
    }
}

/// Another translation of what ours translates: to port 81 of cow.
struct Rival {
    name: &'static str,
    make: &'static str,
    remove: &'static str,
    /// Who wins where its chain is the younger one, and where it is the older one: each against `--firewall nft` and
    /// against `--firewall iptables`.
    winners: [[&'static str; 2]; 2],
}

const RIVALS: [Rival; 4] = [
    Rival {
        name: "the same variant of iptables",
        make: "iptables -w -t nat -A PREROUTING RULE",
        remove: "iptables -w -t nat -D PREROUTING RULE",
        winners: [["cow", "cow"], ["cow", "cow"]],
    },
    // With rules of others in its nat table ours go there as well, and are first.
    Rival {
        name: "iptables-legacy",
        make: "iptables-legacy -w -t nat -A PREROUTING RULE",
        remove: "iptables-legacy -w -t nat -D PREROUTING RULE",
        winners: [["cow", "rival"], ["cow", "cow"]],
    },
    Rival {
        name: "nft at the priority of iptables",
        make: "RIVAL dstnat; tcp dport 80 dnat to 10.3.0.3:81; }; }'",
        remove: "nft delete table ip rival",
        winners: [["cow", "rival"], ["cow", "cow"]],
    },
    Rival {
        name: "nft before all others",
        make: "RIVAL -150; tcp dport 80 dnat to 10.3.0.3:81; }; }'",
        remove: "nft delete table ip rival",
        winners: [["rival", "rival"], ["rival", "rival"]],
    },
];

/// The chain that runs first wins: what is translated is not translated again (`nf_nat_inet_fn`, nf_nat_core.c in
/// net/netfilter). It is the one with the lower priority, and of two with the same the younger one (`nf_hook_entries_grow`,
/// core.c in the same place).
#[test]
fn of_two_that_translate_a_connection_the_first_chain_wins() {
    let rule = "-p tcp -d 10.2.0.5 --dport 80 -j DNAT --to-destination 10.3.0.3:81";
    for Rival { name, make, remove, winners } in RIVALS {
        let Some(scene) = Scene::new() else { return };
        let _rival = scene.lab.cow.enter(|| super::Server::page("[::]:81", "rival"));
        let gateway = &scene.lab.gateway;
        for (is_older, winners) in [false, true].into_iter().zip(winners) {
            for (backend, winner) in ["nft", "iptables"].into_iter().zip(winners) {
                let what = format!("--firewall {backend} against {name}, which is older: {is_older}");
                let make = make.replace("RIVAL", "nft 'table ip rival { chain c { type nat hook prerouting priority");
                let make = || shell(gateway, &make.replace("RULE", rule));
                if is_older {
                    gateway.run(&["nft", "add table ip nat; delete table ip nat"]);
                    make();
                }
                let mut daemon = scene.relay(&ours(backend));
                if !is_older {
                    make();
                }
                assert_eq!(scene.page(MOOSE), winner, "{what}");
                assert_eq!(daemon.stop(), 0);
                assert_eq!(scene.page(MOOSE), "rival", "{what}, after the stop");
                shell(gateway, &remove.replace("RULE", rule));
                assert_eq!(scene.page(MOOSE), "moose");
            }
        }
    }
}
