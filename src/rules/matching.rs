//! A MATCH: the value of `-R`, `-X` and `--reject`, which is what iptables(8) takes between the chain and `-j`. It is
//! split as a shell would split it, every word is judged, and host names are replaced by addresses. So nothing but a
//! match ever reaches iptables-restore.

use std::net::IpAddr;

use crate::error::Error;
use crate::rules::address::{Family, MatchAddresses};
use crate::rules::{groups, one_family};

/// The protocols that a relay can take, for [`Match::parse`].
pub(crate) const RELAYED: &[&str] = &["tcp"];

/// Long options of iptables that are no match: commands, targets, and settings of iptables itself.
const FORBIDDEN: &[&str] = &[
    "append",
    "check",
    "delete",
    "delete-chain",
    "exact",
    "flush",
    "goto",
    "help",
    "insert",
    "ipv4",
    "ipv6",
    "jump",
    "line-numbers",
    "list",
    "list-rules",
    "modprobe",
    "new-chain",
    "numeric",
    "policy",
    "rename-chain",
    "replace",
    "set-counters",
    "table",
    "verbose",
    "version",
    "wait",
    "wait-interval",
    "zero",
];

/// Options of match modules whose full name is also an abbreviation of a forbidden one. getopt_long(3) prefers the full
/// name, but only once the module is loaded.
const OF_MODULES: &[(&str, &[&str])] = &[("pol", &["policy"]), ("set", &["recent", "set"])];

const ONLY_A_MATCH: &str = "a match, which is what iptables(8) takes between the chain and -j";

/// Keeps a rule within a line of iptables-restore, which reads at most 10240 characters.
const LONGEST: usize = 4096;

/// Addresses in one list. iptables-restore takes words of at most 1,023 letters, and an IPv6 address with its mask has up
/// to 79.
const LIST: usize = 12;

/// The most rules of one MATCH in one family. iptables-nft takes seconds for so many.
const RULES: usize = 8192;

/// A valid MATCH whose host names are still to be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    option: String,
    text: String,
    protocol: String,
    source: Option<MatchAddresses>,
    destination: Option<MatchAddresses>,
    rest: Vec<String>,
}

/// A MATCH for one address family, with its host names replaced by addresses. When they are many, it is a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedMatch {
    pub family: Family,
    pub protocol: String,
    /// The words for iptables, not quoted, starting with `-p`.
    pub words: Vec<String>,
    /// How many rules iptables makes of it: one per combination of a source and a destination.
    pub expands_to: usize,
}

impl Match {
    /// Checks a MATCH as typed. Errors name `option`, the tproxy option whose value it is. It may name one of
    /// `protocols`; if it names none, the first is meant.
    pub fn parse(option: &str, text: &str, protocols: &[&str]) -> Result<Match, Error> {
        if text.chars().any(char::is_control) || text.len() > LONGEST {
            let wants = format!("one line of at most {LONGEST} characters without control characters");
            return Err(Error::value(option, text.escape_debug().to_string(), wants));
        }
        let words = shell_words::split(text).map_err(|_| Error::value(option, text, "every quote closed"))?;
        if words.is_empty() {
            return Err(Error::value(option, text, "a match, for example '--dport 80' (all of tcp is '-p tcp')"));
        }
        let found = Parser::new(option, text, protocols, words).read()?;
        if !Family::BOTH.iter().any(|family| found.peers().all(|peers| peers.may_be(*family))) {
            return Err(Error::value(option, text, "source and destination of one address family"));
        }
        if !found.families().any(|family| found.peers().all(|peers| peers.may_be(family))) {
            return Err(Error::value(option, text, "conditions of one address family"));
        }
        Ok(found)
    }

    /// The option and the text as typed, for example `-R '-d moose'`.
    pub(crate) fn shown(&self) -> String {
        format!("{} '{}'", self.option, self.text)
    }

    /// The host names that [`Match::resolve`] will look up.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for name in self.peers().flat_map(MatchAddresses::names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Replaces the host names by their addresses, and says what is left for each family. Pure: it asks only `lookup`.
    ///
    /// A family in which a name has no address is left out, and so is a name without any address; nothing may be left
    /// then. Errors: names that have addresses, but no family in common, or a negated name with several addresses
    /// (iptables cannot express "none of these").
    pub fn resolve(&self, lookup: &dyn Fn(&str) -> Vec<IpAddr>) -> Result<Vec<ResolvedMatch>, Error> {
        let failed = |why: String| Error::Failed(format!("{}: {why}", self.shown()));
        let mut resolved = Vec::new();
        for family in self.families() {
            resolved.extend(self.resolve_for(family, lookup).map_err(failed)?);
        }
        if resolved.is_empty() && self.names().into_iter().all(|name| !lookup(name).is_empty()) {
            let what = if self.families().count() == 2 { "source and destination" } else { "its conditions" };
            return Err(failed(format!("{what} have no address family in common")));
        }
        Ok(resolved)
    }

