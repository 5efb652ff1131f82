//! ip(8) of iproute2: reads and changes the policy routing of a family.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::command::run;
use crate::rules::policy_routing::{FoundRouting, PROTOCOL, option};

/// The time limit of one run.
const LIMIT: Duration = Duration::from_secs(10);

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Ip(PathBuf);

impl Ip {
    /// Finds it.
    pub(crate) fn find(directories: &[&str]) -> Option<Ip> {
        directories.iter().map(|directory| Path::new(directory).join("ip")).find(|path| path.exists()).map(Ip)
    }

    /// The rules of a family and the routes of one table. Where the kernel lacks the family there are none.
    pub(crate) fn read_table(&self, family: Family, table: u32) -> Result<FoundRouting, Error> {
        let routes = self.show(family, &["route", "show", "table", &table.to_string()])?;
        Ok(FoundRouting::read(&self.show(family, &["rule", "show"])?, &routes, Some(table)))
    }

    /// The rules of a family and our routes in all tables, which may hold millions of others.
    pub(crate) fn read_ours(&self, family: Family) -> Result<FoundRouting, Error> {
        let routes = self.show(family, &["route", "show", "table", "all", "proto", &PROTOCOL.to_string()])?;
        Ok(FoundRouting::read(&self.show(family, &["rule", "show"])?, &routes, None))
    }

    /// Names of tables and protocols are the administrator's: with `-N` there are numbers.
    fn show(&self, family: Family, what: &[&str]) -> Result<String, Error> {
        let arguments: Vec<&str> = ["-N", option(family)].iter().chain(what).copied().collect();
        run(&self.0, &arguments, "", LIMIT).or_else(|error| if_missing(error, &self.0))
    }

    /// Runs a command that adds or deletes something. That it is there already, or no longer, is no error: another
    /// instance may have been faster.
    pub(crate) fn change(&self, family: Family, words: &[String]) -> Result<(), Error> {
        let arguments: Vec<&str> = std::iter::once(option(family)).chain(words.iter().map(String::as_str)).collect();
        match run(&self.0, &arguments, "", LIMIT) {
            Err(Error::Firewall { said, .. }) if is_done(&said) => Ok(()),
            result => result.map(drop).map_err(|error| too_old(error, &self.0)),
        }
    }
}

fn is_done(said: &str) -> bool {
    ["File exists", "No such file or directory", "No such process"].iter().any(|sign| said.contains(sign))
}

fn if_missing(error: Error, program: &Path) -> Result<String, Error> {
    match error {
        Error::Firewall { said, .. }
            if ["not supported", "FIB table does not exist"].iter().any(|sign| said.contains(sign)) =>
        {
            Ok(String::new())
        }
        error => Err(too_old(error, program)),
    }
}

/// An ip(8) that does not understand a command: an old one, or that of BusyBox.
fn too_old(error: Error, program: &Path) -> Error {
    let signs = [
        "is unknown, try",
        "unrecognized option",
        "invalid option",
        "Usage:",
        "is wrong",
        "either \"to\" is duplicate",
    ];
    match error {
        Error::Firewall { command, status, said } if signs.iter().any(|sign| said.contains(sign)) => {
            let first = said.lines().next().unwrap_or_default();
            let said = format!("{first}; ip(8) of iproute2 5.1 or later is needed, and {} is not", program.display());
            Error::Firewall { command, status, said }
        }
        error => error,
    }
}
