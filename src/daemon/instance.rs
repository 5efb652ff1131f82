//! One running table: its generation, its children, its rules and its names. What happens to it while nothing is being
//! changed: workers die and are replaced, names move, upstreams fall silent, others touch the rules.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::daemon::children::{Children, GenerationId};
use crate::daemon::control_link::ControlLink;
use crate::daemon::generation::Generation;
use crate::daemon::heartbeat::Heartbeat;
use crate::daemon::inherited::Inherited;
use crate::daemon::instance_lock::InstanceLock;
use crate::daemon::listener_watch::ListenerWatch;
use crate::daemon::local_ports::LocalPorts;
use crate::daemon::message::{ToGuardian, ToWorker};
use crate::daemon::names::Names;
use crate::daemon::notify::{self, Notifier};
use crate::daemon::pool_refill::PoolRefill;
use crate::daemon::reachability::Reachability;
use crate::daemon::reconciler::Reconciler;
use crate::daemon::stats::Stats;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::rules::rule::Gate;
use crate::traffic::totals::Totals;
use crate::traffic::upstreams::ADDRESSES;

mod control;
mod workers;

/// A running table.
#[derive(Debug)]
pub(crate) struct Instance {
    pub children: Children,
    pub names: Names,
    /// The right to the name of the rules.
    pub lock: Option<InstanceLock>,
    pub rules: Option<Reconciler>,
    /// What takes new connections; `None` before the first one.
    pub serving: Option<Generation>,
    /// Which upstreams do not answer.
    pub reachability: Reachability,
    /// The services of this host that are redirected to.
    pub local_ports: LocalPorts,
    /// What the workers have done.
    pub stats: Stats,
    pub notifier: Notifier,
    pub heartbeat: Heartbeat,
    /// Sockets that this process was started with, until a generation takes them.
    pub inherited: Inherited,
    /// Tells when a socket of the serving generation stops listening.
    listener_watch: Option<ListenerWatch>,
    last_generation: GenerationId,
    pub pool_refill: PoolRefill,
    /// The control process.
    pub control: ControlLink,
    /// How long connections may go on after a stop, if an administrator has said so for this once.
    pub drain: Option<Duration>,
}

impl Instance {
    /// One that does not serve yet.
    pub(crate) fn new(children: Children, inherited: Inherited) -> Instance {
        Instance {
            children,
            names: Names::new(),
            lock: None,
            rules: None,
            serving: None,
            reachability: Reachability::default(),
            local_ports: LocalPorts::default(),
            stats: Stats::default(),
            notifier: Notifier::from_environment(),
            heartbeat: Heartbeat::new(notify::watchdog()),
            inherited,
            listener_watch: None,
            last_generation: GenerationId(0),
            pool_refill: PoolRefill::default(),
            control: ControlLink::new(),
            drain: None,
        }
    }

    /// A number for a new generation.
    pub(crate) fn next_generation(&mut self) -> GenerationId {
        self.last_generation = self.last_generation.next();
        self.last_generation
    }

    /// When something is due here. Names are due only while something serves or a transition resolves them.
    pub(crate) fn due(&self, resolves: bool) -> Option<Instant> {
        let rules = self.rules.as_ref().and_then(Reconciler::due);
        let slots = self.serving.iter().flat_map(|serving| &serving.slots).filter_map(|slot| slot.respawn.next);
        let gates =
            self.serving.as_ref().and_then(|serving| self.reachability.due(serving.config.process.upstream_grace));
        let names = self.names.due().filter(|_| resolves || self.serving.is_some());
        let retired = self.children.retirement_due(self.retire_timeout());
        let (children, stats) = (self.children.due(), self.stats.due());
        let beat = self.serving.as_ref().map(|_| self.heartbeat.due());
        let (control, pools) = (self.control.next(), self.pool_refill.due());
        let others = [control, names, rules, gates, self.local_ports.due(), pools, retired, children, stats, beat];
        slots.chain(others.into_iter().flatten()).min()
    }

    /// The time that workers have which drain.
    fn retire_timeout(&self) -> Option<Duration> {
        self.serving.as_ref()?.config.process.retire_timeout
    }

