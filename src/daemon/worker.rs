//! The event loop of a worker. It has one thread, needs no privileges and never blocks.

mod messages;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::config::Config;
use crate::daemon::capacity::Capacity;
use crate::daemon::confine::Confinement;
use crate::daemon::lifecycle::Lifecycle;
use crate::daemon::message::ToGuardian;
use crate::daemon::resolver_pool::ResolverPool;
use crate::daemon::worker_args::WorkerArgs;
use crate::error::Error;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::relay::pipe::Pool;
use crate::sys::channel::Channel;
use crate::sys::clock::{TICK, ticks};
use crate::sys::congestion::Algorithm;
use crate::sys::routing_table::RoutingTable;
use crate::sys::{process, wait};
use crate::traffic::acceptor::Acceptor;
use crate::traffic::access_log::{self, AccessLog};
use crate::traffic::admission::Admission;
use crate::traffic::connections::Connections;
use crate::traffic::dialer::Dialer;
use crate::traffic::redirections::{Redirections, UpstreamChange};
use crate::traffic::stock::Stock;
use crate::traffic::token::EventToken;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

/// The stock of sockets for `--source client`, of the families of the clients that can come.
fn stock(config: &Config, listening: &[SocketAddr], size: usize) -> Stock {
    if !config.uses_client_addresses() {
        return Stock::default();
    }
    // A PROXY header may name a client of another family.
    let is_named = config.relayed().any(|(_, _, service)| service.accept_proxy);
    let comes = |is_v4| is_named || listening.iter().any(|address| address.is_ipv4() == is_v4);
    Stock::new(comes(true), comes(false), size)
}

struct Worker<'a> {
    config: &'a Config,
    poll: Poll,
    signals: SignalFd,
    guardian: Option<Channel>,
    /// This process was started without a guardian.
    alone: bool,
    acceptor: Acceptor,
    connections: Connections,
    resolvers: ResolverPool,
    lifecycle: Lifecycle,
    dump_from: Option<u32>,
    capacity: Capacity,
}

/// Serves until told to stop. The process is confined once everything is set up.
///
/// Errors: the set-up failed, or the event loop cannot go on.
pub(crate) fn run(start: WorkerArgs<'_>, confinement: Confinement) -> Result<(), Error> {
    let routes = RoutingTable::open().map_err(|error| Error::sys("a netlink socket for the routing table", error))?;
    let mut worker = Worker::new(start, routes).map_err(|error| Error::sys("setting up the event loop", error))?;
    let chooses = worker.config.process.congestion.is_some();
    let confinement = if chooses { confinement.with_congestion_control() } else { confinement };
    confinement.seal()?;
    worker.say(ToGuardian::Ready);
    worker.ask_for_sockets();
    worker.serve().map_err(|error| Error::sys("waiting for events", error))
}

