//! The iptables tools: where they are, and which of their two kinds is in use.
//!
//! iptables comes as `nft` and as `legacy`, which write to different tables in the same kernel. Traffic goes through
//! both, but an administrator looks at one of them, so our rules go where the administrator's are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::blame;
use crate::rules::chains::{TABLES, Table, restore_text, unhook_text, unquote};
use crate::rules::command::run;
use crate::rules::lacking::PacketFilter;
use crate::rules::native::{Native, NativePart, family_name};
use crate::rules::native_filter;
use crate::rules::save::{Lines, Owner, is_ours, not_shown, read};

/// The directories that are searched, in this order. They are fixed, since PATH must not decide what root runs.
pub(crate) const DIRECTORIES: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// The time limit of one run. It is longer than the tool itself waits for the lock of the tables.
const LIMIT: Duration = Duration::from_secs(30);

/// How often a change is tried if others change our rules at the same time.
const TRIES: usize = 3;

/// The pair of tools of one kind.
#[derive(Clone, Debug)]
struct Backend {
    family: Family,
    restore: PathBuf,
    save: PathBuf,
    /// The tool that takes one rule as its arguments.
    single: Option<PathBuf>,
    /// nft(8), for tables of the kind `nft` that the pair cannot show.
    native: Option<Native>,
}

/// What the tools of a family show.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The owner's part.
    pub tables: Vec<Table>,
    /// The tables that the tools cannot show: rules were added with nft(8) that iptables has no words for.
    pub hidden: Vec<&'static str>,
}

/// The tools of one family.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    family: Family,
    chosen: Backend,
    /// The other kind, in which an earlier run may have left rules.
    other: Option<Backend>,
    /// Whether the other kind is legacy. /proc tells whether legacy tables exist.
    other_is_legacy: bool,
    version: String,
}

/// The name of a tool, for example `ip6tables-legacy-restore`; without a verb `ip6tables-legacy`.
pub(crate) fn tool(family: Family, kind: &str, verb: &str) -> String {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{program}{kind}{}{verb}", if verb.is_empty() { "" } else { "-" })
}

impl Tools {
    /// Finds the tools of a family and chooses between the kinds. `None` if there are none.
    pub(crate) fn find(directories: &[&str], family: Family) -> Result<Option<Tools>, Error> {
        let Some(mut default) = Backend::find(directories, family, "") else { return Ok(None) };
        let version = default.version()?;
        let is_nft = version.contains("nf_tables");
        let mut other = Backend::find(directories, family, if is_nft { "-legacy" } else { "-nft" });
        if let Some(nft) = if is_nft { Some(&mut default) } else { other.as_mut() } {
            nft.native = Native::find(directories, family);
        }
        if is_nft
            && let Some(legacy) = &other
            && legacy_holds(family, "nat")
            && legacy.has_nat_rules()?
        {
            let version = legacy.version()?;
            return Ok(Some(Tools {
                family,
                chosen: legacy.clone(),
                other: Some(default),
                other_is_legacy: false,
                version: format!("{version}, because its nat table is in use"),
            }));
        }
        Ok(Some(Tools { family, chosen: default, other, other_is_legacy: is_nft, version }))
    }

    /// The chosen tool with its version.
    pub(crate) fn description(&self) -> String {
        format!("{} ({})", self.chosen.restore.display(), self.version)
    }

    /// Reads the owner's part of the tables.
    pub(crate) fn read(&self, owner: &Owner) -> Result<Found, Error> {
        self.chosen.read(owner)
    }

    /// What filters packets of the family. Filters that nft cannot show are left out.
    pub(crate) fn filters(&self) -> Result<Vec<PacketFilter>, Error> {
        let mut filters = PacketFilter::of_iptables(&self.chosen.save()?.0);
        let mut kinds = [Some(&self.chosen), self.other.as_ref()].into_iter().flatten();
        if let Some(text) = kinds.find_map(|kind| kind.native.as_ref()?.saved(LIMIT).ok()) {
            filters.extend(native_filter::filters(&text, self.family));
        }
        Ok(filters)
    }