    /// The protocol that it names or that is meant.
    pub(crate) fn protocol(&self) -> &str {
        &self.protocol
    }

    /// The destination port, if it names a single one.
    pub(crate) fn port(&self) -> Option<u16> {
        groups::only_port(&self.rest)
    }

    /// The sets of ipset(8) that it names.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &str> {
        one_family::sets(&self.rest)
    }

    /// All but protocol, source and destination.
    pub(crate) fn conditions(&self) -> &[String] {
        &self.rest
    }

    /// The families that know all of its conditions but source and destination.
    fn families(&self) -> impl Iterator<Item = Family> {
        one_family::families(&self.rest).into_iter()
    }

    fn peers(&self) -> impl Iterator<Item = &MatchAddresses> {
        self.source.iter().chain(&self.destination)
    }

    fn resolve_for(&self, family: Family, lookup: &dyn Fn(&str) -> Vec<IpAddr>) -> Result<Vec<ResolvedMatch>, String> {
        let protocol = self.protocol.clone();
        let words = vec!["-p".into(), protocol.clone()];
        let mut found = vec![ResolvedMatch { family, protocol, words, expands_to: 1 }];
        for (flag, peers) in [("-s", &self.source), ("-d", &self.destination)] {
            let Some(peers) = peers else { continue };
            let addresses = peers.addresses(family, lookup);
            if peers.negated && addresses.len() > 1 {
                let names = peers.names().collect::<Vec<_>>().join(",");
                let all = addresses.join(", ");
                return Err(format!("'! {flag} {names}' cannot be one rule, for it has several addresses: {all}"));
            }
            // Without any address nothing is left of it.
            let lists: Vec<&[String]> = addresses.chunks(LIST).collect();
            found = found.iter().flat_map(|former| lists.iter().map(|list| former.with(flag, peers, list))).collect();
        }
        for one in &mut found {
            one.words.extend(self.rest.iter().cloned());
        }
        let count: usize = found.iter().map(|one| one.expands_to).sum();
        match count {
            0..=RULES => Ok(found),
            _ => Err(format!("source and destination combine to {count} rules, and at most {RULES} are supported")),
        }
    }
}

impl ResolvedMatch {
    /// The same with a source or a destination behind it.
    fn with(&self, flag: &str, peers: &MatchAddresses, list: &[String]) -> ResolvedMatch {
        let mut longer = self.clone();
        longer.words.extend(peers.negated.then(|| "!".to_owned()));
        longer.words.extend([flag.to_owned(), list.join(",")]);
        longer.expands_to *= list.len();
        longer
    }
}

/// A word that starts with a dash.
enum Flag {
    Source,
    Destination,
    Protocol,
    /// A one-letter option that takes a value.
    Valued(char),
    /// `-f`, which takes none.
    Alone,
    /// Any other long option. Only iptables knows whether it takes values.
    Long,
}

/// Goes through the words once. What a word may be depends on those before it.
struct Parser<'a> {
    protocols: &'a [&'a str],
    modules: Vec<String>,
    words: std::vec::IntoIter<String>,
    named_protocol: bool,
    negated: bool,
    value_may_follow: bool,
    found: Match,
}

