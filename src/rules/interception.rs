//! The mangle table: new connections are handed to a socket of ours unchanged, and packets of established ones find their
//! way to sockets whose addresses are not this host's.
//!
//! Both mark the packet, and policy routing keeps marked packets on this host. TPROXY looks for the socket by itself:
//! also for one that waits for the end of a former connection, which a new one with the same addresses then takes the
//! place of (`nf_tproxy_handle_time_wait4`, net/ipv4/netfilter/nf_tproxy_ipv4.c). So a packet with SYN is never looked
//! for with `-m socket`.

use crate::rules::address::Family;
use crate::rules::chains::{Chain, FOR_ESTABLISHED, FOR_ZONE, Jump, Rule, Table};
use crate::rules::policy_routing::{Connects, PolicyRouting};
use crate::rules::rule::{Action, RuleSpec};

/// The table, unless nothing of it is needed. `specs` are rules of one family, for TCP.
pub(super) fn mangle(
    chain: &str,
    routing: Option<&PolicyRouting>,
    family: Family,
    specs: &[&RuleSpec],
) -> Option<Table> {
    let routing = routing?;
    let mark = routing.mark.to_string();
    let mut table = Table::new("mangle");
    let established = Chain { name: format!("{chain}{FOR_ESTABLISHED}"), rules: for_established(&mark) };
    table.jumps = jumps_for_established(family, &established.name);
    table.chains.push(established);
    if specs.iter().any(|spec| matches!(spec.action, Action::Tproxy { .. })) {
        table.chains.push(Chain { name: chain.to_owned(), rules: for_new(&mark, specs) });
        table.jumps.push(jump(&["-p", "tcp", "--syn"], chain));
    }
    Some(table)
}

/// Gives connections that leave from addresses of others a zone of their own in connection tracking. A client's own
/// connection to the same server is translated by REDIRECT, and has an entry in that direction: one of ours with the same
/// addresses and ports would be taken for it, and redirected to ourselves. Answers are found without a zone, because no
/// translated connection has them: `--zone-orig` is for one direction (`nf_ct_zone_id`, net/netfilter/nf_conntrack_zones.h).
///
/// The mark is that of the sockets. What the kernel sends for one that is closed has it too (`tw_mark`,
/// net/ipv4/tcp_minisocks.c), but no owner.
pub(super) fn zone(chain: &str, routing: Option<&PolicyRouting>) -> Option<Table> {
    let routing = routing.filter(|routing| routing.connects == Connects::Zoned)?;
    let (mark, name) = (routing.mark.of_zone().to_string(), format!("{chain}{FOR_ZONE}"));
    let chain = Chain { name, rules: vec![rule(&["-j", "CT", "--zone-orig", ZONE])] };
    let jump = Jump { from: "OUTPUT".to_owned(), ..jump(&["-p", "tcp", "-m", "mark", "--mark", &mark], &chain.name) };
    Some(Table { name: "raw", chains: vec![chain], jumps: vec![jump] })
}

/// Its number means nothing to anybody else, except to who has chosen the same one.
const ZONE: &str = "12970";

fn for_new(mark: &str, specs: &[&RuleSpec]) -> Vec<Rule> {
    // This host's own connections to itself: among them are those of the relay to an upstream on this host.
    let own = rule(&["-i", "lo", "-j", "RETURN"]);
    let verdict = |spec: &&RuleSpec| match spec.action {
        Action::Tproxy { to } => {
            let (port, ip) = (to.port().to_string(), to.ip().to_string());
            let mut words = vec!["-j", "TPROXY", "--on-port", &port];
            // Without it TPROXY takes an address of the interface, which a socket for all addresses has.
            if !to.ip().is_unspecified() {
                words.extend(["--on-ip", &ip]);
            }
            words.extend(["--tproxy-mark", mark]);
            spec.rule(&words)
        }
        // The nat or the filter table decides, or nothing does.
        _ => spec.rule(&["-j", "RETURN"]),
    };
    std::iter::once(own).chain(specs.iter().map(verdict)).collect()
}

/// They leave the table for good: later rules of others could change the mark.
fn for_established(mark: &str) -> Vec<Rule> {
    vec![
        rule(&["-m", "socket", "--transparent", "-j", "MARK", "--set-xmark", mark]),
        rule(&["-m", "mark", "--mark", mark, "-j", "ACCEPT"]),
    ]
}

/// ICMP belongs to them: an error tells a socket that its packets are too large for the path (`-m socket` looks at the
/// packet that the error is about).
fn jumps_for_established(family: Family, to: &str) -> Vec<Jump> {
    let icmp = if family == Family::V4 { "icmp" } else { "ipv6-icmp" };
    vec![jump(&["-p", icmp], to), jump(&["-p", "tcp", "!", "--syn"], to)]
}

fn jump(condition: &[&str], to: &str) -> Jump {
    let text = rule(&[condition, &["-j", to]].concat()).text;
    Jump { from: "PREROUTING".to_owned(), at: 1, at_head: true, text }
}

fn rule(words: &[&str]) -> Rule {
    Rule::new(words, 1)
}
