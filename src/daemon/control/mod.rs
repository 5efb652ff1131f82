//! The control process: answers those who look at the instance and steer it, answers scrapes, and checks upstreams.
//!
//! It has no privileges. It reads the workers' counters in memory that it cannot write, asks workers for lists of their
//! connections, and asks the guardian for what only that can do.

mod answers;
mod checks;
mod client;
mod desks;
mod event;
mod hearing;
mod reporting;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::net::{TcpListener, UnixListener};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::control::picture::Picture;
use crate::daemon::confine::Confinement;
use crate::daemon::control::checks::{CHECK, Checks};
use crate::daemon::control::client::{ClientKind, ClientStream, ControlClient};
use crate::daemon::control::desks::{WORKER, WorkerDesks};
use crate::daemon::control_message::FromControl;
use crate::error::Error;
use crate::logging;
use crate::sys::channel::Channel;
use crate::sys::process;

/// Clients of the control socket at once, and how many of them may be readers.
const CLIENTS: usize = 64;
const READERS: usize = 48;

/// Scrapes at once.
const SCRAPES: usize = 16;

/// Deadlines of clients are looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// How long clients may take to read their answers when the guardian needs this process no longer.
const LEAVING: Duration = Duration::from_secs(1);

/// What events are about: small numbers for what there is once, ranges for the others.
const GUARDIAN: usize = 0;
const SOCKET: usize = 1;
const METRICS: usize = 2;
const CLIENT: usize = 1 << 32;

/// A socket on which metrics are asked for.
#[derive(Debug)]
enum MetricsListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl MetricsListener {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            MetricsListener::Tcp(listener) => listener,
            MetricsListener::Unix(listener) => listener,
        }
    }

    fn accept(&self) -> io::Result<ClientStream> {
        match self {
            MetricsListener::Tcp(listener) => listener.accept().map(|(stream, _)| ClientStream::Tcp(stream)),
            MetricsListener::Unix(listener) => listener.accept().map(|(stream, _)| ClientStream::Unix(stream)),
        }
    }
}

/// The control process.
struct Control {
    poll: Poll,
    guardian: Channel,
    socket: Option<UnixListener>,
    metrics: Option<MetricsListener>,
    picture: Picture,
    desks: WorkerDesks,
    clients: Vec<Option<ControlClient>>,
    checks: Checks,
    /// The number of the last client, and that of the last thing that the guardian was asked for.
    last_client: u32,
    last_asked: u32,
    /// The guardian needs this process no longer.
    leaves_at: Option<Instant>,
}

/// Serves until the guardian closes its channel.
pub(crate) fn run(
    guardian: Channel,
    socket: Option<OwnedFd>,
    metrics: Option<(OwnedFd, bool)>,
    confinement: Confinement,
) -> Result<(), Error> {
    let failed = |error| Error::sys("setting up the control process", error);
    process::obey(&[Signal::SIGTERM]).map_err(|error| Error::sys("setting the signal mask", error))?;
    let mut control = Control::new(guardian, socket, metrics).map_err(failed)?;
    confinement.seal()?;
    control.tell(&FromControl::Ready);
    control.serve().map_err(|error| Error::sys("waiting for events", error))
}