    /// Whether the chosen kind translates connections for somebody else.
    pub(crate) fn translates_for_others(&self) -> Result<bool, Error> {
        let (save, _) = self.chosen.save()?;
        let nat = Lines::new(&save).skip_while(|line| *line != "*nat").take_while(|line| *line != "COMMIT");
        Ok(nat.filter_map(|line| line.strip_prefix("-A ")).any(|rule| !is_ours(rule)))
    }

    /// Makes the owner's part of the tables equal to `target`, in one transaction; in tables that cannot be shown, what
    /// is new is added before what was there is deleted.
    pub(crate) fn replace(&self, owner: &Owner, target: &[Table]) -> Result<(), Error> {
        self.chosen.replace(owner, target).map(drop)
    }

    /// Deletes the owner's jumps and leaves its chains.
    pub(crate) fn unhook(&self, owner: &Owner) -> Result<(), Error> {
        let found = match self.read(owner) {
            Err(error) if is_missing(&error) => return Ok(()),
            found => found?,
        };
        let text = unhook_text(&found.tables);
        let lines = if text.is_empty() { Ok(()) } else { self.chosen.feed(&text) };
        let shown = lines.and(self.chosen.delete_other_than_lines(&found.tables));
        let hidden = match self.chosen.hidden_parts(owner, &found.hidden)? {
            Some((native, parts)) => native.delete(&parts, |_| true, LIMIT),
            None => Ok(()),
        };
        shown.and(hidden)
    }

    /// Why nothing can be installed in tables that cannot be shown.
    pub(crate) fn hides(&self, tables: &[&'static str]) -> Error {
        self.chosen.hides(tables, "")
    }

    /// Removes the owner's part, also from the tables of the other kind. Returns how many chains were removed.
    pub(crate) fn remove(&self, owner: &Owner) -> Result<usize, Error> {
        let here = self.chosen.replace(owner, &[]).or_else(if_missing);
        let there = self.purge_other(owner);
        Ok(here? + there?)
    }

    /// Removes the owner's part from the tables of the other kind, where an earlier run may have left it.
    pub(crate) fn purge_other(&self, owner: &Owner) -> Result<usize, Error> {
        match &self.other {
            Some(other) if !self.other_is_legacy || legacy_holds(self.family, "") => {
                other.replace(owner, &[]).or_else(if_missing)
            }
            _ => Ok(0),
        }
    }
}

impl Backend {
    fn find(directories: &[&str], family: Family, kind: &str) -> Option<Backend> {
        let path = |verb| {
            let name = tool(family, kind, verb);
            directories.iter().map(|directory| Path::new(directory).join(&name)).find(|path| path.exists())
        };
        Some(Backend { family, restore: path("restore")?, save: path("save")?, single: path(""), native: None })
    }

    /// The version, for example `v1.8.9 (nf_tables)`.
    fn version(&self) -> Result<String, Error> {
        let said = run(&self.restore, &["--version"], "", LIMIT)?;
        Ok(said.trim().split_once(' ').map_or_else(|| said.trim().to_string(), |(_, version)| version.to_string()))
    }

    fn has_nat_rules(&self) -> Result<bool, Error> {
        let (save, _) = self.save()?;
        let mut nat = Lines::new(&save).skip_while(|line| *line != "*nat").take_while(|line| *line != "COMMIT");
        Ok(nat.any(|line| line.starts_with("-A ")))
    }

    fn read(&self, owner: &Owner) -> Result<Found, Error> {
        let (text, hidden) = self.save()?;
        Ok(Found { tables: read(&text, owner), hidden })
    }

    /// Reads all tables, and says which of ours cannot be shown. iptables-save has no `-w`: it reads without the lock.
    fn save(&self) -> Result<(String, Vec<&'static str>), Error> {
        match run(&self.save, &[], "", LIMIT) {
            Ok(text) => {
                let hidden = not_shown(&text);
                Ok((text, hidden))
            }
            // It has stopped at a rule that it cannot parse, perhaps in a table that is none of ours.
            Err(error) if cannot_parse(&error) => self.save_each(),
            Err(error) => Err(error),
        }
    }