    /// Does what is due.
    pub(crate) fn work(&mut self, now: Instant) {
        for slot in 0..self.serving.as_ref().map_or(0, |serving| serving.slots.len()) {
            self.respawn(slot, now);
        }
        self.pool_refill.work(self.serving.as_mut(), &mut self.children, now);
        if let Some(serving) = &self.serving {
            if self.local_ports.due().is_some_and(|due| due <= now) {
                self.local_ports.look(&serving.config);
            }
            self.names.ask(&mut self.children, &serving.config);
        }
        if self.serving.is_some() && self.listener_watch.is_none() {
            self.watch_listeners();
        }
        self.children.limit_retirement(self.retire_timeout(), now);
        self.beat(now);
        self.work_on_rules();
    }

    /// Removes what earlier rules have left, once no connection is left that needs it. To be called while nothing changes.
    pub(crate) fn forget_former_rules(&mut self) {
        if self.children.draining().next().is_none()
            && let (Some(rules), Some(serving)) = (&mut self.rules, &self.serving)
        {
            rules.forget_former(serving.config.needs_routing());
        }
    }

    /// Asks the workers for a sign of life, if it is time to, and replaces those that give none.
    fn beat(&mut self, now: Instant) {
        let Some(serving) = &mut self.serving else { return };
        let silent = self.heartbeat.beat(serving, &self.children, &self.notifier, now);
        silent.into_iter().for_each(|slot| self.replace_silent_worker(slot));
        if let Some(serving) = &self.serving {
            let totals = || totals(&self.stats, &self.children);
            self.heartbeat.tell_status(serving, totals, &self.reachability, &self.notifier);
        }
    }

    /// Starts what is due for the rules.
    pub(crate) fn work_on_rules(&mut self) {
        if let Some(rules) = &mut self.rules {
            rules.work(&mut self.children);
        }
    }

    /// Logs why the last work on the rules failed.
    pub(crate) fn report_rules(&mut self) {
        if let Some(error) = self.rules.as_mut().and_then(Reconciler::take_failure) {
            log::error!("{error}");
        }
    }

    /// Acts on what a worker of the serving generation has sent, unless another one has its slot by now.
    pub(crate) fn heard_from_slot(&mut self, pid: Pid, slot: usize, message: ToGuardian) {
        let in_slot = self.serving.as_ref().and_then(|serving| serving.slots.get(slot)?.worker);
        if in_slot != Some(pid) {
            return;
        }
        match message {
            ToGuardian::Ready => self.serving.iter_mut().for_each(|serving| serving.slots[slot].ready = true),
            // An administrator has signalled the worker: it drains, and another one takes new connections.
            ToGuardian::Leaving => {
                let worker = self.serving.as_mut().and_then(|serving| serving.slots[slot].worker.take());
                worker.iter().for_each(|worker| self.children.drain(*worker));
                self.start_worker(slot);
            }
            ToGuardian::Unreachable(id) => self.upstreams_are_unreachable(id),
            ToGuardian::Reachable(id) => self.reachability.answers(id),
            ToGuardian::Alive => self.serving.iter_mut().for_each(|serving| serving.slots[slot].pulse.answered()),
            ToGuardian::ResolverHangs(pid) => {
                self.serving.iter().for_each(|serving| serving.kill_resolver(slot, pid, &self.children))
            }
            ToGuardian::Answered | ToGuardian::Unheard | ToGuardian::LostLines(_) | ToGuardian::Sockets(_) => {}
        }
    }

    /// Acts on what any worker may send.
    pub(crate) fn heard_from_worker(&mut self, pid: Pid, message: ToGuardian) {
        match message {
            ToGuardian::Answered => self.stats.heard(pid.as_raw().cast_unsigned()),
            ToGuardian::Unheard => self.connect_to_syslog(pid),
            ToGuardian::LostLines(count) => logging::take_losses_over(count),
            ToGuardian::Sockets(wanted) => self.children.give_sockets(pid, wanted),
            _ => {}
        }
    }

    /// What all workers have counted, also those that are gone.
    pub(crate) fn totals(&self) -> Totals {
        totals(&self.stats, &self.children)
    }

    /// Makes a worker the connection to syslog that it cannot make.
    fn connect_to_syslog(&self, pid: Pid) {
        // Without a syslog daemon there is none; the worker asks again.
        if let Ok(connection) = logging::connect() {
            self.children.tell(pid, &ToWorker::SystemLog, Some(connection.as_fd()));
        }
    }

