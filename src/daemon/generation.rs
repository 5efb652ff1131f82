//! One configuration at work: its listening sockets and the slots of its workers. A reload prepares the next generation
//! beside the one that serves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::cli::CommandLine;
use crate::config::rules::Known;
use crate::config::{Config, Process, families};
use crate::control::command::UpstreamOrder;
use crate::daemon::capacity::Capacity;
use crate::daemon::children::{Children, GenerationId, Role};
use crate::daemon::control_sockets::ControlSockets;
use crate::daemon::inherited::Inherited;
use crate::daemon::instructions::Instructions;
use crate::daemon::listeners::Listeners;
use crate::daemon::message::ToWorker;
use crate::daemon::names::Names;
use crate::daemon::pulse::Pulse;
use crate::daemon::resolver_pool::POOL_SIZE;
use crate::daemon::respawn::Respawn;
use crate::daemon::sources::SocketSupply;
use crate::daemon::worker_record::{self, WorkerRecord};
use crate::daemon::{forwarding, resolver};
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::backend::FirewallChoice;
use crate::rules::ruleset::RuleSet;
use crate::sys::{process, procfs};
use crate::traffic::access_log;
use crate::traffic::redirections::ActiveRedirection;
use crate::traffic::service::{HostPort, Service};
use crate::traffic::shared_counters::WorkerCounters;
use crate::traffic::source_limit::SourceLimit;
use crate::traffic::stock::{SocketCounts, SocketKind};

/// A configuration with what it takes to serve it.
#[derive(Debug)]
pub(crate) struct Generation {
    pub id: GenerationId,
    pub config: Config,
    pub listeners: Listeners,
    /// The file of `-l`.
    pub access_log: Option<File>,
    /// How much each worker may take on.
    pub capacity: Capacity,
    /// Where the workers count the connections of each source, if that is limited.
    pub source_limit: Option<SourceLimit>,
    pub slots: Vec<WorkerSlot>,
    /// Sockets for the control process, if there are other ones than before.
    pub control: Option<ControlSockets>,
    /// The workers get no sockets for addresses of clients before the rules are there that bring the answers back.
    /// Connections that they have accepted wait for them.
    holds_sockets_back: bool,
}

/// What an administrator has said about upstreams, by `HOST:PORT`.
pub(crate) type UpstreamOrders = BTreeMap<String, UpstreamOrder>;

/// A place for one worker, filled again when the worker dies.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    /// The worker, while there is one.
    pub worker: Option<Pid>,
    /// The worker has said that it takes connections.
    pub ready: bool,
    /// Whether the worker answers.
    pub pulse: Pulse,
    /// The worker's resolvers, for `--host-check`.
    pub resolvers: Vec<Pid>,
    /// What became of earlier workers.
    pub respawn: Respawn,
}

impl Generation {
    /// Opens the listening sockets, except those that `before` has or that were passed to this process.
    pub(crate) fn prepare(
        id: GenerationId,
        config: Config,
        before: &Listeners,
        inherited: &Inherited,
    ) -> Result<Generation, Error> {
        SocketSupply::try_out(&config)?;
        let listeners = Listeners::open(&config, before, inherited)?;
        let access_log = config.process.access_log.as_deref().map(access_log::open).transpose()?;
        Generation::new(id, config, listeners, access_log)
    }

    /// One whose sockets and files are open already. No slot has a worker yet.
    pub(crate) fn new(
        id: GenerationId,
        config: Config,
        listeners: Listeners,
        access_log: Option<File>,
    ) -> Result<Generation, Error> {
        let capacity = capacity(&config)?;
        let relays = config.relayed().next().is_some();
        let slots = (0..if relays { config.process.workers } else { 0 }).map(|_| WorkerSlot::default()).collect();
        let source_limit = source_limit(&config.process, capacity.places)?;
        Ok(Generation {
            id,
            config,
            listeners,
            access_log,
            capacity,
            source_limit,
            slots,
            control: None,
            holds_sockets_back: false,
        })
    }

