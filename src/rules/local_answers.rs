//! Answers of upstreams on this host to connections that leave from addresses of others (`--source client`).
//!
//! Such an answer is sent by this host to the client's address, so it would go out to the client. Connection tracking knows
//! better: the connection has left over the loopback interface, and what belongs to it in the other direction gets the mark
//! that keeps packets here. The mangle table looks for a route again when the mark changes (`ipt_mangle_out`,
//! net/ipv4/netfilter/iptable_mangle.c).

use crate::rules::chains::{Chain, FOR_LOCAL_ANSWERS, Jump, Rule, Table};
use crate::rules::policy_routing::{Connects, PolicyRouting};

/// Adds what this needs to the mangle table.
pub(super) fn add(mangle: &mut Table, chain: &str, routing: &PolicyRouting) {
    if routing.connects == Connects::No {
        return;
    }
    let (mark, name) = (routing.mark.to_string(), format!("{chain}{FOR_LOCAL_ANSWERS}"));
    let rules = vec![
        rule(&["-m", "conntrack", "--ctdir", "ORIGINAL", "-j", "CONNMARK", "--set-xmark", &mark]),
        rule(&["-m", "conntrack", "--ctdir", "REPLY", "-j", "MARK", "--set-xmark", &mark]),
    ];
    let jumps = [
        ["-p", "tcp", "-o", "lo", "-m", "addrtype", "!", "--src-type", "LOCAL"].as_slice(),
        &["-p", "tcp", "-m", "connmark", "--mark", &mark],
    ];
    mangle.jumps.extend(jumps.map(|condition| {
        let text = rule(&[condition, &["-j", &name]].concat()).text;
        Jump { from: "OUTPUT".to_owned(), at: 1, at_head: true, text }
    }));
    mangle.chains.push(Chain { name, rules });
}

fn rule(words: &[&str]) -> Rule {
    Rule::new(words, 1)
}
