//! What the targets of iptables are for nft. Some take several rules there, and so a chain of their own.

use std::net::{IpAddr, SocketAddr};

use crate::rules::address::Family;
use crate::rules::nft::addresses::header;
use crate::rules::nft::conditions::Comparison;
use crate::rules::policy_routing::Mark;

/// What happens to what matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NftVerdict {
    /// A new port on this host.
    Port(u16),
    /// Another host.
    Host(SocketAddr),
    /// What a chain of its own says.
    Chain { verb: &'static str, chain: TargetChain },
    /// The packet gets a mark.
    Mark(Mark),
    /// The packet is kept out of connection tracking.
    Untracked,
    /// Any other statement, as nft writes it.
    Statement(String),
}

/// A chain that does what one target of iptables does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetChain {
    /// Says all that its rules depend on.
    pub name: String,
    pub rules: Vec<String>,
}

/// Begins the name of a chain that marks packets of established connections, behind which the mark stands.
const MARK: &str = "mark";

impl NftVerdict {
    pub(crate) fn text(&self) -> String {
        match self {
            NftVerdict::Port(port) => format!("redirect to :{port}"),
            NftVerdict::Host(to) => format!("dnat {} to {to}", header(Family::of(&to.ip()))),
            NftVerdict::Chain { verb, chain } => format!("{verb} {}", chain.name),
            NftVerdict::Mark(mark) => set_mark("meta mark", *mark),
            // It ends the chain: a zone that another rule gives would have the packet tracked after all
            // (`nft_ct_set_zone_eval`, net/netfilter/nft_ct.c).
            NftVerdict::Untracked => "notrack accept".to_owned(),
            NftVerdict::Statement(text) => text.clone(),
        }
    }
}

/// Reads a target. `chain` says how nft calls a chain of ours.
pub(crate) fn verdict(target: &[&str], family: Family, chain: &dyn Fn(&str) -> Option<String>) -> Option<NftVerdict> {
    let text = |text: &str| Some(NftVerdict::Statement(text.to_owned()));
    match target {
        ["RETURN"] => text("return"),
        ["ACCEPT"] => text("accept"),
        ["REDIRECT"] => text("redirect"),
        ["REDIRECT", "--to-ports", port] => port.parse().ok().map(NftVerdict::Port),
        ["DNAT", "--to-destination", to] => to.parse().ok().map(NftVerdict::Host).or_else(|| host(to)),
        ["MASQUERADE"] => text("masquerade"),
        ["REJECT", "--reject-with", "icmp-port-unreachable" | "icmp6-port-unreachable"] => {
            text("reject with icmpx port-unreachable")
        }
        ["REJECT", "--reject-with", "tcp-reset"] => text("reject with tcp reset"),
        ["TPROXY", "--on-port", port, "--tproxy-mark", mark] => intercept(None, port, mark, family),
        ["TPROXY", "--on-port", port, "--on-ip", ip, "--tproxy-mark", mark] => intercept(Some(ip), port, mark, family),
        ["MARK", "--set-xmark", mark] => mark.parse().ok().map(NftVerdict::Mark),
        ["CONNMARK", "--set-xmark", mark] => {
            mark.parse().ok().map(|mark| NftVerdict::Statement(set_mark("ct mark", mark)))
        }
        ["CT", "--notrack"] => Some(NftVerdict::Untracked),
        ["CT", "--zone-orig", zone] => text(&format!("ct original zone set {zone}")),
        [name] => chain(name).map(|name| NftVerdict::Statement(format!("jump {name}"))),
        _ => None,
    }
}

/// Another host, and the same port.
fn host(to: &str) -> Option<NftVerdict> {
    let ip: IpAddr = to.parse().ok()?;
    Some(NftVerdict::Statement(format!("dnat {} to {ip}", header(Family::of(&ip)))))
}

/// Hands a new connection to a socket. Where no such socket listens, TPROXY of iptables drops the packet (`tproxy_tg4`,
/// net/netfilter/xt_TPROXY.c), and that of nft goes on to the next rule, which is not to decide about it.
fn intercept(ip: Option<&str>, port: &str, mark: &str, family: Family) -> Option<NftVerdict> {
    let (port, mark): (u16, Mark) = (port.parse().ok()?, mark.parse().ok()?);
    let to = match ip.map(str::parse).transpose().ok()? {
        None => format!(":{port}"),
        Some(ip) => SocketAddr::new(ip, port).to_string(),
    };
    let address = ip.map(|ip| format!("{}.", ip.replace(':', "-"))).unwrap_or_default();
    let rules = vec![
        format!("meta l4proto tcp tproxy {} to {to} {} accept", header(family), set_mark("meta mark", mark)),
        "drop".to_owned(),
    ];
    let name = format!("to{}.{address}{port}", number(family));
    Some(NftVerdict::Chain { verb: "goto", chain: TargetChain { name, rules } })
}