impl<'a> Worker<'a> {
    fn new(start: WorkerArgs<'a>, routes: RoutingTable) -> io::Result<Worker<'a>> {
        let WorkerArgs {
            number,
            config,
            listeners,
            redirections,
            access_log,
            guardian,
            capacity,
            source_limit,
            connection,
        } = start;
        let alone = guardian.is_none();
        let own = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGINT, Signal::SIGURG];
        // The terminal sends SIGINT to the guardian as well, which tells its workers.
        let signals = process::signals(if alone { &own } else { &own[..3] })?;
        wait::be_punctual()?;
        let poll = Poll::new()?;
        let doors: Vec<SocketAddr> = listeners.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect();
        let stock = stock(config, &doors, capacity.sockets);
        let ports = doors.iter().map(SocketAddr::port).collect();
        let admission = Admission::new(capacity.places, routes, source_limit, ports);
        let chosen = config.process.congestion.as_ref().map(|wanted| wanted.upstream.clone());
        let mut redirections = Redirections::new(redirections, config.process.upstream_grace.is_some());
        redirections.look_for_pacing(&listeners, &chosen.clone().map_or_else(Algorithm::usual, Ok)?)?;
        let mut acceptor = Acceptor::new(listeners);
        let registry = poll.registry();
        registry.register(&mut SourceFd(&signals.as_raw_fd()), Token::from(EventToken::Signals), Interest::READABLE)?;
        if let Some(line) = &guardian {
            registry.register(
                &mut SourceFd(&line.as_raw_fd()),
                Token::from(EventToken::Channel(0)),
                Interest::READABLE,
            )?;
        }
        acceptor.register(registry)?;
        let mut connections = Connections::new(
            Dialer::new(redirections, doors, admission, stock, chosen),
            capacity.places,
            Pool::new(capacity.pipes),
            AccessLog::new(number, access_log),
            registry.try_clone()?,
        )?;
        let mut lifecycle = Lifecycle::Serving;
        if let Some(connection) = connection {
            let peer = connection.peer_addr()?;
            connections.admit(RedirectionId(0), mio::net::TcpStream::from_std(connection), peer);
            lifecycle = Lifecycle::last_connections();
        }
        let resolvers = ResolverPool::default();
        Ok(Worker {
            config,
            poll,
            signals,
            guardian,
            alone,
            acceptor,
            connections,
            resolvers,
            lifecycle,
            dump_from: None,
            capacity,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut stream_events = Events::with_capacity(EVENTS);
        loop {
            self.wait(&mut events)?;
            self.connections.update_time();
            for event in &events {
                match EventToken::from(event.token()) {
                    EventToken::Connection(key, end) => self.connections.event(key, end, event),
                    EventToken::Listener(number) => self.acceptor.readable(number),
                    EventToken::Probe(line) => self.connections.probed(line, event),
                    EventToken::Signals => self.take_signals()?,
                    EventToken::Channel(0) => self.take_orders(),
                    EventToken::Channel(number) => self.take_answer(number),
                }
            }
            self.accept();
            self.connections.run_queue();
            self.connections.run_stream(&mut stream_events)?;
            self.connections.expire();
            if self.lifecycle == Lifecycle::Serving {
                self.connections.probe();
            }
            self.notice();
            if let Some(first) = self.dump_from {
                self.dump_from = self.connections.log_connections(first);
            }
            self.connections.access_log().flush();
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let mut timeout = self.timeout();
        if timeout != Some(Duration::ZERO) && self.connections.wait_with_streams(&self.poll, timeout)? {
            timeout = Some(Duration::ZERO);
        }
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// How long to wait for an event.
    fn timeout(&mut self) -> Option<Duration> {
        let now = self.connections.time();
        let room = self.connections.room() > 0;
        if self.connections.has_work() || self.dump_from.is_some() || (room && self.acceptor.has_work(now)) {
            return Some(Duration::ZERO);
        }
        let lifecycle = self.lifecycle.due().map(|due| due.saturating_sub(now));
        let pause = self.acceptor.pause_ends().map(|until| until.saturating_sub(now));
        let probes = self.lifecycle == Lifecycle::Serving;
        let probe = self.connections.dialer().redirections.probe_due().filter(|_| probes);
        let probe = probe.map(|due| due.saturating_sub(now));
        let log = logging::behind().map(ticks);
        let resolver = self.resolvers.due().map(|due| due.saturating_sub(now));
        let sockets = self.connections.dialer().stock.due().map(|due| due.saturating_sub(now));
        let all = [self.connections.wait(), lifecycle, pause, probe, log, resolver, sockets];
        let wait = all.into_iter().flatten().min()?;
        Some(TICK * wait.max(1))
    }

    fn accept(&mut self) {
        let now = self.connections.time();
        let room = self.connections.room();
        if room == 0 {
            return self.acceptor.full(self.capacity.places);
        }
        let connections = &mut self.connections;
        self.acceptor.accept(room, now, |line, client, peer| connections.admit(line, client, peer));
    }

    /// Acts on what this turn of the loop has brought: free room, names to look up, news for the guardian.
    fn notice(&mut self) {
        if std::mem::take(&mut self.connections.freed) {
            self.acceptor.resume();
        }
        let now = self.connections.time();
        while self.resolvers.is_idle()
            && let Some(name) = self.connections.next_question()
        {
            self.resolvers.ask(name, now);
        }
        while let Some((pid, name)) = self.resolvers.give_up(now) {
            self.connections.resolved(&name, &[]);
            self.say(ToGuardian::ResolverHangs(pid));
        }
        self.ask_for_sockets();
        logging::catch_up();
        if logging::is_cut_off() {
            self.say(ToGuardian::Unheard);
        }
        while let Some(change) = self.connections.dialer().redirections.next_change() {
            self.say(match change {
                UpstreamChange::Unreachable(line) => ToGuardian::Unreachable(line),
                UpstreamChange::Reachable(line) => ToGuardian::Reachable(line),
            });
        }
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = process::next_signal(&self.signals)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                Signal::SIGHUP | Signal::SIGURG if self.alone => self.reopen(),
                Signal::SIGHUP => self.retire(),
                Signal::SIGUSR1 => {
                    self.tell_counters();
                    self.dump_from = Some(0);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The first call begins to drain, the second one resets all connections.
    fn stop(&mut self) {
        let now = self.connections.time();
        if self.lifecycle.is_stopping() {
            return self.reset_all();
        }
        let (seconds, open) = (self.config.process.drain.as_secs(), self.connections.len());
        log::info!("stopping: {open} connections have {seconds} seconds to end");
        self.leave();
        self.lifecycle.stop(now, ticks(self.config.process.drain));
    }

    /// Tells the guardian that another worker must take the slot.
    fn leave(&mut self) {
        self.connections.dialer().admission.stop_counting();
        self.say(ToGuardian::Leaving);
    }

    fn reset_all(&mut self) {
        if !self.connections.is_empty() {
            log::info!("stopping at once, {} connections are reset", self.connections.len());
        }
        self.acceptor.close();
        self.lifecycle.end(self.connections.time());
        self.connections.close_all(|| self.lifecycle.close_reason());
    }

    /// Another worker takes over.
    fn retire(&mut self) {
        if self.lifecycle == Lifecycle::Serving {
            self.leave();
            let (open, limit) = (self.connections.len(), self.config.process.retire_timeout);
            let at_most = limit.map(|limit| format!(", for at most {} seconds", limit.as_secs())).unwrap_or_default();
            log::info!("retiring: {open} connections are served to their end{at_most}");
            self.lifecycle.retire(self.connections.time(), limit.map(ticks));
        }
    }

    fn reopen(&mut self) {
        logging::reopen();
        let Some(path) = &self.config.process.access_log else { return };
        match access_log::open(path) {
            Ok(file) => self.connections.access_log().reopen(file),
            Err(error) => log::error!("the access log stays the old one: {error}"),
        }
    }

    /// Takes the steps of draining that are due. Returns whether the worker has ended.
    fn is_done(&mut self) -> bool {
        let now = self.connections.time();
        if self.lifecycle.stops_accepting(now) {
            self.acceptor.close();
        }
        if !matches!(self.lifecycle, Lifecycle::Draining(_)) {
            return false;
        }
        if self.lifecycle.is_over(now) && !self.connections.is_empty() {
            log::info!("{} connections had not ended in time and are reset", self.connections.len());
            self.connections.close_all(|| self.lifecycle.close_reason());
            self.connections.access_log().flush();
        }
        if self.connections.is_empty() {
            self.tell_counters();
            if let (Some(_), Some(lost)) = (&self.guardian, logging::hand_losses_over()) {
                self.say(ToGuardian::LostLines(lost));
            }
        }
        self.connections.is_empty()
    }
}
