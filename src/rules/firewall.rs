//! Puts a [`RuleSet`] into the kernel, watches over it and takes it out again.
//!
//! Each family is one run of iptables-restore, however many rules there are. Nothing stays half installed, and the
//! rules of others are never rewritten: chains of ours are replaced as a whole and jumps to them deleted one by one.

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::blame;
use crate::rules::chains::{Jump, Rule, Table, table, unquote};
use crate::rules::drift::differences;
use crate::rules::rule::RuleSet;
use crate::rules::save::Owner;
use crate::rules::tools::{DIRECTORIES, Tools, is_missing, tool};

/// The firewall of this host, seen from one instance.
#[derive(Debug)]
pub struct Firewall {
    sides: Vec<Side>,
    /// The instance whose rules this value has put in and not taken out.
    installed: Option<String>,
}

/// One family.
#[derive(Debug)]
struct Side {
    family: Family,
    tools: Option<Tools>,
    /// Our part as it was read back after the installation.
    reference: Vec<Table>,
}

impl Firewall {
    /// Finds the tools. That one is missing is an error only when it is needed.
    pub fn find() -> Result<Firewall, Error> {
        Firewall::find_in(DIRECTORIES)
    }

    /// The same, with the directories to look in.
    pub fn find_in(directories: &[&str]) -> Result<Firewall, Error> {
        let side = |family| {
            let tools = Tools::find(directories, family)?;
            Ok(Side { family, tools, reference: Vec::new() })
        };
        Ok(Firewall { sides: Family::BOTH.into_iter().map(side).collect::<Result<_, Error>>()?, installed: None })
    }

    /// Which tools were found, for the log.
    pub fn description(&self) -> String {
        let describe = |side: &Side| match &side.tools {
            Some(tools) => tools.description(),
            None => format!("no {}", tool(side.family, "", "restore")),
        };
        self.sides.iter().map(describe).collect::<Vec<_>>().join(", ")
    }

    /// Makes the tables hold the rules of this set for its instance, and nothing else of that instance: what a former
    /// run left is purged. If it fails, the rules that this value had put in before are put back, or none are left.
    pub fn install(&mut self, set: &RuleSet) -> Result<(), Error> {
        let owner = Owner::Instance(set.name.clone());
        let living = self.installed.as_ref() == Some(&set.name);
        // Also read when it is not to be put back: tables that cannot be read are better found before any is touched.
        let found = self.read(&owner)?;
        let before = if living { found } else { vec![Vec::new(); self.sides.len()] };
        match self.sides.iter().map(|side| side.install(set, &owner)).collect::<Result<Vec<_>, _>>() {
            Ok(references) => {
                for (side, reference) in self.sides.iter_mut().zip(references) {
                    side.reference = reference;
                }
                self.installed = Some(set.name.clone());
                Ok(())
            }
            Err(error) => {
                let at_fault = blame::redirection(&set.lines, &error);
                let error = self.roll_back(&owner, &before, error);
                Err(match at_fault.and_then(|id| set.places.get(id.index())?.as_ref()) {
                    Some((file, line)) => error.in_file(file, *line),
                    None => error,
                })
            }
        }
    }

    /// Takes whatever stands of that instance for put in by this value: it is a living daemon's, which this one is to
    /// replace, and which goes on with it if an installation fails.
    pub fn inherit(&mut self, name: &str) {
        self.installed = Some(name.to_string());
    }

    /// Takes the rules of this set for installed by this value, which [`Firewall::check`] then watches over: another
    /// process has put them in, a child of this one or the daemon that this one replaces.
    ///
    /// Errors: tables that cannot be read, or that do not hold this set; [`Firewall::install`] puts them right.
    pub fn adopt(&mut self, set: &RuleSet) -> Result<(), Error> {
        let found = self.read(&Owner::Instance(set.name.clone()))?;
        for (side, found) in self.sides.iter().zip(&found) {
            let planned = set.plan(side.family);
            if let Some(what) = unlike(&planned, found).or_else(|| stray(&planned, found)) {
                return Err(Error::Failed(format!("{} {what}", side.family)));
            }
        }
        for (side, found) in self.sides.iter_mut().zip(found) {
            side.reference = found;
        }
        self.installed = Some(set.name.clone());
        Ok(())
    }

