//! The policy routing of an instance in the kernel: installed, checked and removed together with its rules.

use crate::error::Error;
use crate::rules::address::Family;
use crate::rules::chains::{FOR_ESTABLISHED, Table};
use crate::rules::ip::Ip;
use crate::rules::policy_routing::{Mark, PolicyRouting};
use crate::rules::ruleset::RuleSet;
use crate::rules::tools::DIRECTORIES;
use crate::sys::procfs;

/// The policy routing of this host, as one instance uses it.
#[derive(Debug)]
pub(crate) struct Routes {
    ip: Option<Ip>,
    /// What was installed with the rules.
    pub installed: Option<PolicyRouting>,
}

/// The marks that chains of tproxy set, in each family.
#[derive(Debug, Default)]
pub(crate) struct MarksInUse(pub [Vec<Mark>; 2]);

impl MarksInUse {
    pub(crate) fn add(&mut self, family: Family, mark: Mark) {
        let [v4, v6] = &mut self.0;
        if family == Family::V4 { v4.push(mark) } else { v6.push(mark) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// These and the others.
    pub(crate) fn with(mut self, other: MarksInUse) -> MarksInUse {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            own.extend(other);
        }
        self
    }

    fn of(&self, family: Family) -> &[Mark] {
        let [v4, v6] = &self.0;
        if family == Family::V4 { v4 } else { v6 }
    }
}

/// The marks that chains of ours set for established connections.
pub(crate) fn marks(tables: &[Table]) -> Vec<Mark> {
    let chains = tables.iter().flat_map(|table| &table.chains).filter(|chain| chain.name.ends_with(FOR_ESTABLISHED));
    let rules = chains.flat_map(|chain| &chain.rules);
    rules.filter_map(|rule| rule.text.split_once("--set-xmark ")?.1.split(' ').next()?.parse().ok()).collect()
}

impl Routes {
    /// Finds ip(8). That it is missing is an error only when it is needed.
    pub(crate) fn find_in(directories: &[&str]) -> Routes {
        Routes { ip: Ip::find(directories), installed: None }
    }

    /// Refuses a set whose mark or table is somebody else's. `in_use` are the marks of other instances.
    pub(crate) fn check_free(&self, set: &RuleSet, in_use: &MarksInUse) -> Result<(), Error> {
        for (family, wanted) in wanted(set.routing.as_ref()) {
            let found = self.tool()?.read_table(family, wanted.table)?;
            if let Some(conflict) = found.conflict(wanted, in_use.of(family)) {
                return Err(Error::Taken(format!("{conflict} of {family}; give another one")));
            }
        }
        Ok(())
    }

    /// Adds what lacks.
    pub(crate) fn install(&self, wanted_routing: Option<&PolicyRouting>) -> Result<(), Error> {
        for (family, wanted) in wanted(wanted_routing) {
            let ip = self.tool()?;
            let commands = ip.read_table(family, wanted.table)?.repair(wanted);
            commands.iter().try_for_each(|command| ip.change(family, command))?;
        }
        Ok(())
    }

    /// A short sentence for everything that is gone or out of place.
    pub(crate) fn differences(&self) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        for (family, wanted) in wanted(self.installed.as_ref()) {
            let found = self.tool()?.read_table(family, wanted.table)?;
            all.extend(found.differences(wanted).into_iter().map(|what| format!("{family} routing: {what}")));
        }
        Ok(all)
    }

    /// Removes what is ours and has none of the marks in use. Both families, even if the first fails. Returns how many
    /// rules and routes there were.
    pub(crate) fn purge(&self, in_use: &MarksInUse) -> Result<usize, Error> {
        let Some(ip) = &self.ip else { return Ok(0) };
        let purge = |family| -> Result<usize, Error> {
            let commands = ip.read_ours(family)?.purge(in_use.of(family));
            commands.iter().try_for_each(|command| ip.change(family, command))?;
            Ok(commands.len())
        };
        let results = Family::BOTH.map(purge);
        results.into_iter().sum()
    }

    fn tool(&self) -> Result<&Ip, Error> {
        self.ip.as_ref().ok_or_else(|| Error::Firewall {
            command: "ip".to_owned(),
            status: "not found".to_owned(),
            said: format!(
                "it is in none of {}; --intercept tproxy needs iproute2 for policy routing",
                DIRECTORIES.join(", ")
            ),
        })
    }
}

/// A family that is switched off needs no routing, and can have none. When it is switched on, it lacks.
fn wanted(routing: Option<&PolicyRouting>) -> impl Iterator<Item = (Family, &PolicyRouting)> {
    let families =
        routing.into_iter().flat_map(|routing| routing.families.iter().map(move |family| (*family, routing)));
    families.filter(|(family, _)| *family == Family::V4 || !procfs::ipv6_is_off())
}
