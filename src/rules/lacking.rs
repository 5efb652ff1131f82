//! The rules that an administrator has to add so that redirected connections are not dropped on their way.

use std::fmt;
use std::net::IpAddr;

use crate::rules::address::Family;
use crate::rules::groups::{interfaces, only_port};
use crate::rules::passage::FilterTable;
use crate::rules::policy_routing::Mark;
use crate::rules::rule::{Action, RuleSpec};
use crate::rules::untracked::Untracked;
use crate::rules::verdict::ExpectedPackets;

/// A place where the kernel asks a filter about packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// They are for this host.
    Input,
    /// They are for another one.
    Forward,
}

/// A filter of packets of one family: a table, and the chain to which a hook leads.
#[derive(Debug)]
pub(crate) struct PacketFilter {
    pub table: FilterTable,
    pub hook: Hook,
    pub chain: String,
    /// Family and name of the table, for nft(8); `None` for the one of iptables(8).
    pub native: Option<String>,
}

impl PacketFilter {
    /// Those of iptables, from the output of iptables-save.
    pub(crate) fn of_iptables(save: &str) -> Vec<PacketFilter> {
        let filter = |(hook, chain): (Hook, &str)| PacketFilter {
            table: FilterTable::read(save),
            hook,
            chain: chain.to_owned(),
            native: None,
        };
        [(Hook::Input, "INPUT"), (Hook::Forward, "FORWARD")].map(filter).into()
    }
}

impl fmt::Display for PacketFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.native {
            None => f.write_str(&self.chain),
            Some(table) => write!(f, "chain {} of table {table} (nft)", self.chain),
        }
    }
}

/// Stands for the port of a client, which its kernel chooses (`net.ipv4.ip_local_port_range`).
const CLIENT_PORT: u16 = 50_000;

/// Where a rule leads connections.
struct Leads<'a> {
    family: Family,
    protocol: &'a str,
    hook: Hook,
    interfaces: Vec<&'a str>,
    to: Option<IpAddr>,
    port: Option<u16>,
    /// The mark of connections that keep their destination.
    mark: Option<Mark>,
    /// What connection tracking says of them.
    states: &'static [&'static str],
}

/// The most lines of [`lacking`]. The others are like these.
const MOST: usize = 16;

/// What lacks in the filters so that connections get where these rules lead them, each with the command that adds it.
/// `is_own` knows the addresses of this host.
pub(crate) fn lacking(
    filters: &[PacketFilter],
    specs: &[&RuleSpec],
    mark: Option<Mark>,
    untracked: &[Untracked],
    mut is_own: impl FnMut(IpAddr) -> bool,
) -> Vec<String> {
    let mut lacking = Vec::new();
    for leads in specs.iter().filter_map(|spec| leads(spec, mark, untracked, &mut is_own)) {
        for filter in filters.iter().filter(|filter| filter.hook == leads.hook) {
            for line in lacking_for(filter, &leads) {
                if !lacking.contains(&line) {
                    lacking.push(line);
                }
            }
        }
        if lacking.len() >= MOST {
            break;
        }
    }
    lacking
}

fn leads<'a>(
    spec: &'a RuleSpec,
    mark: Option<Mark>,
    untracked: &[Untracked],
    is_own: &mut impl FnMut(IpAddr) -> bool,
) -> Option<Leads<'a>> {
    let (hook, to, port) = match spec.action {
        Action::Exempt | Action::Reject => return None,
        Action::Tproxy { .. } => (Hook::Input, None, only_port(&spec.matching.words)),
        Action::Redirect { port } => (Hook::Input, None, Some(port)),
        Action::Local { port } => (Hook::Input, None, port.or_else(|| only_port(&spec.matching.words))),
        Action::Kernel { to, port } => {
            let hook = if is_own(to) { Hook::Input } else { Hook::Forward };
            (hook, Some(to), port.or_else(|| only_port(&spec.matching.words)))
        }
    };
    let (family, protocol) = (spec.matching.family, spec.matching.protocol.as_str());
    let mark = mark.filter(|_| matches!(spec.action, Action::Tproxy { .. }));
    let states: &[&str] = match mark {
        None => &["NEW", "DNAT"],
        Some(_) if untracked.iter().any(|one| one.redirection == spec.redirection) => &["UNTRACKED"],
        Some(_) => &["NEW"],
    };
    Some(Leads { family, protocol, hook, interfaces: interfaces(&spec.matching.words), to, port, mark, states })
}

