//! Makes the firewall hold the desired rules, and keeps it so. Each piece of work is done by a process of its own
//! (`tproxy-rules`), so the guardian is free to replace a worker while iptables waits for the lock of the tables.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::daemon::children::{self, Children, Role};
use crate::daemon::instance_lock;
use crate::error::Error;
use crate::rules::firewall::Firewall;
use crate::rules::policy_routing::PolicyRouting;
use crate::rules::rule::Gate;
use crate::rules::ruleset::RuleSet;
use crate::rules::snapshot::Snapshot;
use crate::sys::process::Death;

/// The pause after work that failed.
const RETRY: Duration = Duration::from_secs(5);

/// How long a process may work on the rules. Each of its commands ends earlier (`rules::tools`), so it hangs then.
const LIMIT: Duration = Duration::from_secs(120);

/// The same while the daemon stops, which its service manager does not wait for as long. The tools wait twice for the lock
/// of the tables, ten seconds each.
const LIMIT_OF_STOP: Duration = Duration::from_secs(25);

/// How long a process that was killed may take to end. After that it is not waited for.
const GRACE: Duration = Duration::from_secs(5);

/// The rules of this instance: as wanted and as installed.
#[derive(Debug)]
pub(crate) struct Reconciler {
    /// The rules as configured.
    configured: RuleSet,
    /// Whether these rules have not been installed yet, and nobody has looked whether connections get through.
    untried: bool,
    /// What earlier rules had: connections from their time need it until they end.
    former_routing: Option<PolicyRouting>,
    /// For each redirection whether its rules stand.
    gates: Vec<Gate>,
    /// The rules in the tables, as far as is known.
    installed: Option<RuleSet>,
    /// The same as text, for the next process ([`Snapshot`]).
    snapshot: String,
    job: Option<Job>,
    failure: Option<Error>,
    verify: Option<Duration>,
    next: Option<Instant>,
    /// How long a process may work.
    limit: Duration,
}

/// A process that works on the rules.
#[derive(Debug)]
struct Job {
    pid: Pid,
    task: Task,
    /// Where it leaves its result.
    result: File,
    since: Instant,
    /// When it was killed.
    killed: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    /// Make the tables hold these rules.
    Install(RuleSet),
    /// Look whether they still hold these, and put them back if not.
    Verify(RuleSet),
    /// Take the jumps away: no new connection is redirected.
    Unhook,
    /// Take everything away.
    Remove,
}

/// How the rules stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RulesState {
    /// As wanted.
    Settled,
    /// Work is needed, or under way.
    Working,
    /// The last work failed; the tables are as they were before.
    Failed,
}

impl Reconciler {
    /// Wants these rules, where none of this instance are.
    pub(crate) fn new(configured: RuleSet, verify: Option<Duration>) -> Reconciler {
        Reconciler {
            configured,
            untried: true,
            former_routing: None,
            gates: Vec::new(),
            installed: None,
            snapshot: String::new(),
            job: None,
            failure: None,
            verify,
            next: Some(Instant::now()),
            limit: LIMIT,
        }
    }

    /// Goes on from rules that the former program of this process has installed. Whether all gates were open then is not
    /// known, so the next work installs them. A configuration without rules may still have those of an earlier one.
    pub(crate) fn resume(
        configured: Option<RuleSet>,
        verify: Option<Duration>,
        snapshot: String,
    ) -> Option<Reconciler> {
        let next = verify.map(|verify| Instant::now() + verify);
        let found = Snapshot::from_text(&snapshot).unwrap_or_default();
        let none = |name| RuleSet { name, ..RuleSet::default() };
        let configured = configured.or(found.instance.map(none))?;
        let former_routing = found.routing;
        Some(Reconciler { next, former_routing, snapshot, ..Reconciler::new(configured, verify) })
    }

