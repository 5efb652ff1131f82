//! Changes that others made to our rules: the tables as we left them, compared with the tables as they are.

use std::collections::HashMap;

use crate::rules::chains::{Chain, Jump, Rule, TABLES, Table, table};

/// The differences, one short sentence each.
pub(crate) fn differences(left: &[Table], found: &[Table]) -> Vec<String> {
    let mut said = Vec::new();
    for name in TABLES {
        let nothing = Table::new(name);
        let left = table(left, name).unwrap_or(&nothing);
        let found = table(found, name).unwrap_or(&nothing);
        for chain in &left.chains {
            match found.chains.iter().find(|other| other.name == chain.name) {
                Some(other) => chain_differences(&mut said, name, chain, &other.rules),
                None => said.push(format!("{name}: chain {} is gone", chain.name)),
            }
        }
        for chain in &found.chains {
            if !left.chains.iter().any(|other| other.name == chain.name) {
                said.push(format!("{name}: chain {} has been added", chain.name));
            }
        }
        jump_differences(&mut said, name, &left.jumps, &found.jumps);
    }
    said
}

fn chain_differences(said: &mut Vec<String>, table: &str, left: &Chain, found: &[Rule]) {
    if left.rules == found {
        return;
    }
    let chain = format!("{table}: chain {}", left.name);
    if found.is_empty() {
        said.push(format!("{chain} has been emptied"));
        return;
    }
    let gone = without(&left.rules, found);
    let added = without(found, &left.rules);
    if gone.is_empty() && added.is_empty() {
        said.push(format!("{chain} has its rules in another order"));
    }
    for (rules, what) in [(gone, "lost"), (added, "got")] {
        match rules.as_slice() {
            [] => {}
            [rule] => said.push(format!("{chain} has {what} the rule '{}'", rule.text)),
            several => said.push(format!("{chain} has {what} {} rules", several.len())),
        }
    }
}

/// The rules that `all` has more often than `taken`.
fn without<'a>(all: &'a [Rule], taken: &[Rule]) -> Vec<&'a Rule> {
    let mut counts = HashMap::new();
    for rule in taken {
        *counts.entry(rule.text.as_str()).or_insert(0usize) += 1;
    }
    all.iter()
        .filter(|rule| match counts.get_mut(rule.text.as_str()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
        .collect()
}

fn jump_differences(said: &mut Vec<String>, table: &str, left: &[Jump], found: &[Jump]) {
    let same = |a: &Jump, b: &Jump| a.from == b.from && a.text == b.text;
    for jump in left {
        let name = format!("{table}: the jump '{}' in {}", jump.text, jump.from);
        let copies: Vec<&Jump> = found.iter().filter(|other| same(other, jump)).collect();
        match copies.as_slice() {
            [] => said.push(format!("{name} is gone")),
            [only] if !only.at_head => said.push(format!("{name} has another rule before it")),
            [_] => {}
            several => said.push(format!("{name} is there {} times", several.len())),
        }
    }
    for jump in found {
        if !left.iter().any(|other| same(other, jump)) {
            said.push(format!("{table}: a jump '{}' in {} has been added", jump.text, jump.from));
        }
    }
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
    fn each_kind_of_difference_is_one_sentence() {
        let left = nat(&["-j A", "-j B", "-j C"], vec![jump("PREROUTING", 1, true)]);
        let with = |texts: &[&str]| nat(texts, vec![jump("PREROUTING", 2, true)]);
        let jumps = |jumps| nat(&["-j A", "-j B", "-j C"], jumps);
        let mut more = left.clone();
        more[0].chains.push(Chain { name: "tproxy.1.out".into(), rules: Vec::new() });
        let table: Vec<(Vec<Table>, &[&str])> = vec![
            (left.clone(), &[]),
            (with(&["-j A", "-j B", "-j C"]), &[]),
            (vec![], &["nat: chain tproxy.1 is gone", "nat: the jump '-p tcp -j tproxy.1' in PREROUTING is gone"]),
            (with(&[]), &["nat: chain tproxy.1 has been emptied"]),
            (with(&["-j A", "-j C"]), &["nat: chain tproxy.1 has lost the rule '-j B'"]),
            (with(&["-j C"]), &["nat: chain tproxy.1 has lost 2 rules"]),
            (with(&["-j A", "-j B", "-j B", "-j C"]), &["nat: chain tproxy.1 has got the rule '-j B'"]),
            (with(&["-j A", "-j C", "-j B"]), &["nat: chain tproxy.1 has its rules in another order"]),
            (more, &["nat: chain tproxy.1.out has been added"]),
            (jumps(vec![]), &["nat: the jump '-p tcp -j tproxy.1' in PREROUTING is gone"]),
            (
                jumps(vec![jump("PREROUTING", 2, false)]),
                &["nat: the jump '-p tcp -j tproxy.1' in PREROUTING has another rule before it"],
            ),
            (
                jumps(vec![jump("PREROUTING", 1, true), jump("PREROUTING", 2, true)]),
                &["nat: the jump '-p tcp -j tproxy.1' in PREROUTING is there 2 times"],
            ),
            (
                jumps(vec![jump("PREROUTING", 1, true), jump("mine", 2, true)]),
                &["nat: a jump '-p tcp -j tproxy.1' in mine has been added"],
            ),
        ];
        for (found, sentences) in table {
            assert_eq!(differences(&left, &found), sentences);
        }
    }
}
