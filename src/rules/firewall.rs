//! Installs a [`RuleSet`] in the kernel, checks it, and removes it again.
//!
//! Each family is one run of iptables-restore, however many rules there are. Nothing stays half installed. Rules of
//! others are never rewritten: our chains are replaced as a whole, and the jumps to them are deleted one by one.

use std::net::{IpAddr, SocketAddr};

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::blame;
use crate::rules::chains::Table;
use crate::rules::family_tables::{Compared, FamilyTables, as_far_as_known};
use crate::rules::lacking;
use crate::rules::routes::{MarksInUse, marks};
use crate::rules::rule::RuleSpec;
use crate::rules::ruleset::RuleSet;
use crate::rules::save::Owner;
use crate::rules::snapshot::Snapshot;
use crate::rules::tools::{DIRECTORIES, Found, Tools, native_filters, tool};
use crate::sys::routing_table::{AddressOwner, RoutingTable};

/// The firewall of this host, as one instance uses it.
#[derive(Debug)]
pub struct Firewall {
    families: Vec<FamilyTables>,
    /// The instance whose rules this value has installed and not removed.
    installed: Option<String>,
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
        let families = Family::BOTH.into_iter().map(tables).collect::<Result<_, Error>>()?;
        Ok(Firewall { families, installed: None })
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
        let installed = self.families.iter().map(|tables| tables.install(set, &owner)).collect::<Result<_, _>>();
        match installed {
            Ok(installed) => {
                self.watch(set, installed);
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

    /// Whether any tool was found.
    pub(crate) fn is_there(&self) -> bool {
        self.tools().next().is_some()
    }

    /// Whether the nat tables translate connections for somebody else.
    pub(crate) fn translates_for_others(&self) -> Result<bool, Error> {
        let all: Vec<bool> = self.tools().map(Tools::translates_for_others).collect::<Result<_, _>>()?;
        Ok(all.contains(&true))
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
            if specs.iter().any(|spec| spec.action.redirects()) {
                let filters = match &tables.tools {
                    Some(tools) => tools.filters()?,
                    None => native_filters(DIRECTORIES, tables.family)?,
                };
                let mark = set.routing.as_ref().map(|routing| routing.mark);
                all.extend(lacking::lacking(&filters, &specs, mark, &set.untracked, &mut is_own));
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
        Snapshot { instance: self.installed.clone(), tables, hidden, ..Snapshot::default() }
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

    /// Whether there are rules of an instance, whoever installed them.
    pub fn has_rules_of(&self, name: &str) -> Result<bool, Error> {
        let owner = Owner::Instance(name.to_string());
        let found = self.families.iter().map(|tables| tables.read(&owner)).collect::<Result<Vec<_>, _>>()?;
        Ok(found.iter().any(|found| !found.tables.is_empty()))
    }

    /// Removes the rules of an instance, whoever installed them. That there are none is no error.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.remove_all(&Owner::Instance(name.to_string()))?;
        if self.installed.as_deref() == Some(name) {
            self.forget();
        }
        Ok(())
    }

    /// Removes the rules of all instances. Returns how many chains these were.
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

    fn watch(&mut self, set: &RuleSet, installed: Vec<Found>) {
        for (tables, Found { tables: reference, hidden }) in self.families.iter_mut().zip(installed) {
            (tables.reference, tables.hidden) = (reference, hidden);
        }
        self.installed = Some(set.name.clone());
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

    /// The marks that chains of tproxy give to packets. `counts` says which chains count.
    pub(crate) fn marks(&self, counts: &dyn Fn(&str) -> bool) -> Result<MarksInUse, Error> {
        let mut all = MarksInUse::default();
        for side in &self.families {
            let mut tables = side.read(&Owner::All)?.tables;
            tables.iter_mut().for_each(|table| table.chains.retain(|chain| counts(&chain.name)));
            marks(&tables).into_iter().for_each(|mark| all.add(side.family, mark));
        }
        Ok(all)
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
        with_trouble(error, &trouble)
    }
}

/// An error of an installation that could not be undone.
pub(super) fn with_trouble(error: Error, trouble: &[String]) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirection::RedirectionId;
    use crate::rules::matching::{Match, RELAYED};
    use crate::rules::rule::{Action, RuleSpec};

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
        let set = RuleSet { name: "1".into(), specs: vec![spec], ..RuleSet::default() };
        let error = firewall.install(&set).unwrap_err();
        assert_eq!(error.exit_status(), 71);
        assert!(error.to_string().contains("`ip6tables-restore` failed (not found)"), "{error}");
        assert!(error.to_string().ends_with("-b 0.0.0.0 leaves IPv6 out"), "{error}");
        firewall.install(&RuleSet { specs: Vec::new(), ..set }).unwrap();
    }
}
