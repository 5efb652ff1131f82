//! Installs a [`RuleSet`] in the kernel, checks it, and removes it again.
//!
//! Each family is one run of iptables-restore, however many rules there are. Nothing stays half installed. Rules of
//! others are never rewritten: our chains are replaced as a whole, and the jumps to them are deleted one by one.

use std::net::{IpAddr, SocketAddr};

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::blame;
use crate::rules::chains::{Jump, Table, table};
use crate::rules::drift::differences;
use crate::rules::lacking;
use crate::rules::rule::RuleSpec;
use crate::rules::ruleset::RuleSet;
use crate::rules::save::Owner;
use crate::rules::snapshot::Snapshot;
use crate::rules::tools::{DIRECTORIES, Found, Tools, is_missing, tool};
use crate::sys::routing_table::{AddressOwner, RoutingTable};

/// The firewall of this host, as one instance uses it.
#[derive(Debug)]
pub struct Firewall {
    families: Vec<FamilyTables>,
    /// The instance whose rules this value has installed and not removed.
    installed: Option<String>,
}

/// The tables of one family.
#[derive(Debug)]
struct FamilyTables {
    family: Family,
    tools: Option<Tools>,
    /// Our part as it was read back after the installation.
    reference: Vec<Table>,
    /// The tables that the tools could not show the last time; what `reference` says about them is what was planned.
    hidden: Vec<&'static str>,
}

impl Firewall {
    /// Finds the tools. A missing tool is an error only when it is needed.
    pub fn find() -> Result<Firewall, Error> {
        Firewall::find_in(DIRECTORIES)
    }

    /// Finds the tools in these directories.
    pub fn find_in(directories: &[&str]) -> Result<Firewall, Error> {
        let tables = |family| {
            let tools = Tools::find(directories, family)?;
            Ok(FamilyTables { family, tools, reference: Vec::new(), hidden: Vec::new() })
        };
        Ok(Firewall { families: Family::BOTH.into_iter().map(tables).collect::<Result<_, Error>>()?, installed: None })
    }

    /// The tools that were found, for the log.
    pub fn description(&self) -> String {
        let describe = |tables: &FamilyTables| match &tables.tools {
            Some(tools) => tools.description(),
            None => format!("no {}", tool(tables.family, "", "restore")),
        };
        self.families.iter().map(describe).collect::<Vec<_>>().join(", ")
    }

    /// Makes the tables hold the rules of this set for its instance, and nothing else of that instance: the remains of
    /// an earlier run are removed. If it fails, the rules that this value had installed before are restored; without
    /// such rules none are left.
    pub fn install(&mut self, set: &RuleSet) -> Result<(), Error> {
        let owner = Owner::Instance(set.name.clone());
        let reinstalls = self.installed.as_ref() == Some(&set.name);
        // Also read when it is not to be restored: tables that cannot be read are better found before any is touched.
        let found = self.families.iter().map(|tables| tables.read(&owner)).collect::<Result<Vec<_>, _>>()?;
        let mut before = Vec::new();
        for (tables, found) in self.families.iter().zip(found) {
            if reinstalls {
                before.push(as_far_as_known(found, &tables.reference).tables);
            } else {
                tables.check_shown(&set.plan(tables.family), &found.hidden)?;
                before.push(Vec::new());
            }
        }
        match self.families.iter().map(|tables| tables.install(set, &owner)).collect::<Result<Vec<_>, _>>() {
            Ok(installed) => {
                self.watch(&set.name, installed);
                Ok(())
            }
            Err(error) => {
                let at_fault = blame::redirection(&set.specs, &error);
                let error = self.roll_back(&owner, &before, error);
                Err(match at_fault.and_then(|id| set.locations.get(id.index())?.as_ref()) {
                    Some((file, line)) => error.in_file(file, *line),
                    None => error,
                })
            }
        }
    }

    /// What keeps redirected connections from getting where this set leads them, each with the command that mends it.
    pub(crate) fn lacking(&self, set: &RuleSet) -> Result<Vec<String>, Error> {
        let mut routes = RoutingTable::open().ok();
        let mut is_own = |ip: IpAddr| {
            let owner = routes.as_mut().and_then(|routes| routes.owner(SocketAddr::new(ip, 1)).ok());
            owner == Some(AddressOwner::ThisHost)
        };
        let mut all = Vec::new();
        for tables in &self.families {
            let specs: Vec<&RuleSpec> = set.specs.iter().filter(|spec| spec.matching.family == tables.family).collect();
            if let Some(tools) = tables.tools.as_ref().filter(|_| specs.iter().any(|spec| spec.action.translates())) {
                all.extend(lacking::lacking(&tools.filters()?, &specs, &mut is_own));
            }
        }
        Ok(all)
    }

