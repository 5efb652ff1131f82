//! The words of a rule, which are iptables', translated for nft. What nft has no words for is named, not guessed.

use crate::rules::address::Family;
use crate::rules::chains::Rule;
use crate::rules::groups::{OptionWords, groups};
use crate::rules::matching::ResolvedMatch;
use crate::rules::nft::addresses::{Network, header};
use crate::rules::nft::conditions::{self, Alternatives, Comparison, always};
use crate::rules::nft::extensions::{HashLimit, KeptSet, Limit, Time};
use crate::rules::nft::options::{Meaning, Modules};

/// The conditions of a rule for nft, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NftMatch {
    pub parts: Vec<Part>,
    /// What the rule is for, as its author wrote it.
    pub comment: Option<String>,
}

/// A part of a rule that must hold so that the next one is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Compare(Comparison),
    Limit(Limit),
    HashLimit(HashLimit),
    Time(Time),
}

impl Part {
    /// The part as nft writes it, and the set that it needs.
    pub(crate) fn text(&self, family: Family, protocol: &str) -> Option<(String, Option<KeptSet>)> {
        match self {
            Part::Compare(comparison) => Some((comparison.text(), None)),
            Part::Limit(limit) => Some((limit.text()?, None)),
            Part::HashLimit(limit) => limit.statement(family, protocol).map(|(text, set)| (text, Some(set))),
            Part::Time(time) => {
                let texts: Vec<String> = time.comparisons()?.iter().map(Comparison::text).collect();
                Some((texts.join(" "), None))
            }
        }
    }
}

/// Translates conditions. It may take several rules, of which one must match, or none if they can never hold.
///
/// Errors: what nft has no words for.
pub(crate) fn translate<W: AsRef<str>>(words: &[W], family: Family) -> Result<Vec<NftMatch>, String> {
    let groups = groups(words);
    let protocol = groups.iter().find(|group| group.option == "-p").and_then(|group| group.values.first().copied());
    let protocol = protocol.unwrap_or("tcp");
    let (modules, all) = (Modules::new(protocol), vec![PlacedParts::default()]);
    let mut translator = Translator { family, protocol, modules, places: Vec::new(), comment: None, all };
    for group in &groups {
        translator.add(group)?;
    }
    let all = translator.finish();
    let untranslated = |part: &&Part| part.text(family, protocol).is_none();
    match all.iter().flat_map(|one| &one.parts).find(untranslated) {
        None => Ok(all.into_iter().flat_map(one_limit_each).collect()),
        Some(Part::HashLimit(_)) => Err("this use of -m hashlimit".into()),
        Some(Part::Limit(_)) => Err("this use of -m limit".into()),
        Some(_) => Err("this use of -m time".into()),
    }
}

/// A rule with a limit for each combination of addresses, as iptables has it.
fn one_limit_each(rule: NftMatch) -> Vec<NftMatch> {
    if !rule.parts.iter().any(|part| matches!(part, Part::Limit(_))) {
        return vec![rule];
    }
    let mut all = vec![NftMatch { parts: Vec::new(), ..rule.clone() }];
    for part in rule.parts {
        let each = match &part {
            Part::Compare(one) if !one.negated && one.left.ends_with("addr") => {
                let only = |value: &String| Part::Compare(Comparison { values: vec![value.clone()], ..one.clone() });
                one.values.iter().map(only).collect()
            }
            _ => vec![part],
        };
        let with = |former: &NftMatch, part: &Part| {
            let mut longer = former.clone();
            longer.parts.push(part.clone());
            longer
        };
        all = all.iter().flat_map(|former| each.iter().map(move |part| with(former, part))).collect();
    }
    all
}

/// Parts, each with its place: iptables asks the modules in the order in which they are named, and each for all of its
/// options.
type PlacedParts = Vec<(usize, Part)>;