impl Control {
    fn new(guardian: Channel, socket: Option<OwnedFd>, metrics: Option<(OwnedFd, bool)>) -> io::Result<Control> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut SourceFd(&guardian.as_raw_fd()), Token(GUARDIAN), Interest::READABLE)?;
        let mut socket = socket.map(|socket| UnixListener::from_std(StdUnixListener::from(socket)));
        if let Some(socket) = &mut socket {
            registry.register(socket, Token(SOCKET), Interest::READABLE)?;
        }
        let mut metrics = metrics.map(|(socket, is_tcp)| match is_tcp {
            true => MetricsListener::Tcp(TcpListener::from_std(socket.into())),
            false => MetricsListener::Unix(UnixListener::from_std(socket.into())),
        });
        if let Some(metrics) = &mut metrics {
            registry.register(metrics.source(), Token(METRICS), Interest::READABLE)?;
        }
        Ok(Control {
            poll,
            guardian,
            socket,
            metrics,
            picture: Picture::default(),
            desks: WorkerDesks::default(),
            clients: Vec::new(),
            checks: Checks::default(),
            last_client: 0,
            // Numbers of this process and of the one before it must not be mixed up.
            last_asked: std::process::id() << 8,
            leaves_at: None,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                self.event(event);
            }
            self.expire(Instant::now());
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let checks = self.checks.due().map(|due| due.saturating_duration_since(now));
        let clients = self.clients.iter().any(Option::is_some).then_some(LOOK);
        let leave = self.leaves_at.map(|at| at.saturating_duration_since(now));
        let more = self.has_more().then_some(Duration::ZERO);
        let timeout = [checks, clients, leave, more, logging::behind()].into_iter().flatten().min()?;
        Some(timeout + Duration::from_millis(1))
    }

    fn event(&mut self, event: &Event) {
        match event.token().0 {
            GUARDIAN => self.hear_guardian(),
            SOCKET => self.accept_clients(),
            METRICS => self.accept_scrapes(),
            number if number >= CHECK => {
                let ended = self.checks.event(number - CHECK, event);
                self.conclude(ended);
            }
            number if number >= WORKER => self.hear_worker((number - WORKER) as u32),
            number if number >= CLIENT => {
                let place = number - CLIENT;
                if let Some(client) = self.clients.get_mut(place).and_then(Option::as_mut) {
                    client.note(event);
                    self.advance(place);
                }
            }
            _ => {}
        }
    }

    /// Does what time brings: clients that take too long are given up, checks begin and end.
    fn expire(&mut self, now: Instant) {
        logging::catch_up();
        if logging::is_cut_off() {
            self.tell(&FromControl::Unheard);
        }
        for place in 0..self.clients.len() {
            let late = self.clients[place].as_ref().is_some_and(|client| client.is_late(now));
            if late {
                self.clients[place] = None;
            }
        }
        let leaving = self.leaves_at.is_some();
        let ended = if leaving { Vec::new() } else { self.checks.expire(now, &self.picture, self.poll.registry()) };
        self.conclude(ended);
        self.look_again(now);
        for place in 0..self.clients.len() {
            if self.clients[place].as_ref().is_some_and(ControlClient::waits_for_worker) {
                self.advance(place);
            }
        }
    }

    fn is_done(&self) -> bool {
        let all_gone = self.clients.iter().all(Option::is_none);
        self.leaves_at.is_some_and(|at| all_gone || at <= Instant::now())
    }

    /// Asks the guardian for something, or tells it.
    fn tell(&self, message: &FromControl) -> bool {
        let sent = self.guardian.send(&message.encode(), None);
        sent.inspect_err(|error| log::debug!("telling the guardian: {error}")).is_ok()
    }

    /// The guardian needs this process no longer, or is gone. Clients get what they were promised.
    fn leave(&mut self) {
        if self.leaves_at.is_some() {
            return;
        }
        self.leaves_at = Some(Instant::now() + LEAVING);
        let (mut socket, mut metrics) = (self.socket.take(), self.metrics.take());
        if let Some(socket) = &mut socket {
            // Whatever is in the queue is the next process's.
            let _ = self.poll.registry().deregister(socket);
        }
        if let Some(metrics) = &mut metrics {
            let _ = self.poll.registry().deregister(metrics.source());
        }
        for place in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[place] {
                client.hurry();
            }
            self.advance(place);
        }
    }

    fn accept_clients(&mut self) {
        while let Some(Ok((stream, _))) = self.socket.as_ref().map(UnixListener::accept) {
            let owner = self.picture.description.owner;
            let peer = getsockopt(&stream, PeerCredentials);
            let is_administrator = peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == owner);
            let control = self.clients.iter().flatten().filter(|client| client.kind == ClientKind::Control);
            let (all, readers) = control
                .fold((0, 0), |(all, readers), client| (all + 1, readers + usize::from(!client.is_administrator)));
            let mut stream = ClientStream::Unix(stream);
            if all >= CLIENTS || !is_administrator && readers >= READERS {
                stream.refuse(b"error: too many clients\n");
                continue;
            }
            self.add_client(ControlClient::new(stream, ClientKind::Control, is_administrator));
        }
    }

    fn accept_scrapes(&mut self) {
        while let Some(Ok(stream)) = self.metrics.as_ref().map(MetricsListener::accept) {
            let scrapes = self.clients.iter().flatten().filter(|client| client.kind == ClientKind::Scrape).count();
            if scrapes < SCRAPES {
                self.add_client(ControlClient::new(stream, ClientKind::Scrape, false));
            }
        }
    }

    fn add_client(&mut self, mut client: ControlClient) {
        self.last_client = self.last_client.wrapping_add(1);
        client.number = self.last_client;
        let place = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        if client.register(self.poll.registry(), Token(CLIENT + place)).is_err() {
            return;
        }
        match self.clients.get_mut(place) {
            Some(free) => *free = Some(client),
            None => self.clients.push(Some(client)),
        }
        self.advance(place);
    }
}