    fn save_each(&self) -> Result<(String, Vec<&'static str>), Error> {
        let (mut all, mut hidden) = (String::new(), Vec::new());
        for table in TABLES {
            match run(&self.save, &["-t", table], "", LIMIT) {
                Ok(text) => all.push_str(&text),
                Err(error) if cannot_parse(&error) => hidden.push(table),
                Err(error) => return Err(error),
            }
        }
        hidden.extend(not_shown(&all));
        Ok((all, hidden))
    }

    fn feed(&self, text: &str) -> Result<(), Error> {
        let done = run(&self.restore, &["--noflush", "-w", "10"], text, LIMIT);
        done.map(drop).map_err(|error| blame::name_rule(error, text))
    }

    /// Deletes the jumps that iptables-restore cannot, each by itself: it reads lines, and their comments have several.
    fn delete_other_than_lines(&self, tables: &[Table]) -> Result<(), Error> {
        for (table, jump) in tables.iter().flat_map(|table| table.jumps.iter().map(move |jump| (table, jump))) {
            if !jump.is_line() {
                let single = self.single.as_ref().ok_or_else(|| {
                    let tool = tool(self.family, "", "");
                    let text = jump.text.escape_debug();
                    Error::Failed(format!(
                        "only {tool}, which is not installed, can delete '{text}' from {}",
                        jump.from
                    ))
                })?;
                let words = unquote(&jump.text);
                let mut arguments = vec!["-w", "10", "-t", table.name, "-D", &jump.from];
                arguments.extend(words.iter().map(String::as_str));
                run(single, &arguments, "", LIMIT)?;
            }
        }
        Ok(())
    }

    fn replace(&self, owner: &Owner, target: &[Table]) -> Result<usize, Error> {
        let found = self.read(owner)?;
        let (hidden, shown): (Vec<Table>, Vec<Table>) =
            target.iter().cloned().partition(|table| found.hidden.contains(&table.name));
        // Both, even if the first fails: half removed is better than not removed.
        let names: Vec<&'static str> = found.tables.iter().map(|table| table.name).collect();
        let mut chains = self.replace_shown(owner, found.tables, &shown);
        if chains.is_err() && target.is_empty() && self.native.is_some() {
            // A jump that iptables-save does not show may keep a chain: from a chain of nft's own, or from a map.
            chains = self.replace_hidden(owner, &names, &[]);
        }
        // Without nft, what an earlier run may have left there does not stop an installation elsewhere.
        let more = match &self.native {
            None if hidden.is_empty() && !shown.is_empty() => Ok(0),
            _ => self.replace_hidden(owner, &found.hidden, &hidden),
        };
        Ok(chains? + more?)
    }

    /// Feeds the difference to the tool. Rules are deleted by their text, never by their number. So a change that others
    /// make in between can make it fail, and it is tried again; but it can never delete a rule of theirs. Returns how
    /// many chains there were before.
    fn replace_shown(&self, owner: &Owner, mut current: Vec<Table>, target: &[Table]) -> Result<usize, Error> {
        let chains = current.iter().map(|table| table.chains.len()).sum();
        for tried in 1.. {
            let text = restore_text(&current, target);
            if text.is_empty() || current == target {
                break;
            }
            let Err(error) = self.delete_other_than_lines(&current).and_then(|()| self.feed(&text)) else { break };
            let found = self.read(owner)?.tables;
            if tried == TRIES || found == current {
                return Err(error);
            }
            current = found;
        }
        Ok(chains)
    }

