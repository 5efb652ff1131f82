//! The guardian: keeps the listening sockets and the rules, and sees to it that somebody serves. It touches no payload
//! and takes no input from the network.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::config::{Config, Fail};
use crate::daemon::keeper::{Keeper, Stance};
use crate::daemon::message::{Order, SIZE, Word};
use crate::daemon::names::Names;
use crate::daemon::notify::Notifier;
use crate::daemon::respawn::{Respawn, Verdict};
use crate::daemon::spawn::{self, Child, Outfit};
use crate::daemon::worker::Capacity;
use crate::error::Error;
use crate::logging;
use crate::sys::channel::Received;
use crate::sys::process;
use crate::traffic::journal;
use crate::traffic::service::Destination;
use crate::traffic::upstream::Upstream;
use crate::traffic::wake::Wake;

/// How much longer than `--drain` a worker may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// The running guardian.
#[derive(Debug)]
pub struct Guardian {
    pub(crate) config: Config,
    pub(crate) poll: Poll,
    pub(crate) signals: SignalFd,
    pub(crate) notifier: Notifier,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) upstream: Upstream,
    pub(crate) names: Names,
    pub(crate) access_log: Option<File>,
    pub(crate) capacity: Capacity,
    pub(crate) keeper: Option<Keeper>,
    /// The worker that takes new connections.
    pub(crate) worker: Option<Child>,
    pub(crate) worker_is_ready: bool,
    /// Workers that only serve what they have.
    leaving: Vec<Child>,
    respawn: Respawn,
    /// Set by the signal to stop: when patience with the workers ends.
    stopping: Option<Instant>,
}

