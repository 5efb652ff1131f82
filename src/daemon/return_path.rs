//! What keeps packets from sockets whose addresses are not this host's (`--intercept tproxy`, `--source client`): settings
//! of the kernel, and routes that lead past this host.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::{Config, Redirection, Target};
use crate::rules::address::Family;
use crate::rules::groups::{groups, interfaces};
use crate::rules::policy_routing::PolicyRouting;
use crate::rules::rule::{Action, RuleSpec};
use crate::rules::ruleset::RuleSet;
use crate::rules::verdict::{ExpectedPackets, Matches, is_interface};
use crate::sys::interfaces::Interface;
use crate::sys::procfs;
use crate::sys::routing_table::RoutingTable;
use crate::traffic::service::{self, Source};

/// The most rules that are looked at.
const RULES: usize = 256;

/// A sentence for each thing that will not work. `addresses` gives the addresses of a host name.
pub(super) fn warnings(
    config: &Config,
    set: &RuleSet,
    all: &[Interface],
    addresses: &dyn Fn(&str) -> Vec<IpAddr>,
) -> Vec<String> {
    let Some(routing) = &set.routing else { return Vec::new() };
    let mut found = Vec::new();
    found.extend(marks_in_checks(routing, all));
    found.extend(marks_of_sockets(set));
    let matter = |family: &&Family| {
        let has_address =
            |one: &Interface| one.addresses.iter().any(|ip| Family::of(ip) == **family && !is_link_local(ip));
        all.iter().any(has_address) && taken(set).any(|spec| spec.matching.family == **family)
    };
    found.extend(routing.families.iter().filter(matter).filter_map(|family| not_forwarding(*family)));
    let Ok(mut routes) = RoutingTable::open() else { return found };
    let mut add = |sentence: String| {
        if !found.contains(&sentence) {
            found.push(sentence);
        }
    };
    for spec in taken(set).take(RULES) {
        let Some(redirection) = config.redirections.get(spec.redirection.index()) else { continue };
        ways_back(spec, all, &mut routes).into_iter().for_each(&mut add);
        if sees_clients(redirection) {
            let upstreams = redirection.hosts().iter().flat_map(|host| host.addresses(addresses));
            for upstream in upstreams.filter(|upstream| Family::of(&upstream.ip()) == spec.matching.family) {
                beside_clients(spec, upstream, all, &mut routes).into_iter().for_each(&mut add);
            }
        }
    }
    found
}

/// The rules that take connections.
fn taken(set: &RuleSet) -> impl Iterator<Item = &RuleSpec> {
    set.specs.iter().filter(|spec| !matches!(spec.action, Action::Exempt | Action::Reject))
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn sees_clients(redirection: &Redirection) -> bool {
    matches!(&redirection.target, Target::Relay(service) if matches!(service.source, Source::Client { .. }))
}

/// The name of a setting of IPv4 that holds where it is set for all interfaces or for one, if it has this value on one of
/// these.
fn on_some(setting: &str, value: &str, all: &[Interface]) -> Option<String> {
    let names = std::iter::once("all").chain(all.iter().map(|one| one.name.as_str()));
    let has = |name: &&str| procfs::sysctl(&format!("net/ipv4/conf/{name}/{setting}")).is_some_and(|is| is == value);
    names.into_iter().find(has).map(|name| format!("net.ipv4.conf.{name}.{setting}"))
}

/// With this setting the check of a source address asks policy routing with the packet's mark. That leads to our table,
/// where all is local, and no packet may come from a local address (`fib_validate_source`, net/ipv4/fib_frontend.c).
fn marks_in_checks(routing: &PolicyRouting, all: &[Interface]) -> Option<String> {
    let name = on_some("src_valid_mark", "1", all).filter(|_| routing.families.contains(&Family::V4))?;
    Some(format!(
        "{name} is 1: the kernel drops the IPv4 packets that --intercept tproxy and --source client mark, as if their \
         source were wrong; `sysctl -w {name}=0`"
    ))
}

/// With this setting a socket that is accepted takes over the mark of its first packet (`inet_request_mark`,
/// include/net/inet_sock.h). That leads what it sends to our table too, and back to this host.
fn marks_of_sockets(set: &RuleSet) -> Option<String> {
    let name = "net.ipv4.tcp_fwmark_accept";
    procfs::sysctl(name).filter(|value| value != "0")?;
    taken(set).any(is_tproxy).then(|| {
        format!(
            "{name} is 1: the sockets of what --intercept tproxy takes get its mark, which keeps their answers to clients \
             on this host; `sysctl -w {name}=0`"
        )
    })
}

fn is_tproxy(spec: &RuleSpec) -> bool {
    matches!(spec.action, Action::Tproxy { .. })
}

fn not_forwarding(family: Family) -> Option<String> {
    let name = match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    };
    procfs::sysctl(name).filter(|value| value == "0")?;
    Some(format!(
        "{name} is 0: this host takes the {family} connections that match and forwards none of the others, nor those \
         that are withdrawn (--fail open); a gateway needs `sysctl -w {name}=1`"
    ))
}

