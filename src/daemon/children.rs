//! The children of the guardian: which processes there are, what each of them is for, what it says and how it ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::daemon::control_message::FromControl;
use crate::daemon::instructions::Instructions;
use crate::daemon::message::{Answer, SIZE, ToGuardian, ToWorker};
use crate::daemon::retirement::{Overdue, Retirement};
pub(crate) use crate::daemon::role::{GenerationId, Role};
use crate::daemon::sources::SocketSupply;
use crate::daemon::worker_record::WorkerRecord;
use crate::error::Error;
use crate::logging;
use crate::sys::channel::{Channel, DESCRIPTORS, Received};
use crate::sys::execution::RunningProgram;
use crate::sys::lifeline::Lifeline;
use crate::sys::nft_events::NftEvents;
use crate::sys::process::{self, Death, Forked};
use crate::sys::{inherited, reset};
use crate::traffic::stock::{SocketCounts, SocketKind};
use crate::traffic::token::EventToken;

/// The name of a process that works on the rules.
pub(crate) const RULES: &str = "tproxy-rules";

/// So many messages of one child are read at once. A child that was taken over could send without end, and must not get
/// all of the guardian's time.
const MESSAGES: usize = 64;

/// A child that has sent so many is not read for this long.
const MUTED: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Child {
    role: Role,
    channel: Option<Channel>,
    /// It has sent too much, and is not read before then.
    muted_until: Option<Instant>,
    /// Since when it drains.
    retirement: Option<Retirement>,
    /// The sockets that it may have for connections from addresses of clients.
    supply: Option<SocketSupply>,
    /// What is kept of a worker.
    worker: Option<WorkerRecord>,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its process id.
    pub pid: Pid,
    /// What it was for.
    pub role: Role,
    /// How it ended.
    pub how: Death,
    /// Its last messages, which had not been read.
    pub last: Vec<ToGuardian>,
    /// What was kept of a worker.
    pub worker: Option<WorkerRecord>,
}

impl Ended {
    /// The error for a child that has failed before it was of use. `what` is its name.
    pub(crate) fn failure(&self, what: &str) -> Error {
        let sentence = format!("{what} {} {} while it started", self.pid, self.how);
        match self.how {
            Death::Exited(status @ 1..=255) => Error::Reported { status: status as u8, sentence },
            _ => Error::Failed(sentence),
        }
    }
}

/// All children, by process id.
#[derive(Debug)]
pub(crate) struct Children {
    all: BTreeMap<Pid, Child>,
    registry: Registry,
    /// What children execute.
    program: RunningProgram,
    pub lifeline: Rc<Lifeline>,
    /// How many workers were started so far. The next one's number is the next; access log lines begin with it.
    pub workers_started: u32,
}

impl Children {
    /// None yet. Their channels are registered with `registry`, under their process ids.
    pub(crate) fn new(registry: Registry) -> Result<Children, Error> {
        let program = RunningProgram::open().map_err(|error| Error::sys("/proc/self/exe", error))?;
        let lifeline = Rc::new(Lifeline::new().map_err(|error| Error::sys("pipe", error))?);
        Ok(Children { all: BTreeMap::new(), registry, program, lifeline, workers_started: 0 })
    }

    /// The number of the next worker, from 1.
    pub(crate) fn next_worker(&mut self) -> u32 {
        self.workers_started += 1;
        self.workers_started
    }

    /// Starts a child that executes this program with its end of a channel to the guardian, and with nothing else of the
    /// guardian's than its instructions.
    pub(crate) fn spawn(&mut self, role: Role, instructions: Instructions<'_>) -> Result<Pid, Error> {
        let (ours, theirs) = Channel::pair().map_err(|error| Error::sys("socketpair", error))?;
        let text = inherited::memory_file().map_err(|error| Error::sys("memfd_create", error))?;
        let execution = instructions.finish(&theirs, &text)?;
        match process::fork_here().map_err(|error| Error::sys("fork", error))? {
            Forked::Parent(pid) => match self.adopt(pid, role, Some(ours)) {
                Ok(()) => Ok(pid),
                Err(error) => {
                    // A worker would serve without a guardian.
                    let _ = process::send_signal(pid, Signal::SIGKILL);
                    Err(error)
                }
            },
            Forked::Child => {
                logging::begin_child();
                let Err(error) = self.program.execute(&execution);
                log::error!("executing this program in a child: {error}");
                process::leave(71)
            }
        }
    }

