//! The tables as nft(8) shows them. A rule that was added with nft, and that iptables has no words for, hides its whole
//! table from iptables-save and its chain from a deletion by text. nft shows every rule with its handle, which is never
//! used for another rule of the table, so a rule of others can never be deleted by mistake.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::command::run;
use crate::rules::save::{Lines, Owner};

/// nft(8) for the tables of one family.
#[derive(Clone, Debug)]
pub(crate) struct Native {
    program: PathBuf,
    /// As nft calls the family.
    family: &'static str,
}

/// An owner's part of one table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NativePart {
    table: &'static str,
    pub chains: Vec<String>,
    /// The jumps to these chains: the chain that each is in, and its handle.
    jumps: Vec<(String, u64)>,
}

impl Native {
    /// Finds the program.
    pub(crate) fn find(directories: &[&str], family: Family) -> Option<Native> {
        let mut paths = directories.iter().map(|directory| Path::new(directory).join("nft"));
        let program = paths.find(|path| path.exists())?;
        Some(Native { program, family: family_name(family) })
    }

    /// All tables, without what sets hold.
    pub(crate) fn saved(&self, limit: Duration) -> Result<String, Error> {
        run(&self.program, &["-s", "-t", "list", "ruleset"], "", limit)
    }

    /// Reads the owner's part of a table.
    pub(crate) fn read(&self, table: &'static str, owner: &Owner, limit: Duration) -> Result<NativePart, Error> {
        let text = run(&self.program, &["-a", "list", "table", self.family, table], "", limit)?;
        Ok(read(&text, table, owner))
    }

    /// Deletes jumps and all chains but those to `keep`. The chains are emptied with the jumps: one that others still lead
    /// to cannot be deleted, but does nothing any more.
    pub(crate) fn delete(
        &self,
        parts: &[NativePart],
        keep: impl Fn(&str) -> bool,
        limit: Duration,
    ) -> Result<(), Error> {
        let (mut emptied, mut deleted) = (String::new(), String::new());
        for part in parts {
            let place = format!("{} {}", self.family, part.table);
            for (from, handle) in &part.jumps {
                emptied.push_str(&format!("delete rule {place} {from} handle {handle}\n"));
            }
            for chain in part.chains.iter().filter(|chain| !keep(chain)) {
                emptied.push_str(&format!("flush chain {place} {chain}\n"));
                deleted.push_str(&format!("delete chain {place} {chain}\n"));
            }
        }
        self.feed(&emptied, limit)?;
        self.feed(&deleted, limit)
    }

    /// Runs commands in one transaction.
    fn feed(&self, text: &str, limit: Duration) -> Result<(), Error> {
        if text.is_empty() { Ok(()) } else { run(&self.program, &["-f", "-"], text, limit).map(drop) }
    }
}

/// As nft calls a family.
pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The name in `KIND NAME {`, as nft begins a table or a chain.
pub(crate) fn block<'a>(kind: &str, line: &'a str) -> Option<&'a str> {
    line.trim().strip_prefix(kind)?.strip_prefix(' ')?.strip_suffix(" {")
}

/// Reads the output of `nft -a list table`.
fn read(text: &str, table: &'static str, owner: &Owner) -> NativePart {
    let mut part = NativePart { table, chains: Vec::new(), jumps: Vec::new() };
    let mut chain = "";
    for line in Lines::without_escapes(text) {
        let Some((line, handle)) = line.rsplit_once(" # handle ") else { continue };
        let line = line.trim();
        if let Some(name) = block("chain", line) {
            chain = name;
            part.chains.extend(owner.owns(chain).then(|| chain.to_owned()));
        } else if !owner.owns(chain)
            && target(line).is_some_and(|target| owner.owns(target))
            && let Ok(handle) = handle.parse()
        {
            part.jumps.push((chain.to_owned(), handle));
        }
    }
    part
}

/// The chain that a rule leads to. The verdict is the last thing in a rule, but for a comment, which has no quotes.
fn target(rule: &str) -> Option<&str> {
    let rule = match rule.rsplit_once(" comment \"") {
        Some((rule, comment)) if comment.ends_with('"') => rule,
        _ => rule,
    };
    let (rest, target) = rule.rsplit_once(' ')?;
    matches!(rest.rsplit(' ').next(), Some("jump" | "goto")).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat { # handle 1
	chain tproxy.1 { # handle 1
		tcp dport 80 counter packets 0 bytes 0 redirect to :12970 # handle 2
	}

	chain tproxy.1.out { # handle 12
		counter packets 0 bytes 0 jump tproxy.1 # handle 13
	}

	chain tproxy.12 { # handle 5
	}

	chain PREROUTING { # handle 3
		type nat hook prerouting priority dstnat; policy accept;
		meta mark set 0x00000001 # handle 4
		tcp flags syn / fin,syn,rst,ack counter packets 0 bytes 0 jump tproxy.1 # handle 6
		tcp dport 7 return comment "jump tproxy.1" # handle 7
		tcp dport 7 jump tproxy.1 comment "nft\" # handle 8
		tcp dport 7 return comment "nft
jump tproxy.1 # handle 3" # handle 9
		 counter packets 0 bytes 0 goto tproxy.1.out # handle 10
		counter packets 0 bytes 0 jump tproxy.12 # handle 11
	}
}
"#;

    #[test]
    fn only_the_owners_chains_and_jumps_are_read_with_their_handles() {
        let part = read(LIST, "nat", &Owner::Instance("1".into()));
        assert_eq!(part.chains, ["tproxy.1", "tproxy.1.out"]);
        let from = |handle| ("PREROUTING".to_owned(), handle);
        assert_eq!(part.jumps, [from(6), from(8), from(10)]);
        let all = read(LIST, "nat", &Owner::All);
        assert_eq!((all.chains.len(), all.jumps.len()), (3, 4));
    }
}
