//! One configuration at work: its sockets and the workers behind them. A reload prepares the next shift beside the one
//! that serves.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Instant;

use mio::Registry;
use nix::unistd::Pid;

use crate::config::rules::Known;
use crate::config::{Config, Listen, Process};
use crate::daemon::children::{self, Child, Outfit};
use crate::daemon::inherited::Inherited;
use crate::daemon::listeners::Listeners;
use crate::daemon::message::ToWorker;
use crate::daemon::names::Names;
use crate::daemon::resolver_pool::POOL_SIZE;
use crate::daemon::respawn::Respawn;
use crate::daemon::worker::Capacity;
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::ruleset::RuleSet;
use crate::sys::process;
use crate::traffic::access_log;
use crate::traffic::redirections::ActiveRedirection;
use crate::traffic::service::HostPort;
use crate::traffic::source_limit::SourceLimit;

/// A configuration with what it takes to serve it.
#[derive(Debug)]
pub(crate) struct Generation {
    /// The configuration.
    pub config: Config,
    /// Its listening sockets.
    pub listeners: Listeners,
    /// The file of `-l`.
    pub access_log: Option<File>,
    /// How much each worker may take on.
    pub capacity: Capacity,
    /// Where the workers count the connections of each source, if that is limited.
    pub source_limit: Option<SourceLimit>,
    /// The places of the workers.
    pub slots: Vec<WorkerSlot>,
}

/// The place of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    /// The worker, while there is one.
    pub child: Option<Child>,
    /// Whether it has said that it takes connections.
    pub ready: bool,
    /// The resolvers of the worker, for `--host-check`.
    pub resolvers: Vec<Pid>,
    /// What became of its predecessors.
    pub respawn: Respawn,
}

impl Generation {
    /// Opens what is not open in the shift before, or was not passed to this process.
    pub(crate) fn prepare(config: Config, before: &Listeners, passed: &mut Inherited) -> Result<Generation, Error> {
        let listeners = Listeners::open(&config, before, passed)?;
        let capacity = capacity(&config)?;
        let access_log = config.process.access_log.as_deref().map(access_log::open).transpose()?;
        let relays = config.relayed().next().is_some();
        let slots = (0..if relays { config.process.workers } else { 0 }).map(|_| WorkerSlot::default()).collect();
        let source_limit = source_limit(&config.process, capacity.places)?;
        Ok(Generation { config, listeners, access_log, capacity, source_limit, slots })
    }

    /// Puts the daemon's worker of that number on its place.
    pub(crate) fn start_worker(
        &mut self,
        slot: usize,
        number: u32,
        names: &Names,
        registry: &Registry,
    ) -> Result<(), Error> {
        let lines = self.lines(names);
        let workers = self.slots.len();
        let listeners = self.listeners.all.iter_mut().flat_map(|socket| socket.of(slot, workers)).collect();
        let (config, access_log, capacity) = (&self.config, &mut self.access_log, self.capacity);
        let source_limit = self.source_limit.as_ref().map(|source_limit| source_limit.of(slot));
        let child = children::worker(Outfit { number, config, listeners, lines, access_log, capacity, source_limit })?;
        child.watch(registry)?;
        let place = &mut self.slots[slot];
        (place.child, place.ready) = (Some(child), false);
        place.respawn.started(Instant::now());
        let resolvers = if self.config.checks_hosts() { POOL_SIZE } else { 0 };
        (0..resolvers).try_for_each(|_| self.start_pool_resolver(slot))
    }

    /// Gives a worker a resolver of its own.
    pub(crate) fn start_pool_resolver(&mut self, slot: usize) -> Result<(), Error> {
        let resolver = children::resolver(&self.config)?;
        let slot = &mut self.slots[slot];
        slot.resolvers.push(resolver.pid);
        let Some(worker) = &slot.child else { return Ok(()) };
        // The worker's end is passed on; the asker goes when the worker closes it.
        if let Err(error) = worker.line.send(&ToWorker::PooledResolver.encode(), Some(resolver.line.as_fd())) {
            log::debug!("passing a resolver to worker {}: {error}", worker.pid);
        }
        Ok(())
    }

    /// The workers.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Child> {
        self.slots.iter().filter_map(|slot| slot.child.as_ref())
    }

    /// Whether every place has a worker that takes connections.
    pub(crate) fn is_ready(&self) -> bool {
        self.slots.iter().all(|slot| slot.ready && slot.child.is_some())
    }

    /// What a worker has to know of the redirections.
    pub(crate) fn lines(&self, names: &Names) -> Vec<ActiveRedirection> {
        let active = |(id, _, service): (RedirectionId, _, &crate::traffic::service::Service)| {
            let hosts: Vec<_> = service.destination.hosts().iter().map(|host| addresses(host, names)).collect();
            ActiveRedirection::new(id, service.clone(), &hosts)
        };
        self.config.relayed().map(active).collect()
    }

    /// The rules, with the addresses that are known now; `None` when there are none to own.
    pub(crate) fn rules(&self, names: &Names) -> Result<Option<RuleSet>, Error> {
        let addresses = |name: &str| names.addresses(name).to_vec();
        let listening = |id: RedirectionId| self.listeners.addresses(id);
        self.config.rules(&Known { addresses: &addresses, listening: &listening })
    }

    /// The listening sockets for the guardian that replaces this one, as [`crate::daemon::inherited::Handover`] wants them.
    pub(crate) fn listeners(&self) -> Vec<(&TcpListener, Option<&str>)> {
        let mut all = Vec::new();
        for socket in &self.listeners.all {
            let redirection = self.config.redirections.get(socket.redirection.index());
            let listeners = socket.listeners.iter().flatten();
            match redirection.map(|redirection| &redirection.listen) {
                // All of them are the same socket.
                Some(Listen::Passed(name)) => {
                    all.extend(listeners.take(1).map(|listener| (listener, Some(name.as_deref().unwrap_or_default()))));
                }
                _ => all.extend(listeners.map(|listener| (listener, None))),
            }
        }
        all
    }
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
    let capacity = Capacity::plan(descriptors, wanted);
    if wanted.is_some_and(|wanted| wanted > capacity.places) {
        let most = capacity.places * workers;
        log::warn!("{descriptors} open files are enough for {most} connections, not for those of -m");
    }
    let tracked = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").ok();
    if let Some(most) = tracked.and_then(|text| text.trim().parse::<usize>().ok())
        && most < 2 * capacity.places
    {
        log::warn!("nf_conntrack_max is {most}: {} connections need two entries each", capacity.places);
    }
    Ok(capacity)
}
