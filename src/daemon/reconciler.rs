//! Keeps the rules as they should be. Once the daemon runs, each job is done by a child of its own, so that the guardian
//! is free to replace a worker while iptables waits for a lock.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::daemon::children;
use crate::error::Error;
use crate::rules::firewall::Firewall;
use crate::rules::rule::Gate;
use crate::rules::ruleset::RuleSet;
use crate::sys::process;

/// The pause after a job that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The rules of this instance.
#[derive(Debug)]
pub(crate) struct Reconciler {
    firewall: Firewall,
    /// The rules as configured.
    set: RuleSet,
    /// For each redirection whether it stands.
    gates: Vec<Gate>,
    /// What is in the tables, as far as is known.
    installed: Option<RuleSet>,
    job: Option<Job>,
    every: Option<Duration>,
    next: Option<Instant>,
}

/// A child that looks after the rules.
#[derive(Debug)]
struct Job {
    pid: Pid,
    target: RuleSet,
}

/// How the rules stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RulesState {
    /// As wanted.
    Settled,
    /// A job is needed, or under way.
    Working,
    /// The last job failed; the tables are as they were before.
    Failed,
}

impl Reconciler {
    /// Installs the rules and verifies that they stand; looks at them again `every` so often. Those of a `living` daemon
    /// that this one replaces are put back if it fails.
    ///
    /// Errors: the failed command; otherwise nothing is left behind then.
    pub(crate) fn install(set: RuleSet, every: Option<Duration>, living: bool) -> Result<Reconciler, Error> {
        let mut reconciler = Reconciler::new(set, every)?;
        if living {
            reconciler.firewall.inherit(&reconciler.set.name);
        }
        reconciler.firewall.install(&reconciler.set)?;
        log::debug!("rules installed with {}", reconciler.firewall.description());
        reconciler.installed = Some(reconciler.set.clone());
        reconciler.next = every.map(|every| Instant::now() + every);
        Ok(reconciler)
    }

    /// Has the rules installed by the first job.
    pub(crate) fn new(set: RuleSet, every: Option<Duration>) -> Result<Reconciler, Error> {
        let firewall = Firewall::find()?;
        let gates = Vec::new();
        Ok(Reconciler { firewall, set, gates, installed: None, job: None, every, next: Some(Instant::now()) })
    }

    /// Wants other rules.
    pub(crate) fn replace(&mut self, set: RuleSet) {
        if self.set != set {
            self.set = set;
            self.next = Some(Instant::now());
        }
    }

    /// The rules as configured.
    pub(crate) fn set(&self) -> &RuleSet {
        &self.set
    }

    /// Wants other gates.
    pub(crate) fn want(&mut self, gates: Vec<Gate>) {
        if self.gates != gates {
            let before = self.target();
            self.gates = gates;
            if self.target() != before {
                self.next = Some(Instant::now());
            }
        }
    }

    /// Wants the rules looked after now.
    pub(crate) fn check_soon(&mut self) {
        self.next = Some(Instant::now());
    }

    /// Looks at the rules so often from now on.
    pub(crate) fn every(&mut self, every: Option<Duration>) {
        self.every = every;
    }

    fn target(&self) -> RuleSet {
        self.set.with_gates(|owner| self.gates.get(owner.index()).copied().unwrap_or(Gate::Normal))
    }

    /// How the rules stand.
    pub(crate) fn state(&self) -> RulesState {
        if self.installed.as_ref() == Some(&self.target()) {
            RulesState::Settled
        } else if self.job.is_none() && self.next.is_some_and(|next| Instant::now() < next) {
            RulesState::Failed
        } else {
            RulesState::Working
        }
    }

    /// When to call [`Reconciler::work`] again; while a job runs, its end is awaited first.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.job.is_some() { None } else { self.next }
    }

    /// Starts the next job if it is time to.
    pub(crate) fn work(&mut self) {
        if self.job.is_some() || self.next.is_none_or(|next| Instant::now() < next) {
            return;
        }
        self.next = self.every.map(|every| Instant::now() + every);
        let target = self.target();
        let settled = self.installed.as_ref() == Some(&target);
        let firewall = &mut self.firewall;
        match children::rules_job(|| reconcile(firewall, &target, settled)) {
            Ok(pid) => self.job = Some(Job { pid, target }),
            Err(error) => log::error!("looking after the rules: {error}"),
        }
    }

    /// A child has ended. Whether it was ours.
    pub(crate) fn reaped(&mut self, pid: Pid, well: bool) -> bool {
        let Some(job) = self.job.take_if(|job| job.pid == pid) else { return false };
        if !well {
            self.next = Some(Instant::now() + RETRY);
            return true;
        }
        if self.installed.as_ref() != Some(&job.target) {
            // What the child has put in is now what later looks compare with. Reading takes no lock.
            if let Err(error) = self.firewall.adopt(&job.target) {
                log::warn!("reading the rules back: {error}");
            }
            self.installed = Some(job.target);
        }
        if self.installed.as_ref() != Some(&self.target()) {
            self.next = Some(Instant::now());
        }
        true
    }

    /// Takes the redirection away from new connections; those that were redirected go on.
    pub(crate) fn unhook(&mut self) -> Result<(), Error> {
        if let Some(job) = self.job.take() {
            process::wait_for(job.pid);
        }
        self.firewall.unhook(&self.set.name)
    }

    /// Removes the rules.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        self.firewall.remove(&self.set.name)
    }

    /// Leaves the rules to somebody else.
    pub(crate) fn leave(self) {
        if let Some(job) = self.job {
            process::wait_for(job.pid);
        }
    }
}

/// Brings the tables to the target; `settled` when they should be there already.
fn reconcile(firewall: &mut Firewall, target: &RuleSet, settled: bool) -> Result<(), Error> {
    if settled {
        let gone = firewall.check()?;
        if gone.is_empty() {
            return Ok(());
        }
        log::warn!("rules were changed by somebody else and are put back: {}", gone.join(", "));
    }
    firewall.install(target)
}
