//! The rules of an instance, installed with iptables or with nft, and the policy routing that belongs to them.

use crate::error::Error;
use crate::rules::backend::{FirewallChoice, FirewallKind};
use crate::rules::firewall::{Firewall, with_trouble};
use crate::rules::nft::firewall::{NftFirewall, TableOwner};
use crate::rules::nft::table;
use crate::rules::routes::{MarksInUse, Routes};
use crate::rules::ruleset::RuleSet;
use crate::rules::save::Owner;
use crate::rules::snapshot::Snapshot;
use crate::rules::tools::DIRECTORIES;

/// Both firewalls, of which an instance uses one.
#[derive(Debug)]
pub struct Installation<'a> {
    iptables: Firewall,
    nft: NftFirewall,
    routes: Routes,
    /// The process that tables may belong to.
    owner: Option<&'a dyn TableOwner>,
}

impl<'a> Installation<'a> {
    /// Finds the tools. A missing tool is an error only when it is needed.
    pub fn find(owner: Option<&'a dyn TableOwner>) -> Result<Installation<'a>, Error> {
        let (nft, routes) = (NftFirewall::find(DIRECTORIES), Routes::find_in(DIRECTORIES));
        Ok(Installation { iptables: Firewall::find()?, nft, routes, owner })
    }

    /// Goes on from what another process has installed.
    pub(crate) fn resume(&mut self, mut snapshot: Snapshot) {
        self.nft.installed = std::mem::take(&mut snapshot.nft);
        self.routes.installed = snapshot.routing.take();
        self.iptables.resume(snapshot);
    }

    /// What is installed.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (nft, routing) = (self.nft.installed.clone(), self.routes.installed.clone());
        Snapshot { nft, routing, ..self.iptables.snapshot() }
    }

    /// The tools in use, for the log.
    pub(crate) fn description(&self) -> String {
        if self.nft.installed.is_empty() { self.iptables.description() } else { self.nft.description() }
    }

    /// By which tool the rules are installed, and why. `looks` says whether the rules of others may be looked at.
    pub(crate) fn choose(&self, set: &RuleSet, looks: bool) -> Result<(FirewallKind, String), Error> {
        match set.firewall {
            FirewallChoice::Iptables => Ok((FirewallKind::Iptables, "--firewall iptables".into())),
            FirewallChoice::Nft if self.nft.is_there() => Ok((FirewallKind::Nft, "--firewall nft".into())),
            FirewallChoice::Nft => {
                let said = format!("it is in none of {}; --firewall iptables does without it", DIRECTORIES.join(", "));
                Err(Error::Firewall { command: "nft".into(), status: "not found".into(), said })
            }
            FirewallChoice::Auto => self.choose_freely(set, looks),
        }
    }

    fn choose_freely(&self, set: &RuleSet, looks: bool) -> Result<(FirewallKind, String), Error> {
        if !self.nft.is_there() {
            return Ok((FirewallKind::Iptables, "nft is not installed".into()));
        }
        if !self.iptables.is_there() {
            return Ok((FirewallKind::Nft, "iptables is not installed".into()));
        }
        if let Err(error) = table::body(set) {
            return Ok((FirewallKind::Iptables, error.to_string()));
        }
        if looks && self.iptables.translates_for_others()? {
            return Ok((FirewallKind::Iptables, "the nat table of iptables is in use".into()));
        }
        Ok((FirewallKind::Nft, "nothing here needs iptables".into()))
    }

    /// Installs the rules of this set and nothing else of its instance. `anew` says that nothing is known of them yet: the
    /// tool is chosen, and what the other tool may have left is removed.
    ///
    /// Errors: nothing has changed.
    pub fn install(&mut self, set: &RuleSet, anew: bool) -> Result<(), Error> {
        let kind = self.kind_for(set, anew)?;
        let owner = Owner::Instance(set.name.clone());
        let has_marks = || self.marks(&|name| owner.owns(name)).is_ok_and(|marks| !marks.is_empty());
        let uses_routes = set.routing.is_some() || self.routes.installed.is_some() || (anew && has_marks());
        if set.routing.is_some() && self.routes.installed != set.routing {
            self.routes.check_free(set, &self.marks(&|name| !owner.owns(name))?)?;
        }
        // First the routes, without which marked packets would leave this host.
        let done = self.routes.install(set.routing.as_ref()).and_then(|()| self.install_rules(set, kind, anew));
        if !uses_routes {
            return done;
        }
        let Err(error) = done else {
            self.routes.installed.clone_from(&set.routing);
            return self.purge_routes().map(drop);
        };
        let restored = self.routes.install(self.routes.installed.as_ref()).and_then(|()| self.purge_routes());
        Err(with_trouble(error, &restored.err().iter().map(Error::to_string).collect::<Vec<_>>()))
    }