    /// Takes the jumps to the rules of an instance away: no new connection meets them, and those that did before stay
    /// translated until [`Firewall::remove`].
    pub fn unhook(&mut self, name: &str) -> Result<(), Error> {
        let owner = Owner::Instance(name.to_string());
        let tools = self.sides.iter().filter_map(|side| side.tools.as_ref());
        let results: Vec<_> = tools.map(|tools| tools.unhook(&owner)).collect();
        results.into_iter().collect()
    }

    /// Removes the rules of an instance, whoever put them in. Where nothing is, nothing happens.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.remove_all(&Owner::Instance(name.to_string()))?;
        if self.installed.as_deref() == Some(name) {
            self.forget();
        }
        Ok(())
    }

    /// Removes everything that any instance ever left here, and returns how many chains that were.
    pub fn flush_all(&mut self) -> Result<usize, Error> {
        let chains = self.remove_all(&Owner::All)?;
        self.forget();
        Ok(chains)
    }

    /// Compares the tables with what stood there after the installation. Says what is gone, changed or out of place
    /// in a short sentence each; [`Firewall::install`] of the same set repairs it.
    pub fn check(&self) -> Result<Vec<String>, Error> {
        let Some(name) = &self.installed else { return Ok(Vec::new()) };
        let owner = Owner::Instance(name.clone());
        let mut said = Vec::new();
        for side in self.sides.iter().filter(|side| !side.reference.is_empty()) {
            let found = side.read(&owner)?;
            said.extend(differences(&side.reference, &found).iter().map(|what| format!("{} {what}", side.family)));
        }
        Ok(said)
    }

    fn read(&self, owner: &Owner) -> Result<Vec<Vec<Table>>, Error> {
        self.sides.iter().map(|side| side.read(owner)).collect()
    }

    /// Both families, even if the first fails: half removed is better than not at all.
    fn remove_all(&self, owner: &Owner) -> Result<usize, Error> {
        let remove = |tools: &Tools| tools.remove(owner);
        let results: Vec<_> = self.sides.iter().filter_map(|side| side.tools.as_ref()).map(remove).collect();
        results.into_iter().sum()
    }

    fn forget(&mut self) {
        self.installed = None;
        self.sides.iter_mut().for_each(|side| side.reference.clear());
    }

    /// Puts back what stood before, and where that fails removes all: a proxy that works without its rules is
    /// better than rules without a proxy.
    fn roll_back(&self, owner: &Owner, before: &[Vec<Table>], error: Error) -> Error {
        let mut trouble = Vec::new();
        for (side, tables) in self.sides.iter().zip(before) {
            let Some(tools) = &side.tools else { continue };
            let restored = if tables.is_empty() {
                tools.remove(owner).map(drop)
            } else {
                tools.replace(owner, tables).or_else(|first| tools.remove(owner).and(Err(first)))
            };
            trouble.extend(restored.err().map(|e| e.to_string()));
        }
        if trouble.is_empty() {
            return error;
        }
        let trouble = format!("nor could the former rules be put back: {}", trouble.join("; "));
        match error {
            Error::Firewall { command, status, said } => {
                Error::Firewall { command, status, said: format!("{}; {trouble}", said.trim()) }
            }
            other => Error::Failed(format!("{other}; {trouble}")),
        }
    }
}

impl Side {
    fn read(&self, owner: &Owner) -> Result<Vec<Table>, Error> {
        match &self.tools {
            Some(tools) => {
                tools.read(owner).or_else(|error| if is_missing(&error) { Ok(Vec::new()) } else { Err(error) })
            }
            None => Ok(Vec::new()),
        }
    }