impl Guardian {
    /// A guardian with nothing to guard yet.
    pub fn new(config: Config) -> io::Result<Guardian> {
        let own = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD];
        let signals = process::signals(&own)?;
        let poll = Poll::new()?;
        let source = signals.as_raw_fd();
        poll.registry().register(&mut SourceFd(&source), Token::from(Wake::Signals), Interest::READABLE)?;
        Ok(Guardian {
            names: Names::new(),
            poll,
            signals,
            notifier: Notifier::from_environment(),
            listeners: Vec::new(),
            upstream: Upstream::default(),
            access_log: None,
            capacity: Capacity { places: 0, pipes: 0 },
            keeper: None,
            worker: None,
            worker_is_ready: false,
            leaving: Vec::new(),
            respawn: Respawn::new(),
            stopping: None,
            config,
        })
    }

    /// Starts a worker on the sockets that are there.
    pub fn start_worker(&mut self) -> Result<(), Error> {
        let child = spawn::worker(Outfit {
            config: &self.config,
            listeners: &mut self.listeners,
            upstream: &self.upstream,
            access_log: &mut self.access_log,
            capacity: self.capacity,
        })?;
        child.watch(self.poll.registry())?;
        self.worker = Some(child);
        self.worker_is_ready = false;
        self.respawn.started(Instant::now());
        Ok(())
    }

    /// Guards until the daemon has stopped.
    pub fn serve(&mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(64);
        while !self.is_done() {
            self.turn(&mut events, None)?;
        }
        self.remove_rules();
        Ok(())
    }

    /// Waits for something to happen, at most until `limit`, and acts on it.
    pub fn turn(&mut self, events: &mut Events, limit: Option<Instant>) -> Result<(), Error> {
        let due = self.next_due().into_iter().chain(limit).min();
        // mio rounds to whole milliseconds; a little late is better than a busy loop until it is time.
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(Error::sys("waiting for events", error));
        }
        for event in events.iter() {
            match Wake::from(event.token()) {
                Wake::Signals => self.take_signals()?,
                Wake::Line(pid) => self.listen_to(pid),
                Wake::Listener(_) | Wake::Relay(..) => {}
            }
        }
        self.look_at_the_clock();
        Ok(())
    }

    /// Waits for the resolver, at most until `limit`, before there is anything to guard.
    pub fn await_answer(&mut self, limit: Option<Instant>) -> Result<(), Error> {
        let due = limit.map_or(self.names.due(), |limit| limit.min(self.names.due()));
        let timeout = due.saturating_duration_since(Instant::now());
        match self.names.resolver() {
            Some(child) => wait_readable(&[child.line.as_fd(), self.signals.as_fd()], timeout)?,
            None => wait_readable(&[self.signals.as_fd()], timeout)?,
        }
        self.take_signals()
    }

    fn next_due(&self) -> Option<Instant> {
        let name = self.config.service.name().map(|_| self.names.due());
        let rules = self.keeper.as_ref().and_then(Keeper::due);
        match self.stopping {
            Some(until) => Some(until),
            None => [name, rules, self.respawn.next].into_iter().flatten().min(),
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if let Some(until) = self.stopping {
            if until <= now {
                log::error!("workers did not end in time and are killed");
                self.signal_workers(Signal::SIGKILL);
                self.stopping = Some(now + GRACE);
            }
            return;
        }
        if self.respawn.next.is_some_and(|next| next <= now) {
            self.respawn_is_due();
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.work();
        }
        self.ask_for_upstream();
    }

    fn ask_for_upstream(&mut self) {
        let Some(name) = self.config.service.name().map(str::to_owned) else { return };
        let asked = self.names.ask(&self.config, &name, self.poll.registry());
        match asked {
            Ok(Some(hung)) => self.kill(hung.pid),
            Ok(None) => {}
            Err(error) => log::error!("the resolver: {error}"),
        }
    }

    fn kill(&self, pid: Pid) {
        if let Err(error) = process::send_signal(pid, Signal::SIGKILL) {
            log::error!("killing process {pid}: {error}");
        }
    }

    fn listen_to(&mut self, pid: u32) {
        let is = |child: &Child| child.pid.as_raw() as u32 == pid;
        if self.names.resolver().is_some_and(is) {
            let name = self.config.service.name().unwrap_or_default().to_owned();
            if let Some(addresses) = self.names.answer(&name) {
                self.readdress(addresses);
            }
            return;
        }
        let mut buffer = [0; SIZE];
        loop {
            let Some(child) = self.worker.iter().chain(&self.leaving).find(|child| is(child)) else { return };
            // A line that is closed: the worker is about to be reaped, which says it all.
            let Ok(Received::Message(count, _)) = child.line.receive(&mut buffer) else { return };
            let serving = self.worker.as_ref().is_some_and(is);
            match Word::decode(&buffer[..count]) {
                Some(Word::Ready) if serving => self.worker_is_ready = true,
                Some(Word::Unreachable) => self.names.hurry(),
                Some(Word::Leaving) if serving => self.replace_leaving(),
                _ => {}
            }
        }
    }

    /// The worker was told by somebody else to stop: it serves what it has, another one takes what comes.
    fn replace_leaving(&mut self) {
        self.leaving.extend(self.worker.take());
        if self.stopping.is_none()
            && let Err(error) = self.start_worker()
        {
            log::error!("starting a worker: {error}");
            self.worker_died("could not be started");
        }
    }

    /// The upstream's name has these addresses now.
    pub fn readdress(&mut self, ips: Vec<IpAddr>) {
        let Destination::Host { port, .. } = self.config.service.destination else { return };
        let addresses: Vec<SocketAddr> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if addresses == self.upstream.addresses() {
            return;
        }
        let list: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        log::info!("the upstream is now {}", list.join(", "));
        self.upstream.replace(addresses.clone());
        let order = Order::Addresses(addresses).encode();
        for child in self.worker.iter().chain(&self.leaving) {
            if let Err(error) = child.line.send(&order, None) {
                log::debug!("telling worker {}: {error}", child.pid);
            }
        }
    }

    fn take_signals(&mut self) -> Result<(), Error> {
        let failed = |error| Error::sys("reading signals", error);
        while let Some(signal) = process::next_signal(&self.signals).map_err(failed)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                Signal::SIGHUP => self.reopen(),
                Signal::SIGUSR1 => self.signal_workers(Signal::SIGUSR1),
                Signal::SIGCHLD => self.reap(),
                _ => {}
            }
        }
        Ok(())
    }

    fn reap(&mut self) {
        while let Some((pid, how)) = process::reap() {
            if self.keeper.as_mut().is_some_and(|keeper| keeper.reaped(pid, how.is_well())) {
                continue;
            }
            if self.names.resolver().is_some_and(|child| child.pid == pid) {
                log::warn!("resolver {pid} {how}: another one is started when it is needed");
                self.names.lost();
            } else if self.worker.as_ref().is_some_and(|child| child.pid == pid) {
                self.worker = None;
                self.worker_died(&format!("{pid} {how}"));
            } else if let Some(at) = self.leaving.iter().position(|child| child.pid == pid) {
                self.leaving.swap_remove(at);
                log::info!("worker {pid} {how}");
            }
        }
    }

    fn worker_died(&mut self, which: &str) {
        if self.stopping.is_some() {
            return log::debug!("worker {which}");
        }
        match self.respawn.death(Instant::now()) {
            Verdict::AtOnce => {
                log::warn!("worker {which}: another one is started; its connections are lost");
                if let Err(error) = self.start_worker() {
                    log::error!("starting a worker: {error}");
                    self.worker_died("could not be started");
                }
            }
            Verdict::GiveUp => self.give_up(which),
            Verdict::Later => log::error!("worker {which}: still no worker can be kept alive"),
        }
    }

    fn give_up(&mut self, which: &str) {
        let (stance, what) = match self.config.fail {
            Fail::Open => (Stance::Open, "the redirection is taken away, clients reach whom they wanted to"),
            Fail::Closed => (Stance::Closed, "the redirection becomes a reject"),
        };
        log::error!("worker {which}: no worker can be kept alive; {what}");
        if let Some(keeper) = &mut self.keeper {
            keeper.want(stance);
        }
    }

    /// After a series of deaths: either another worker is to be tried, or the one that was tried has survived.
    fn respawn_is_due(&mut self) {
        if self.worker.is_none() {
            if let Err(error) = self.start_worker() {
                log::error!("starting a worker: {error}");
                self.worker_died("could not be started");
            }
        } else if self.respawn.survived() {
            log::warn!("a worker is alive again: the redirection is put back");
            if let Some(keeper) = &mut self.keeper {
                keeper.want(Stance::Redirecting);
            }
        }
    }

    /// SIGHUP: the logs are opened again, the rules looked after.
    fn reopen(&mut self) {
        logging::reopen();
        if let Some(keeper) = &mut self.keeper {
            keeper.check_soon();
        }
        let Some(path) = &self.config.access_log else { return };
        match journal::open(path) {
            Ok(file) => {
                for child in self.worker.iter().chain(&self.leaving) {
                    if let Err(error) = child.line.send(&Order::AccessLog.encode(), Some(file.as_fd())) {
                        log::error!("worker {} keeps the old access log: {error}", child.pid);
                    }
                }
                self.access_log = Some(file);
            }
            Err(error) => log::error!("the access log stays the old one: {error}"),
        }
    }

    fn signal_workers(&self, signal: Signal) {
        for child in self.worker.iter().chain(&self.leaving) {
            if let Err(error) = process::send_signal(child.pid, signal) {
                log::error!("signalling worker {}: {error}", child.pid);
            }
        }
    }

    /// The first time unhooks the rules, then lets the workers end; the second time makes them end at once.
    fn stop(&mut self) {
        if self.stopping.is_none() {
            log::info!("stopping");
            self.notifier.tell("STOPPING=1");
            if let Some(keeper) = &mut self.keeper
                && let Err(error) = keeper.unhook()
            {
                log::error!("the rules could not be unhooked: {error}");
            }
            self.names.dismiss();
            self.listeners.clear();
            self.stopping = Some(Instant::now() + self.config.drain + GRACE);
        }
        self.signal_workers(Signal::SIGTERM);
    }

    fn remove_rules(&mut self) {
        if let Some(keeper) = self.keeper.take()
            && let Err(error) = keeper.remove()
        {
            log::error!("the rules could not be removed: {error}; `tproxy --flush` removes them");
        }
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn is_done(&self) -> bool {
        self.stopping.is_some() && self.worker.is_none() && self.leaving.is_empty()
    }

    /// A start that failed leaves nothing behind.
    pub fn abandon(&mut self) {
        self.remove_rules();
        self.signal_workers(Signal::SIGKILL);
        self.names.dismiss();
    }
}

fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Duration) -> Result<(), Error> {
    let mut wait: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut wait, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::sys("poll", errno)),
    }
}