    /// Opens the file of `-l` again. If that fails, the former one stays.
    pub(crate) fn reopen_access_log(&mut self) -> Result<(), Error> {
        if let Some(path) = self.config.process.access_log.as_deref() {
            self.access_log = Some(access_log::open(path)?);
        }
        Ok(())
    }

    /// The rules of the generation that serves may lack what brings answers to addresses of clients back.
    pub(crate) fn wait_for_rules_of(&mut self, serving: Option<&Generation>) {
        self.holds_sockets_back = serving.is_some_and(|serving| serving.config.connects() < self.config.connects());
    }

    /// The rules are there.
    pub(crate) fn has_rules(&mut self, children: &mut Children) {
        if std::mem::take(&mut self.holds_sockets_back) {
            self.workers().for_each(|pid| self.supply(pid, children));
        }
    }

    /// Gives a new worker sockets for addresses of clients.
    fn supply(&self, pid: Pid, children: &mut Children) {
        children.set_supply(pid, SocketSupply::of(&self.config));
        let first = |kind: SocketKind| if self.config.uses_sockets(kind) { self.capacity.sockets as u16 } else { 0 };
        children.give_sockets(pid, SocketCounts(SocketKind::ALL.map(first)));
    }

    /// Starts a worker in each slot.
    pub(crate) fn start_workers(
        &mut self,
        names: &Names,
        orders: &UpstreamOrders,
        children: &mut Children,
    ) -> Result<(), Error> {
        (0..self.slots.len()).try_for_each(|slot| self.start_worker(slot, names, orders, children))
    }

    /// Starts a worker in a slot.
    pub(crate) fn start_worker(
        &mut self,
        slot: usize,
        names: &Names,
        orders: &UpstreamOrders,
        children: &mut Children,
    ) -> Result<(), Error> {
        self.listeners.renew(slot, &self.config)?;
        let number = children.next_worker();
        let lifeline = children.lifeline.clone();
        let counters = WorkerCounters::new(self.config.counter_layout());
        let counters = counters.map_err(|error| Error::sys("memory for the counters", error))?;
        let mut instructions = self.instructions(slot, number, names);
        for (name, order) in orders {
            instructions.line(["order", name, order.state()]);
        }
        if let Some(memory) = counters.memory() {
            instructions.descriptor("counters", memory, []);
        }
        if self.config.process.firewall != FirewallChoice::Iptables {
            instructions.descriptor("lifeline", lifeline.held.as_fd(), []);
        }
        let pid = children.spawn(Role::Worker { generation: self.id, slot }, instructions)?;
        let (started, places) = (worker_record::now(), self.capacity.places);
        children.keep(pid, WorkerRecord { number, slot, started, places, counters });
        if !self.holds_sockets_back {
            // The first ones are there before the worker is.
            self.supply(pid, children);
        }
        let place = &mut self.slots[slot];
        (place.worker, place.ready) = (Some(pid), false);
        place.pulse.answered();
        // Those of the last worker end with it, and it may drain for long.
        place.resolvers.clear();
        place.respawn.started(Instant::now());
        // A worker without resolvers serves. They are started later (`PoolRefill`).
        if let Err(error) = self.fill_pool(slot, children) {
            log::error!("starting a resolver: {error}");
        }
        Ok(())
    }