    /// Wants other rules, verified this often.
    pub(crate) fn want(&mut self, configured: RuleSet, verify: Option<Duration>) {
        self.verify = verify;
        if self.configured != configured {
            self.former_routing = PolicyRouting::both(self.configured.routing.as_ref(), self.former_routing.as_ref());
            self.configured = configured;
            self.untried = true;
            self.next = Some(Instant::now());
        }
    }

    /// The rules as configured.
    pub(crate) fn configured(&self) -> &RuleSet {
        &self.configured
    }

    /// What is installed, for a process that goes on from it.
    pub(crate) fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// Wants other gates.
    pub(crate) fn set_gates(&mut self, gates: Vec<Gate>) {
        if self.gates != gates {
            let before = self.target();
            self.gates = gates;
            if self.target() != before {
                self.next = Some(Instant::now());
            }
        }
    }

    /// Wants the rules verified now.
    pub(crate) fn verify_now(&mut self) {
        self.next = Some(Instant::now());
    }

    fn target(&self) -> RuleSet {
        let target = self.configured.with_gates(|id| self.gates.get(id.index()).copied().unwrap_or(Gate::Normal));
        let routing = PolicyRouting::both(target.routing.as_ref(), self.former_routing.as_ref());
        RuleSet { routing, ..target }
    }

    /// No connection from the time of earlier rules is left.
    pub(crate) fn forget_former_routing(&mut self) {
        let before = self.target();
        self.former_routing = None;
        if self.target() != before {
            self.next = Some(Instant::now());
        }
    }

    /// How the rules stand.
    pub(crate) fn state(&self) -> RulesState {
        if self.job.is_none() && self.installed.as_ref() == Some(&self.target()) {
            RulesState::Settled
        } else if self.job.is_none() && self.next.is_some_and(|next| Instant::now() < next) {
            RulesState::Failed
        } else {
            RulesState::Working
        }
    }

    /// Why the last work failed, once.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Whether a process works on the rules now.
    pub(crate) fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    /// When to call [`Reconciler::work`] again; while work is under way its end is awaited first.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.job.is_some() { self.limit_due() } else { self.next }
    }

    /// The daemon stops: from now on work may take less time.
    pub(crate) fn hurry(&mut self) {
        self.limit = LIMIT_OF_STOP;
    }

    /// When work that is under way has taken too long.
    pub(crate) fn limit_due(&self) -> Option<Instant> {
        let job = self.job.as_ref()?;
        Some(job.killed.map_or(job.since + self.limit, |killed| killed + GRACE))
    }

    /// Kills a process that has worked for too long. One that does not end even then is not waited for.
    pub(crate) fn limit_work(&mut self, children: &Children) {
        let now = Instant::now();
        if self.limit_due().is_none_or(|due| now < due) {
            return;
        }
        match &mut self.job {
            Some(job) if job.killed.is_none() => {
                log::error!("the process that works on the rules takes too long and is killed");
                children.kill(job.pid);
                job.killed = Some(now);
            }
            _ => {
                self.job = None;
                self.failed(Error::Failed("the process that works on the rules does not end".into()));
            }
        }
    }

    /// Starts what is due.
    pub(crate) fn work(&mut self, children: &mut Children) {
        self.limit_work(children);
        if self.job.is_some() || self.next.is_none_or(|next| Instant::now() < next) {
            return;
        }
        self.next = self.verify.map(|verify| Instant::now() + verify);
        let target = self.target();
        let settled = self.installed.as_ref() == Some(&target);
        if let Err(error) = self.start(if settled { Task::Verify(target) } else { Task::Install(target) }, children) {
            self.failed(error);
        }
    }

    /// Takes the redirections away from new connections; those that were redirected go on. To be called when no work
    /// is under way.
    pub(crate) fn unhook(&mut self, children: &mut Children) -> Result<(), Error> {
        self.start(Task::Unhook, children)
    }

    /// Removes the rules. To be called when no work is under way.
    pub(crate) fn remove(&mut self, children: &mut Children) -> Result<(), Error> {
        self.start(Task::Remove, children)
    }

    fn start(&mut self, task: Task, children: &mut Children) -> Result<(), Error> {
        let (instance, snapshot) = (&self.configured.name, &self.snapshot);
        let untried = self.untried;
        let work = || run(&task, instance, snapshot, untried);
        let (pid, result) = children.spawn_task(Role::Rules, children::RULES, work)?;
        self.job = Some(Job { pid, task, result, since: Instant::now(), killed: None });
        Ok(())
    }

    /// A process has ended that worked on the rules.
    pub(crate) fn ended(&mut self, pid: Pid, how: Death) {
        let Some(job) = self.job.take_if(|job| job.pid == pid) else { return };
        match children::task_result(job.result, how) {
            Ok(snapshot) => self.succeeded(job.task, snapshot),
            Err(error) if self.is_outdated(&job.task) => {
                log::error!("{error}");
                self.next = Some(Instant::now());
            }
            Err(error) => self.failed(error),
        }
    }

    /// Other rules are wanted than this task was about.
    fn is_outdated(&self, task: &Task) -> bool {
        matches!(task, Task::Install(target) | Task::Verify(target) if *target != self.target())
    }

    fn failed(&mut self, error: Error) {
        self.failure = Some(error);
        self.next = Some(Instant::now() + RETRY);
    }

    fn succeeded(&mut self, task: Task, snapshot: String) {
        self.snapshot = snapshot;
        self.failure = None;
        self.installed = match task {
            Task::Install(target) | Task::Verify(target) => Some(target),
            Task::Unhook | Task::Remove => None,
        };
        if self.installed.as_ref() == Some(&self.target()) {
            self.untried = false;
        } else {
            self.next = Some(Instant::now());
        }
    }
}