    /// Installs, reads back, and returns what was read.
    fn install(&self, set: &RuleSet, owner: &Owner) -> Result<Vec<Table>, Error> {
        let target = set.plan(self.family);
        let Some(tools) = &self.tools else {
            return if target.is_empty() { Ok(target) } else { Err(self.no_tool()) };
        };
        if target.is_empty() {
            return tools.remove(owner).map(|_| target);
        }
        tools.purge_other(owner)?;
        tools.replace(owner, &target).map_err(|error| self.with_advice(error))?;
        let found = tools.read(owner)?;
        match unlike(&target, &found) {
            None => Ok(found),
            Some(what) => Err(Error::Failed(format!("{} {what} after it was installed", self.family))),
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

/// What is not as planned in what was read back. The texts cannot be compared, for iptables-save has its own words.
fn unlike(planned: &[Table], found: &[Table]) -> Option<String> {
    for wanted in planned {
        let nothing = Table::new(wanted.name);
        let found = table(found, wanted.name).unwrap_or(&nothing);
        for chain in &wanted.chains {
            let rules: usize = chain.rules.iter().map(|rule| rule.copies).sum();
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

/// What only somebody else, or an earlier set of ours, can have put there: rules that lead elsewhere, and chains that
/// are not planned.
fn stray(planned: &[Table], found: &[Table]) -> Option<String> {
    for there in found {
        for chain in &there.chains {
            let wanted =
                table(planned, there.name).and_then(|t| t.chains.iter().find(|other| other.name == chain.name));
            let Some(wanted) = wanted else {
                return Some(format!("{}: chain {} is not wanted", there.name, chain.name));
            };
            let verdicts = wanted.rules.iter().flat_map(|rule| std::iter::repeat_n(verdict(rule), rule.copies));
            if let Some((rule, _)) = chain.rules.iter().zip(verdicts).find(|(rule, wanted)| verdict(rule) != *wanted) {
                return Some(format!("{}: chain {} holds '{}'", there.name, chain.name, rule.text));
            }
        }
    }
    None
}

/// What a rule does. Unlike what it matches, iptables-save writes this as it was given.
fn verdict(rule: &Rule) -> Vec<String> {
    let words = unquote(&rule.text);
    let verdict = words.iter().rposition(|word| word == "-j").and_then(|at| words.get(at..));
    verdict.unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::chains::Chain;

    fn nat(copies: &[usize], at_head: bool) -> Vec<Table> {
        let rules = copies.iter().map(|copies| Rule { text: "-j RETURN".into(), copies: *copies }).collect();
        let jump = Jump { from: "PREROUTING".into(), at: 1, at_head, text: "-p tcp -j tproxy.1".into() };
        vec![Table { name: "nat", chains: vec![Chain { name: "tproxy.1".into(), rules }], jumps: vec![jump] }]
    }

    #[test]
    fn what_was_read_back_is_counted_against_the_plan() {
        let planned = nat(&[1, 2], true);
        assert_eq!(unlike(&planned, &nat(&[1, 1, 1], true)), None);
        assert_eq!(unlike(&planned, &nat(&[1, 1], true)).unwrap(), "nat: chain tproxy.1 holds 2 rules and not 3");
        assert_eq!(unlike(&planned, &[]).unwrap(), "nat: chain tproxy.1 holds 0 rules and not 3");
        assert_eq!(
            unlike(&planned, &nat(&[1, 1, 1], false)).unwrap(),
            "nat: PREROUTING does not begin with '-p tcp -j tproxy.1'"
        );
    }

    #[test]
    fn a_missing_tool_is_an_error_only_where_rules_are_wanted() {
        let mut firewall = Firewall::find_in(&["/nonexistent"]).unwrap();
        assert_eq!(firewall.description(), "no iptables-restore, no ip6tables-restore");
        assert_eq!(firewall.flush_all().unwrap(), 0);
        firewall.remove("1").unwrap();
        let matching =
            crate::rules::matching::Match::parse("-R", "-d fd00::1", crate::rules::matching::RELAYED).unwrap();
        let line = crate::rules::spec::RuleSpec {
            action: crate::rules::spec::Action::Redirect { port: 1 },
            matching: matching.resolve(&|_| Vec::new()).unwrap(),
            redirection: crate::redirection::RedirectionId(0),
            output: false,
        };
        let set = RuleSet {
            name: "1".into(),
            lines: vec![line],
            families: Family::BOTH.to_vec(),
            own_uid: None,
            places: vec![],
        };
        let error = firewall.install(&set).unwrap_err();
        assert_eq!(error.exit_status(), 71);
        assert!(error.to_string().contains("`ip6tables-restore` failed (not found)"), "{error}");
        assert!(error.to_string().ends_with("-b 0.0.0.0 leaves IPv6 out"), "{error}");
        firewall.install(&set.with(|_| crate::rules::spec::Gate::Withdrawn)).unwrap();
    }
}