    fn upstreams_are_unreachable(&mut self, id: RedirectionId) {
        let Some(serving) = &self.serving else { return };
        if let Some(redirection) = serving.config.redirections.get(id.index()) {
            self.reachability.silent(id);
            redirection.hosts().iter().for_each(|host| self.names.hurry(host.name.as_str()));
        }
    }

    /// Takes the resolver's answer. A name that has other addresses is told to the workers.
    pub(crate) fn heard_from_resolver(&mut self) -> bool {
        let Some(name) = self.names.answer(&mut self.children) else { return false };
        let addresses = self.names.addresses(&name).to_vec();
        let list: Vec<String> = addresses.iter().take(ADDRESSES).map(ToString::to_string).collect();
        let more = addresses.len() - list.len();
        let others = if more > 0 { format!(" and {more} others") } else { String::new() };
        log::info!("'{name}' is now {}{others}", list.join(", "));
        self.children.tell_workers(&ToWorker::Addresses { name, addresses }, None);
        if let Some(Err(error)) = self.serving.as_ref().map(|serving| serving.check_families(&self.names)) {
            log::warn!("{error}");
        }
        true
    }

    /// When something is due here while the daemon stops.
    pub(crate) fn due_at_stop(&self) -> Option<Instant> {
        let rules = self.rules.as_ref().and_then(Reconciler::limit_due);
        [rules, self.children.due(), self.stats.due(), self.control.next()].into_iter().flatten().min()
    }

    /// Whether a child works on the rules now.
    pub(crate) fn works_on_rules(&self) -> bool {
        self.rules.as_ref().is_some_and(Reconciler::is_busy)
    }

    /// Plans the rules anew, and has them installed if they have changed.
    pub(crate) fn refresh_rules(&mut self) {
        let (Some(rules), Some(serving)) = (&mut self.rules, &self.serving) else { return };
        match serving.rules(&self.names) {
            Ok(Some(set)) => rules.want(set, &serving.config.process),
            Ok(None) => {}
            Err(error) => log::error!("the rules stay as they are: {error}"),
        }
    }

    /// Decides for each redirection whether its rules stand.
    pub(crate) fn set_gates(&mut self) {
        let (Some(rules), Some(serving)) = (&mut self.rules, &self.serving) else { return };
        let no_worker = serving.slots.iter().any(|slot| slot.respawn.has_given_up());
        let mut gates = self.reachability.gates(&serving.config, no_worker);
        for id in &self.control.disabled {
            if let Some(gate) = gates.get_mut(id.index()) {
                *gate = Gate::Disabled;
            }
        }
        rules.set_gates(gates);
    }

    /// SIGURG: the log files were renamed, and new ones are wanted.
    pub(crate) fn reopen_logs(&mut self) {
        logging::reopen();
        if let Some(serving) = &mut self.serving
            && let Err(error) = serving.reopen_access_log()
        {
            return log::error!("the access log stays the old one: {error}");
        }
        self.pass_access_log_on();
        log::info!("the log files are opened again");
    }

    /// Gives all workers the file of the access log, also those that drain.
    pub(crate) fn pass_access_log_on(&self) {
        if let Some(file) = self.serving.as_ref().and_then(|serving| serving.access_log.as_ref()) {
            self.children.tell_workers(&ToWorker::AccessLog, Some(file.as_fd()));
        }
    }

    /// SIGUSR1: the counters of all workers, and each worker's connections.
    pub(crate) fn ask_for_counters(&mut self) {
        if self.children.workers_started == 0 {
            return log::info!("counters: no worker, and the kernel counts what rules do (`iptables -t nat -L -n -v`)");
        }
        let pids: Vec<u32> = self.children.workers().map(|pid| pid.as_raw().cast_unsigned()).collect();
        self.stats.ask(pids.into_iter(), Instant::now());
        self.children.signal_workers(Signal::SIGUSR1);
    }
}

fn totals(stats: &Stats, children: &Children) -> Totals {
    let mut totals = stats.past().clone();
    children.records().for_each(|(_, record)| totals.add_living(record.slot, &record.counters.read()));
    totals
}
