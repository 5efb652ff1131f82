//! Our chains and the jumps to them, as data. The same value is planned, fed to iptables-restore, read back from
//! iptables-save, compared and removed.

/// Every chain of ours has a name that begins so.
pub(crate) const PREFIX: &str = "tproxy.";

/// The tables that hold chains of ours, in the order in which they are filled: what the others let through to the filter
/// table must find its rules there.
pub(crate) const TABLES: [&str; 4] = ["filter", "raw", "mangle", "nat"];

/// What the names of the chains end with that established connections need, for packets that arrive, for answers, and
/// for connections to the upstream. They go when the last connection has ended.
pub(crate) const FOR_ESTABLISHED: &str = ".sock";
pub(crate) const FOR_ZONE: &str = ".zone";

/// The same, for a chain in OUTPUT.
pub(crate) const FOR_LOCAL_ANSWERS: &str = ".back";

/// Our part of one table of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// One of [`TABLES`].
    pub name: &'static str,
    pub chains: Vec<Chain>,
    /// The jumps to our chains from others.
    pub jumps: Vec<Jump>,
}

/// A chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// With [`PREFIX`].
    pub name: String,
    pub rules: Vec<Rule>,
}

/// A rule of a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The text behind `-A CHAIN`, quoted for iptables-restore.
    pub text: String,
    /// How many rules the kernel gets of it: iptables makes one of each combination of a source and a destination.
    pub expands_to: usize,
}

/// A rule in a chain of others that leads to a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The chain that it is in.
    pub from: String,
    /// Its number there, from 1.
    pub at: usize,
    /// Whether only jumps to chains of tproxy come before it.
    pub at_head: bool,
    pub text: String,
}

impl Table {
    pub fn new(name: &'static str) -> Table {
        Table { name, chains: Vec::new(), jumps: Vec::new() }
    }
}

impl Jump {
    /// Whether it brings packets to established connections, and no new ones.
    pub fn serves_established(&self) -> bool {
        let ends = [FOR_ESTABLISHED, FOR_LOCAL_ANSWERS, FOR_ZONE];
        unquote(&self.text).last().is_some_and(|target| ends.iter().any(|end| target.ends_with(end)))
    }

    /// Whether it is one line, as iptables-restore needs it. A comment of others may have several.
    pub fn is_line(&self) -> bool {
        !self.text.contains('\n')
    }
}

impl Rule {
    /// A rule from words that are not quoted yet.
    pub fn new<W: AsRef<str>>(words: impl IntoIterator<Item = W>, expands_to: usize) -> Rule {
        Rule { text: words.into_iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" "), expands_to }
    }
}

pub(crate) fn table<'a>(tables: &'a [Table], name: &str) -> Option<&'a Table> {
    tables.iter().find(|table| table.name == name)
}

