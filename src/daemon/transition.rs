//! Changing what serves. A start, a reload and an upgrade are the same change: the next generation comes up beside the one
//! that serves, if there is one, and takes its place. A generation that does not come up changes nothing.
//!
//! ```text
//!   Locking ──► Resolving ──► StartingWorkers ──► InstallingRules ──► done: the former workers drain
//!      └────────────┴───────────────┴───────────────────┴──► failed: the next generation is discarded,
//!                                                             the former rules are put back
//! ```

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::config::rules::Known;
use crate::daemon::children::GenerationId;
use crate::daemon::forwarding;
use crate::daemon::generation::Generation;
use crate::daemon::instance::Instance;
use crate::daemon::instance_lock::LockAttempt;
use crate::daemon::listeners::Listeners;
use crate::daemon::pulse;
use crate::daemon::reconciler::{Reconciler, RulesState};
use crate::daemon::warnings;
use crate::error::Error;
use crate::rules::ruleset::RuleSet;

/// How long a reload or an upgrade may take until its names have addresses.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// How long a start waits for the names that have not been answered, while others can be served. A name server that is
/// silent costs 10 seconds for each name (resolv.conf(5)).
const ANSWERS_LIMIT: Duration = Duration::from_secs(5);

/// How long the first workers may take to say that they are ready. Those of a reload may take as long as any worker that
/// does not answer.
const WORKERS_LIMIT: Duration = Duration::from_secs(10);

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing serves yet.
    Start,
    /// SIGHUP.
    Reload,
    /// SIGUSR2, after the new program has begun to run.
    Upgrade,
}

impl Kind {
    /// As the log names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Start => "start",
            Kind::Reload => "reload",
            Kind::Upgrade => "upgrade",
        }
    }
}

/// A change under way.
#[derive(Debug)]
pub(crate) struct Transition {
    kind: Kind,
    step: Step,
    /// When it has taken too long.
    limit: Option<Instant>,
    /// Until then a start waits for an answer to each name.
    answers_by: Instant,
    /// The rules to go back to, once others are being installed; an empty set if there were none.
    before: Option<Box<RuleSet>>,
}

#[derive(Debug)]
enum Step {
    /// The name of the rules is locked.
    Locking { config: Box<Config>, attempt: LockAttempt },
    /// The names get addresses.
    Resolving(Box<Config>),
    /// The new workers get ready.
    StartingWorkers(Box<Generation>),
    /// The new rules are installed and verified.
    InstallingRules(Box<Generation>),
    /// The end, one way or the other.
    Over,
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It waits for something.
    Pending,
    /// The new generation serves.
    Done,
    /// Nothing has changed.
    Failed(Error),
}

/// What one step leads to.
enum Next {
    Wait(Step),
    GoOn(Step),
    Finish(Box<Generation>),
}

impl Transition {
    /// Begins to bring up a configuration.
    pub(crate) fn begin(kind: Kind, config: Config, instance: &mut Instance) -> Transition {
        let (mut wanted, mut followed) = (config.names(), config.names_to_follow());
        if let Some(serving) = &instance.serving {
            wanted.extend(serving.config.names());
            followed.extend(serving.config.names_to_follow());
        }
        instance.names.want(&wanted, &followed);
        if kind != Kind::Start {
            instance.names.refresh();
            instance.notifier.tell_reloading();
        }
        let step = Step::Locking { config: Box::new(config), attempt: LockAttempt::begin() };
        let limit = (kind != Kind::Start).then(|| Instant::now() + CHANGE_LIMIT);
        Transition { kind, step, limit, answers_by: Instant::now() + ANSWERS_LIMIT, before: None }
    }

    /// What it is for.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The rules of the next generation are being installed.
    pub(crate) fn installs_rules(&self) -> bool {
        matches!(self.step, Step::InstallingRules(_))
    }

    /// The names are being resolved.
    pub(crate) fn resolves(&self) -> bool {
        matches!(self.step, Step::Resolving(_))
    }

    /// The configuration of a start that has not opened anything yet: it can begin again with another one.
    pub(crate) fn start_from(&self) -> Option<&Config> {
        match &self.step {
            Step::Locking { config, .. } | Step::Resolving(config) if self.kind == Kind::Start => Some(config),
            _ => None,
        }
    }

