//! Reads the output of iptables-save: our chains, and every jump to them.

use crate::rules::chains::{Chain, Jump, PREFIX, Rule, TABLES, Table, unquote};

/// Which chains are read, replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The chains of one instance: `tproxy.NAME` and `tproxy.NAME.*`.
    Instance(String),
    /// The chains of every instance that ever ran here.
    All,
}

impl Owner {
    pub(crate) fn owns(&self, chain: &str) -> bool {
        let Some(name) = chain.strip_prefix(PREFIX) else { return false };
        match self {
            Owner::All => true,
            Owner::Instance(instance) => {
                name.strip_prefix(instance.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }
}

/// The lines of a text in which a quoted word may contain line breaks, as a comment of a rule may.
pub(crate) struct Lines<'a> {
    rest: &'a str,
    /// Whether a backslash before a quote makes it part of the word.
    escapes: bool,
}

impl<'a> Lines<'a> {
    /// Those of iptables-save.
    pub(crate) fn new(text: &'a str) -> Lines<'a> {
        Lines { rest: text, escapes: true }
    }

    /// Those of nft(8), which has no escapes.
    pub(crate) fn without_escapes(text: &'a str) -> Lines<'a> {
        Lines { rest: text, escapes: false }
    }

    /// Where the first line ends. A quote that nothing closes counts as a letter.
    fn end(&self) -> usize {
        let first = self.rest.find('\n').unwrap_or(self.rest.len());
        if self.rest.starts_with('#') {
            return first;
        }
        let (mut quoted, mut escaped) = (false, false);
        for (at, letter) in self.rest.bytes().enumerate() {
            match letter {
                b'\n' if !quoted => return at,
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = self.escapes,
                b'"' => quoted = !quoted,
                _ => {}
            }
        }
        if quoted { first } else { self.rest.len() }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_at_checked(self.end())?;
        self.rest = rest.strip_prefix('\n').unwrap_or(rest);
        Some(line)
    }
}

/// The tables of ours that iptables-save says it cannot show. It does so in a comment, and ends with status 0.
pub(crate) fn not_shown(save: &str) -> Vec<&'static str> {
    let named = |line: &str| {
        let (name, rest) = line.strip_prefix("# Table `")?.split_once('\'')?;
        TABLES.into_iter().find(|table| *table == name && rest.starts_with(" is incompatible"))
    };
    Lines::new(save).filter_map(named).collect()
}

/// The owner's part of an iptables-save text. Tables without one are left out.
pub(crate) fn read(save: &str, owner: &Owner) -> Vec<Table> {
    let mut found = Vec::new();
    let mut current: Option<TableReader> = None;
    for line in Lines::new(save) {
        if let Some(name) = line.strip_prefix('*') {
            current = TABLES.iter().find(|table| **table == name).map(|table| TableReader::new(table, owner));
        } else if line == "COMMIT" {
            found.extend(current.take().map(|reader| reader.table));
        } else if let Some(reader) = &mut current {
            reader.line(line);
        }
    }
    found.retain(|table| !table.chains.is_empty() || !table.jumps.is_empty());
    found
}

struct TableReader<'a> {
    owner: &'a Owner,
    table: Table,
    /// The chain of the last rule, how many rules it had so far, and whether one of them was not ours.
    chain: String,
    rules: usize,
    foreign: bool,
}

impl<'a> TableReader<'a> {
    fn new(name: &'static str, owner: &'a Owner) -> TableReader<'a> {
        TableReader { owner, table: Table::new(name), chain: String::new(), rules: 0, foreign: false }
    }

    fn line(&mut self, line: &str) {
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if self.owner.owns(name) {
                self.table.chains.push(Chain { name: name.to_string(), rules: Vec::new() });
            }
        } else if let Some((chain, text)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            self.rule(chain, text);
        }
    }

    fn rule(&mut self, chain: &str, text: &str) {
        if let Some(ours) = self.table.chains.iter_mut().find(|ours| ours.name == chain) {
            ours.rules.push(Rule { text: text.to_string(), expands_to: 1 });
            return;
        }
        if self.chain != chain {
            (self.chain, self.rules, self.foreign) = (chain.to_string(), 0, false);
        }
        self.rules += 1;
        let target = target(text);
        if target.as_deref().is_some_and(|target| self.owner.owns(target)) {
            let jump = Jump { from: chain.to_string(), at: self.rules, at_head: !self.foreign, text: text.to_string() };
            self.table.jumps.push(jump);
        }
        self.foreign |= !target.is_some_and(|target| target.starts_with(PREFIX));
    }
}

/// Whether a rule, with the chain that it is in, is of tproxy: in a chain of ours, or a jump to one.
pub(crate) fn is_ours(rule: &str) -> bool {
    rule.starts_with(PREFIX) || target(rule).is_some_and(|target| target.starts_with(PREFIX))
}

