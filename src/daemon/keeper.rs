//! Keeps the rules as they should be. Once the daemon runs, each job is done by a child of its own, so that the guardian
//! is free to replace a worker while iptables waits for a lock.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::daemon::spawn;
use crate::error::Error;
use crate::rules::firewall::Firewall;
use crate::rules::rule::RuleSet;
use crate::sys::process;

/// How often the rules are compared with what they should be.
const VERIFY: Duration = Duration::from_secs(30);

/// Which rules should stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// The redirection.
    Redirecting,
    /// None: clients reach whom they wanted to.
    Open,
    /// A reject in place of the redirection.
    Closed,
}

/// The rules of this instance.
#[derive(Debug)]
pub struct Keeper {
    firewall: Firewall,
    set: RuleSet,
    stance: Stance,
    /// The stance is not known to be in the tables.
    unsettled: bool,
    unhooked: bool,
    errand: Option<Pid>,
    /// What the running job, or the last one, was told.
    errand_stance: Stance,
    next: Instant,
}

impl Keeper {
    /// Installs the rules and verifies that they stand.
    ///
    /// Errors: the failed command; nothing is left behind then.
    pub fn install(set: RuleSet) -> Result<Keeper, Error> {
        let mut firewall = Firewall::find()?;
        firewall.install(&set)?;
        log::debug!("rules installed with {}", firewall.description());
        let next = Instant::now() + VERIFY;
        Ok(Keeper {
            firewall,
            set,
            stance: Stance::Redirecting,
            unsettled: false,
            unhooked: false,
            errand: None,
            errand_stance: Stance::Redirecting,
            next,
        })
    }

    /// Wants other rules, as soon as can be.
    pub fn want(&mut self, stance: Stance) {
        self.unsettled |= self.stance != stance;
        self.stance = stance;
        self.check_soon();
    }

    /// Wants the rules looked after now.
    pub fn check_soon(&mut self) {
        self.next = Instant::now();
    }

    /// When to call [`Keeper::work`] again; while a job runs, its end is awaited first.
    pub fn due(&self) -> Option<Instant> {
        self.errand.is_none().then_some(self.next)
    }

    /// Starts the next job if it is time to.
    pub fn work(&mut self) {
        if self.errand.is_some() || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + VERIFY;
        let (firewall, set, stance, unsettled) = (&mut self.firewall, &self.set, self.stance, self.unsettled);
        match spawn::errand(|| settle(firewall, set, stance, unsettled)) {
            Ok(pid) => (self.errand, self.errand_stance) = (Some(pid), stance),
            Err(error) => log::error!("looking after the rules: {error}"),
        }
    }

    /// A child has ended. Whether it was ours.
    pub fn reaped(&mut self, pid: Pid, well: bool) -> bool {
        if self.errand != Some(pid) {
            return false;
        }
        self.errand = None;
        if well {
            self.unsettled &= self.stance != self.errand_stance;
        }
        true
    }

    /// Takes the redirection away from new connections; those that were redirected go on.
    pub fn unhook(&mut self) -> Result<(), Error> {
        if let Some(pid) = self.errand.take() {
            process::wait_for(pid);
        }
        self.firewall.unhook(&self.set.name)?;
        self.unhooked = true;
        Ok(())
    }

    /// Removes the rules.
    pub fn remove(mut self) -> Result<(), Error> {
        if self.unhooked { self.firewall.remove_unhooked(&self.set.name) } else { self.firewall.remove(&self.set.name) }
    }
}

/// Brings the tables to the stance.
fn settle(firewall: &mut Firewall, set: &RuleSet, stance: Stance, unsettled: bool) -> Result<(), Error> {
    match stance {
        Stance::Open => firewall.install(&set.open()),
        Stance::Closed => firewall.install(&set.closed()),
        Stance::Redirecting if unsettled => firewall.install(set),
        Stance::Redirecting => {
            let gone = firewall.check()?;
            if gone.is_empty() {
                return Ok(());
            }
            log::warn!("rules were changed by somebody else and are put back: {}", gone.join(", "));
            firewall.install(set)
        }
    }
}