struct Translator<'a> {
    family: Family,
    protocol: &'a str,
    modules: Modules,
    /// The modules in order. What is asked of none of them comes first.
    places: Vec<String>,
    comment: Option<String>,
    /// The alternatives so far.
    all: Vec<PlacedParts>,
}

impl Translator<'_> {
    fn add(&mut self, group: &OptionWords) -> Result<(), String> {
        let named = || group.words().collect::<Vec<_>>().join(" ");
        let meaning = self.modules.meaning(group).ok_or_else(named)?;
        match (meaning, group.values.as_slice()) {
            (Meaning::Core("-m"), [module]) if !group.negated => self.load(module).ok_or_else(|| unknown(module)),
            (Meaning::Of("comment", _), [text]) => {
                self.comment = Some((*text).to_owned());
                Ok(())
            }
            (Meaning::Of("set", "match-set"), [set, ..]) => Err(format!(
                "-m set --match-set {set} (nft cannot look into a set of ipset(8); the addresses themselves may stand in \
                 -s or -d, separated by commas)"
            )),
            (Meaning::Of("limit" | "hashlimit" | "time", option), values) => {
                self.setting(option, group.negated, values).ok_or_else(named)
            }
            _ => {
                let alternatives = self.comparison(meaning, group).ok_or_else(named)?;
                let place = self.place(meaning);
                self.multiply(place, &alternatives);
                Ok(())
            }
        }
    }

    /// Where an option is asked. The protocol's module is named by its first option.
    fn place(&mut self, meaning: Meaning) -> usize {
        let Meaning::Of(module, _) = meaning else { return 0 };
        let at = self.places.iter().rposition(|name| name == module).unwrap_or_else(|| {
            self.places.push(module.to_owned());
            self.places.len() - 1
        });
        at + 1
    }

    fn finish(self) -> Vec<NftMatch> {
        let sorted = |mut draft: PlacedParts| {
            draft.sort_by_key(|(place, _)| *place);
            let parts = draft.into_iter().map(|(_, part)| part).collect();
            NftMatch { parts, comment: self.comment.clone() }
        };
        self.all.into_iter().map(sorted).collect()
    }

    /// Every alternative so far with every one of these.
    fn multiply(&mut self, place: usize, alternatives: &Alternatives) {
        let with = |former: &PlacedParts, more: &Vec<Comparison>| -> PlacedParts {
            let more = more.iter().map(|one| (place, Part::Compare(one.clone())));
            former.iter().cloned().chain(more).collect()
        };
        self.all = self.all.iter().flat_map(|former| alternatives.iter().map(move |more| with(former, more))).collect();
    }

    /// A module is named. Some are a condition by themselves.
    fn load(&mut self, module: &str) -> Option<()> {
        if !self.modules.load(module) {
            return None;
        }
        self.places.push(module.to_owned());
        let part = match module {
            "limit" => Part::Limit(Limit::default()),
            "hashlimit" => Part::HashLimit(HashLimit::default()),
            "time" => Part::Time(Time::default()),
            _ => return Some(()),
        };
        let place = self.places.len();
        self.all.iter_mut().for_each(|one| one.push((place, part.clone())));
        Some(())
    }

    /// An option of a module that takes several together: it belongs to the module that was named last.
    fn setting(&mut self, option: &str, negated: bool, values: &[&str]) -> Option<()> {
        for one in &mut self.all {
            let mut parts = one.iter_mut().rev();
            parts.find_map(|(_, part)| set(part, option, negated, values))?;
        }
        Some(())
    }

    /// An option that is a comparison; `None` if nft cannot make it.
    fn comparison(&self, meaning: Meaning, group: &OptionWords) -> Option<Alternatives> {
        let (family, negated) = (self.family, group.negated);
        match (meaning, group.values.as_slice()) {
            (Meaning::Core(option), values) => self.core(option, negated, values),
            (Meaning::Of("tcp" | "udp" | "multiport", option), _) => self.transport(option, group),
            (Meaning::Of("mark", _), [value]) => conditions::mark("meta mark", negated, value),
            (Meaning::Of("connmark", _), [value]) => conditions::mark("ct mark", negated, value),
            (Meaning::Of("state", _) | Meaning::Of(_, "ctstate"), [list]) => {
                conditions::connection_state(negated, list)
            }
            (Meaning::Of("conntrack", option), [value]) => self.tracked(option, negated, value),
            (Meaning::Of("owner", "uid-owner"), [user]) => conditions::owner("meta skuid", negated, user),
            (Meaning::Of("owner", "gid-owner"), [group]) => conditions::owner("meta skgid", negated, group),
            (Meaning::Of("iprange", "src-range"), [range]) => {
                conditions::address_range(family, "saddr", negated, range)
            }
            (Meaning::Of("iprange", "dst-range"), [range]) => {
                conditions::address_range(family, "daddr", negated, range)
            }
            (Meaning::Of("mac", _), [address]) => is_mac(address)
                .then(|| vec![vec![Comparison::new("ether saddr", negated, vec![address.to_ascii_lowercase()])]]),
            (Meaning::Of("addrtype", "src-type"), [list]) => conditions::address_type(family, "saddr", negated, list),
            (Meaning::Of("addrtype", "dst-type"), [list]) => conditions::address_type(family, "daddr", negated, list),
            (Meaning::Of("pkttype", _), [name]) => conditions::packet_type(negated, name),
            (Meaning::Of("dscp", option), [value]) => conditions::dscp(family, negated, option == "dscp-class", value),
            _ => None,
        }
    }

    fn core(&self, option: &str, negated: bool, values: &[&str]) -> Option<Alternatives> {
        let ip = header(self.family);
        match (option, values) {
            ("-s", [list]) => conditions::networks(&format!("{ip} saddr"), negated, list),
            ("-d", [list]) => conditions::networks(&format!("{ip} daddr"), negated, list),
            ("-p", [protocol]) if !negated => {
                Some(vec![vec![Comparison::new("meta l4proto", false, vec![(*protocol).to_owned()])]])
            }
            ("-i", [name]) => conditions::interface("iifname", negated, name),
            ("-o", [name]) => conditions::interface("oifname", negated, name),
            ("-f", []) if self.family == Family::V4 => {
                let equals = if negated { "==" } else { "!=" };
                Some(vec![vec![Comparison::new(format!("ip frag-off & 0x1fff {equals}"), false, vec!["0".into()])]])
            }
            ("-m", _) if !negated => Some(always()),
            _ => None,
        }
    }

    /// Ports and flags.
    fn transport(&self, option: &str, group: &OptionWords) -> Option<Alternatives> {
        match (option, group.values.as_slice()) {
            ("syn", []) => conditions::tcp_flags(group.negated, "FIN,SYN,RST,ACK", "SYN"),
            ("tcp-flags", [mask, set]) => conditions::tcp_flags(group.negated, mask, set),
            ("source-port" | "sport" | "source-ports" | "sports", _) => conditions::port(self.protocol, "sport", group),
            ("destination-port" | "dport" | "destination-ports" | "dports", _) => {
                conditions::port(self.protocol, "dport", group)
            }
            ("ports", _) => conditions::port(self.protocol, "ports", group),
            _ => None,
        }
    }

    /// What connection tracking knows.
    fn tracked(&self, option: &str, negated: bool, value: &str) -> Option<Alternatives> {
        let ip = header(self.family);
        let address = |of: &str, which: &str| {
            match Network::read(value)? {
                // nft compares no bits with gaps here.
                Network::Masked { .. } => None,
                // All that are tracked.
                Network::Prefix(_, 0) => {
                    let both = vec!["original".into(), "reply".into()];
                    Some(vec![vec![Comparison::new("ct direction", negated, both)]])
                }
                Network::Prefix(..) => conditions::networks(&format!("ct {of} {ip} {which}"), negated, value),
            }
        };
        let port = |of: &str, which: &str| {
            let ports = conditions::ports(self.protocol, value).filter(|ports| ports.len() == 1)?;
            Some(vec![vec![Comparison::new(format!("ct {of} proto-{which}"), negated, ports)]])
        };
        match option {
            "ctstatus" => conditions::connection_status(negated, value),
            "ctorigsrc" => address("original", "saddr"),
            "ctorigdst" => address("original", "daddr"),
            "ctreplsrc" => address("reply", "saddr"),
            "ctrepldst" => address("reply", "daddr"),
            "ctorigsrcport" => port("original", "src"),
            "ctorigdstport" => port("original", "dst"),
            "ctreplsrcport" => port("reply", "src"),
            "ctrepldstport" => port("reply", "dst"),
            "ctdir" if !negated => {
                let direction = value.to_ascii_lowercase();
                matches!(direction.as_str(), "original" | "reply")
                    .then(|| vec![vec![Comparison::new("ct direction", false, vec![direction])]])
            }
            _ => None,
        }
    }
}

