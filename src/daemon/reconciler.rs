//! Makes the firewall hold the desired rules, and keeps it so. Each piece of work is done by a process of its own
//! (`tproxy-rules`), so the guardian is free to replace a worker while iptables waits for the lock of the tables.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::config::Process;
use crate::daemon::children::{self, Children, Role};
use crate::daemon::rules_work::{self, Job, RESTORED, Task};
use crate::daemon::table_owner::{self, OwnerLink};
use crate::daemon::table_watch::TableWatch;
use crate::error::Error;
use crate::rules::backend::FirewallChoice;
use crate::rules::nft;
use crate::rules::policy_routing::PolicyRouting;
use crate::rules::rule::{Gate, RuleSpec};
use crate::rules::ruleset::{self, RuleSet};
use crate::rules::snapshot::Snapshot;
use crate::sys::process::Death;

/// The pause before the nft table is made again, if its owner has just ended before.
const PAUSE: Duration = Duration::from_secs(1);

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
    pub former_redirects: Vec<RuleSpec>,
    /// For each redirection whether its rules stand.
    gates: Vec<Gate>,
    /// The rules as they should be, and as text once that was asked for. Made by [`Reconciler::aim`].
    target: RuleSet,
    target_text: OnceCell<String>,
    /// The rules in the tables, as far as is known.
    installed: Option<RuleSet>,
    /// The same as text, for the next process ([`Snapshot`]).
    snapshot: String,
    job: Option<Job>,
    failure: Option<Error>,
    /// The rules are those of the former program, and no work has looked at them yet.
    resumed: bool,
    process: Process,
    /// The process to which the nft table belongs, if there is one.
    owner: Option<Pid>,
    /// When the last owner was lost.
    lost_owner: Option<Instant>,
    table_watch: TableWatch,
    next: Option<Instant>,
    /// How long a process may work.
    limit: Duration,
    /// How often rules were put back that others had changed.
    pub restored: u64,
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
    pub(crate) fn new(configured: RuleSet, process: &Process) -> Reconciler {
        let mut reconciler = Reconciler {
            configured,
            untried: true,
            former_routing: None,
            former_redirects: Vec::new(),
            gates: Vec::new(),
            target: RuleSet::default(),
            target_text: OnceCell::new(),
            installed: None,
            snapshot: String::new(),
            job: None,
            failure: None,
            resumed: false,
            process: process.clone(),
            owner: None,
            lost_owner: None,
            table_watch: TableWatch::default(),
            next: Some(Instant::now()),
            limit: LIMIT,
            restored: 0,
        };
        reconciler.aim();
        reconciler
    }

    /// Goes on from rules that the former program of this process has installed. Whether all gates were open then is not
    /// known, so the next work installs them. A configuration without rules may still have those of an earlier one.
    pub(crate) fn resume(
        configured: Option<RuleSet>,
        process: &Process,
        snapshot: String,
        former_redirects: Vec<RuleSpec>,
        owner: Option<Pid>,
    ) -> Option<Reconciler> {
        let found = Snapshot::from_text(&snapshot).unwrap_or_default();
        let none = |name| RuleSet { name, ..RuleSet::default() };
        let configured = configured.or(found.instance().map(none))?;
        let former_routing = found.routing;
        let new = Reconciler::new(configured, process);
        let mut reconciler = Reconciler { former_routing, former_redirects, snapshot, owner, resumed: true, ..new };
        reconciler.aim();
        reconciler.next = process.verify.map(|verify| Instant::now() + verify);
        Some(reconciler)
    }

    /// The process to which the nft table belongs.
    pub(crate) fn owner(&self) -> Option<Pid> {
        self.owner
    }

    /// Wants other rules, installed and verified as these settings say.
    pub(crate) fn want(&mut self, configured: RuleSet, process: &Process) {
        self.process = process.clone();
        if self.configured != configured {
            self.former_routing = PolicyRouting::both(self.configured.routing.as_ref(), self.former_routing.as_ref());
            self.former_redirects = self.target.one_redirect_each();
            self.configured = configured;
            self.untried = true;
            self.aim();
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
            self.gates = gates;
            self.aim();
        }
    }

    /// Wants the rules verified now.
    pub(crate) fn verify_now(&mut self) {
        self.next = Some(Instant::now());
    }

    /// Others may have changed tables of nft.
    pub(crate) fn heard_of_changes(&mut self) {
        if let Some(due) = self.table_watch.heard() {
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
        }
    }

    /// For each redirection whether its rules stand.
    pub(crate) fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// The rules as they should be, as text for the firewall that they are installed with.
    pub(crate) fn target_text(&self) -> &str {
        self.target_text.get_or_init(|| match self.has_nft_tables() {
            // What is installed can be translated.
            true => nft::firewall::print_rules(&self.target).unwrap_or_default(),
            false => ruleset::print_rules(&self.target),
        })
    }

    /// Says how the rules should be now. If that is new, there is work.
    fn aim(&mut self) {
        let target = self.configured.with_gates(|id| self.gates.get(id.index()).copied().unwrap_or(Gate::Normal));
        let routing = PolicyRouting::both(target.routing.as_ref(), self.former_routing.as_ref());
        let target = RuleSet { routing, ..target }.with_former(&self.former_redirects);
        if self.target != target {
            (self.target, self.target_text) = (target, OnceCell::new());
            self.next = Some(Instant::now());
        }
    }

    /// No connection from the time of earlier rules is left. Routing that is needed now stays.
    pub(crate) fn forget_former(&mut self, needs_routing: bool) {
        let redirects = std::mem::take(&mut self.former_redirects);
        let routing = if needs_routing { None } else { self.former_routing.take() };
        if !redirects.is_empty() || routing.is_some() {
            self.aim();
        }
    }

    /// How the rules stand.
    pub(crate) fn state(&self) -> RulesState {
        if self.job.is_none() && self.installed.as_ref() == Some(&self.target) {
            RulesState::Settled
        } else if self.job.is_none() && !self.resumed && self.next.is_some_and(|next| Instant::now() < next) {
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
        self.next = self.process.verify.map(|verify| Instant::now() + verify);
        let target = self.target.clone();
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
        let link = self.link(children)?;
        let (instance, snapshot) = (&self.configured.name, &self.snapshot);
        let untried = self.untried;
        let work = || rules_work::run(&task, instance, snapshot, untried, link);
        let (pid, result) = children.spawn_task(Role::Rules, children::RULES, work)?;
        self.job = Some(Job { pid, task, result, since: Instant::now(), killed: None, lost_owner: None });
        Ok(())
    }

    /// The way to the owner of the nft table, which is started if one may be needed.
    fn link(&mut self, children: &mut Children) -> Result<Option<OwnerLink>, Error> {
        if self.owner.is_none() && self.configured.firewall != FirewallChoice::Iptables {
            self.owner = Some(table_owner::start(&self.configured.name, &self.process, children)?);
        }
        Ok(self.owner.and_then(|pid| OwnerLink::to(pid, children)))
    }

    /// The owner of the nft table has ended, and the kernel has removed the table.
    pub(crate) fn owner_ended(&mut self, pid: Pid, how: Death) {
        if self.owner.take_if(|owner| *owner == pid).is_none() {
            return;
        }
        let now = Instant::now();
        let again = self.lost_owner.replace(now).is_some_and(|before| now < before + PAUSE);
        let due = if again { now + PAUSE } else { now };
        if let Some(job) = &mut self.job {
            job.lost_owner = Some(due);
        }
        if self.installed.is_some() && self.has_nft_tables() {
            log::error!("process {pid}, to which the nft table belongs, {how}: the rules are gone, and are put back");
            self.installed = None;
            self.restored += 1;
            self.next = Some(due);
        }
    }

    fn has_nft_tables(&self) -> bool {
        Snapshot::from_text(&self.snapshot).is_some_and(|snapshot| !snapshot.nft.is_empty())
    }

    /// Has the owner end that is not needed: the rules are installed with iptables, or removed.
    fn dismiss_owner(&mut self, children: &Children) {
        if !self.has_nft_tables()
            && let Some(link) = self.owner.take().and_then(|pid| OwnerLink::to(pid, children))
        {
            link.end();
        }
    }

    /// A process has ended that worked on the rules.
    pub(crate) fn ended(&mut self, pid: Pid, how: Death, children: &Children) {
        let Some(job) = self.job.take_if(|job| job.pid == pid) else { return };
        match children::task_result(job.result, how) {
            Ok(text) => {
                let changed = text.strip_prefix(RESTORED);
                self.restored += u64::from(changed.is_some());
                self.succeeded(job.task, changed.unwrap_or(&text).to_owned());
                self.dismiss_owner(children);
                self.table_watch.follow(&self.snapshot, self.process.verify.is_some(), children);
            }
            Err(error) if self.is_outdated(&job.task) => {
                log::error!("{error}");
                self.next = Some(Instant::now());
            }
            Err(error) => self.failed(error),
        }
        // What it has installed or seen is gone.
        if job.lost_owner.is_some() && self.has_nft_tables() {
            (self.installed, self.next) = (None, job.lost_owner);
        }
    }

    /// Other rules are wanted than this task was about.
    fn is_outdated(&self, task: &Task) -> bool {
        matches!(task, Task::Install(target) | Task::Verify(target) if *target != self.target)
    }

    fn failed(&mut self, error: Error) {
        (self.failure, self.resumed) = (Some(error), false);
        self.next = Some(Instant::now() + RETRY);
    }

    fn succeeded(&mut self, task: Task, snapshot: String) {
        self.snapshot = snapshot;
        // The tool may be another one.
        self.target_text.take();
        (self.failure, self.resumed) = (None, false);
        self.installed = match task {
            Task::Install(target) | Task::Verify(target) => Some(target),
            Task::Unhook | Task::Remove => None,
        };
        if self.installed.as_ref() == Some(&self.target) {
            self.untried = false;
        } else {
            self.next = Some(Instant::now());
        }
    }
}
