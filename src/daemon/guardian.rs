//! The guardian: keeps the listening sockets and the rules, and sees to it that somebody serves. It touches no payload
//! and takes no input from the network.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::config::FailMode;
use crate::daemon::change::{Reload, Successor};
use crate::daemon::children::{Child, hear};
use crate::daemon::generation::Generation;
use crate::daemon::inherited::Former;
use crate::daemon::instance_lock::InstanceLock;
use crate::daemon::listeners;
use crate::daemon::local_ports::LocalPorts;
use crate::daemon::message::{ToGuardian, ToWorker};
use crate::daemon::names::Names;
use crate::daemon::notify::Notifier;
use crate::daemon::reconciler::Reconciler;
use crate::daemon::resolver_pool::POOL_SIZE;
use crate::daemon::respawn::Verdict;
use crate::daemon::socket_owners::SocketOwner;
use crate::daemon::stats::Stats;
use crate::error::Error;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::rules::rule::Gate;
use crate::sys::process;
use crate::traffic::token::EventToken;

/// How much longer than `--drain` a worker may take to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// So much of what one child says is heard at once. A child that was taken over could talk without end, and has no
/// right to all of the guardian's time.
const WORDS: usize = 64;

/// Whoever has said so much is not listened to for this long.
const SILENCE: Duration = Duration::from_millis(50);

/// Resolvers of workers are replaced once in this time: a worker that was taken over could have them end at once.
const POOL_PAUSE: Duration = Duration::from_secs(1);

/// The running guardian.
#[derive(Debug)]
pub(crate) struct Guardian {
    pub(crate) poll: Poll,
    pub(crate) signals: SignalFd,
    pub(crate) notifier: Notifier,
    pub(crate) names: Names,
    pub(crate) reconciler: Option<Reconciler>,
    /// What serves.
    pub(crate) generation: Generation,
    /// What is to serve next, while a reload is under way.
    pub(crate) reload: Option<Reload>,
    /// The guardian that is to replace this one, while it starts.
    pub(crate) successor: Option<Successor>,
    /// The program to start as successor.
    pub(crate) program: PathBuf,
    /// The services of this host that are redirected to.
    pub(crate) local: LocalPorts,
    /// Workers that only serve what they have.
    pub(crate) leaving: Vec<Child>,
    /// Workers that talk too much, and when they are listened to again.
    talkative: BTreeMap<u32, Instant>,
    /// When missing resolvers of workers are to be replaced.
    resolvers_due: Option<Instant>,
    /// What the workers have done.
    stats: Stats,
    /// How many workers were started so far.
    pub(crate) workers: u32,
    /// The right to the name of the rules.
    pub(crate) lock: Option<InstanceLock>,
    /// What is to be done after the reload or upgrade that is under way.
    pub(crate) deferred: Option<Signal>,
    /// Redirections none of whose upstreams answer, by number, and since when.
    unreachable: BTreeMap<RedirectionId, Instant>,
    /// Those of them that are shut for it.
    dark: BTreeSet<RedirectionId>,
    /// Set by the signal to stop: when patience with the workers ends.
    stopping: Option<Instant>,
    /// Another guardian has taken over the sockets and the rules.
    relieved: bool,
    /// Its process, while it is known to live.
    heir: Option<Pid>,
    /// The guardian that this one has replaced, while it lives.
    former: Option<Former>,
}

impl Guardian {
    /// A guardian of a shift that has not begun.
    pub(crate) fn new(
        generation: Generation,
        names: Names,
        poll: Poll,
        signals: SignalFd,
        program: PathBuf,
    ) -> Guardian {
        Guardian {
            poll,
            signals,
            notifier: Notifier::from_environment(),
            names,
            reconciler: None,
            generation,
            reload: None,
            successor: None,
            program,
            local: LocalPorts::default(),
            leaving: Vec::new(),
            talkative: BTreeMap::new(),
            resolvers_due: None,
            stats: Stats::default(),
            workers: 0,
            lock: None,
            deferred: None,
            unreachable: BTreeMap::new(),
            dark: BTreeSet::new(),
            stopping: None,
            relieved: false,
            heir: None,
            former: None,
        }
    }

    /// Guards until the daemon has stopped.
    pub(crate) fn serve(&mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(64);
        while !self.is_done() {
            self.turn(&mut events, None)?;
        }
        self.remove_rules();
        if self.workers > 0 {
            log::info!("counters: {}", self.stats.sum());
        }
        Ok(())
    }

