//! Children of the guardian: forked, named, and without anything of their parent that they do not need.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::confine;
use crate::daemon::message::{SIZE, ToGuardian};
use crate::daemon::resolver;
use crate::daemon::worker::{self, Capacity, Start};
use crate::error::Error;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::sys::channel::{Channel, Received};
use crate::sys::process::{self, Forked};
use crate::sys::sockopt;
use crate::traffic::redirections::ActiveRedirection;
use crate::traffic::source_limit::SourceLimit;
use crate::traffic::token::EventToken;

/// The name of a worker process. A new guardian knows workers that have lost theirs by it.
pub(crate) const WORKER: &str = "tproxy-worker";

/// The name of a process that is about one errand.
pub(crate) const RULES_JOB: &str = "tproxy-rules";

/// The name of the resolver process.
const RESOLVER: &str = "tproxy-resolver";

/// A child and the line to it.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its process id.
    pub pid: Pid,
    /// Our end of the line.
    pub line: Channel,
}

impl Child {
    /// Whether it has this process id.
    pub(crate) fn is(&self, pid: u32) -> bool {
        self.pid.as_raw() as u32 == pid
    }

    /// Wants to be told what this child says, under its process id.
    pub(crate) fn watch(&self, registry: &Registry) -> Result<(), Error> {
        let token = Token::from(EventToken::Channel(self.pid.as_raw() as u32));
        let source = self.line.as_raw_fd();
        let registered = registry.register(&mut SourceFd(&source), token, Interest::READABLE);
        registered.map_err(|error| Error::sys("epoll_ctl", error))
    }
}

/// The next thing that a child says, if it says something; that may mean nothing.
pub(crate) fn hear(child: &Child) -> Option<Option<ToGuardian>> {
    let mut buffer = [0; SIZE];
    // A line that is closed: the child is about to be reaped, which says it all.
    let Ok(Received::Message(count)) = child.line.receive(&mut buffer) else { return None };
    Some(ToGuardian::decode(&buffer[..count]))
}

/// What a worker is started with. The fork gives it descriptors of its own, which it takes out of here for good; in the
/// guardian all stays in its place.
#[derive(Debug)]
pub(crate) struct Outfit<'a> {
    /// Its number among the workers of the daemon, from 1.
    pub number: u32,
    /// The configuration.
    pub config: &'a Config,
    /// The listening sockets of this worker, each with the number of its redirection.
    pub listeners: Vec<(&'a mut Option<TcpListener>, RedirectionId)>,
    /// The redirections, with the addresses of their upstreams.
    pub lines: Vec<ActiveRedirection>,
    /// The file of `-l`.
    pub access_log: &'a mut Option<File>,
    /// How much it may take on.
    pub capacity: Capacity,
    /// Where it counts the connections of each source, if that is limited.
    pub source_limit: Option<SourceLimit>,
}

/// Starts a worker.
pub(crate) fn worker(outfit: Outfit<'_>) -> Result<Child, Error> {
    let Outfit { number, config, listeners, lines, access_log, capacity, source_limit } = outfit;
    for listener in listeners.iter().filter_map(|(socket, _)| socket.as_ref()) {
        // The last worker may have left it deaf.
        sockopt::keep_listening(listener).map_err(|error| Error::sys("listen", error))?;
    }
    let mut keep: Vec<RawFd> = listeners.iter().filter_map(|(socket, _)| Some(socket.as_ref()?.as_raw_fd())).collect();
    keep.extend(access_log.iter().map(AsRawFd::as_raw_fd));
    child(WORKER, keep, |line| {
        let confinement = confine::worker(config)?;
        let listeners = listeners.into_iter().filter_map(|(socket, line)| Some((socket.take()?, line)));
        let start = Start {
            number,
            config,
            listeners: listeners.collect(),
            lines,
            access_log: access_log.take(),
            guardian: Some(line),
            capacity,
            source_limit,
            first: None,
        };
        worker::run(start, confinement)
    })
}

/// Starts the resolver.
pub(crate) fn resolver(config: &Config) -> Result<Child, Error> {
    child(RESOLVER, Vec::new(), |line| {
        let confinement = confine::resolver(config)?;
        process::obey(&[Signal::SIGTERM]).map_err(|error| Error::sys("setting the signal mask", error))?;
        confinement.seal()?;
        resolver::run(&line);
        Ok(())
    })
}

/// Runs `task` in a child of its own, which ends with it: status 0 when it succeeded. Its failure goes to the log.
pub(crate) fn rules_job(task: impl FnOnce() -> Result<(), Error>) -> Result<Pid, Error> {
    match process::fork_here().map_err(|error| Error::sys("fork", error))? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            process::set_name(RULES_JOB);
            process::leave(match task() {
                Ok(()) => 0,
                Err(error) => {
                    log::error!("{error}");
                    error.exit_status()
                }
            })
        }
    }
}

fn child(
    name: &'static str,
    mut keep: Vec<RawFd>,
    task: impl FnOnce(Channel) -> Result<(), Error>,
) -> Result<Child, Error> {
    let (ours, theirs) = Channel::pair().map_err(|error| Error::sys("socketpair", error))?;
    match process::fork_here().map_err(|error| Error::sys("fork", error))? {
        Forked::Parent(pid) => Ok(Child { pid, line: ours }),
        Forked::Child => {
            process::set_name(name);
            keep.push(theirs.as_raw_fd());
            logging::disconnect();
            let closed = process::close_others(&keep).map_err(|error| Error::sys("close_range", error));
            logging::become_process(name);
            let result = closed.and_then(|()| task(theirs));
            process::leave(match result {
                Ok(()) => 0,
                Err(error) => {
                    log::error!("{error}");
                    error.exit_status()
                }
            })
        }
    }
}
