//! The event loop of a worker. It has one thread, needs no privileges and never blocks.

mod lifetime;
mod messages;
mod questions;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::config::Config;
use crate::daemon::capacity::Capacity;
use crate::daemon::confine::Confinement;
use crate::daemon::desk::{DESK, Desk};
use crate::daemon::lifecycle::Lifecycle;
use crate::daemon::message::ToGuardian;
use crate::daemon::resolver_pool::ResolverPool;
use crate::daemon::worker_args::WorkerArgs;
use crate::error::Error;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::relay::pipe::Pool;
use crate::sys::channel::Channel;
use crate::sys::clock::{TICK, Tick, ticks};
use crate::sys::congestion::Algorithm;
use crate::sys::routing_table::RoutingTable;
use crate::sys::{process, wait};
use crate::traffic::acceptor::Acceptor;
use crate::traffic::access_log::AccessLog;
use crate::traffic::admission::Admission;
use crate::traffic::connections::Connections;
use crate::traffic::dialer::Dialer;
use crate::traffic::records::Records;
use crate::traffic::redirections::{Redirections, UpstreamChange};
use crate::traffic::shared_counters::WorkerWord;
use crate::traffic::stock::Stock;
use crate::traffic::token::EventToken;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Ticks between two looks at the processor time.
const CPU_EVERY: Tick = 10;

/// The stock of sockets for `--source client`: of the families of the clients that can come, and of the kinds that their
/// redirections need.
fn stock(config: &Config, listening: &[SocketAddr], size: usize) -> Stock {
    if !config.uses_client_addresses() {
        return Stock::default();
    }
    // A PROXY header may name a client of another family.
    let is_named = config.relayed().any(|(_, _, service)| service.accept_proxy);
    let comes = |is_v4| is_named || listening.iter().any(|address| address.is_ipv4() == is_v4);
    Stock::new(|kind| comes(kind.is_v4) && config.uses_sockets(kind), size)
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
    desk: Desk,
    lifecycle: Lifecycle,
    dump_from: Option<u32>,
    capacity: Capacity,
    /// When the processor time was last asked for.
    measured: Tick,
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
    worker.take_orders();
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
            counters,
            orders,
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
        let counters = Rc::new(counters);
        let mut redirections =
            Redirections::new(redirections, config.process.upstream_grace.is_some(), Rc::clone(&counters));
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
            Records::new(AccessLog::new(number, access_log), counters),
            registry.try_clone()?,
        )?;
        let mut lifecycle = Lifecycle::Serving;
        if let Some(connection) = connection {
            let peer = connection.peer_addr()?;
            connections.admit(RedirectionId(0), mio::net::TcpStream::from_std(connection), peer);
            lifecycle = Lifecycle::last_connections();
        }
        let resolvers = ResolverPool::default();
        let mut worker = Worker {
            config,
            poll,
            signals,
            guardian,
            alone,
            acceptor,
            connections,
            resolvers,
            desk: Desk::default(),
            lifecycle,
            dump_from: None,
            capacity,
            measured: 0,
        };
        orders.into_iter().for_each(|(name, order)| worker.order_upstream(&name, order));
        Ok(worker)
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
                    EventToken::Rules => {}
                    EventToken::Channel(DESK) => self.desk.has_news(),
                    EventToken::Channel(number) => self.take_answer(number),
                }
            }
            self.accept();
            self.connections.run_queue();
            self.connections.run_stream(&mut stream_events)?;
            self.connections.expire();
            self.serve_desk();
            if self.lifecycle == Lifecycle::Serving {
                self.connections.probe();
            }
            self.notice();
            if let Some(first) = self.dump_from {
                self.dump_from = self.connections.log_connections(first);
            }
            self.connections.access_log().flush();
            self.publish();
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
        if self.desk.has_work()
            || self.connections.has_work()
            || self.dump_from.is_some()
            || self.has_ended()
            || (room && self.acceptor.has_work(now))
        {
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
            match change {
                UpstreamChange::Unreachable(line) => self.say(ToGuardian::Unreachable(line)),
                UpstreamChange::Reachable(line) => self.say(ToGuardian::Reachable(line)),
                UpstreamChange::Health { id, address, up } => self.desk.tell_health(id, address, up),
            }
        }
    }

    /// Counts what this turn of the loop has changed, apart from what connections count themselves.
    fn publish(&mut self) {
        self.connections.publish();
        let now = self.connections.time();
        let counters = self.connections.counters();
        counters.set_worker(WorkerWord::Pauses, self.acceptor.pauses);
        // Asking for the processor time is a system call.
        if now.saturating_sub(self.measured) >= CPU_EVERY {
            counters.set_worker(WorkerWord::Cpu, process::processor_time());
            counters.set_worker(WorkerWord::LostLines, logging::lost());
            self.measured = now;
        }
    }
}