    /// What the worker of this number in a slot has to know.
    fn instructions(&self, slot: usize, number: u32, names: &Names) -> Instructions<'_> {
        let Generation { config, listeners, access_log, capacity, source_limit, slots, .. } = self;
        let mut new = Instructions::for_worker(&config.process);
        let CommandLine { arguments, directory } = &config.command_line;
        new.line(["directory".as_ref(), directory.as_os_str()]);
        arguments.iter().for_each(|argument| new.line(["argument".as_ref(), argument.as_os_str()]));
        if let Some(file) = &config.file {
            new.line(["file".as_ref(), OsStr::from_bytes(file)]);
        }
        for (kind, name, answer) in config.outside.all() {
            new.line(["outside".as_ref(), OsStr::new(kind), name, OsStr::new(answer)]);
        }
        for (name, addresses) in names.known() {
            let addresses = addresses.iter().map(ToString::to_string);
            new.line(["address".to_owned(), name.to_owned()].into_iter().chain(addresses));
        }
        new.line(["number".into(), number.to_string()]);
        new.line([
            "capacity".into(),
            capacity.places.to_string(),
            capacity.pipes.to_string(),
            capacity.sockets.to_string(),
        ]);
        for socket in &listeners.all {
            for listener in socket.of(slot, slots.len()) {
                new.descriptor("listener", listener.as_fd(), [socket.redirection.0.to_string()]);
            }
        }
        access_log.iter().for_each(|file| new.descriptor("access-log", file.as_fd(), []));
        if let Some((source_limit, memory)) = source_limit.as_ref().and_then(|limit| Some((limit, limit.memory()?))) {
            let numbers = source_limit.of(slot).numbers();
            new.descriptor("source-limit", memory, numbers.map(|number| number.to_string()));
        }
        new
    }

    /// Starts the resolvers that a worker lacks.
    pub(crate) fn fill_pool(&mut self, slot: usize, children: &mut Children) -> Result<(), Error> {
        let Some(worker) = self.slots[slot].worker.filter(|_| self.config.checks_hosts()) else { return Ok(()) };
        while self.slots[slot].resolvers.len() < POOL_SIZE {
            let resolver = resolver::start(Role::PoolResolver, &self.config.process, children)?;
            self.slots[slot].resolvers.push(resolver);
            children.pass_on(resolver, worker, &ToWorker::PooledResolver(resolver.as_raw().cast_unsigned()));
        }
        Ok(())
    }

    /// Kills a pool resolver that does not answer its worker. When it has ended, another one is started.
    pub(crate) fn kill_resolver(&self, slot: usize, resolver: u32, children: &Children) {
        let resolvers = self.slots[slot].resolvers.iter();
        for resolver in resolvers.filter(|pid| pid.as_raw().cast_unsigned() == resolver) {
            log::warn!("resolver {resolver} does not answer and is killed: another one is started");
            children.kill(*resolver);
        }
    }

    /// Slots whose worker has a listening socket that does not listen.
    pub(crate) fn deaf_slots(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|slot| !self.listeners.are_sound(*slot, self.slots.len())).collect()
    }

    /// The workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = Pid> {
        self.slots.iter().filter_map(|slot| slot.worker)
    }

    /// Every slot has a worker that takes connections.
    pub(crate) fn is_ready(&self) -> bool {
        self.slots.iter().all(|slot| slot.ready && slot.worker.is_some())
    }

    /// Which workers do not take connections after this time, as a sentence.
    pub(crate) fn lateness(&self, time: Duration) -> String {
        let late = self.slots.iter().filter(|slot| !slot.ready).filter_map(|slot| slot.worker);
        let who = match late.map(|pid| pid.to_string()).collect::<Vec<_>>().as_slice() {
            [one] => format!("worker {one} is"),
            several => format!("the workers {} are", several.join(", ")),
        };
        format!("{who} not ready after {} seconds", time.as_secs())
    }

    /// Ends a generation that has not come up. A worker that is ready may have accepted connections on the sockets that
    /// it shares with the serving generation: it drains. The others are killed.
    pub(crate) fn discard(&self, children: &mut Children) {
        for slot in &self.slots {
            match slot.worker {
                Some(pid) if slot.ready => retire(pid, children),
                Some(pid) => children.kill(pid),
                None => {}
            }
        }
    }

    /// The workers take nothing new and serve what they have to its end.
    pub(crate) fn retire(self, children: &mut Children) {
        self.workers().for_each(|pid| retire(pid, children));
    }

    /// What a worker has to know of the redirections.
    pub(crate) fn active_redirections(&self, names: &Names) -> Vec<ActiveRedirection> {
        active_redirections(&self.config, |name| names.addresses(name).to_vec())
    }

    /// What waits for names that do not resolve, for the log.
    pub(crate) fn what_waits_for_names(&self, names: &Names) -> Vec<String> {
        let addresses = |name: &str| names.addresses(name).to_vec();
        self.config.what_waits_for_names(&addresses)
    }

    /// Refuses a redirection that leads to no rule, and logs each redirect that does not.
    pub(crate) fn check_families(&self, names: &Names) -> Result<(), Error> {
        let addresses = |name: &str| names.addresses(name).to_vec();
        let listening = |id: RedirectionId| self.listeners.reached_at(id);
        let nowhere = families::check(&self.config, &Known { addresses: &addresses, listening: &listening })?;
        nowhere.iter().for_each(|sentence| log::warn!("{sentence}"));
        Ok(())
    }

    /// The rules, with the addresses that are known now; `None` when there are none to own.
    pub(crate) fn rules(&self, names: &Names) -> Result<Option<RuleSet>, Error> {
        // Also here: the host of a `--kernel` may have got its first address only now.
        forwarding::check(&self.config, names)?;
        let addresses = |name: &str| names.addresses(name).to_vec();
        let listening = |id: RedirectionId| self.listeners.reached_at(id);
        self.config.rules(&Known { addresses: &addresses, listening: &listening })
    }
}

