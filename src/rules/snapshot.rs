//! What a [`Firewall`](crate::rules::firewall::Firewall) has installed, as text. The process that works on the rules hands
//! it back to the guardian, and the next one begins with it: the guardian itself runs no iptables.

use crate::record::{Writer, text_words};
use crate::rules::address::Family;
use crate::rules::chains::{Chain, Jump, PREFIX, Rule, TABLES, Table};
use crate::rules::policy_routing::{Connects, PolicyRouting};

/// The instance and, for each family, its part of the tables as it was read back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The instance; `None` when nothing of ours is installed.
    pub instance: Option<String>,
    /// The tables of IPv4 and of IPv6.
    pub tables: [Vec<Table>; 2],
    /// Those of them that could not be shown.
    pub hidden: [Vec<&'static str>; 2],
    /// The policy routing that belongs to them.
    pub routing: Option<PolicyRouting>,
    /// The tables that were installed with nft.
    pub nft: Vec<NftTable>,
}

/// A table that was installed with nft.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftTable {
    pub name: String,
    /// Whether it belongs to a process of this instance.
    pub is_owned: bool,
    /// As nft has shown it.
    pub listing: String,
}

impl Snapshot {
    /// The instance that something of is installed.
    pub(crate) fn instance(&self) -> Option<String> {
        let table = self.nft.first().and_then(|table| table.name.strip_prefix(PREFIX)?.split('.').next());
        self.instance.clone().or(table.map(str::to_owned))
    }

    /// The text.
    pub fn to_text(&self) -> String {
        let mut writer = Writer::default();
        if let Some(instance) = &self.instance {
            writer.line(["instance", instance]);
        }
        if let Some(PolicyRouting { mark, table, families, connects }) = &self.routing {
            let (families, connects) = (families.iter().map(Family::to_string), connects.name());
            let first = ["routing".to_owned(), mark.to_string(), table.to_string(), connects.to_owned()];
            writer.line(first.into_iter().chain(families));
        }
        for NftTable { name, is_owned, listing } in &self.nft {
            writer.line(["nft", name, &is_owned.to_string(), listing]);
        }
        for ((family, tables), hidden) in Family::BOTH.iter().zip(&self.tables).zip(&self.hidden) {
            writer.line(["family", &family.to_string()]);
            tables.iter().for_each(|table| write_table(table, &mut writer));
            hidden.iter().for_each(|table| writer.line(["hidden", table]));
        }
        writer.into_text()
    }

    /// Reads the text. `None` if it was not made by [`Snapshot::to_text`].
    pub fn from_text(text: &str) -> Option<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut families = snapshot.tables.iter_mut().zip(&mut snapshot.hidden);
        let mut current: Option<(&mut Vec<Table>, &mut Vec<&'static str>)> = None;
        for line in text.lines() {
            let words = text_words(line)?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match (&mut current, &words[..]) {
                (None, ["instance", name]) => snapshot.instance = Some((*name).to_owned()),
                (None, ["routing", mark, table, connects, families @ ..]) => {
                    let families = families.iter().map(|name| known_family(name)).collect::<Option<_>>()?;
                    let (mark, table) = (mark.parse().ok()?, table.parse().ok()?);
                    let connects = Connects::ALL.into_iter().find(|one| one.name() == *connects)?;
                    snapshot.routing = Some(PolicyRouting { mark, table, families, connects });
                }
                (None, ["nft", name, is_owned, listing]) => snapshot.nft.push(NftTable {
                    name: (*name).to_owned(),
                    is_owned: is_owned.parse().ok()?,
                    listing: (*listing).to_owned(),
                }),
                (_, ["family", _]) => current = Some(families.next()?),
                (Some((_, hidden)), ["hidden", name]) => hidden.push(known_table(name)?),
                (Some((tables, _)), words) => read_into(tables, words)?,
                (None, _) => return None,
            }
        }
        Some(snapshot)
    }
}

fn write_table(table: &Table, writer: &mut Writer) {
    writer.line(["table", table.name]);
    for chain in &table.chains {
        writer.line(["chain", &chain.name]);
        chain.rules.iter().for_each(|rule| writer.line(["rule", &rule.expands_to.to_string(), &rule.text]));
    }
    for Jump { from, at, at_head, text } in &table.jumps {
        writer.line(["jump", from, &at.to_string(), &at_head.to_string(), text]);
    }
}

fn known_family(name: &str) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| family.to_string() == name)
}

fn known_table(name: &str) -> Option<&'static str> {
    TABLES.into_iter().find(|table| *table == name)
}

fn read_into(tables: &mut Vec<Table>, words: &[&str]) -> Option<()> {
    match words {
        ["table", name] => tables.push(Table::new(known_table(name)?)),
        ["chain", name] => tables.last_mut()?.chains.push(Chain { name: (*name).to_owned(), rules: Vec::new() }),
        ["rule", expands_to, text] => {
            let rule = Rule { text: (*text).to_owned(), expands_to: expands_to.parse().ok()? };
            tables.last_mut()?.chains.last_mut()?.rules.push(rule);
        }
        ["jump", from, at, at_head, text] => tables.last_mut()?.jumps.push(Jump {
            from: (*from).to_owned(),
            at: at.parse().ok()?,
            at_head: at_head.parse().ok()?,
            text: (*text).to_owned(),
        }),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy_routing::Mark;

    #[test]
    fn a_snapshot_survives_its_text() {
        let rule = Rule { text: "-p tcp -m comment --comment \"50% of\nit\" -j RETURN".into(), expands_to: 2 };
        let jump = Jump { from: "PREROUTING".into(), at: 1, at_head: true, text: "-p tcp -j tproxy.1".into() };
        let chain = |rules| Chain { name: "tproxy.1".into(), rules };
        let nat = Table { name: "nat", chains: vec![chain(vec![rule])], jumps: vec![jump] };
        let filter = Table { name: "filter", chains: vec![chain(Vec::new())], jumps: Vec::new() };
        let snapshot = Snapshot {
            instance: Some("1".into()),
            tables: [vec![filter, nat.clone()], vec![nat]],
            hidden: [vec!["nat"], vec![]],
            routing: Some(PolicyRouting {
                mark: Mark::DEFAULT,
                table: 7,
                families: vec![Family::V6],
                connects: Connects::Zoned,
            }),
            nft: vec![NftTable { name: "tproxy.1".into(), is_owned: true, listing: "table {\n\t}\n".into() }],
        };
        assert_eq!(Snapshot::from_text(&snapshot.to_text()).unwrap(), snapshot);
        let nothing = Snapshot::default();
        assert_eq!(Snapshot::from_text(&nothing.to_text()).unwrap(), nothing);
    }

    #[test]
    fn a_text_that_is_none_is_refused() {
        for text in [
            "chain x\n",
            "family v4\nrule 1 x\n",
            "family v4\ntable bridge\n",
            "family v4\nhidden bridge\n",
            "family v4\nfamily v6\nfamily x\n",
            "routing 1 7 - IPv5\n",
            "routing 0 7 - IPv4\n",
            "routing 1 7 IPv4\n",
        ] {
            assert_eq!(Snapshot::from_text(text), None, "{text}");
        }
    }
}
