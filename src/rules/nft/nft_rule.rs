//! A rule of a plan, translated for nft.

use std::net::{IpAddr, SocketAddr};

use crate::rules::address::Family;
use crate::rules::chains::unquote;
use crate::rules::nft::addresses::header;
use crate::rules::nft::extensions::KeptSet;
use crate::rules::nft::translation::{NftMatch, Part, translate};

/// What happens to what matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NftVerdict {
    /// A new port on this host.
    Port(u16),
    /// Another host.
    Host(SocketAddr),
    /// Any other statement, as nft writes it.
    Statement(String),
}

/// A rule: conditions and a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NftRule {
    pub matching: NftMatch,
    pub verdict: NftVerdict,
}

impl NftRule {
    /// Translates the text of a rule for iptables-restore. One rule may become several. `chain` says how nft calls a chain
    /// of ours.
    ///
    /// Errors: what nft has no words for.
    pub(crate) fn translate(
        text: &str,
        family: Family,
        chain: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<NftRule>, String> {
        let words = unquote(text);
        let at = words.iter().rposition(|word| word == "-j").unwrap_or(words.len());
        let (conditions, target) = words.split_at_checked(at).unwrap_or((&words, &[]));
        let target: Vec<&str> = target.iter().skip(1).map(String::as_str).collect();
        let verdict = verdict(&target, chain).ok_or_else(|| format!("-j {}", target.join(" ")))?;
        let with = |matching| NftRule { matching, verdict: verdict.clone() };
        Ok(translate(conditions, family)?.into_iter().map(with).collect())
    }

    /// The protocol that it is about.
    pub(crate) fn protocol(&self) -> &'static str {
        let udp =
            |part: &Part| matches!(part, Part::Compare(one) if one.left == "meta l4proto" && one.values == ["udp"]);
        if self.matching.parts.iter().any(udp) { "udp" } else { "tcp" }
    }

    /// The rule as nft writes it, and the sets that it needs.
    pub(crate) fn text(&self, family: Family) -> (String, Vec<KeptSet>) {
        let parts = self.matching.parts.iter().filter_map(|part| part.text(family, self.protocol()));
        let (mut words, sets): (Vec<String>, Vec<Option<KeptSet>>) = parts.unzip();
        words.retain(|word| !word.is_empty());
        words.push(self.verdict.text());
        words.extend(self.matching.comment.as_deref().and_then(comment));
        (words.join(" "), sets.into_iter().flatten().collect())
    }
}

impl NftVerdict {
    fn text(&self) -> String {
        match self {
            NftVerdict::Port(port) => format!("redirect to :{port}"),
            NftVerdict::Host(to) => format!("dnat {} to {to}", header(Family::of(&to.ip()))),
            NftVerdict::Statement(text) => text.clone(),
        }
    }
}

/// nft takes a comment of at most 128 characters, and none with a quote in it.
fn comment(text: &str) -> Option<String> {
    let plain = |letter: char| letter.is_ascii_graphic() && letter != '"' && letter != '\\' || letter == ' ';
    (text.len() < 128 && text.chars().all(plain)).then(|| format!("comment \"{text}\""))
}

/// Another host, and the same port.
fn host(to: &str) -> Option<NftVerdict> {
    let ip: IpAddr = to.parse().ok()?;
    Some(NftVerdict::Statement(format!("dnat {} to {ip}", header(Family::of(&ip)))))
}

fn verdict(target: &[&str], chain: &dyn Fn(&str) -> Option<String>) -> Option<NftVerdict> {
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
        [name] => chain(name).map(|name| NftVerdict::Statement(format!("jump {name}"))),
        _ => None,
    }
}
