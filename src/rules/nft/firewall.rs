//! Installs the table of an instance with nft(8), checks it, and removes it again.
//!
//! The table belongs to a process that is called its owner, where the kernel and nft can do that (`flags owner`, Linux 5.12
//! and nft 1.0). Then nobody else can change it. A second table, for `--fail closed`, belongs to nobody, so it outlives
//! every process of the instance.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::chains::PREFIX;
use crate::rules::command::run_with;
use crate::rules::native::block;
use crate::rules::nft::{owners, table, targets};
use crate::rules::routes::MarksInUse;
use crate::rules::ruleset::{self, RuleSet};
use crate::rules::snapshot::NftTable;

/// The time limit of one run.
const LIMIT: Duration = Duration::from_secs(30);

/// Ends the name of the table that rejects when the other one is gone.
const CLOSED: &str = ".closed";

/// The name of a table that is tried and never made.
const PROBE: &str = "tproxy-probe";

/// The most tables of one name whose owners have not ended yet.
const NAMES: usize = 9;

/// The process that a table belongs to.
pub trait TableOwner: std::fmt::Debug + Sync {
    /// Runs commands in one transaction.
    fn feed(&self, text: &str) -> Result<(), Error>;

    /// Which process it is.
    fn pid(&self) -> Pid;
}

/// nft(8), as one instance uses it.
#[derive(Debug)]
pub(crate) struct NftFirewall {
    program: Option<PathBuf>,
    /// The tables that were installed, and not removed, as they were read back.
    pub installed: Vec<NftTable>,
}

impl NftFirewall {
    /// Finds the program. That it is missing is an error only when it is needed.
    pub(crate) fn find(directories: &[&str]) -> NftFirewall {
        let mut paths = directories.iter().map(|directory| Path::new(directory).join("nft"));
        NftFirewall { program: paths.find(|path| path.exists()), installed: Vec::new() }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.program.is_some()
    }

    /// The program, for the log.
    pub(crate) fn description(&self) -> String {
        let said = self.run(&["--version"], "").unwrap_or_else(|error| error.to_string());
        let owned = self.installed.iter().any(|table| table.is_owned);
        format!("{}{}", said.trim(), if owned { ", in a table that belongs to this daemon" } else { "" })
    }

    /// Makes the tables of the instance hold the rules of this set, in one transaction.
    pub(crate) fn install(&mut self, set: &RuleSet, owner: Option<&dyn TableOwner>) -> Result<(), Error> {
        let body = table::body(set)?;
        if body.is_empty() {
            return self.remove(&set.name, owner);
        }
        let (mut name, is_owned) = self.write(&set.name, &body, owner)?;
        self.end_former_owners(&set.name, &name, owner.filter(|_| is_owned))?;
        let first = table::name(&set.name);
        if let Some(owner) = owner.filter(|_| is_owned && name != first) {
            // Its name is free now. In one transaction, so that there is always one of the two.
            let moved = format!("{}delete table inet {name}\n", replacing(&first, &body, true));
            owner.feed(&moved)?;
            name = first;
        }
        let closed = format!("{}{CLOSED}", table::name(&set.name));
        let wanted = if set.holds { table::closed_body(set)? } else { String::new() };
        if !wanted.is_empty() {
            self.feed(&replacing(&closed, &wanted, false))?;
        } else if self.tables()?.contains(&closed) {
            self.feed(&format!("delete table inet {closed}\n"))?;
        }
        let closed = (!wanted.is_empty()).then(|| self.as_found(&closed, false)).transpose()?;
        self.installed = std::iter::once(self.as_found(&name, is_owned)?).chain(closed).collect();
        Ok(())
    }

    /// Removes all tables of the instance but `name`, and ends their owners. An earlier run may have left them, whose
    /// workers serve what they have. Only now: as long as some table translates, established connections stay translated.
    fn end_former_owners(&self, instance: &str, name: &str, owner: Option<&dyn TableOwner>) -> Result<(), Error> {
        let is_former = |other: &String| is_of(other, instance) && other != name && !other.ends_with(CLOSED);
        let former: Vec<String> = self.tables()?.into_iter().filter(is_former).collect();
        if !former.is_empty() {
            owners::end(instance, owner.map(TableOwner::pid));
        }
        former.into_iter().try_for_each(|name| self.delete(&NftTable { name, ..NftTable::default() }, owner))
    }