/// The worker takes nothing new and serves what it has to its end.
pub(crate) fn retire(worker: Pid, children: &mut Children) {
    children.signal(worker, Signal::SIGHUP);
    children.drain(worker);
}

/// What a worker that serves `config` has to know of its redirections. `lookup` gives the addresses of a name.
pub(crate) fn active_redirections(config: &Config, lookup: impl Fn(&str) -> Vec<IpAddr>) -> Vec<ActiveRedirection> {
    let active = |(id, _, service): (RedirectionId, _, &Service)| {
        let hosts: Vec<_> = service.destination.hosts().iter().map(|host| host.addresses(&lookup)).collect();
        ActiveRedirection::new(id, service.clone(), &hosts)
    };
    config.relayed().map(active).collect()
}

/// The addresses of an upstream that are known now.
pub(crate) fn addresses(host: &HostPort, names: &Names) -> Vec<SocketAddr> {
    host.addresses(|name| names.addresses(name).to_vec())
}

fn source_limit(process: &Process, places: usize) -> Result<Option<SourceLimit>, Error> {
    let Process { max_per_source, source_block, workers, .. } = *process;
    let source_limit = max_per_source.map(|limit| SourceLimit::new(limit, source_block, workers, places)).transpose();
    source_limit.map_err(|error| Error::sys("mmap", error))
}

fn capacity(config: &Config) -> Result<Capacity, Error> {
    let descriptors = process::raise_open_files().map_err(|error| Error::sys("RLIMIT_NOFILE", error))?;
    let Process { max_connections, workers, .. } = config.process;
    // Each worker can let in its share of them only: together they must not let in more.
    let wanted = max_connections.map(|most| most / workers);
    let of_v4 = SocketKind::ALL.into_iter().filter(|kind| kind.is_v4);
    let stocks = of_v4.filter(|kind| config.uses_sockets(*kind)).count();
    let capacity = Capacity::plan(descriptors, wanted, stocks);
    if wanted.is_some_and(|wanted| wanted > capacity.places) {
        let most = capacity.places * workers;
        log::warn!("{descriptors} open files are enough for {most} connections, not for as many as -m asks for");
    }
    let tracked = procfs::sysctl("net.netfilter.nf_conntrack_max");
    let tracked = tracked.filter(|_| config.relayed().any(|(_, _, service)| !service.untracked));
    if let Some(most) = tracked.and_then(|text| text.parse::<usize>().ok())
        && most < 2 * capacity.places
    {
        log::warn!("nf_conntrack_max is {most}: {} connections need two entries each", capacity.places);
    }
    Ok(capacity)
}