    /// When to call [`Transition::advance`] at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.step {
            Step::Locking { .. } => Some(LockAttempt::due()),
            Step::InstallingRules(_) | Step::Over => None,
            Step::Resolving(_) if self.kind == Kind::Start => {
                Some(self.answers_by).filter(|answers_by| *answers_by > Instant::now())
            }
            Step::Resolving(_) | Step::StartingWorkers(_) => self.limit,
        }
    }

    fn is_late(&self) -> bool {
        let limit = match self.step {
            Step::Resolving(_) | Step::StartingWorkers(_) => self.limit,
            Step::Locking { .. } | Step::InstallingRules(_) | Step::Over => None,
        };
        limit.is_some_and(|limit| limit <= Instant::now())
    }

    /// Takes all steps that need not wait.
    pub(crate) fn advance(&mut self, instance: &mut Instance) -> Outcome {
        loop {
            let step = std::mem::replace(&mut self.step, Step::Over);
            let next = match step {
                Step::Locking { config, attempt } => lock(config, attempt, instance),
                Step::Resolving(config) => self.resolve(config, instance),
                Step::StartingWorkers(generation) => self.wait_for_workers(generation, instance),
                Step::InstallingRules(generation) => self.wait_for_rules(generation, instance),
                Step::Over => return Outcome::Pending,
            };
            match next {
                Ok(Next::GoOn(step)) => self.step = step,
                Ok(Next::Wait(step)) => {
                    self.step = step;
                    return if self.is_late() {
                        self.fail(self.too_late(instance), instance)
                    } else {
                        Outcome::Pending
                    };
                }
                Ok(Next::Finish(generation)) => {
                    self.finish(*generation, instance);
                    return Outcome::Done;
                }
                Err(error) => return self.fail(error, instance),
            }
        }
    }

    fn too_late(&self, instance: &Instance) -> Error {
        Error::Failed(match (&self.step, self.new_name(instance)) {
            (Step::Resolving(_), Some(name)) => format!("'{name}' does not resolve"),
            (Step::StartingWorkers(generation), _) => generation.lateness(self.workers_limit()),
            _ => "it takes too long".into(),
        })
    }

    fn workers_limit(&self) -> Duration {
        if self.kind == Kind::Start { WORKERS_LIMIT } else { pulse::PATIENCE }
    }

    fn resolve(&mut self, config: Box<Config>, instance: &mut Instance) -> Result<Next, Error> {
        if self.waits_for_names(&config, instance) {
            instance.names.ask(&mut instance.children, &config);
            return Ok(Next::Wait(Step::Resolving(config)));
        }
        forwarding::check(&config, &instance.names)?;
        let id = instance.next_generation();
        let nothing = Listeners::default();
        let before = instance.serving.as_ref().map_or(&nothing, |serving| &serving.listeners);
        let mut generation = Generation::prepare(id, *config, before, &instance.inherited)?;
        generation.check_families(&instance.names)?;
        generation.control = instance.control.prepare(&generation.config)?;
        generation.wait_for_rules_of(instance.serving.as_ref());
        let orders = &instance.control.orders;
        if let Err(error) = generation.start_workers(&instance.names, orders, &mut instance.children) {
            generation.discard(&mut instance.children);
            return Err(error);
        }
        self.limit = Some(Instant::now() + self.workers_limit());
        Ok(Next::GoOn(Step::StartingWorkers(Box::new(generation))))
    }

    /// A start waits until there is an answer to each name, and something to serve. A reload waits for each name that is
    /// new: a misspelt one must not take the place of what serves.
    fn waits_for_names(&self, config: &Config, instance: &Instance) -> bool {
        if self.kind != Kind::Start {
            return self.new_name(instance).is_some();
        }
        let addresses = |name: &str| instance.names.addresses(name).to_vec();
        let can_serve = config.can_serve(&addresses);
        let waits_for_answers = instance.names.has_unanswered() && Instant::now() < self.answers_by;
        instance.names.unknown(&[]).is_some() && (waits_for_answers || !can_serve)
    }

    /// A name without an address that what serves does not know.
    fn new_name<'a>(&self, instance: &'a Instance) -> Option<&'a str> {
        let former = instance.serving.as_ref().map(|serving| serving.config.names()).unwrap_or_default();
        instance.names.unknown(&former)
    }

    fn wait_for_workers(&mut self, generation: Box<Generation>, instance: &mut Instance) -> Result<Next, Error> {
        if !generation.is_ready() {
            return Ok(Next::Wait(Step::StartingWorkers(generation)));
        }
        match generation.rules(&instance.names) {
            Ok(rules) => self.want_rules(rules, &generation, instance),
            Err(error) => {
                generation.discard(&mut instance.children);
                return Err(error);
            }
        }
        Ok(Next::GoOn(Step::InstallingRules(generation)))
    }

    fn want_rules(&mut self, wanted: Option<RuleSet>, generation: &Generation, instance: &mut Instance) {
        let process = &generation.config.process;
        if let Some(set) = &wanted {
            if set.own_uid.is_none() && set.specs.iter().any(|spec| spec.output) {
                log::warn!("-O without -r: our own connections cannot be exempted, and are reset when redirected");
            }
            let listening = |id| generation.listeners.addresses(id);
            let addresses = |name: &str| instance.names.addresses(name).to_vec();
            let known = Known { addresses: &addresses, listening: &listening };
            warnings::of_rules(&generation.config, set, &known).iter().for_each(|what| log::warn!("{what}"));
        }
        match (&mut instance.rules, wanted) {
            (Some(rules), wanted) => {
                let before = rules.configured().clone();
                // Its workers are alive, and nothing is known of its upstreams yet.
                rules.set_gates(Vec::new());
                rules.want(wanted.unwrap_or_else(|| none_of(&before)), process);
                self.before = Some(Box::new(before));
            }
            (None, Some(set)) => {
                self.before = Some(Box::new(none_of(&set)));
                instance.rules = Some(Reconciler::new(set, process));
            }
            (None, None) => {}
        }
        if let Some(rules) = &mut instance.rules {
            rules.verify_now();
        }
        instance.work_on_rules();
    }

    fn wait_for_rules(&mut self, generation: Box<Generation>, instance: &mut Instance) -> Result<Next, Error> {
        let Some(rules) = &mut instance.rules else { return Ok(Next::Finish(generation)) };
        match rules.state() {
            RulesState::Settled => Ok(Next::Finish(generation)),
            RulesState::Working => Ok(Next::Wait(Step::InstallingRules(generation))),
            RulesState::Failed => {
                let error = rules.take_failure();
                self.step = Step::InstallingRules(generation);
                Err(error.unwrap_or_else(|| Error::Failed("the rules could not be installed".into())))
            }
        }
    }

    /// The new generation serves; the workers of the former one serve what they have to its end.
    fn finish(&mut self, mut generation: Generation, instance: &mut Instance) {
        let user = generation.config.process.user;
        let sockets = generation.control.take();
        generation.has_rules(&mut instance.children);
        let former = instance.serving.replace(generation);
        let Some(serving) = &instance.serving else { return };
        instance.names.want(&serving.config.names(), &serving.config.names_to_follow());
        let other_user = former.as_ref().is_some_and(|former| former.config.process.user != user);
        instance.control.serve(sockets, other_user, &mut instance.children);
        instance.control.disabled.clear();
        instance.control.orders.retain(|name, _| serving.config.has_upstream(name));
        if let Some(former) = former {
            if other_user {
                instance.names.dismiss(&mut instance.children);
            }
            former.retire(&mut instance.children);
            instance.reachability.forget();
        }
        instance.pass_access_log_on();
        instance.heartbeat.hurry();
        instance.inherited.forget(&serving.listeners.addresses_of_all());
        instance.local_ports.look(&serving.config);
        instance.listeners_have_changed();
        instance.pool_refill.soon(instance.serving.as_ref());
        // Names may have got other addresses while the rules were being installed.
        instance.refresh_rules();
    }

    /// Ends the change where it stands: the next generation is discarded, the former rules are put back.
    fn fail(&mut self, error: Error, instance: &mut Instance) -> Outcome {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::StartingWorkers(generation) | Step::InstallingRules(generation) => {
                generation.discard(&mut instance.children);
            }
            Step::Locking { .. } | Step::Resolving(_) | Step::Over => {}
        }
        if let Some(serving) = &instance.serving {
            instance.names.want(&serving.config.names(), &serving.config.names_to_follow());
            if let (Some(rules), Some(before)) = (&mut instance.rules, self.before.take()) {
                rules.want(*before, &serving.config.process);
            }
            if let (Some(rules), Kind::Upgrade) = (&mut instance.rules, self.kind) {
                rules.verify_now();
            }
            // Names may have got other addresses meanwhile.
            instance.refresh_rules();
        }
        Outcome::Failed(error)
    }

    /// Ends the change because of something else.
    pub(crate) fn cancel(mut self, why: Error, instance: &mut Instance) -> Error {
        match self.fail(why, instance) {
            Outcome::Failed(error) => error,
            Outcome::Pending | Outcome::Done => Error::Failed("the change has failed".into()),
        }
    }

    fn next_generation(&mut self) -> Option<&mut Generation> {
        match &mut self.step {
            Step::StartingWorkers(generation) | Step::InstallingRules(generation) => Some(generation),
            Step::Locking { .. } | Step::Resolving(_) | Step::Over => None,
        }
    }

    /// A worker of a generation takes connections.
    pub(crate) fn worker_is_ready(&mut self, id: GenerationId, slot: usize) {
        if let Some(generation) = self.next_generation().filter(|generation| generation.id == id) {
            generation.slots[slot].ready = true;
        }
    }

    /// A worker of a generation has ended. Returns whether that generation was coming up; it cannot come up any more.
    pub(crate) fn worker_has_ended(&mut self, id: GenerationId, slot: usize) -> bool {
        let Some(generation) = self.next_generation().filter(|generation| generation.id == id) else { return false };
        generation.slots[slot].worker = None;
        true
    }
}

fn none_of(set: &RuleSet) -> RuleSet {
    RuleSet { specs: Vec::new(), routing: None, ..set.clone() }
}

/// Locks the name of the rules, if there are any and this process has not done so before.
fn lock(config: Box<Config>, mut attempt: LockAttempt, instance: &mut Instance) -> Result<Next, Error> {
    if instance.lock.is_none() && config.has_rules() {
        instance.lock = attempt.again(&config.name)?;
        if instance.lock.is_none() {
            return Ok(Next::Wait(Step::Locking { config, attempt }));
        }
    }
    Ok(Next::GoOn(Step::Resolving(config)))
}