    /// The same in tables that cannot be shown. Returns how many chains there were before.
    fn replace_hidden(&self, owner: &Owner, tables: &[&'static str], target: &[Table]) -> Result<usize, Error> {
        let Some((native, former)) = self.hidden_parts(owner, tables)? else { return Ok(0) };
        if !target.is_empty() {
            self.feed(&restore_text(&[], target))?;
        }
        let wanted = |name: &str| target.iter().flat_map(|table| &table.chains).any(|chain| chain.name == name);
        native.delete(&former, wanted, LIMIT)?;
        Ok(former.iter().map(|part| part.chains.len()).sum())
    }

    /// The owner's part of tables that cannot be shown; `None` if all can.
    fn hidden_parts(
        &self,
        owner: &Owner,
        tables: &[&'static str],
    ) -> Result<Option<(&Native, Vec<NativePart>)>, Error> {
        if tables.is_empty() {
            return Ok(None);
        }
        let lacking = || self.hides(tables, "; if rules of tproxy are in it, they stay, because nft is not installed");
        let native = self.native.as_ref().ok_or_else(lacking)?;
        // A removal starts with the nat table, as in `restore_text`.
        let parts = tables.iter().rev().map(|table| native.read(table, owner, LIMIT)).collect::<Result<_, _>>()?;
        Ok(Some((native, parts)))
    }

    fn hides(&self, tables: &[&'static str], what_follows: &str) -> Error {
        let list = |table: &&str| format!("`nft list table {} {table}`", family_name(self.family));
        let lists = tables.iter().map(list).collect::<Vec<_>>().join(", ");
        Error::Firewall {
            command: self.save.display().to_string(),
            status: format!("it cannot show the {} table of {}", tables.join(" and the "), self.family),
            said: format!(
                "it holds rules for which iptables has no words ({lists}); they belong in a table of their own{what_follows}"
            ),
        }
    }
}

/// What filters packets of a family where there is no iptables.
pub(crate) fn native_filters(directories: &[&str], family: Family) -> Result<Vec<PacketFilter>, Error> {
    let Some(native) = Native::find(directories, family) else { return Ok(Vec::new()) };
    Ok(native_filter::filters(&native.saved(LIMIT)?, family))
}

/// Whether the kernel has legacy tables in this network namespace: any, or one of that name. The tool itself would create
/// them. `thread-self`, since in tests a thread is in another namespace than its process.
fn legacy_holds(family: Family, table: &str) -> bool {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| table.is_empty() || name == table))
}

/// If the kernel lacks the tables, there is nothing to remove.
fn if_missing(error: Error) -> Result<usize, Error> {
    if is_missing(&error) { Ok(0) } else { Err(error) }
}

/// Whether a tool has met a rule that was added with nft(8) and that it cannot parse.
fn cannot_parse(error: &Error) -> bool {
    matches!(error, Error::Firewall { said, .. } if said.contains("Parsing nftables rule failed"))
}

/// Whether an error means that the kernel lacks the tables of the family.
pub(crate) fn is_missing(error: &Error) -> bool {
    const SIGNS: [&str; 7] = [
        "Table does not exist",
        "unable to initialize table",
        "can't initialize",
        "Failed to initialize nft",
        "Could not fetch rule set generation id",
        "TABLE_ADD failed",
        "CHAIN_ADD failed",
    ];
    match error {
        Error::Firewall { said, .. } => {
            SIGNS.iter().any(|sign| said.contains(sign)) && !said.to_lowercase().contains("permission denied")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(said: &str) -> Error {
        Error::Firewall { command: "x".into(), status: "exit status: 1".into(), said: said.into() }
    }

    #[test]
    fn missing_tables_are_told_from_other_failures() {
        let table = [
            ("ip6tables-restore: unable to initialize table 'nat'", true),
            ("modprobe: x\niptables: can't initialize iptables table `nat': Table does not exist", true),
            ("iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument", true),
            ("Could not fetch rule set generation id: Permission denied (you must be root)", false),
            ("Couldn't load match `bogus':No such file or directory", false),
            ("", false),
        ];
        for (said, missing) in table {
            assert_eq!(is_missing(&failure(said)), missing, "{said}");
        }
        assert!(!is_missing(&Error::Failed("Table does not exist".into())));
    }

    #[test]
    fn tools_are_named_after_family_and_kind() {
        assert_eq!(tool(Family::V4, "", "save"), "iptables-save");
        assert_eq!(tool(Family::V6, "-legacy", "restore"), "ip6tables-legacy-restore");
    }

    #[test]
    fn without_tools_there_are_none() {
        assert!(Tools::find(&["/nonexistent"], Family::V4).unwrap().is_none());
    }
}