/// Where `-m socket` stands right before the target: the other conditions, this one, and the verdict that goes with it.
///
/// iptables leaves out sockets that listen at all addresses (`socket_match`, net/netfilter/xt_socket.c). nft has a question
/// of its own for this, which sockets that are not whole cannot be asked (`nft_socket_eval`, net/netfilter/nft_socket.c):
/// such as one in TIME-WAIT. So those that listen are sent away, behind the first question.
pub(crate) fn for_sockets(
    conditions: &[String],
    verdict: NftVerdict,
    family: Family,
) -> (&[String], Option<Comparison>, NftVerdict) {
    let is = |words: &[String], wanted: &[&str]| words.iter().map(String::as_str).eq(wanted.iter().copied());
    let of = |before: usize, wanted: &[&str]| {
        let (others, last) = conditions.split_at_checked(conditions.len().checked_sub(before)?)?;
        is(last, wanted).then_some(others)
    };
    let (others, values) = match (of(3, &["-m", "socket", "--transparent"]), of(2, &["-m", "socket"])) {
        (Some(others), _) => (others, vec!["1".to_owned()]),
        (None, Some(others)) => (others, vec!["0".to_owned(), "1".to_owned()]),
        (None, None) => return (conditions, None, verdict),
    };
    let name = match &verdict {
        NftVerdict::Mark(mark) => format!("{MARK}{}.{mark}", number(family)),
        NftVerdict::Untracked => format!("untracked{}", number(family)),
        _ => return (conditions, None, verdict),
    };
    let chain = TargetChain { name, rules: vec!["socket wildcard 1 return".to_owned(), verdict.text()] };
    (others, Some(Comparison::new("socket transparent", false, values)), NftVerdict::Chain { verb: "jump", chain })
}

/// The mark that a chain of this name gives to packets of established connections, and the family of these.
pub(crate) fn mark_of(chain: &str) -> Option<(Family, Mark)> {
    let (of, mark) = chain.strip_prefix(MARK)?.split_once('.')?;
    let family = Family::BOTH.into_iter().find(|family| number(*family) == of)?;
    Some((family, mark.parse().ok()?))
}

/// How the names of chains say a family.
pub(crate) fn number(family: Family) -> &'static str {
    match family {
        Family::V4 => "4",
        Family::V6 => "6",
    }
}

/// Sets the bits of a mark, and no others.
fn set_mark(field: &str, Mark { value, mask }: Mark) -> String {
    match !mask {
        0 => format!("{field} set {value:#x}"),
        others => format!("{field} set {field} & {others:#x} ^ {value:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::nft::nft_rule::NftRule;

    /// The rule, and the rules of its chain.
    fn translated(rule: &str, family: Family) -> String {
        let rules = NftRule::translate(rule, family, &|name| (name == "tproxy.1").then(|| "nat4".to_owned())).unwrap();
        let [one] = rules.as_slice() else { panic!("{rules:?}") };
        let of_chain = match &one.verdict {
            NftVerdict::Chain { chain, .. } => format!(" [{}]", chain.rules.join("; ")),
            _ => String::new(),
        };
        one.text(family).0 + &of_chain
    }

    #[test]
    fn targets_do_the_same_with_nft() {
        let mark = "0x10000000/0x30000000";
        for (rule, family, wanted) in [
            ("-j tproxy.1", Family::V4, "jump nat4".to_owned()),
            (
                "-p tcp -j TPROXY --on-port 7 --tproxy-mark 0x10000000/0x30000000",
                Family::V4,
                "meta l4proto tcp goto to4.7 [meta l4proto tcp tproxy ip to :7 meta mark set meta mark & 0xcfffffff ^ \
                 0x10000000 accept; drop]"
                    .to_owned(),
            ),
            (
                "-j TPROXY --on-port 7 --on-ip ::1 --tproxy-mark 0x1/0xffffffff",
                Family::V6,
                "goto to6.--1.7 [meta l4proto tcp tproxy ip6 to [::1]:7 meta mark set 0x1 accept; drop]".to_owned(),
            ),
            (
                "-m socket --transparent -j MARK --set-xmark 0x10000000/0x30000000",
                Family::V6,
                format!(
                    "socket transparent 1 jump mark6.{mark} [socket wildcard 1 return; meta mark set meta mark & \
                     0xcfffffff ^ 0x10000000]"
                ),
            ),
            (
                "-p tcp -s 10.0.0.1 -m socket -j CT --notrack",
                Family::V4,
                "meta l4proto tcp ip saddr 10.0.0.1 socket transparent { 0, 1 } jump untracked4 [socket wildcard 1 \
                 return; notrack accept]"
                    .to_owned(),
            ),
            ("-j CT --zone-orig 9", Family::V4, "ct original zone set 9".to_owned()),
            ("-j CONNMARK --set-xmark 0x1/0x3", Family::V4, "ct mark set ct mark & 0xfffffffc ^ 0x1".to_owned()),
        ] {
            assert_eq!(translated(rule, family), wanted, "{rule}");
        }
        assert_eq!(mark_of(&format!("mark6.{mark}")), Some((Family::V6, mark.parse().unwrap())));
        assert_eq!(mark_of("mangle4.sock"), None);
        let socket_of_others = NftRule::translate("-m socket -j RETURN", Family::V4, &|_| None);
        assert_eq!(socket_of_others, Err("-m socket".to_owned()));
    }
}