/// Does the work, in a process of its own. Returns what is installed then.
fn run(task: &Task, instance: &str, snapshot: &str, untried: bool) -> Result<String, Error> {
    let mut firewall = Firewall::find()?;
    let snapshot =
        Snapshot::from_text(snapshot).ok_or_else(|| Error::Failed("the rules' snapshot is broken".into()))?;
    let shares = snapshot.routing.is_some()
        || matches!(task, Task::Install(target) | Task::Verify(target) if target.routing.is_some());
    let _lock = shares.then(instance_lock::for_routing).transpose()?;
    firewall.resume(snapshot);
    match task {
        Task::Install(target) => {
            firewall.install(target)?;
            log::debug!("rules installed with {}", firewall.description());
            if untried {
                warn_of_drops(&firewall, target);
            }
        }
        Task::Verify(target) => {
            let hidden_before = firewall.hidden();
            let changed = firewall.verify()?;
            report_hidden(&hidden_before, &firewall.hidden());
            if !changed.is_empty() {
                log::warn!("rules were changed by another program and are put back: {}", changed.join(", "));
                firewall.install(target)?;
            }
        }
        Task::Unhook => firewall.unhook(instance)?,
        Task::Remove => firewall.remove(instance)?,
    }
    Ok(firewall.snapshot().to_text())
}

/// Tells which rules of the administrator's are missing without which nothing that is redirected arrives.
fn warn_of_drops(firewall: &Firewall, set: &RuleSet) {
    match firewall.lacking(set) {
        Ok(lacking) => lacking.iter().for_each(|what| log::warn!("{what}")),
        Err(error) => log::debug!("looking for rules that drop: {error}"),
    }
}

/// Tells, once, that rules can no longer be verified, or can be again.
fn report_hidden(before: &str, now: &str) {
    if before != now && now.is_empty() {
        log::info!("{before}: iptables-save shows it again, and its rules are verified");
    } else if before != now {
        log::error!(
            "{now}: iptables-save cannot show it any more, because rules were added with nft for which iptables has no \
             words; our rules in it stay and are not verified"
        );
    }
}
