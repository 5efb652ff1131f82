//! A rule of a plan, translated for nft.

use crate::rules::address::Family;
use crate::rules::chains::unquote;
use crate::rules::nft::extensions::KeptSet;
use crate::rules::nft::targets::{self, NftVerdict};
use crate::rules::nft::translation::{NftMatch, Part, translate};

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
        let verdict = targets::verdict(&target, family, chain).ok_or_else(|| format!("-j {}", target.join(" ")))?;
        let (conditions, socket, verdict) = targets::for_sockets(conditions, verdict, family);
        let with = |mut matching: NftMatch| {
            matching.parts.extend(socket.clone().map(Part::Compare));
            NftRule { matching, verdict: verdict.clone() }
        };
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

/// nft takes a comment of at most 128 characters, and none with a quote in it.
fn comment(text: &str) -> Option<String> {
    let plain = |letter: char| letter.is_ascii_graphic() && letter != '"' && letter != '\\' || letter == ' ';
    (text.len() < 128 && text.chars().all(plain)).then(|| format!("comment \"{text}\""))
}
