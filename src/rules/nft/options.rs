//! The options of iptables' match modules that nft has words for (iptables-extensions(8)), and which of them a word means.

use crate::rules::groups::OptionWords;

/// A module with all of its options: an abbreviation must not be taken for one that it does not mean.
type Module = (&'static str, &'static [&'static str]);

const MODULES: &[Module] = &[
    ("addrtype", &["src-type", "dst-type", "limit-iface-in", "limit-iface-out"]),
    ("comment", &["comment"]),
    ("connmark", &["mark"]),
    (
        "conntrack",
        &[
            "ctstate",
            "ctproto",
            "ctorigsrc",
            "ctorigdst",
            "ctreplsrc",
            "ctrepldst",
            "ctorigsrcport",
            "ctorigdstport",
            "ctreplsrcport",
            "ctrepldstport",
            "ctstatus",
            "ctexpire",
            "ctdir",
        ],
    ),
    ("dscp", &["dscp", "dscp-class"]),
    (
        "hashlimit",
        &[
            "hashlimit",
            "hashlimit-upto",
            "hashlimit-above",
            "hashlimit-burst",
            "hashlimit-mode",
            "hashlimit-srcmask",
            "hashlimit-dstmask",
            "hashlimit-name",
            "hashlimit-htable-size",
            "hashlimit-htable-max",
            "hashlimit-htable-expire",
            "hashlimit-htable-gcinterval",
            "hashlimit-rate-match",
            "hashlimit-rate-interval",
        ],
    ),
    ("iprange", &["src-range", "dst-range"]),
    ("limit", &["limit", "limit-burst"]),
    ("mac", &["mac-source"]),
    ("mark", &["mark"]),
    ("multiport", &["source-ports", "sports", "destination-ports", "dports", "ports"]),
    ("owner", &["uid-owner", "gid-owner", "socket-exists", "suppl-groups"]),
    ("pkttype", &["pkt-type"]),
    ("set", &["match-set", "return-nomatch", "update-counters", "update-subcounters", "packets-eq", "bytes-eq"]),
    ("state", &["state"]),
    ("tcp", &["source-port", "sport", "destination-port", "dport", "syn", "tcp-flags", "tcp-option"]),
    (
        "time",
        &[
            "timestart",
            "timestop",
            "weekdays",
            "monthdays",
            "datestart",
            "datestop",
            "kerneltz",
            "localtz",
            "utc",
            "contiguous",
        ],
    ),
    ("udp", &["source-port", "sport", "destination-port", "dport"]),
];

/// Options of iptables itself that may be part of a match.
const OF_IPTABLES: &[(&str, &str)] = &[
    ("-i", "in-interface"),
    ("-o", "out-interface"),
    ("-f", "fragments"),
    ("-m", "match"),
    ("-p", "protocol"),
    ("-s", "source"),
    ("-s", "src"),
    ("-d", "destination"),
    ("-d", "dst"),
];

/// What an option of a rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// An option of iptables itself, by its letter.
    Core(&'static str),
    /// An option of a module: the module, and the full name.
    Of(&'static str, &'static str),
}

/// The modules that a rule has named so far.
#[derive(Debug)]
pub(crate) struct Modules {
    protocol: &'static str,
    /// The last one first: its options hide those of the same name (`xtables_options_xfrm`, libxtables/xtables.c).
    loaded: Vec<&'static Module>,
}

impl Modules {
    /// For a rule about this protocol, whose module needs not be named.
    pub(crate) fn new(protocol: &str) -> Modules {
        Modules { protocol: if protocol == "udp" { "udp" } else { "tcp" }, loaded: Vec::new() }
    }

    /// The rule names a module. Returns whether it is known here.
    pub(crate) fn load(&mut self, name: &str) -> bool {
        let found = MODULES.iter().find(|(module, _)| *module == name);
        self.loaded.splice(0..0, found);
        found.is_some()
    }

    /// What an option means. getopt_long(3) takes every abbreviation that only one option begins with.
    pub(crate) fn meaning(&self, group: &OptionWords) -> Option<Meaning> {
        let Some(name) = group.option.strip_prefix("--") else {
            return OF_IPTABLES
                .iter()
                .find(|(letter, _)| *letter == group.option)
                .map(|(letter, _)| Meaning::Core(letter));
        };
        let protocol = MODULES.iter().find(|(module, _)| *module == self.protocol);
        let of_modules = |modules: &mut dyn Iterator<Item = &&'static Module>| -> Vec<Meaning> {
            let of = |(module, options): &&'static Module| options.iter().map(|option| Meaning::Of(module, option));
            modules.flat_map(of).collect()
        };
        let mut all = of_modules(&mut self.loaded.iter());
        all.extend(OF_IPTABLES.iter().map(|(letter, _)| Meaning::Core(letter)));
        // The protocol's module is asked when no other knows the option.
        chosen(name, &all).or_else(|| chosen(name, &of_modules(&mut protocol.iter())))
    }
}

impl Meaning {
    fn names(self) -> Vec<&'static str> {
        match self {
            Meaning::Of(_, option) => vec![option],
            Meaning::Core(letter) => {
                OF_IPTABLES.iter().filter(|(one, _)| *one == letter).map(|(_, name)| *name).collect()
            }
        }
    }
}

/// The option of this name, or the only one that begins so.
fn chosen(name: &str, all: &[Meaning]) -> Option<Meaning> {
    let exact = all.iter().find(|meaning| meaning.names().contains(&name));
    let mut beginning = all.iter().filter(|meaning| meaning.names().iter().any(|whole| whole.starts_with(name)));
    let first = beginning.next();
    exact.or(first.filter(|first| beginning.all(|other| other == *first))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(modules: &[&str], option: &str) -> Option<Meaning> {
        let mut loaded = Modules::new("tcp");
        modules.iter().for_each(|module| assert!(loaded.load(module)));
        loaded.meaning(&OptionWords { negated: false, option, values: Vec::new() })
    }

    #[test]
    fn names_and_abbreviations_are_understood_as_iptables_does() {
        for (modules, option, wanted) in [
            (&[][..], "--dport", Some(Meaning::Of("tcp", "dport"))),
            (&[], "--tcp-f", Some(Meaning::Of("tcp", "tcp-flags"))),
            (&["multiport"], "--dport", Some(Meaning::Of("multiport", "dports"))),
            (&["multiport"], "--port", Some(Meaning::Of("multiport", "ports"))),
            (&["mark"], "--mark", Some(Meaning::Of("mark", "mark"))),
            (&["mark", "connmark"], "--mark", Some(Meaning::Of("connmark", "mark"))),
            (&["conntrack"], "--ctorigdst", Some(Meaning::Of("conntrack", "ctorigdst"))),
            (&["conntrack"], "--ctorig", None),
            (&[], "--in-int", Some(Meaning::Core("-i"))),
            (&[], "-o", Some(Meaning::Core("-o"))),
            (&[], "--ctstate", None),
            (&[], "-x", None),
        ] {
            assert_eq!(meaning(modules, option), wanted, "{modules:?} {option}");
        }
    }

    #[test]
    fn an_unknown_module_is_not_loaded() {
        assert!(!Modules::new("udp").load("string"));
    }
}