    /// What this value has installed.
    pub fn snapshot(&self) -> Snapshot {
        let mut tables = self.families.iter().map(|side| side.reference.clone());
        let tables = std::array::from_fn(|_| tables.next().unwrap_or_default());
        let mut hidden = self.families.iter().map(|side| side.hidden.clone());
        let hidden = std::array::from_fn(|_| hidden.next().unwrap_or_default());
        Snapshot { instance: self.installed.clone(), tables, hidden }
    }

    /// Goes on from what another process has installed: [`Firewall::check`] watches over it, and it is put back if the
    /// next installation fails.
    pub fn resume(&mut self, snapshot: Snapshot) {
        self.installed = snapshot.instance;
        for ((side, reference), hidden) in self.families.iter_mut().zip(snapshot.tables).zip(snapshot.hidden) {
            (side.reference, side.hidden) = (reference, hidden);
        }
    }

    /// Deletes the jumps to the rules of an instance. New connections are no longer redirected; established ones stay
    /// translated until [`Firewall::remove`].
    pub fn unhook(&mut self, name: &str) -> Result<(), Error> {
        let owner = Owner::Instance(name.to_string());
        let results: Vec<_> = self.tools().map(|tools| tools.unhook(&owner)).collect();
        results.into_iter().collect()
    }

    /// Removes the rules of an instance, whoever installed them. That there are none is no error.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.remove_all(&Owner::Instance(name.to_string()))?;
        if self.installed.as_deref() == Some(name) {
            self.forget();
        }
        Ok(())
    }

    /// Removes the rules of all instances, and returns how many chains these were.
    pub fn flush_all(&mut self) -> Result<usize, Error> {
        let chains = self.remove_all(&Owner::All)?;
        self.forget();
        Ok(chains)
    }

    /// Compares the tables with their state after the installation. Returns a short sentence for each rule that is gone,
    /// changed or out of place; [`Firewall::install`] of the same set repairs them. What cannot be shown is taken to be
    /// there still.
    pub fn check(&self) -> Result<Vec<String>, Error> {
        Ok(self.compare()?.into_iter().flat_map(|compared| compared.differences).collect())
    }

    /// The same, and remembers which tables could not be shown, for [`Firewall::hidden`].
    pub(crate) fn verify(&mut self) -> Result<Vec<String>, Error> {
        let compared = self.compare()?;
        let mut all = Vec::new();
        for (tables, compared) in self.families.iter_mut().zip(compared) {
            if compared.differences.is_empty() {
                (tables.reference, tables.hidden) = (compared.found.tables, compared.found.hidden);
            }
            all.extend(compared.differences);
        }
        Ok(all)
    }

    fn compare(&self) -> Result<Vec<Compared>, Error> {
        let Some(name) = &self.installed else { return Ok(Vec::new()) };
        let owner = Owner::Instance(name.clone());
        self.families.iter().map(|tables| tables.compare(&owner)).collect()
    }

    /// The tables with rules of ours that could not be shown the last time, by name; empty if all could.
    pub(crate) fn hidden(&self) -> String {
        let name = |side: &FamilyTables, table: &str| format!("the {table} table of {}", side.family);
        let all = self.families.iter().flat_map(|side| side.hidden.iter().map(move |table| name(side, table)));
        all.collect::<Vec<_>>().join(", ")
    }

    /// Whether rules of this set go into a table that cannot be shown, which [`Firewall::install`] refuses. Where the
    /// tables cannot be read at all nothing is refused.
    pub(crate) fn check_shown(&self, set: &RuleSet) -> Result<(), Error> {
        let owner = Owner::Instance(set.name.clone());
        self.families.iter().try_for_each(|tables| {
            let found = tables.read(&owner).unwrap_or_default();
            tables.check_shown(&set.plan(tables.family), &found.hidden)
        })
    }

    fn watch(&mut self, name: &str, installed: Vec<Found>) {
        for (tables, Found { tables: reference, hidden }) in self.families.iter_mut().zip(installed) {
            (tables.reference, tables.hidden) = (reference, hidden);
        }
        self.installed = Some(name.to_string());
    }

    fn forget(&mut self) {
        self.installed = None;
        for tables in &mut self.families {
            tables.reference.clear();
            tables.hidden.clear();
        }
    }

    fn tools(&self) -> impl Iterator<Item = &Tools> {
        self.families.iter().filter_map(|tables| tables.tools.as_ref())
    }

    /// Both families, even if the first fails: half removed is better than not removed.
    fn remove_all(&self, owner: &Owner) -> Result<usize, Error> {
        let results: Vec<_> = self.tools().map(|tools| tools.remove(owner)).collect();
        results.into_iter().sum()
    }

    /// Restores the tables as they were before, and where that fails removes all: without its rules the proxy merely
    /// gets no connections, but without the proxy its rules cut them off.
    fn roll_back(&self, owner: &Owner, before: &[Vec<Table>], error: Error) -> Error {
        let mut trouble = Vec::new();
        for (tables, before) in self.families.iter().zip(before) {
            let Some(tools) = &tables.tools else { continue };
            let restored = if before.is_empty() {
                tools.remove(owner).map(drop)
            } else {
                tools.replace(owner, before).or_else(|first| tools.remove(owner).and(Err(first)))
            };
            trouble.extend(restored.err().map(|e| e.to_string()));
        }
        if trouble.is_empty() {
            return error;
        }
        let trouble = format!("the former rules could not be restored either: {}", trouble.join("; "));
        match error {
            Error::Firewall { command, status, said } => {
                Error::Firewall { command, status, said: format!("{}; {trouble}", said.trim()) }
            }
            other => Error::Failed(format!("{other}; {trouble}")),
        }
    }
}