fn lacking_for(filter: &PacketFilter, leads: &Leads) -> Vec<String> {
    let Leads { family, protocol, hook, to, port, mark, states, .. } = *leads;
    let interfaces = leads.interfaces.clone();
    let to_this_host = hook == Hook::Input && mark.is_none();
    let expected = ExpectedPackets { protocol, to, port, mark, interfaces, to_this_host, states };
    let mut found = Vec::new();
    if filter.table.is_closed(&filter.chain, &expected) {
        let port = port.map(|port| format!(" to port {port}")).unwrap_or_default();
        found.push(format!(
            "{filter} drops all redirected {family} connections{port}; what lacks is a rule such as `{}`",
            command(filter, leads)
        ));
    }
    let states = &["ESTABLISHED", "DNAT"];
    let answers = ExpectedPackets { to: None, port: Some(CLIENT_PORT), interfaces: Vec::new(), states, ..expected };
    if hook == Hook::Forward && filter.table.is_closed(&filter.chain, &answers) {
        found.push(format!(
            "{filter} drops all answers in redirected {family} connections; what lacks is a rule such as `{}`",
            command_for_answers(filter, leads)
        ));
    }
    found
}

/// The command that lets the connections in.
fn command(filter: &PacketFilter, leads: &Leads) -> String {
    let Leads { family, protocol, to, mark, .. } = *leads;
    // The mark says it all.
    let port = leads.port.filter(|_| mark.is_none());
    let interface = leads.interfaces.first();
    let (tool, ip) = words_of(family);
    match &filter.native {
        None => format!(
            "{tool} -I {}{} -p {protocol}{}{}{} -j ACCEPT",
            filter.chain,
            interface.map(|name| format!(" -i {name}")).unwrap_or_default(),
            to.map(|to| format!(" -d {to}")).unwrap_or_default(),
            port.map(|port| format!(" --dport {port}")).unwrap_or_default(),
            mark.map(|mark| format!(" -m mark --mark {mark}")).unwrap_or_default(),
        ),
        Some(table) => format!(
            "nft insert rule {table} {}{}{}{}{} accept",
            filter.chain,
            interface.map(|name| format!(" iifname {}", name.replace('+', "*"))).unwrap_or_default(),
            to.map(|to| format!(" {ip} daddr {to}")).unwrap_or_default(),
            port.map_or_else(|| format!(" meta l4proto {protocol}"), |port| format!(" {protocol} dport {port}")),
            mark.map(|Mark { value, mask }| format!(" meta mark & {mask:#x} == {value:#x}")).unwrap_or_default(),
        ),
    }
}

/// The command that lets the answers out.
fn command_for_answers(filter: &PacketFilter, leads: &Leads) -> String {
    let Leads { family, protocol, to, port, .. } = *leads;
    let (tool, ip) = words_of(family);
    let to = to.map(|to| to.to_string()).unwrap_or_default();
    let port = port.unwrap_or_default();
    match &filter.native {
        None => format!(
            "{tool} -I {} -p {protocol} -s {to} --sport {port} -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            filter.chain
        ),
        Some(table) => format!(
            "nft insert rule {table} {} {ip} saddr {to} {protocol} sport {port} ct state established accept",
            filter.chain
        ),
    }
}

/// The name of the tool, and what nft calls the family of an address.
fn words_of(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("iptables", "ip"),
        Family::V6 => ("ip6tables", "ip6"),
    }
}