/// The chain or target that a rule leads to.
fn target(rule: &str) -> Option<String> {
    // Most rules of an administrator cannot name a chain of ours: only the others are worth a closer look.
    if !rule.contains(PREFIX) {
        return None;
    }
    let words = unquote(rule);
    let at = words.iter().rposition(|word| matches!(word.as_str(), "-j" | "-g"))?;
    words.get(at + 1).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVE: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 09:02:43 2026
*security
:tproxy.1 - [0:0]
-A PREROUTING -j tproxy.1
COMMIT
*nat
:PREROUTING ACCEPT [12:345]
:OUTPUT ACCEPT [0:0]
:admin - [0:0]
:tproxy.1 - [0:0]
:tproxy.1.out - [0:0]
:tproxy.12 - [0:0]
-A PREROUTING -p tcp -j tproxy.12
-A PREROUTING -p tcp -j tproxy.1
-A PREROUTING -m comment --comment "see -j tproxy.1" -j ACCEPT
-A PREROUTING -p tcp -j tproxy.1
-A OUTPUT -m comment --comment "x -j tproxy.1 \" y" -g tproxy.1.out
-A admin -d 10.0.0.1/32 -j tproxy.1
-A tproxy.1 -p tcp -m comment --comment "a \"b\"" -j REDIRECT --to-ports 1
-A tproxy.1.out -j tproxy.1
-A tproxy.12 -j RETURN
COMMIT
# Completed
"#;

    #[test]
    fn only_the_owners_chains_and_jumps_are_read_with_their_places() {
        let jump = |from: &str, at, at_head, text: &str| Jump { from: from.into(), at, at_head, text: text.into() };
        let chain = |name: &str, rule: &str| Chain {
            name: name.into(),
            rules: vec![Rule { text: rule.into(), expands_to: 1 }],
        };
        let found = read(SAVE, &Owner::Instance("1".into()));
        let nat = Table {
            name: "nat",
            chains: vec![
                chain("tproxy.1", r#"-p tcp -m comment --comment "a \"b\"" -j REDIRECT --to-ports 1"#),
                chain("tproxy.1.out", "-j tproxy.1"),
            ],
            jumps: vec![
                jump("PREROUTING", 2, true, "-p tcp -j tproxy.1"),
                jump("PREROUTING", 4, false, "-p tcp -j tproxy.1"),
                jump("OUTPUT", 1, true, r#"-m comment --comment "x -j tproxy.1 \" y" -g tproxy.1.out"#),
                jump("admin", 1, true, "-d 10.0.0.1/32 -j tproxy.1"),
            ],
        };
        assert_eq!(found, [nat]);
    }

    #[test]
    fn a_line_break_within_quotes_is_part_of_the_line() {
        let table: &[(&str, &[&str])] = &[
            ("a\nb\n\nc", &["a", "b", "", "c"]),
            ("-A x --comment \"a\nCOMMIT\" -j y\nz\n", &["-A x --comment \"a\nCOMMIT\" -j y", "z"]),
            ("\"a\\\"\nb\" \\\nc", &["\"a\\\"\nb\" \\", "c"]),
            ("\"a\\\\\"\nb", &["\"a\\\\\"", "b"]),
            ("# isn't \"it\nb", &["# isn't \"it", "b"]),
            ("open \"\nb\nc \"d\" e", &["open \"", "b", "c \"d\" e"]),
        ];
        for (text, lines) in table {
            assert_eq!(Lines::new(text).collect::<Vec<_>>(), *lines, "{text}");
        }
        assert_eq!(Lines::without_escapes("\"a\\\"\nb").count(), 2);
    }

    #[test]
    fn a_comment_is_never_taken_for_a_rule() {
        let before = SAVE.replace("see -j", "see\n-A PREROUTING -j");
        let before = before
            .replace("x -j tproxy.1 \\\"", "x\nCOMMIT\n*filter\n:tproxy.1 - [0:0]\n# Table `nat' is incompatible \\\"");
        let found = read(&before, &Owner::Instance("1".into()));
        assert_eq!((found.len(), found[0].chains.len(), found[0].jumps.len()), (1, 2, 4));
        assert_eq!(not_shown(&before), [""; 0]);
    }

    #[test]
    fn a_table_that_cannot_be_shown_is_known_by_its_notice() {
        let notice = "# Table `nat' is incompatible, use 'nft' tool.\n# Table `security' is incompatible, use 'nft' tool.\n\
                      # Table `filter' contains incompatible base-chains, use 'nft' tool to list them.\n";
        assert_eq!(not_shown(&format!("{SAVE}{notice}")), ["nat"]);
    }

    #[test]
    fn every_instance_is_read_when_all_are_meant() {
        let found = read(SAVE, &Owner::All);
        assert_eq!((found[0].chains.len(), found[0].jumps.len()), (3, 5));
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another_instance() {
        let owner = Owner::Instance("129".into());
        let table =
            [("tproxy.129", true), ("tproxy.129.out", true), ("tproxy.12970", false), ("129", false), ("x", false)];
        for (chain, owned) in table {
            assert_eq!(owner.owns(chain), owned, "{chain}");
        }
        assert!(read(SAVE, &Owner::Instance("129".into())).is_empty());
        assert!(read("", &Owner::All).is_empty());
    }
}
