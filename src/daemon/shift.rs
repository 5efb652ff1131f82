//! One configuration at work: its sockets and the workers behind them. A reload prepares the next shift beside the one
//! that serves.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Instant;

use mio::Registry;
use nix::unistd::Pid;

use crate::config::ruleset::Known;
use crate::config::{Config, Listen, Process};
use crate::daemon::askers::ASKERS;
use crate::daemon::message::Order;
use crate::daemon::names::Names;
use crate::daemon::passed::Passed;
use crate::daemon::respawn::Respawn;
use crate::daemon::sockets::Sockets;
use crate::daemon::spawn::{self, Child, Outfit};
use crate::daemon::worker::Capacity;
use crate::error::Error;
use crate::rules::rule::RuleSet;
use crate::sys::process;
use crate::traffic::census::Census;
use crate::traffic::dialer::Line;
use crate::traffic::journal;
use crate::traffic::service::Host;

/// A configuration with what it takes to serve it.
#[derive(Debug)]
pub struct Shift {
    /// The configuration.
    pub config: Config,
    /// Its listening sockets.
    pub sockets: Sockets,
    /// The file of `-l`.
    pub access_log: Option<File>,
    /// How much each worker may take on.
    pub capacity: Capacity,
    /// Where the workers count the connections of each source, if that is limited.
    pub census: Option<Census>,
    /// The places of the workers.
    pub posts: Vec<Post>,
}

/// The place of one worker.
#[derive(Debug, Default)]
pub struct Post {
    /// The worker, while there is one.
    pub child: Option<Child>,
    /// Whether it has said that it takes connections.
    pub ready: bool,
    /// The resolvers of the worker, for `--host-check`.
    pub askers: Vec<Pid>,
    /// What became of its predecessors.
    pub respawn: Respawn,
}

impl Shift {
    /// Opens what is not open in the shift before, or was not passed to this process.
    pub fn prepare(config: Config, before: &Sockets, passed: &mut Passed) -> Result<Shift, Error> {
        let sockets = Sockets::open(&config, before, passed)?;
        let capacity = capacity(&config)?;
        let access_log = config.process.access_log.as_deref().map(journal::open).transpose()?;
        let relays = config.relayed().next().is_some();
        let posts = (0..if relays { config.process.workers } else { 0 }).map(|_| Post::default()).collect();
        let census = census(&config.process, capacity.places)?;
        Ok(Shift { config, sockets, access_log, capacity, census, posts })
    }

    /// Puts the daemon's worker of that number on its place.
    pub fn start_worker(&mut self, post: usize, number: u32, names: &Names, registry: &Registry) -> Result<(), Error> {
        let lines = self.lines(names);
        let workers = self.posts.len();
        let listeners = self.sockets.all.iter_mut().flat_map(|socket| socket.of(post, workers)).collect();
        let (config, access_log, capacity) = (&self.config, &mut self.access_log, self.capacity);
        let census = self.census.as_ref().map(|census| census.of(post));
        let child = spawn::worker(Outfit { number, config, listeners, lines, access_log, capacity, census })?;
        child.watch(registry)?;
        let place = &mut self.posts[post];
        (place.child, place.ready) = (Some(child), false);
        place.respawn.started(Instant::now());
        let askers = if self.config.checks_hosts() { ASKERS } else { 0 };
        (0..askers).try_for_each(|_| self.start_asker(post))
    }

    /// Gives a worker a resolver of its own.
    pub fn start_asker(&mut self, post: usize) -> Result<(), Error> {
        let asker = spawn::resolver(&self.config)?;
        let post = &mut self.posts[post];
        post.askers.push(asker.pid);
        let Some(worker) = &post.child else { return Ok(()) };
        // The worker's end is passed on; the asker goes when the worker closes it.
        if let Err(error) = worker.line.send(&Order::Asker.encode(), Some(asker.line.as_fd())) {
            log::debug!("passing a resolver to worker {}: {error}", worker.pid);
        }
        Ok(())
    }

    /// The workers.
    pub fn children(&self) -> impl Iterator<Item = &Child> {
        self.posts.iter().filter_map(|post| post.child.as_ref())
    }

    /// Whether every place has a worker that takes connections.
    pub fn is_ready(&self) -> bool {
        self.posts.iter().all(|post| post.ready && post.child.is_some())
    }

    /// What a worker has to know of the redirections.
    pub fn lines(&self, names: &Names) -> Vec<Line> {
        let line = |(_, _, service): (_, _, &crate::traffic::service::Service)| {
            let hosts: Vec<_> = service.destination.hosts().iter().map(|host| addresses(host, names)).collect();
            Line::new(service.clone(), &hosts)
        };
        self.config.relayed().map(line).collect()
    }

    /// The rules, with the addresses that are known now; `None` when there are none to own.
    pub fn rules(&self, names: &Names) -> Result<Option<RuleSet>, Error> {
        let addresses = |name: &str| names.addresses(name).to_vec();
        let listening = |index: usize| self.listening(index);
        self.config.rules(&Known { addresses: &addresses, listening: &listening })
    }

    fn listening(&self, index: usize) -> Vec<SocketAddr> {
        self.config.line_of(index).map(|line| self.sockets.addresses(line)).unwrap_or_default()
    }

    /// The listening sockets for the guardian that replaces this one, as [`crate::daemon::passed::Handover`] wants them.
    pub fn listeners(&self) -> Vec<(&TcpListener, Option<&str>)> {
        let mut all = Vec::new();
        for socket in &self.sockets.all {
            let line = self.config.relayed().nth(socket.line.into());
            let listeners = socket.listeners.iter().flatten();
            match line.map(|(_, redirection, _)| &redirection.listen) {
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
pub fn addresses(host: &Host, names: &Names) -> Vec<SocketAddr> {
    match host.name.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, host.port)],
        Err(_) => names.addresses(&host.name).iter().map(|ip| SocketAddr::new(*ip, host.port)).collect(),
    }
}

fn census(process: &Process, places: usize) -> Result<Option<Census>, Error> {
    let Process { max_per_source, source_block, workers, .. } = *process;
    let census = max_per_source.map(|limit| Census::new(limit, source_block, workers, places)).transpose();
    census.map_err(|error| Error::sys("mmap", error))
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