fn unknown(module: &str) -> String {
    format!("-m {module}")
}

/// Gives a part one of its settings; `None` if it has no such.
fn set(part: &mut Part, option: &str, negated: bool, values: &[&str]) -> Option<()> {
    let value = match values {
        [value] => (*value).to_owned(),
        [] if matches!(option, "utc") => return Some(()),
        _ => return None,
    };
    let place = match (part, option) {
        (Part::Time(time), "weekdays") => {
            time.weekdays = Some((negated, value));
            return Some(());
        }
        _ if negated => return None,
        (Part::Limit(limit), "limit") => &mut limit.rate,
        (Part::Limit(limit), "limit-burst") => &mut limit.burst,
        (Part::HashLimit(limit), "hashlimit" | "hashlimit-upto") => limit.rate.insert(String::new()),
        (Part::HashLimit(limit), "hashlimit-above") => {
            limit.above = true;
            limit.rate.insert(String::new())
        }
        (Part::HashLimit(limit), "hashlimit-burst") => limit.burst.insert(String::new()),
        (Part::HashLimit(limit), "hashlimit-mode") => limit.mode.insert(String::new()),
        (Part::HashLimit(limit), "hashlimit-name") => limit.name.insert(String::new()),
        (Part::HashLimit(limit), "hashlimit-htable-expire") => limit.expire.insert(String::new()),
        (Part::Time(time), "timestart") => time.start.insert(String::new()),
        (Part::Time(time), "timestop") => time.stop.insert(String::new()),
        (Part::Time(time), "datestart") => time.first.insert(String::new()),
        (Part::Time(time), "datestop") => time.last.insert(String::new()),
        _ => return None,
    };
    *place = value;
    Some(())
}

/// Six pairs of digits.
fn is_mac(text: &str) -> bool {
    let pairs: Vec<&str> = text.split(':').collect();
    pairs.len() == 6 && pairs.iter().all(|pair| pair.len() == 2 && pair.chars().all(|digit| digit.is_ascii_hexdigit()))
}

/// The conditions of a match as nft has them, one text for each rule, and the sets that they need: for tests.
pub fn without_iptables(matching: &ResolvedMatch) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut rules, mut sets) = (Vec::new(), Vec::new());
    for found in translate(&matching.words, matching.family)? {
        let parts = found.parts.iter().filter_map(|part| part.text(matching.family, &matching.protocol));
        let (texts, more): (Vec<String>, Vec<Option<KeptSet>>) = parts.unzip();
        rules.push(texts.join(" "));
        let declared = |set: KeptSet| format!("set {} {{ {} }}\n", set.name, set.declaration);
        sets.extend(more.into_iter().flatten().map(declared));
    }
    sets.sort();
    sets.dedup();
    Ok((rules, sets))
}

/// The same as iptables-restore has them.
pub fn untranslated(matching: &ResolvedMatch) -> String {
    Rule::new(&matching.words, matching.expands_to).text
}