impl<'a> Parser<'a> {
    fn new(option: &str, text: &str, protocols: &'a [&'a str], words: Vec<String>) -> Parser<'a> {
        let found = Match {
            option: option.to_string(),
            text: text.to_string(),
            protocol: protocols.first().unwrap_or(&"tcp").to_string(),
            source: None,
            destination: None,
            rest: Vec::new(),
        };
        let modules = words.iter().map(|w| w.trim_start_matches("--match=").trim_start_matches("-m").to_string());
        Parser {
            protocols,
            modules: modules.collect(),
            words: words.into_iter(),
            named_protocol: false,
            negated: false,
            value_may_follow: false,
            found,
        }
    }

    fn read(mut self) -> Result<Match, Error> {
        while let Some(word) = self.words.next() {
            if word == "!" && !self.negated {
                self.negated = true;
            } else if word.starts_with('-') {
                self.option(&word)?;
            } else if self.negated {
                return Err(self.refused(&format!("! {word}"), "an option after '!'"));
            } else if self.value_may_follow {
                self.found.rest.push(word);
            } else {
                return Err(self.refused(&word, "an option before the value"));
            }
        }
        if self.negated {
            return Err(self.refused("!", "an option after '!'"));
        }
        Ok(self.found)
    }

    fn option(&mut self, word: &str) -> Result<(), Error> {
        let (flag, value) = self.flag(word).ok_or_else(|| self.refused(word, ONLY_A_MATCH))?;
        let negated = std::mem::take(&mut self.negated);
        self.value_may_follow = false;
        match flag {
            Flag::Protocol => self.protocol(word, value, negated),
            Flag::Source | Flag::Destination => {
                let value = self.value(word, value)?;
                let peers = MatchAddresses::parse(&self.found.option, &value, negated)?;
                let place =
                    if matches!(flag, Flag::Source) { &mut self.found.source } else { &mut self.found.destination };
                if place.replace(peers).is_some() {
                    return Err(self.refused(word, "each of -s and -d only once"));
                }
                Ok(())
            }
            Flag::Valued(letter) => {
                let value = self.value(word, value)?;
                self.keep(negated, [format!("-{letter}"), value]);
                Ok(())
            }
            Flag::Alone => {
                self.keep(negated, [word.to_string()]);
                Ok(())
            }
            Flag::Long => {
                self.keep(negated, [word.to_string()]);
                self.value_may_follow = true;
                Ok(())
            }
        }
    }

    /// Writes an option apart from its value: iptables-restore 1.8.9 takes `-ieth0` for an interface called `-ieth0`.
    fn keep<const N: usize>(&mut self, negated: bool, words: [String; N]) {
        self.found.rest.extend(negated.then(|| "!".to_string()));
        self.found.rest.extend(words);
    }

    /// The option that a word is, with the value attached to it; `None` if it is no part of a match. Every word with a
    /// dash is judged, even one that could be a value: only iptables knows which options take one.
    fn flag(&self, word: &str) -> Option<(Flag, Option<String>)> {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (long, None),
            };
            return Some((self.long(name)?, value));
        }
        let mut letters = word.chars().skip(1);
        let letter = letters.next()?;
        let attached: String = letters.collect();
        let value = (!attached.is_empty()).then_some(attached);
        match letter {
            's' => Some((Flag::Source, value)),
            'd' => Some((Flag::Destination, value)),
            'p' => Some((Flag::Protocol, value)),
            'i' | 'o' | 'm' => Some((Flag::Valued(letter), value)),
            // In a cluster such as `-fjACCEPT` the rest would be options again.
            'f' if value.is_none() => Some((Flag::Alone, None)),
            _ => None,
        }
    }

    /// getopt_long(3) takes any abbreviation of a long name, so an abbreviation of a forbidden one is forbidden too.
    fn long(&self, name: &str) -> Option<Flag> {
        let begins = |whole: &str| whole.starts_with(name);
        if FORBIDDEN.iter().any(|whole| begins(whole)) && !self.is_of_module(name) {
            return None;
        }
        Some(match () {
            () if begins("source") || begins("src") => Flag::Source,
            () if begins("destination") || begins("dst") => Flag::Destination,
            () if begins("protocol") => Flag::Protocol,
            () => Flag::Long,
        })
    }

    fn is_of_module(&self, name: &str) -> bool {
        let named = |module: &&str| self.modules.iter().any(|given| given == module);
        OF_MODULES.iter().any(|(option, modules)| *option == name && modules.iter().any(named))
    }

    fn protocol(&mut self, word: &str, value: Option<String>, negated: bool) -> Result<(), Error> {
        let value = self.value(word, value)?;
        let name = match value.to_ascii_lowercase().as_str() {
            "6" => "tcp".to_string(),
            "17" => "udp".to_string(),
            other => other.to_string(),
        };
        if negated || !self.protocols.contains(&name.as_str()) {
            let given = format!("{}-p {value}", if negated { "! " } else { "" });
            let why = if self.protocols == RELAYED { " (a relay takes tcp)" } else { "" };
            return Err(self.refused(&given, &format!("-p {}{why}", self.protocols.join(" or -p "))));
        }
        if std::mem::replace(&mut self.named_protocol, true) {
            return Err(self.refused(word, "-p only once"));
        }
        self.found.protocol = name;
        Ok(())
    }

    /// The value of an option that needs one: attached to it, or the next word.
    fn value(&mut self, word: &str, attached: Option<String>) -> Result<String, Error> {
        attached
            .or_else(|| self.words.next())
            .filter(|value| !value.is_empty() && value != "!" && !value.starts_with('-'))
            .ok_or_else(|| self.refused(word, "a value after it"))
    }

    fn refused(&self, given: &str, wants: &str) -> Error {
        Error::value(&self.found.option, given, wants)
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