    /// Waits for something to happen, at most until `limit`, and acts on it.
    pub(crate) fn turn(&mut self, events: &mut Events, limit: Option<Instant>) -> Result<(), Error> {
        let due = self.next_due().into_iter().chain(limit).min();
        // mio rounds to whole milliseconds; a little late is better than a busy loop until it is time.
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(Error::sys("waiting for events", error));
        }
        for event in events.iter() {
            match EventToken::from(event.token()) {
                EventToken::Signals => self.take_signals()?,
                EventToken::Channel(0) => self.hear_successor(),
                EventToken::Channel(pid) => self.listen_to(pid),
                EventToken::Listener(_) | EventToken::Probe(_) | EventToken::Connection(..) => {}
            }
        }
        self.look_at_the_clock();
        self.look_at_the_former();
        if let Some(counters) = self.stats.answer(Instant::now()) {
            log::info!("counters: {counters}");
        }
        Ok(())
    }

    /// This one has replaced the guardian that started it, and hears of its death (as a SIGCHLD).
    pub(crate) fn follow(&mut self, former: Former) -> Result<(), Error> {
        self.former = Some(former);
        nix::sys::prctl::set_pdeathsig(Signal::SIGCHLD).map_err(|errno| Error::sys("PR_SET_PDEATHSIG", errno))?;
        self.look_at_the_former();
        Ok(())
    }

    /// A former guardian that was killed may not have told its workers that others take over.
    fn look_at_the_former(&mut self) {
        if let Some(former) = self.former.take_if(|former| former.pid != parent_id()) {
            let orphans = former.workers.into_iter().filter_map(SocketOwner::of);
            let orphans: Vec<SocketOwner> = orphans.filter(SocketOwner::is_worker).collect();
            listeners::relieve(&orphans);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let upgrade = self.successor.as_ref().map(|successor| successor.limit);
        let talkative = self.talkative.values().min().copied();
        if self.stopping.is_some() {
            return [self.stopping, self.stats.due(), upgrade, talkative].into_iter().flatten().min();
        }
        let rules = self.reconciler.as_ref().and_then(Reconciler::due);
        let slots = self.generation.slots.iter().filter_map(|slot| slot.respawn.next);
        let reload = self.reload.as_ref().map(Reload::due);
        let grace = self.generation.config.process.upstream_grace;
        let gates = grace.and_then(|grace| Some(*self.unreachable.values().min()? + grace));
        let gates = gates.filter(|due| *due > Instant::now());
        let others = [self.names.due(), rules, reload, upgrade, gates, self.local.due(), self.stats.due()];
        let others = others.into_iter().chain([talkative, self.resolvers_due]);
        slots.chain(others.flatten()).min()
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        self.limit_successor();
        while let Some((pid, _)) = self.talkative.iter().find(|(_, until)| **until <= now) {
            let pid = *pid;
            self.talkative.remove(&pid);
            self.listen_to_worker(pid);
        }
        if let Some(until) = self.stopping {
            if until <= now {
                log::error!("workers did not end in time and are killed");
                self.signal_workers(Signal::SIGKILL);
                self.stopping = Some(now + GRACE);
            }
            return;
        }
        for slot in 0..self.generation.slots.len() {
            if self.generation.slots[slot].respawn.next.is_some_and(|next| next <= now) {
                self.respawn_is_due(slot);
            }
        }
        if self.resolvers_due.take_if(|due| *due <= now).is_some() {
            self.replace_resolvers();
        }
        if self.local.due().is_some_and(|due| due <= now) {
            self.local.look(&self.generation.config);
        }
        self.go_on_reloading();
        self.do_deferred();
        self.ask_for_names();
        self.set_gates();
        if let Some(reconciler) = &mut self.reconciler {
            reconciler.work();
        }
    }

    fn ask_for_names(&mut self) {
        match self.names.ask(&self.generation.config, self.poll.registry()) {
            Ok(Some(hung)) => self.send(hung.pid, Signal::SIGKILL),
            Ok(None) => {}
            Err(error) => log::error!("the resolver: {error}"),
        }
    }

    pub(crate) fn send(&self, pid: Pid, signal: Signal) {
        if let Err(error) = process::send_signal(pid, signal) {
            log::error!("{signal} to process {pid}: {error}");
        }
    }

    fn listen_to(&mut self, pid: u32) {
        if let Some(resolver) = self.names.resolver().filter(|child| child.is(pid)).map(|child| child.pid) {
            if let Some(name) = self.names.answer() {
                self.readdress(&name);
            }
            if self.names.resolver().is_none() {
                self.send(resolver, Signal::SIGKILL);
            }
        } else {
            self.listen_to_worker(pid);
        }
    }

    fn listen_to_worker(&mut self, pid: u32) {
        if self.talkative.contains_key(&pid) {
            return;
        }
        for _ in 0..WORDS {
            let Some(said) = self.workers().find(|child| child.is(pid)).and_then(hear) else { return };
            let Some(word) = said else { continue };
            let slot =
                self.generation.slots.iter().position(|slot| slot.child.as_ref().is_some_and(|child| child.is(pid)));
            match (word, slot) {
                (ToGuardian::Counters(counters), _) => self.stats.heard(pid, counters),
                (ToGuardian::Unheard, _) => self.connect_to_syslog(pid),
                (ToGuardian::Ready, Some(slot)) => self.generation.slots[slot].ready = true,
                (ToGuardian::Ready, None) => self.reload.iter_mut().for_each(|reload| reload.ready(pid)),
                (ToGuardian::Leaving, Some(slot)) => self.replace_leaving(slot),
                (ToGuardian::Unreachable(line), Some(_)) => self.upstreams_are_unreachable(line),
                (ToGuardian::Reachable(line), Some(_)) => {
                    self.unreachable.remove(&line);
                }
                // Of redirections that are not this shift's, or of its past.
                (ToGuardian::Leaving | ToGuardian::Unreachable(_) | ToGuardian::Reachable(_), None) => {}
            }
        }
        self.talkative.insert(pid, Instant::now() + SILENCE);
    }

    /// Makes a worker the connection to syslog that it cannot make.
    fn connect_to_syslog(&self, pid: u32) {
        let Some(child) = self.workers().find(|child| child.is(pid)) else { return };
        // Without a syslog daemon there is none; the worker asks again.
        if let Ok(connection) = logging::connect()
            && let Err(error) = child.line.send(&ToWorker::SystemLog.encode(), Some(connection.as_fd()))
        {
            log::debug!("telling worker {pid}: {error}");
        }
    }

    /// All workers: those that serve, those that come and those that go.
    fn workers(&self) -> impl Iterator<Item = &Child> {
        let coming = self.reload.iter().flat_map(Reload::children);
        self.generation.children().chain(&self.leaving).chain(coming)
    }

    /// The number of the next worker.
    pub(crate) fn next_number(&mut self) -> u32 {
        self.workers += 1;
        self.workers
    }

    fn upstreams_are_unreachable(&mut self, id: RedirectionId) {
        if let Some(redirection) = self.generation.config.redirections.get(id.index()) {
            self.unreachable.entry(id).or_insert_with(Instant::now);
            redirection.hosts().iter().for_each(|host| self.names.hurry(host.name.as_str()));
        }
    }

    /// The worker was told by somebody else to stop: it serves what it has, another one takes what comes.
    fn replace_leaving(&mut self, slot: usize) {
        self.leaving.extend(self.generation.slots[slot].child.take());
        if self.stopping.is_none() {
            self.start_worker(slot);
        }
    }

    /// Puts a worker on its place, or what a failure to do so demands.
    fn start_worker(&mut self, slot: usize) {
        let number = self.next_number();
        if let Err(error) = self.generation.start_worker(slot, number, &self.names, self.poll.registry()) {
            log::error!("starting a worker: {error}");
            self.worker_died(slot, "could not be started");
        }
    }

    /// A name has other addresses now: tells the workers, and has rules that hold them replaced.
    fn readdress(&mut self, name: &str) {
        let addresses = self.names.addresses(name).to_vec();
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        log::info!("'{name}' is now {}", list.join(", "));
        self.tell_workers(&ToWorker::Addresses { name: name.to_owned(), addresses }, None);
        if self.reload.is_none() {
            self.refresh_rules();
        }
    }

    /// Plans the rules anew, and has them installed if they have changed.
    pub(crate) fn refresh_rules(&mut self) {
        let Some(reconciler) = &mut self.reconciler else { return };
        match self.generation.rules(&self.names) {
            Ok(Some(set)) => reconciler.replace(set),
            Ok(None) => {}
            Err(error) => log::error!("the rules stay as they are: {error}"),
        }
    }

    pub(crate) fn tell_workers(&self, order: &ToWorker, descriptor: Option<BorrowedFd<'_>>) {
        for child in self.workers() {
            if let Err(error) = child.line.send(&order.encode(), descriptor) {
                log::debug!("telling worker {}: {error}", child.pid);
            }
        }
    }

    /// Acts on all signals that wait.
    pub(crate) fn take_signals(&mut self) -> Result<(), Error> {
        let failed = |error| Error::sys("reading signals", error);
        while let Some(signal) = process::next_signal(&self.signals).map_err(failed)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                // Whoever sends it may not know yet.
                Signal::SIGHUP | Signal::SIGUSR2 if self.relieved => {
                    self.heir.iter().for_each(|heir| self.send(*heir, signal));
                }
                Signal::SIGHUP if self.stopping.is_none() => self.begin_reload(),
                Signal::SIGUSR2 if self.stopping.is_none() => self.begin_upgrade(),
                Signal::SIGUSR1 => self.ask_for_counters(),
                Signal::SIGCHLD => self.reap(),
                _ => {}
            }
        }
        Ok(())
    }

    fn ask_for_counters(&mut self) {
        let pids: Vec<u32> = self.workers().map(|child| child.pid.as_raw() as u32).collect();
        if self.workers == 0 {
            return log::info!("counters: no worker, and the kernel counts what rules do (`iptables -t nat -L -n -v`)");
        }
        self.stats.ask(pids.into_iter(), Instant::now());
        self.signal_workers(Signal::SIGUSR1);
    }

    fn reap(&mut self) {
        while let Some((pid, how)) = process::reap() {
            // What it said last may not have been read yet.
            self.talkative.remove(&(pid.as_raw() as u32));
            self.listen_to_worker(pid.as_raw() as u32);
            self.talkative.remove(&(pid.as_raw() as u32));
            self.stats.lost(pid.as_raw() as u32);
            self.heir.take_if(|heir| *heir == pid);
            if let Some(reconciler) = &mut self.reconciler
                && reconciler.reaped(pid, how.is_well())
            {
                continue;
            }
            let is = |child: &Child| child.pid == pid;
            if self.names.resolver().is_some_and(is) {
                log::warn!("resolver {pid} {how}: another one is started when it is needed");
                self.names.lost();
            } else if let Some(slot) = self.generation.slots.iter().position(|slot| slot.resolvers.contains(&pid)) {
                self.pool_resolver_died(slot, pid);
            } else if let Some(slot) = self.generation.slots.iter().position(|slot| slot.child.as_ref().is_some_and(is))
            {
                self.generation.slots[slot].child = None;
                self.worker_died(slot, &format!("{pid} {how}"));
            } else if let Some(at) = self.leaving.iter().position(is) {
                self.leaving.swap_remove(at);
                log::info!("worker {pid} {how}");
            } else if self.reload.as_mut().is_some_and(|reload| reload.lost(pid)) {
                self.fail_reload(&format!("worker {pid} {how}"));
            } else if self.successor.as_ref().is_some_and(|successor| successor.pid() == pid) {
                self.successor_ended(&how.to_string());
            }
        }
    }

    /// A resolver of a worker is gone: with the worker, or else it is replaced soon.
    fn pool_resolver_died(&mut self, slot: usize, pid: Pid) {
        self.generation.slots[slot].resolvers.retain(|resolver| *resolver != pid);
        self.resolvers_due.get_or_insert_with(|| Instant::now() + POOL_PAUSE);
    }

    fn replace_resolvers(&mut self) {
        for slot in 0..self.generation.slots.len() {
            while self.generation.config.checks_hosts()
                && self.generation.slots[slot].child.is_some()
                && self.generation.slots[slot].resolvers.len() < POOL_SIZE
            {
                if let Err(error) = self.generation.start_pool_resolver(slot) {
                    log::error!("a resolver cannot be started: {error}");
                    self.resolvers_due = Some(Instant::now() + POOL_PAUSE);
                    return;
                }
            }
        }
    }

    fn worker_died(&mut self, slot: usize, which: &str) {
        if self.stopping.is_some() {
            return log::debug!("worker {which}");
        }
        match self.generation.slots[slot].respawn.death(Instant::now()) {
            Verdict::AtOnce => {
                log::warn!("worker {which}: another one is started; its connections are lost");
                self.start_worker(slot);
            }
            Verdict::GiveUp => {
                let what = match self.generation.config.process.fail {
                    FailMode::Open => "the redirection is taken away, clients reach whom they wanted to",
                    FailMode::Closed => "the redirection becomes a reject",
                };
                log::error!("worker {which}: no worker can be kept alive; {what}");
            }
            Verdict::Later => log::error!("worker {which}: still no worker can be kept alive"),
        }
    }

    /// After a series of deaths: either another worker is to be tried, or the one that was tried has survived.
    fn respawn_is_due(&mut self, slot: usize) {
        if self.generation.slots[slot].child.is_none() {
            self.start_worker(slot);
        } else if self.generation.slots[slot].respawn.survived() {
            log::warn!("a worker is alive again: the redirection is put back");
        }
    }

    /// Decides for each redirection whether it stands: workers that cannot be kept alive and upstreams that have not
    /// answered for too long close it, in the way that `--fail` says.
    fn set_gates(&mut self) {
        let Some(reconciler) = &mut self.reconciler else { return };
        let process = &self.generation.config.process;
        let shut = match process.fail {
            FailMode::Open => Gate::Withdrawn,
            FailMode::Closed => Gate::Rejected,
        };
        let no_worker = self.generation.slots.iter().any(|slot| slot.respawn.has_given_up());
        let late = |since: &Instant| process.upstream_grace.is_some_and(|grace| since.elapsed() >= grace);
        let mut gates = vec![Gate::Normal; self.generation.config.redirections.len()];
        for (id, _, _) in self.generation.config.relayed() {
            let dark = self.unreachable.get(&id).is_some_and(late);
            if no_worker || dark {
                gates[id.index()] = shut;
            }
            let was_dark = self.dark.contains(&id);
            if dark && !was_dark {
                let what = if shut == Gate::Withdrawn { "is withdrawn" } else { "becomes a reject" };
                log::warn!("redirection {id}: no upstream answers: it {what}");
                self.dark.insert(id);
            } else if !dark && was_dark {
                log::warn!("redirection {id}: an upstream answers again: it is put back");
                self.dark.remove(&id);
            }
        }
        reconciler.want(gates);
    }

    /// Signals the workers that take new connections.
    pub(crate) fn signal_shift(&self, signal: Signal) {
        self.generation.children().for_each(|child| self.send(child.pid, signal));
    }

    /// The redirections are others now.
    pub(crate) fn forget_unreachable(&mut self) {
        self.unreachable.clear();
    }

    pub(crate) fn signal_workers(&self, signal: Signal) {
        self.workers().for_each(|child| self.send(child.pid, signal));
    }

    /// The first time unhooks the rules, then lets the workers end; the second time makes them end at once.
    fn stop(&mut self) {
        if self.stopping.is_none() {
            log::info!("stopping");
            self.notifier.tell("STOPPING=1");
            self.fail_reload("the daemon stops");
            self.dismiss_successor(Signal::SIGTERM, 3 * GRACE);
            if let Some(reconciler) = &mut self.reconciler
                && !self.relieved
                && let Err(error) = reconciler.unhook()
            {
                log::error!("the rules could not be unhooked: {error}");
            }
            self.lock = None;
            self.names.dismiss();
            self.generation.listeners.all.clear();
            self.stopping = Some(Instant::now() + self.generation.config.process.drain + GRACE);
        } else {
            self.tell_workers(&ToWorker::Reset, None);
        }
        self.signal_workers(Signal::SIGTERM);
    }

    /// Another guardian serves now: its sockets and rules are ours no more, and our workers serve what they have.
    pub(crate) fn relieve(&mut self, heir: Pid) {
        (self.relieved, self.heir) = (true, Some(heir));
        self.lock = None;
        self.names.dismiss();
        self.generation.listeners.all.clear();
        self.signal_workers(Signal::SIGHUP);
        self.leaving.extend(self.generation.slots.drain(..).filter_map(|slot| slot.child));
        if let Some(reconciler) = self.reconciler.take() {
            reconciler.leave();
        }
    }

    fn remove_rules(&mut self) {
        let Some(reconciler) = self.reconciler.take() else { return };
        let lock =
            self.lock.take().map_or_else(|| InstanceLock::try_stake(&reconciler.set().name), |lock| Ok(Some(lock)));
        // Who has taken the name since the rules were unhooked has rules of his own there.
        if !matches!(lock, Ok(None))
            && let Err(error) = reconciler.remove()
        {
            log::error!("the rules could not be removed: {error}; `tproxy --flush` removes them");
        }
    }

    /// Whether it was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn is_done(&self) -> bool {
        let nobody = self.generation.children().next().is_none() && self.leaving.is_empty();
        (self.stopping.is_some() || self.relieved) && nobody && self.successor.is_none()
    }

    /// A start that failed leaves nothing behind.
    pub(crate) fn abandon(&mut self) {
        self.remove_rules();
        self.signal_workers(Signal::SIGKILL);
        self.names.dismiss();
    }
}

/// Waits until one of the descriptors can be read, or the time is over.
pub(crate) fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Duration) -> Result<(), Error> {
    let mut wait: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut wait, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::sys("poll", errno)),
    }
}

/// Asks for the events of a descriptor.
pub(crate) fn watch(poll: &Poll, descriptor: impl AsFd, wake: EventToken) -> Result<(), Error> {
    let source = descriptor.as_fd().as_raw_fd();
    let registered = poll.registry().register(&mut SourceFd(&source), Token::from(wake), Interest::READABLE);
    registered.map_err(|error| Error::sys("epoll_ctl", error))
}