    /// Forks a child that runs `task` and ends with it. [`task_result`] reads what it has left in the file.
    pub(crate) fn spawn_task(
        &mut self,
        role: Role,
        name: &'static str,
        task: impl FnOnce() -> Result<String, Error>,
    ) -> Result<(Pid, File), Error> {
        let mut result = inherited::memory_file().map_err(|error| Error::sys("memfd_create", error))?;
        match process::fork_here().map_err(|error| Error::sys("fork", error))? {
            Forked::Parent(pid) => {
                self.adopt(pid, role, None)?;
                Ok((pid, result))
            }
            Forked::Child => {
                process::set_name(name);
                logging::begin_child();
                let (status, text) = match task() {
                    Ok(text) => (0, text),
                    Err(error) => (error.exit_status(), error.to_string()),
                };
                let Err(error) = reset::without_size_limit(|| result.write_all(text.as_bytes())) else {
                    process::leave(status)
                };
                log::error!("telling the guardian what was done: {error}");
                process::leave(71)
            }
        }
    }

    /// Has the guardian told of events of the watch over listening sockets.
    pub(crate) fn listen_for(&self, watch: RawFd) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&watch), Token::from(EventToken::Listener(0)), Interest::READABLE)
    }

    /// Has the guardian told of changes to tables of nft.
    pub(crate) fn listen_for_rules(&self, events: &NftEvents) -> io::Result<()> {
        let token = Token::from(EventToken::Rules);
        self.registry.register(&mut SourceFd(&events.as_raw_fd()), token, Interest::READABLE)
    }

    /// Enters a child: one that was forked just now, or one that the former program of this process has left.
    pub(crate) fn adopt(&mut self, pid: Pid, role: Role, channel: Option<Channel>) -> Result<(), Error> {
        // The guardian does not read these: others speak through their channels.
        if let (false, Some(channel)) = (matches!(role, Role::PoolResolver | Role::TableOwner), &channel) {
            let token = Token::from(EventToken::Channel(pid.as_raw().cast_unsigned()));
            let registered = self.registry.register(&mut SourceFd(&channel.as_raw_fd()), token, Interest::READABLE);
            registered.map_err(|error| Error::sys("epoll_ctl", error))?;
        }
        let retirement = (role == Role::Draining).then(|| Retirement::begin(Instant::now()));
        self.all.insert(pid, Child { role, channel, muted_until: None, retirement, supply: None, worker: None });
        Ok(())
    }

    /// Keeps this of a worker as long as it lives.
    pub(crate) fn keep(&mut self, pid: Pid, record: WorkerRecord) {
        if let Some(child) = self.all.get_mut(&pid) {
            child.worker = Some(record);
        }
    }

    /// What is kept of the workers that live.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Pid, &WorkerRecord)> {
        self.all.iter().filter_map(|(pid, child)| Some((*pid, child.worker.as_ref()?)))
    }

    /// What a child is for.
    pub(crate) fn role(&self, pid: Pid) -> Option<Role> {
        self.all.get(&pid).map(|child| child.role)
    }

    /// All workers: those that serve, those that start and those that drain.
    pub(crate) fn workers(&self) -> impl Iterator<Item = Pid> {
        let is_worker = |child: &Child| matches!(child.role, Role::Worker { .. } | Role::Draining);
        self.all.iter().filter(move |(_, child)| is_worker(child)).map(|(pid, _)| *pid)
    }

    /// Workers that drain, each with its channel.
    pub(crate) fn draining(&self) -> impl Iterator<Item = (Pid, Option<&Channel>)> {
        let draining = self.all.iter().filter(|(_, child)| child.role == Role::Draining);
        draining.map(|(pid, child)| (*pid, child.channel.as_ref()))
    }

    /// The channel to a child.
    pub(crate) fn channel(&self, pid: Pid) -> Option<&Channel> {
        self.all.get(&pid)?.channel.as_ref()
    }

    /// From now on this worker drains.
    pub(crate) fn drain(&mut self, pid: Pid) {
        if let Some(child) = self.all.get_mut(&pid) {
            child.role = Role::Draining;
            child.retirement.get_or_insert_with(|| Retirement::begin(Instant::now()));
        }
    }

    /// Closes the channel to a child. A resolver ends then.
    pub(crate) fn hang_up(&mut self, pid: Pid) {
        if let Some(channel) = self.all.get_mut(&pid).and_then(|child| child.channel.take())
            && let Err(error) = self.registry.deregister(&mut SourceFd(&channel.as_raw_fd()))
        {
            log::debug!("the channel to process {pid}: {error}");
        }
    }

    /// Sends an order to a worker; a descriptor may come along. Returns whether it was sent.
    pub(crate) fn tell(&self, pid: Pid, order: &ToWorker, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let Some(channel) = self.channel(pid) else { return false };
        let sent = channel.send(&order.encode(), descriptor);
        sent.inspect_err(|error| log::debug!("telling worker {pid}: {error}")).is_ok()
    }

    /// The same to all workers.
    pub(crate) fn tell_workers(&self, order: &ToWorker, descriptor: Option<BorrowedFd<'_>>) {
        self.workers().for_each(|pid| _ = self.tell(pid, order, descriptor));
    }

    /// A worker may have sockets for connections from addresses of clients.
    pub(crate) fn set_supply(&mut self, pid: Pid, supply: Option<SocketSupply>) {
        if let Some(child) = self.all.get_mut(&pid) {
            child.supply = supply;
        }
    }

    /// Workers that may have such sockets.
    pub(crate) fn supplied(&self) -> impl Iterator<Item = Pid> {
        self.all.iter().filter(|(_, child)| child.supply.is_some()).map(|(pid, _)| *pid)
    }

    /// Gives a worker sockets that it has asked for.
    pub(crate) fn give_sockets(&mut self, pid: Pid, wanted: SocketCounts) {
        let Some(Child { supply: Some(supply), channel: Some(channel), .. }) = self.all.get_mut(&pid) else { return };
        for (kind, wanted) in SocketKind::ALL.into_iter().zip(wanted.0).filter(|(_, wanted)| *wanted > 0) {
            for sockets in supply.make(kind, wanted).chunks(DESCRIPTORS) {
                if let Err(error) = channel.send_with(&ToWorker::Sockets(kind).encode(), sockets) {
                    log::debug!("sockets for worker {pid}: {error}");
                }
            }
        }
    }

    /// Sends a signal. A child that has ended already needs none.
    pub(crate) fn signal(&self, pid: Pid, signal: Signal) {
        if self.all.contains_key(&pid)
            && let Err(error) = process::send_signal(pid, signal)
        {
            log::error!("{signal} to process {pid}: {error}");
        }
    }

    /// The same to all workers.
    pub(crate) fn signal_workers(&self, signal: Signal) {
        self.workers().for_each(|pid| self.signal(pid, signal));
    }

    /// When a worker that drains has taken longer than `limit`.
    pub(crate) fn retirement_due(&self, limit: Option<Duration>) -> Option<Instant> {
        self.all.values().filter_map(|child| child.retirement?.due(limit)).min()
    }

    /// Sees to it that workers which drain end in time.
    pub(crate) fn limit_retirement(&mut self, limit: Option<Duration>, now: Instant) {
        let retired = self.all.iter_mut().filter_map(|(pid, child)| Some((*pid, child.retirement.as_mut()?)));
        let overdue: Vec<_> = retired.filter_map(|(pid, worker)| Some((pid, worker.overdue(limit, now)?))).collect();
        for (pid, overdue) in overdue {
            match overdue {
                Overdue::Tell => _ = self.tell(pid, &ToWorker::Reset, None),
                Overdue::Kill => {
                    log::error!("worker {pid} did not end in time and is killed");
                    self.kill(pid);
                }
            }
        }
    }

    /// What a worker has sent, at most so much that the others get their turn.
    pub(crate) fn hear(&mut self, pid: Pid) -> Vec<ToGuardian> {
        self.messages(pid, ToGuardian::decode)
    }

    fn messages<T>(&mut self, pid: Pid, decode: fn(&[u8]) -> Option<T>) -> Vec<T> {
        let Some(child) = self.all.get_mut(&pid).filter(|child| child.muted_until.is_none()) else { return Vec::new() };
        let mut messages = Vec::new();
        for _ in 0..MESSAGES {
            let mut buffer = [0; SIZE];
            // A closed channel says that the child ends; how, it says when it is reaped.
            let received = child.channel.as_ref().map(|channel| channel.receive(&mut buffer));
            let Some(Ok(Received::Message(count))) = received else { return messages };
            messages.extend(decode(&buffer[..count]));
        }
        child.muted_until = Some(Instant::now() + MUTED);
        messages
    }

    /// What the control process has sent, at most so much that the others get their turn.
    pub(crate) fn hear_control(&mut self, pid: Pid) -> Vec<FromControl> {
        self.messages(pid, FromControl::decode)
    }

    /// When a muted child is read again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.all.values().filter_map(|child| child.muted_until).min()
    }

    /// The children that are muted no longer. No event will tell what they have sent meanwhile.
    pub(crate) fn unmute(&mut self, now: Instant) -> Vec<Pid> {
        let mut heard = Vec::new();
        for (pid, child) in &mut self.all {
            if child.muted_until.take_if(|until| *until <= now).is_some() {
                heard.push(*pid);
            }
        }
        heard
    }

    /// The answer of a resolver: `Err` when it has closed its channel, `Ok(None)` when there is none yet. An answer that
    /// cannot be understood counts as a failure.
    pub(crate) fn answer(&self, resolver: Pid) -> Result<Option<Answer>, ()> {
        let mut buffer = [0; SIZE];
        match self.channel(resolver).ok_or(())?.receive(&mut buffer) {
            Ok(Received::Message(count)) => {
                let answer = Answer::decode(&buffer[..count]);
                Ok(Some(answer.unwrap_or_else(|| Answer::Failed("the resolver's answer cannot be understood".into()))))
            }
            Ok(Received::Nothing) => Ok(None),
            Ok(Received::Closed) | Err(_) => Err(()),
        }
    }

    /// A child that has ended, if there is one, and removes it from the registry.
    pub(crate) fn reap(&mut self) -> Option<Ended> {
        while let Some((pid, how)) = process::reap() {
            if let Some(child) = self.all.get_mut(&pid) {
                child.muted_until = None;
                let last = if child.role == Role::TableOwner { Vec::new() } else { self.hear(pid) };
                if let Some(child) = self.all.remove(&pid) {
                    return Some(Ended { pid, role: child.role, how, last, worker: child.worker });
                }
            }
        }
        None
    }

    /// Kills a child.
    pub(crate) fn kill(&self, pid: Pid) {
        self.signal(pid, Signal::SIGKILL);
    }

    /// Passes one of our ends of a channel on to a worker; the guardian does not speak through it itself.
    pub(crate) fn pass_on(&mut self, of: Pid, to: Pid, order: &ToWorker) {
        if let Some(channel) = self.all.get_mut(&of).and_then(|child| child.channel.take()) {
            self.tell(to, order, Some(channel.as_fd()));
        }
    }
}

/// What a child of [`Children::spawn_task`] has left: what its task returned, or its failure.
pub(crate) fn task_result(mut file: File, how: Death) -> Result<String, Error> {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match (how, read) {
        (Death::Exited(0), Ok(_)) => Ok(text),
        (Death::Exited(status), Ok(_)) if !text.is_empty() => {
            Err(Error::Reported { status: u8::try_from(status).unwrap_or(70), sentence: text })
        }
        (how, _) => Err(Error::Failed(format!("a process of tproxy {how}"))),
    }
}