    fn kind_for(&self, set: &RuleSet, anew: bool) -> Result<FirewallKind, Error> {
        if let Some(kind) = self.in_use().filter(|_| !anew) {
            return Ok(kind);
        }
        let (kind, why) = self.choose(set, true)?;
        if set.firewall == FirewallChoice::Auto {
            log::info!("rules are installed with {kind}: {why}");
        }
        Ok(kind)
    }

    /// The rules alone.
    fn install_rules(&mut self, set: &RuleSet, kind: FirewallKind, anew: bool) -> Result<(), Error> {
        let changes = anew || self.in_use().is_some_and(|former| former != kind);
        match kind {
            FirewallKind::Iptables => {
                self.iptables.install(set)?;
                if changes { self.nft.remove(&set.name, self.owner) } else { Ok(()) }
            }
            FirewallKind::Nft => {
                self.nft.install(set, self.owner)?;
                if changes { self.iptables.remove(&set.name) } else { Ok(()) }
            }
        }
    }

    fn in_use(&self) -> Option<FirewallKind> {
        if !self.nft.installed.is_empty() {
            return Some(FirewallKind::Nft);
        }
        self.iptables.snapshot().instance.map(|_| FirewallKind::Iptables)
    }

    /// Compares the rules with their state after the installation: a short sentence for each difference.
    pub fn verify(&mut self) -> Result<Vec<String>, Error> {
        let mut differences = self.iptables.verify()?;
        differences.extend(self.nft.check()?);
        differences.extend(self.routes.differences()?);
        Ok(differences)
    }

    /// Takes the redirections away from new connections.
    pub(crate) fn unhook(&mut self, instance: &str) -> Result<(), Error> {
        let iptables = self.iptables.unhook(instance);
        self.nft.unhook(self.owner).and(iptables)
    }

    /// Removes the rules of an instance, whoever installed them.
    pub fn remove(&mut self, instance: &str) -> Result<(), Error> {
        let owner = Owner::Instance(instance.to_owned());
        let had_routes = match self.in_use() {
            Some(_) => self.routes.installed.is_some(),
            None => self.marks(&|name| owner.owns(name)).is_ok_and(|marks| !marks.is_empty()),
        };
        let iptables = self.iptables.remove(instance);
        self.nft.remove(instance, self.owner).and(iptables)?;
        if had_routes {
            self.purge_routes()?;
        }
        self.routes.installed = None;
        Ok(())
    }

    /// The same where the daemon was killed. A table of nft went with it, and with the table the knowledge that there was
    /// policy routing.
    pub(crate) fn remove_remains(&mut self, instance: &str) -> Result<(), Error> {
        self.remove(instance)?;
        if self.nft.is_there() { self.purge_routes().map(drop) } else { Ok(()) }
    }

    /// The marks that rules of tproxy give to packets. `counts` is asked with the names of chains of iptables and of tables
    /// of nft.
    fn marks(&self, counts: &dyn Fn(&str) -> bool) -> Result<MarksInUse, Error> {
        Ok(self.iptables.marks(counts)?.with(self.nft.marks(counts)?))
    }

    /// Removes the policy routing that belongs to no rules any more. Returns how many rules and routes these were.
    fn purge_routes(&self) -> Result<usize, Error> {
        self.routes.purge(&self.marks(&|_| true)?)
    }

    /// Whether iptables has rules of an instance, whoever installed them.
    pub(crate) fn has_rules_of_iptables(&self, instance: &str) -> Result<bool, Error> {
        self.iptables.has_rules_of(instance)
    }

    /// Removes the rules of all instances. Returns how many chains, tables of nft and routes these were.
    pub(crate) fn flush_all(&mut self) -> Result<[usize; 3], Error> {
        let iptables = self.iptables.flush_all();
        let (tables, chains) = (self.nft.flush_all()?, iptables?);
        let routes = self.purge_routes()?;
        self.routes.installed = None;
        Ok([chains, tables, routes])
    }

    /// The tables with rules of ours that could not be shown the last time.
    pub(crate) fn hidden(&self) -> String {
        self.iptables.hidden()
    }

    /// What keeps redirected connections from getting where this set leads them.
    pub(crate) fn lacking(&self, set: &RuleSet) -> Result<Vec<String>, Error> {
        self.iptables.lacking(set)
    }

    /// Refuses rules that could not be installed.
    pub(crate) fn try_out(&self, set: &RuleSet, kind: FirewallKind) -> Result<(), Error> {
        match kind {
            FirewallKind::Iptables => self.iptables.check_shown(set),
            FirewallKind::Nft => self.nft.try_out(set),
        }
    }
}
