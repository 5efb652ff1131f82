//! Our part of the tables of one address family: installed, read back, and compared.

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::chains::{Jump, Table, table};
use crate::rules::drift::differences;
use crate::rules::ruleset::RuleSet;
use crate::rules::save::Owner;
use crate::rules::tools::{DIRECTORIES, Found, Tools, is_missing, tool};

/// The tables of one family.
#[derive(Debug)]
pub(super) struct FamilyTables {
    pub family: Family,
    pub tools: Option<Tools>,
    /// Our part as it was read back after the installation.
    pub reference: Vec<Table>,
    /// The tables that the tools could not show the last time; what `reference` says about them is what was planned.
    pub hidden: Vec<&'static str>,
}

/// The tables of a family, compared with their state after the installation.
pub(super) struct Compared {
    pub found: Found,
    pub differences: Vec<String>,
}

impl FamilyTables {
    pub(super) fn read(&self, owner: &Owner) -> Result<Found, Error> {
        match &self.tools {
            Some(tools) => {
                tools.read(owner).or_else(|error| if is_missing(&error) { Ok(Found::default()) } else { Err(error) })
            }
            None => Ok(Found::default()),
        }
    }

    /// Refuses a plan for tables that cannot be shown: nobody could see what was installed. Only for the first rules of an
    /// instance: those that are there must still follow their gates.
    pub(super) fn check_shown(&self, planned: &[Table], hidden: &[&'static str]) -> Result<(), Error> {
        let refused: Vec<&'static str> = hidden.iter().copied().filter(|name| table(planned, name).is_some()).collect();
        match &self.tools {
            Some(tools) if !refused.is_empty() => Err(tools.hides(&refused)),
            _ => Ok(()),
        }
    }

    pub(super) fn compare(&self, owner: &Owner) -> Result<Compared, Error> {
        if self.reference.is_empty() {
            return Ok(Compared { found: Found::default(), differences: Vec::new() });
        }
        let found = as_far_as_known(self.read(owner)?, &self.reference);
        let was_hidden = |table: &&Table| self.hidden.contains(&table.name);
        let not_hidden =
            |tables: &[Table]| tables.iter().filter(|table| !was_hidden(table)).cloned().collect::<Vec<_>>();
        let mut differences = differences(&not_hidden(&self.reference), &not_hidden(&found.tables));
        let shown_again = self.reference.iter().filter(was_hidden).filter(|table| !found.hidden.contains(&table.name));
        differences.extend(missing(shown_again, &found.tables));
        differences.iter_mut().for_each(|what| *what = format!("{} {what}", self.family));
        Ok(Compared { found, differences })
    }

    /// Installs, reads back, and returns what was read.
    pub(super) fn install(&self, set: &RuleSet, owner: &Owner) -> Result<Found, Error> {
        let target = set.plan(self.family);
        let Some(tools) = &self.tools else {
            return if target.is_empty() { Ok(Found::default()) } else { Err(self.no_tool()) };
        };
        if target.is_empty() {
            return tools.remove(owner).map(|_| Found::default());
        }
        tools.purge_other(owner)?;
        tools.replace(owner, &target).map_err(|error| self.with_advice(error))?;
        let found = as_far_as_known(tools.read(owner)?, &target);
        let shown = target.iter().filter(|table| !found.hidden.contains(&table.name));
        match missing(shown, &found.tables) {
            None => Ok(found),
            Some(what) => Err(Error::Failed(format!("{} {what} after the installation", self.family))),
        }
    }

    fn no_tool(&self) -> Error {
        Error::Firewall {
            command: tool(self.family, "", "restore"),
            status: "not found".to_string(),
            said: format!(
                "it is in none of {}; --firewall nft does without it; {}",
                DIRECTORIES.join(", "),
                self.advice()
            ),
        }
    }

    fn with_advice(&self, error: Error) -> Error {
        if !is_missing(&error) {
            return error;
        }
        match error {
            Error::Firewall { command, status, said } => {
                let said = format!("{}; {}", said.trim(), self.advice());
                Error::Firewall { command, status, said }
            }
            other => other,
        }
    }

    fn advice(&self) -> String {
        match self.family {
            Family::V4 => "-b :: leaves IPv4 out".to_string(),
            Family::V6 => "-b 0.0.0.0 leaves IPv6 out".to_string(),
        }
    }
}

/// What was found, and for tables that cannot be shown what is known to have been installed.
pub(super) fn as_far_as_known(found: Found, installed: &[Table]) -> Found {
    let Found { mut tables, mut hidden } = found;
    hidden.retain(|name| table(installed, name).is_some());
    tables.extend(installed.iter().filter(|table| hidden.contains(&table.name)).cloned());
    Found { tables, hidden }
}

/// What the tables lack of the plan. Texts cannot be compared: iptables-save words them differently.
pub(super) fn missing<'a>(planned: impl IntoIterator<Item = &'a Table>, found: &[Table]) -> Option<String> {
    for wanted in planned {
        let nothing = Table::new(wanted.name);
        let found = table(found, wanted.name).unwrap_or(&nothing);
        for chain in &wanted.chains {
            let rules: usize = chain.rules.iter().map(|rule| rule.expands_to).sum();
            let there = found.chains.iter().find(|other| other.name == chain.name).map_or(0, |other| other.rules.len());
            if there != rules {
                return Some(format!("{}: chain {} holds {there} rules and not {rules}", wanted.name, chain.name));
            }
        }
        for jump in &wanted.jumps {
            let all = |jumps: &[Jump]| jumps.iter().filter(|other| other.from == jump.from && other.at_head).count();
            if all(&found.jumps) < all(&wanted.jumps) {
                return Some(format!("{}: {} does not begin with '{}'", wanted.name, jump.from, jump.text));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::chains::{Chain, Rule};

    fn nat(expands_to: &[usize], at_head: bool) -> Vec<Table> {
        let rule = |count: &usize| Rule { text: "-j RETURN".into(), expands_to: *count };
        let rules = expands_to.iter().map(rule).collect();
        let jump = Jump { from: "PREROUTING".into(), at: 1, at_head, text: "-p tcp -j tproxy.1".into() };
        vec![Table { name: "nat", chains: vec![Chain { name: "tproxy.1".into(), rules }], jumps: vec![jump] }]
    }

    #[test]
    fn what_was_read_back_is_counted_against_the_plan() {
        let planned = nat(&[1, 2], true);
        assert_eq!(missing(&planned, &nat(&[1, 1, 1], true)), None);
        assert_eq!(missing(&planned, &nat(&[1, 1], true)).unwrap(), "nat: chain tproxy.1 holds 2 rules and not 3");
        assert_eq!(missing(&planned, &[]).unwrap(), "nat: chain tproxy.1 holds 0 rules and not 3");
        assert_eq!(
            missing(&planned, &nat(&[1, 1, 1], false)).unwrap(),
            "nat: PREROUTING does not begin with '-p tcp -j tproxy.1'"
        );
    }
}