/// Whether this host can answer the clients that a rule names, on the way on which they come.
fn ways_back(spec: &RuleSpec, all: &[Interface], routes: &mut RoutingTable) -> Vec<String> {
    let mut found = Vec::new();
    let come_in_on = interfaces(&spec.matching.words);
    for (network, host) in sources(&spec.matching.words) {
        let Ok(route) = routes.route(SocketAddr::new(host, 1)) else {
            found.push(format!("there is no route back to the clients in {network}"));
            continue;
        };
        if route.is_local() {
            continue;
        }
        // Only IPv4 has this check by itself.
        let Some(name) = come_in_on.first().filter(|_| come_in_on.len() == 1 && host.is_ipv4()) else { continue };
        let strict = all.iter().filter(|one| is_interface(name, &one.name)).find_map(|one| {
            let setting = on_some("rp_filter", "1", std::slice::from_ref(one))?;
            (route.device() != Some(one.name.clone())).then_some((one, setting))
        });
        if let (Some((one, setting)), Some(device)) = (strict, route.device()) {
            found.push(format!(
                "{setting} is 1 (strict): the kernel drops what clients in {network} send in on {}, because the route \
                 back to them leads out of {device}; `sysctl -w {setting}=2`",
                one.name
            ));
        }
    }
    found
}

/// An upstream that answers clients on a way of its own.
fn beside_clients(
    spec: &RuleSpec,
    upstream: SocketAddr,
    all: &[Interface],
    routes: &mut RoutingTable,
) -> Option<String> {
    let route = routes.route(SocketAddr::new(upstream.ip(), 1)).ok()?;
    let ip = upstream.ip();
    if route.is_local() {
        return intercepted_as_well(spec, upstream);
    }
    let device = route.device().filter(|_| route.is_on_link())?;
    let come_in_on = interfaces(&spec.matching.words);
    let named = all.iter().any(|one| one.name == device && come_in_on.iter().any(|name| is_interface(name, &one.name)));
    let beside = sources(&spec.matching.words).into_iter().any(|(_, host)| {
        let route = routes.route(SocketAddr::new(host, 1));
        route.is_ok_and(|route| route.is_on_link() && route.device().as_ref() == Some(&device))
    });
    (named || beside).then(|| {
        format!(
            "--source client: the upstream {ip} is on the network of its clients ({device}) and answers them directly, \
             past this host; give it a route to them through this host (tproxy(8), SOURCE ADDRESS)"
        )
    })
}

/// An upstream on this host whose own address and port TPROXY takes connections for: our socket for a client and that of
/// the server have the same addresses then, and the same ports where a connection of ours has a port that the client uses
/// too. The kernel finds one of them only.
fn intercepted_as_well(spec: &RuleSpec, upstream: SocketAddr) -> Option<String> {
    let expected = ExpectedPackets {
        protocol: "tcp",
        to: Some(upstream.ip()),
        port: Some(upstream.port()).filter(|port| *port != 0),
        mark: None,
        interfaces: Vec::new(),
        to_this_host: true,
        states: &["NEW"],
    };
    let takes = is_tproxy(spec) && expected.matches(&spec.matching.words) > Matches::Unknown;
    let upstream = service::shown(&upstream);
    takes.then(|| {
        format!(
            "--source client: the upstream {upstream} is on this host, and --intercept tproxy takes connections to it as \
             well: where ours has a port that its client uses too (one of 28,000, for each connection of the client), one \
             of them gets no answer; have the server listen at another port, or use --intercept redirect"
        )
    })
}

/// The networks that a rule names as sources, each with an address of a host in it.
fn sources(words: &[String]) -> Vec<(String, IpAddr)> {
    let groups = groups(words);
    let lists = groups.iter().filter(|group| group.option == "-s" && !group.negated);
    let items = lists.flat_map(|group| group.values.iter()).flat_map(|list| list.split(','));
    // The first addresses of a network are often this host's.
    let host = |item: &str| match item.parse::<IpNet>() {
        Ok(IpNet::V4(v4)) if v4.prefix_len() < 31 => Some(IpAddr::from((u32::from(v4.broadcast()) - 1).to_be_bytes())),
        Ok(network) => Some(network.broadcast()),
        Err(_) => item.parse().ok(),
    };
    items.filter_map(|item| Some((item.to_owned(), host(item)?))).collect()
}