/// The tables of a family, compared with their state after the installation.
struct Compared {
    found: Found,
    differences: Vec<String>,
}

impl FamilyTables {
    fn read(&self, owner: &Owner) -> Result<Found, Error> {
        match &self.tools {
            Some(tools) => {
                tools.read(owner).or_else(|error| if is_missing(&error) { Ok(Found::default()) } else { Err(error) })
            }
            None => Ok(Found::default()),
        }
    }

    /// Refuses a plan for tables that cannot be shown: nobody could see what was installed. Only for the first rules of an
    /// instance: those that are there must still follow their gates.
    fn check_shown(&self, planned: &[Table], hidden: &[&'static str]) -> Result<(), Error> {
        let refused: Vec<&'static str> = hidden.iter().copied().filter(|name| table(planned, name).is_some()).collect();
        match &self.tools {
            Some(tools) if !refused.is_empty() => Err(tools.hides(&refused)),
            _ => Ok(()),
        }
    }

    fn compare(&self, owner: &Owner) -> Result<Compared, Error> {
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
    fn install(&self, set: &RuleSet, owner: &Owner) -> Result<Found, Error> {
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
            said: format!("it is in none of {}; {}", DIRECTORIES.join(", "), self.advice()),
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
fn as_far_as_known(found: Found, installed: &[Table]) -> Found {
    let Found { mut tables, mut hidden } = found;
    hidden.retain(|name| table(installed, name).is_some());
    tables.extend(installed.iter().filter(|table| hidden.contains(&table.name)).cloned());
    Found { tables, hidden }
}

/// What the tables lack of the plan. Texts cannot be compared: iptables-save words them differently.
fn missing<'a>(planned: impl IntoIterator<Item = &'a Table>, found: &[Table]) -> Option<String> {
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
    use crate::redirection::RedirectionId;
    use crate::rules::chains::{Chain, Rule};
    use crate::rules::matching::{Match, RELAYED};
    use crate::rules::rule::{Action, Gate, RuleSpec};

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

    #[test]
    fn a_missing_tool_is_an_error_only_where_rules_are_wanted() {
        let mut firewall = Firewall::find_in(&["/nonexistent"]).unwrap();
        assert_eq!(firewall.description(), "no iptables-restore, no ip6tables-restore");
        assert_eq!(firewall.flush_all().unwrap(), 0);
        firewall.remove("1").unwrap();
        let matching = Match::parse("-R", "-d fd00::1", RELAYED).unwrap().resolve(&|_| Vec::new()).unwrap();
        let spec = RuleSpec {
            action: Action::Redirect { port: 1 },
            matching: matching.into_iter().next().unwrap(),
            redirection: RedirectionId(0),
            output: false,
        };
        let set = RuleSet { name: "1".into(), specs: vec![spec], own_uid: None, locations: vec![] };
        let error = firewall.install(&set).unwrap_err();
        assert_eq!(error.exit_status(), 71);
        assert!(error.to_string().contains("`ip6tables-restore` failed (not found)"), "{error}");
        assert!(error.to_string().ends_with("-b 0.0.0.0 leaves IPv6 out"), "{error}");
        firewall.install(&set.with_gates(|_| Gate::Withdrawn)).unwrap();
    }
}