    /// Writes the table. If an owner that has not ended yet has its name, it gets another one. Returns the name, and
    /// whether it has an owner.
    fn write(&self, instance: &str, body: &str, owner: Option<&dyn TableOwner>) -> Result<(String, bool), Error> {
        let mut last = Error::Failed("no name is left for the table".into());
        let former = self.installed.iter().find(|table| !table.name.ends_with(CLOSED)).map(|table| table.name.clone());
        let base = table::name(instance);
        let more = (2..=NAMES).map(|number| format!("{base}.{number}"));
        for name in former.into_iter().chain([base.clone()]).chain(more) {
            match self.write_as(&name, body, owner) {
                Ok(is_owned) => return Ok((name, is_owned)),
                Err(error) if is_foreign(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn write_as(&self, name: &str, body: &str, owner: Option<&dyn TableOwner>) -> Result<bool, Error> {
        let Some(owner) = owner.filter(|_| self.can_own()) else {
            return self.feed(&replacing(name, body, false)).map(|()| false);
        };
        // A table that belongs to nobody cannot get an owner (`nf_tables_updtable`).
        let is_ours = self.installed.iter().any(|table| table.name == name && table.is_owned);
        if !is_ours && self.tables()?.iter().any(|other| other == name) {
            self.feed(&format!("delete table inet {name}\n"))?;
        }
        owner.feed(&replacing(name, body, true)).map(|()| true)
    }

    /// Whether the kernel and nft know tables with an owner.
    fn can_own(&self) -> bool {
        self.run(&["-c", "-f", "-"], &format!("table inet {PROBE} {{ flags owner; }}\n")).is_ok()
    }

    /// Refuses rules that the kernel would not take. They are tried under another name: the instance's own table may be
    /// there, and belong to a daemon that runs.
    pub(crate) fn try_out(&self, set: &RuleSet) -> Result<(), Error> {
        let text = format!("table inet {PROBE} {{\n{}}}\n", table::body(set)?);
        self.run(&["-c", "-f", "-"], &text).map(drop)
    }

    /// Compares the tables with their state after the installation. Returns a short sentence for each difference.
    pub(crate) fn check(&self) -> Result<Vec<String>, Error> {
        let mut differences = Vec::new();
        if self.installed.is_empty() {
            return Ok(differences);
        }
        let there = self.tables()?;
        for table in &self.installed {
            if !there.contains(&table.name) {
                differences.push(format!("nft: table inet {} is gone", table.name));
            } else if self.as_found(&table.name, table.is_owned)?.listing != table.listing {
                differences.push(format!("nft: table inet {} has been changed", table.name));
            }
        }
        Ok(differences)
    }

    /// The marks that tables of tproxy give to packets. `counts` says which tables count.
    pub(crate) fn marks(&self, counts: &dyn Fn(&str) -> bool) -> Result<MarksInUse, Error> {
        let mut marks = MarksInUse::default();
        if self.program.is_none() {
            return Ok(marks);
        }
        let text = self.run(&["list", "chains", "inet"], "")?;
        let mut is_in = false;
        for line in text.lines() {
            // Newer ones say behind it whose table it is.
            let line = line.split(" # ").next().unwrap_or(line);
            if let Some(name) = block("table", line) {
                is_in = name.strip_prefix("inet ").is_some_and(|name| name.starts_with(PREFIX) && counts(name));
            }
            let found = block("chain", line).filter(|_| is_in).and_then(targets::mark_of);
            found.into_iter().for_each(|(family, mark)| marks.add(family, mark));
        }
        Ok(marks)
    }

    /// Takes the hooks away: no new connection is redirected, or rejected. Established ones stay translated.
    pub(crate) fn unhook(&mut self, owner: Option<&dyn TableOwner>) -> Result<(), Error> {
        if self.installed.is_empty() {
            return Ok(());
        }
        let there = self.tables()?;
        for table in self.installed.iter().filter(|table| there.contains(&table.name)) {
            if table.name.ends_with(CLOSED) {
                self.delete(table, owner)?;
                continue;
            }
            let hooks = hooked_chains(&table.listing).filter(|chain| !chain.ends_with(table::ESTABLISHED));
            let text: String = hooks.map(|chain| format!("flush chain inet {} {chain}\n", table.name)).collect();
            self.feed_owner(table, owner, &text)?;
        }
        Ok(())
    }

    /// Removes the tables of an instance, whoever installed them. That there are none is no error.
    pub(crate) fn remove(&mut self, instance: &str, owner: Option<&dyn TableOwner>) -> Result<(), Error> {
        self.remove_all(|name| is_of(name, instance), owner).map(drop)
    }

    /// Removes the tables of all instances, and returns how many these were.
    pub(crate) fn flush_all(&mut self) -> Result<usize, Error> {
        self.remove_all(|name| name.starts_with(PREFIX), None)
    }

    /// All, even if the first fails: half removed is better than not removed.
    fn remove_all(&mut self, ours: impl Fn(&str) -> bool, owner: Option<&dyn TableOwner>) -> Result<usize, Error> {
        if self.program.is_none() {
            return Ok(0);
        }
        let mut names: Vec<String> = self.tables()?.into_iter().filter(|name| ours(name)).collect();
        // What rejects goes first: there may be a moment between the two.
        names.sort_by_key(|name| !name.ends_with(CLOSED));
        let known = |name: &String| self.installed.iter().find(|table| table.name == *name).cloned();
        let unknown = |name: &String| NftTable { name: name.clone(), is_owned: false, listing: String::new() };
        let tables: Vec<NftTable> = names.iter().map(|name| known(name).unwrap_or_else(|| unknown(name))).collect();
        let results: Vec<_> = tables.iter().map(|table| self.delete(table, owner)).collect();
        self.installed.retain(|table| !names.contains(&table.name));
        results.into_iter().collect::<Result<(), _>>().map(|()| tables.len())
    }

    fn delete(&self, table: &NftTable, owner: Option<&dyn TableOwner>) -> Result<(), Error> {
        let done = self.feed_owner(table, owner, &format!("delete table inet {}\n", table.name));
        // Its owner may have ended in between.
        done.or_else(|error| if self.tables()?.contains(&table.name) { Err(error) } else { Ok(()) })
    }

    fn feed_owner(&self, table: &NftTable, owner: Option<&dyn TableOwner>, text: &str) -> Result<(), Error> {
        match owner.filter(|_| table.is_owned) {
            _ if text.is_empty() => Ok(()),
            Some(owner) => owner.feed(text),
            None => self.feed(text),
        }
    }

    /// The names of the tables of both families.
    fn tables(&self) -> Result<Vec<String>, Error> {
        let text = self.run(&["list", "tables", "inet"], "")?;
        Ok(text.lines().filter_map(|line| line.strip_prefix("table inet ")).map(str::to_owned).collect())
    }

    /// A table as nft shows it. Of one with an owner nobody can change what its sets hold.
    fn as_found(&self, name: &str, is_owned: bool) -> Result<NftTable, Error> {
        let options: &[&str] = if is_owned { &["-s", "-t"] } else { &["-s"] };
        let listing = self.run(&[options, &["list", "table", "inet", name]].concat(), "")?;
        Ok(NftTable { name: name.to_owned(), is_owned, listing: without_rates(&listing) })
    }

    fn feed(&self, text: &str) -> Result<(), Error> {
        self.run(&["-f", "-"], text).map(drop)
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let program = self.program.as_deref().ok_or_else(|| Error::Failed("nft is not installed".into()))?;
        // Times in a match are in UTC.
        run_with(program, arguments, input, &[("TZ", "UTC")], LIMIT)
    }
}

/// Whether a table belongs to another process, which alone can change it.
pub(crate) fn is_foreign(error: &Error) -> bool {
    matches!(error, Error::Firewall { said, .. } if said.contains("Operation not permitted"))
}

/// Whether a table is one of an instance: `tproxy.NAME`, and behind another dot a number or a word of ours.
fn is_of(table: &str, instance: &str) -> bool {
    table.strip_prefix(&table::name(instance)).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The transaction that makes a table what it shall be, whatever it was.
pub(crate) fn replacing(name: &str, body: &str, is_owned: bool) -> String {
    let flags = if is_owned { "\tflags owner\n" } else { "" };
    let first = if is_owned { " { flags owner; }" } else { "" };
    format!("table inet {name}{first}\ndelete table inet {name}\ntable inet {name} {{\n{flags}{body}}}\n")
}

/// The tables of an instance as text for nft, without their owner: whoever feeds this to nft(8) is not one that stays. And
/// the commands for its policy routing.
pub(crate) fn print_rules(set: &RuleSet) -> Result<String, Error> {
    let name = table::name(&set.name);
    let closed = if set.holds { table::closed_body(set)? } else { String::new() };
    let bodies = [(name.clone(), table::body(set)?), (format!("{name}{CLOSED}"), closed)];
    let tables = bodies.iter().filter(|(_, body)| !body.is_empty());
    let text: String = tables.map(|(name, body)| format!("table inet {name} {{\n{body}}}\n")).collect();
    let first = if text.is_empty() { "" } else { "# nft -f -\n" };
    Ok(Family::BOTH.map(|family| ruleset::routing_commands(set, family)).concat() + first + &text)
}

/// The chains of a listing to which a hook leads.
fn hooked_chains(listing: &str) -> impl Iterator<Item = &str> {
    let mut chain = "";
    listing.lines().filter_map(move |line| match block("chain", line) {
        Some(name) => {
            chain = name;
            None
        }
        None => line.trim().starts_with("type ").then_some(chain).filter(|chain| !chain.is_empty()),
    })
}

/// A listing without what the sets of rates hold: that changes with the traffic.
fn without_rates(listing: &str) -> String {
    let mut rates = false;
    let mut kept = String::new();
    for line in listing.lines() {
        rates |= block("set", line).is_some_and(|name| name.starts_with("rates."));
        if !rates {
            kept.push_str(line);
            kept.push('\n');
        }
        rates &= line != "\t}";
    }
    kept
}
