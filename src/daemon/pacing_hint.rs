//! A hint at start: a congestion control that paces does so with a timer for each connection, unless the network device
//! has the queueing discipline fq; and towards clients on a directly attached network it has no use.

use crate::config::{Config, RuleKind};
use crate::rules::groups;
use crate::rules::verdict::is_interface;
use crate::sys::congestion::Algorithm;
use crate::sys::interfaces::{self, Interface};
use crate::sys::qdisc::{self, QueueingDiscipline};
use crate::sys::routing_table::RoutingTable;

const FQ: &str = "fq";

/// The sentence, if there is reason for one.
pub(super) fn hint(config: &Config, client: &Algorithm, upstream: &Algorithm) -> Option<String> {
    let paces = [client, upstream].into_iter().find(|algorithm| algorithm.paces())?;
    let side = match (client.paces(), upstream.paces()) {
        (true, true) => "both sides",
        (true, false) => "clients",
        _ => "upstreams",
    };
    let disciplines = qdisc::disciplines().ok()?;
    let names: Vec<String> =
        attached(config).into_iter().filter(|one| !has_fq(one, &disciplines)).map(|one| one.name).collect();
    let first = names.first()?;
    Some(format!(
        "hint: {paces} towards {side} paces with a timer for each connection, because the queueing discipline fq is \
         missing on {}; for clients on a directly attached network use --congestion-control cubic, or else `tc qdisc replace dev \
         {first} root fq` (CONGESTION CONTROL in tproxy(8))",
        names.join(", ")
    ))
}

/// The interfaces behind which clients are on a directly attached network: those that rules name, or all that have an
/// address and do not lead to the rest of the world.
fn attached(config: &Config) -> Vec<Interface> {
    let rules = config.redirections.iter().flat_map(|redirection| &redirection.rules);
    let redirects: Vec<_> = rules.filter(|(kind, _)| *kind == RuleKind::Redirect).collect();
    let patterns: Vec<&str> =
        redirects.iter().flat_map(|(_, written)| groups::interfaces(written.conditions())).collect();
    let outwards = RoutingTable::open().ok().and_then(|mut routes| {
        // TEST-NET-1 and the documentation prefix (RFC 5737, RFC 3849) are nobody's network.
        let one = ["192.0.2.1:1", "[2001:db8::1]:1"].iter().filter_map(|text| text.parse().ok());
        one.filter_map(|address| routes.route(address).ok()?.device()).next()
    });
    let is_attached = |one: &Interface| match patterns.is_empty() {
        true => outwards.as_ref() != Some(&one.name) && !one.addresses.is_empty(),
        false => patterns.iter().any(|pattern| is_interface(pattern, &one.name)),
    };
    interfaces::interfaces().unwrap_or_default().into_iter().filter(is_attached).collect()
}

fn has_fq(interface: &Interface, disciplines: &[QueueingDiscipline]) -> bool {
    let number = interfaces::number(&interface.name);
    disciplines.iter().any(|one| Some(one.interface) == number && one.kind == FQ)
}