/// The exact input for `iptables-restore --noflush` that changes `from` into `to` and leaves the rest of the tables
/// alone. From nothing it is a clean installation, to nothing a removal. Jumps that are not one line must be gone before.
///
/// In each table, chains are filled before a jump leads to them, and lose their jumps before they are deleted. A
/// removal starts with the nat table: a redirect to a port that nobody serves does the most harm. So does the end of a
/// reject: each table is a transaction of its own, and between the two clients must not reach what they are kept from.
pub(crate) fn restore_text(from: &[Table], to: &[Table]) -> String {
    let mut order = TABLES;
    if to.is_empty() || rejects(to) < rejects(from) {
        order.reverse();
    }
    let mut text = String::new();
    for name in order {
        let (old, new) = (table(from, name), table(to, name));
        if old.is_some() || new.is_some() {
            let nothing = Table::new(name);
            change_table(&mut text, old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        }
    }
    text
}

/// How many rules reject.
fn rejects(tables: &[Table]) -> usize {
    let chains = table(tables, "filter").into_iter().flat_map(|filter| &filter.chains);
    chains.flat_map(|chain| &chain.rules).filter(|rule| rule.text.contains("-j REJECT")).count()
}

/// The exact input that deletes the jumps of new connections and leaves the chains. Established connections stay translated that way: when
/// the last rule that needs connection tracking goes, the kernel switches it off in the namespace (`nf_ct_netns_put`,
/// net/netfilter/nf_conntrack_proto.c).
pub(crate) fn unhook_text(from: &[Table]) -> String {
    let mut text = String::new();
    for table in from {
        let jumps = table.jumps.iter().filter(|jump| jump.is_line() && !jump.serves_established());
        let deleted: String = jumps.map(|jump| format!("-D {} {}\n", jump.from, jump.text)).collect();
        if !deleted.is_empty() {
            text.push_str(&format!("*{}\n{deleted}COMMIT\n", table.name));
        }
    }
    text
}

fn change_table(text: &mut String, old: &Table, new: &Table) {
    let mut write = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    write(format!("*{}", new.name));
    // With --noflush, to declare a chain is to create it, or to empty it.
    for chain in &new.chains {
        write(format!(":{} - [0:0]", chain.name));
    }
    for jump in old.jumps.iter().filter(|jump| jump.is_line()) {
        write(format!("-D {} {}", jump.from, jump.text));
    }
    let unwanted = || old.chains.iter().filter(|chain| !new.chains.iter().any(|kept| kept.name == chain.name));
    // All are emptied before the first is deleted: one may jump to another.
    for chain in unwanted() {
        write(format!("-F {}", chain.name));
    }
    for chain in unwanted() {
        write(format!("-X {}", chain.name));
    }
    for chain in &new.chains {
        for rule in &chain.rules {
            write(format!("-A {} {}", chain.name, rule.text));
        }
    }
    for jump in &new.jumps {
        let place = if jump.at > 1 { format!("{} ", jump.at) } else { String::new() };
        write(format!("-I {} {place}{}", jump.from, jump.text));
    }
    write("COMMIT".to_string());
}

/// A word for iptables-restore. Unless it is plain, it stands in double quotes, with a backslash before quotes and
/// backslashes.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/=+@%!".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The words of a rule, read as iptables-restore does: a quote ends a word, and a backslash counts only within quotes.
pub(crate) fn unquote(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut letters = rule.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if quoted => word.extend(letters.next()),
            '"' if quoted => {
                quoted = false;
                words.push(std::mem::take(&mut word));
            }
            '"' => quoted = true,
            ' ' | '\t' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| Rule { text: text.to_string(), expands_to: 1 }).collect()
    }

    fn jump(from: &str, at: usize, at_head: bool) -> Jump {
        Jump { from: from.into(), at, at_head, text: "-p tcp -j tproxy.1".into() }
    }

    fn nat(texts: &[&str], jumps: Vec<Jump>) -> Vec<Table> {
        vec![Table { name: "nat", chains: vec![Chain { name: "tproxy.1".into(), rules: rules(texts) }], jumps }]
    }

    #[test]
    fn words_are_quoted_only_where_iptables_restore_needs_it() {
        let table = [
            ("--dport", "--dport"),
            ("!", "!"),
            ("10.0.0.0/8,fd00::1", "10.0.0.0/8,fd00::1"),
            ("eth+", "eth+"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("it's", "\"it's\""),
            ("#", "\"#\""),
            ("ünï", "\"ünï\""),
        ];
        for (word, quoted) in table {
            assert_eq!(quote(word), quoted);
        }
    }

    #[test]
    fn every_list_of_words_survives_quoting_and_reading() {
        let letters: Vec<char> = "ab-!\"\\' \t#$`;é=".chars().collect();
        let mut seed: u64 = 42;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        for _ in 0..5000 {
            let mut word = || (0..random(6)).map(|_| letters[random(letters.len())]).collect::<String>();
            let words = [word(), word(), word()];
            assert_eq!(unquote(&Rule::new(&words, 1).text), words);
        }
    }

    #[test]
    fn a_change_unhooks_and_drops_what_is_old_and_hooks_what_is_new_last() {
        let mut old = nat(&["-j RETURN"], vec![jump("PREROUTING", 4, false), jump("PREROUTING", 6, false)]);
        old[0].chains.push(Chain { name: "tproxy.1.out".into(), rules: rules(&["-j tproxy.1"]) });
        let new = nat(&["-p tcp -j RETURN"], vec![jump("PREROUTING", 1, true), jump("OUTPUT", 3, false)]);
        assert_eq!(
            restore_text(&old, &new),
            "*nat\n:tproxy.1 - [0:0]\n\
             -D PREROUTING -p tcp -j tproxy.1\n-D PREROUTING -p tcp -j tproxy.1\n\
             -F tproxy.1.out\n-X tproxy.1.out\n\
             -A tproxy.1 -p tcp -j RETURN\n\
             -I PREROUTING -p tcp -j tproxy.1\n-I OUTPUT 3 -p tcp -j tproxy.1\nCOMMIT\n"
        );
    }

    #[test]
    fn a_removal_starts_with_nat_and_an_installation_ends_with_it() {
        let mut both = nat(&[], vec![jump("PREROUTING", 1, true)]);
        both.push(Table::new("filter"));
        assert_eq!(
            restore_text(&both, &[]),
            "*nat\n-D PREROUTING -p tcp -j tproxy.1\n-F tproxy.1\n-X tproxy.1\nCOMMIT\n*filter\nCOMMIT\n"
        );
        assert!(restore_text(&[], &both).starts_with("*filter\nCOMMIT\n*nat\n"));
        assert_eq!(restore_text(&[], &[]), "");
    }
}
