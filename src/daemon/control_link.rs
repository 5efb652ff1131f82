//! The guardian's side of the control process: what it is told, and what it may ask for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::config::Config;
use crate::control::description::{Description, Health, Status};
use crate::control::picture::SeenState;
use crate::daemon::children::{Children, Role};
use crate::daemon::control_message::ToControl;
use crate::daemon::control_sockets::{ControlSockets, MetricsSocket};
use crate::daemon::generation::UpstreamOrders;
use crate::daemon::health_file;
use crate::daemon::instructions::Instructions;
use crate::daemon::message::{Bytes, ToWorker};
use crate::daemon::worker_record::{self, WorkerRecord};
use crate::error::Error;
use crate::logging;
use crate::record::Writer;
use crate::redirection::RedirectionId;
use crate::sys::channel::Channel;
use crate::sys::{inherited, shared_memory};
use crate::traffic::totals::Totals;

/// The pause before a control process is started in place of one that has not lived for long.
const PAUSE: Duration = Duration::from_secs(1);

/// A control process that lives for so long is replaced at once.
const ALIVE: Duration = Duration::from_secs(10);

/// Messages that wait for room in the channel are sent this often.
const AGAIN: Duration = Duration::from_millis(20);

/// A control process that takes nothing for so long is killed.
const STUCK: Duration = Duration::from_secs(10);

/// What may wait for it.
const MOST_WAITING: usize = 10_000;

/// So many changes of the rules may be under way: as many as there can be clients of the control socket.
pub(crate) const MOST_AWAITING: usize = 64;

/// The control process, and what it has been told.
#[derive(Debug, Default)]
pub(crate) struct ControlLink {
    pub sockets: Option<ControlSockets>,
    pub pid: Option<Pid>,
    started: Option<Instant>,
    /// When another one is started.
    pub due: Option<Instant>,
    outbox: VecDeque<(Bytes, Option<OwnedFd>)>,
    /// Since when nothing could be sent.
    stuck: Option<Instant>,
    description: Option<Description>,
    status: Option<Status>,
    /// The workers that it knows.
    workers: BTreeMap<Pid, (u32, SeenState)>,
    /// What an administrator has said about upstreams, by `HOST:PORT`.
    pub orders: UpstreamOrders,
    /// The redirections that an administrator has disabled.
    pub disabled: BTreeSet<RedirectionId>,
    pub reloads: u64,
    pub deaths: u64,
    /// The daemon stops, or will after `--drain-delay`.
    pub stopping: bool,
    /// The number of the last thing that was asked for, and that of the last one before the change that is under way.
    pub asked: u32,
    pub covered: u32,
    /// What was last to be written to the health file, and whether it was.
    pub written: Option<(Health, bool)>,
    /// When the instance was started, in seconds since 1970.
    pub began: u64,
    /// When it may be looked again whether there is something to tell, and whether that has been put off.
    pub look_from: Option<Instant>,
    pub put_off: bool,
    /// What is done when the rules are as wanted: the number that was asked for, and the answer.
    pub awaits_rules: Vec<(u32, String)>,
}

impl ControlLink {
    /// That of an instance which begins now.
    pub(crate) fn new() -> ControlLink {
        ControlLink { began: worker_record::now(), ..ControlLink::default() }
    }

    /// Goes on with the control process of the former program.
    pub(crate) fn resume(
        &mut self,
        pid: Option<Pid>,
        sockets: ControlSockets,
        orders: UpstreamOrders,
        numbers: [u64; 5],
    ) {
        let [reloads, deaths, asked, began, stopping] = numbers;
        (self.pid, self.sockets, self.orders) = (pid, Some(sockets), orders);
        self.asked = u32::try_from(asked).unwrap_or(0);
        (self.reloads, self.deaths, self.began, self.stopping) = (reloads, deaths, began, stopping != 0);
        self.covered = self.asked;
        self.due = pid.is_none().then(Instant::now);
    }

    /// Opens sockets for a configuration, unless they are open already.
    ///
    /// Errors: one cannot be opened, or there is something else where the health file should be.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Option<ControlSockets>, Error> {
        config.process.control.health_file.as_deref().map(health_file::check).transpose()?;
        let is_open = self.sockets.as_ref().is_some_and(|sockets| {
            let path = sockets.control.as_ref().map(|socket| socket.path.clone());
            sockets.settings == config.process.control && path == config.control_path()
        });
        if is_open { Ok(None) } else { ControlSockets::open(config).map(Some) }
    }

    /// Serves these sockets from now on, or those of before as another user.
    pub(crate) fn serve(&mut self, sockets: Option<ControlSockets>, other_user: bool, children: &mut Children) {
        if sockets.is_some() || other_user {
            self.dismiss(children);
            self.due = Some(Instant::now());
        }
        if let Some(sockets) = sockets {
            self.sockets = Some(sockets);
        }
    }

    /// The control process ends when its clients have their answers, and another one is started.
    pub(crate) fn renew(&mut self, children: &mut Children) {
        self.flush(children);
        self.dismiss(children);
        self.due = Some(Instant::now());
    }

    fn dismiss(&mut self, children: &mut Children) {
        if let Some(pid) = self.pid.take() {
            children.hang_up(pid);
        }
    }

    /// The control process, or one before it, has ended.
    pub(crate) fn ended(&mut self, pid: Pid, how: &dyn std::fmt::Display) {
        if self.pid != Some(pid) {
            return;
        }
        log::warn!("control process {pid} {how}: another one is started");
        self.pid = None;
        let lived = self.started.is_some_and(|started| started.elapsed() >= ALIVE);
        self.due = Some(Instant::now() + if lived { Duration::ZERO } else { PAUSE });
    }

    /// When something is due here.
    pub(crate) fn next(&self) -> Option<Instant> {
        let again = (!self.outbox.is_empty()).then(|| Instant::now() + AGAIN);
        let look = self.look_from.filter(|_| self.put_off);
        [self.due, again, look].into_iter().flatten().min()
    }

    /// Starts the control process if it is time. Returns whether there is one.
    pub(crate) fn start(&mut self, config: &Config, past: &Totals, children: &mut Children) -> bool {
        // Checks need the process also where nobody can ask it.
        let checks = config.relayed().any(|(_, _, service)| service.check.is_some());
        let Some(sockets) = self.sockets.as_ref().filter(|sockets| checks || sockets.any()) else {
            self.dismiss(children);
            self.due = None;
            return false;
        };
        if self.pid.is_none() && self.due.is_none() {
            self.due = Some(Instant::now());
        }
        if self.pid.is_some() || self.due.take_if(|due| *due <= Instant::now()).is_none() {
            return self.pid.is_some();
        }
        let mut instructions = Instructions::for_control(&config.process);
        if let Some(socket) = &sockets.control {
            instructions.descriptor("control-socket", socket.listener.as_fd(), []);
        }
        if let Some(metrics) = &sockets.metrics {
            let kind = if matches!(metrics, MetricsSocket::Tcp(_)) { "tcp" } else { "unix" };
            instructions.descriptor("metrics-socket", metrics.as_fd(), [kind.to_owned()]);
        }
        match children.spawn(Role::Control, instructions) {
            Ok(pid) => {
                (self.pid, self.started) = (Some(pid), Some(Instant::now()));
                self.outbox.clear();
                self.workers.clear();
                (self.stuck, self.description, self.status) = (None, None, None);
                let mut text = Writer::default();
                past.lines().into_iter().for_each(|line| text.line(line));
                self.send_text(&ToControl::Past, &text.into_text());
                true
            }
            Err(error) => {
                log::error!("starting a control process: {error}");
                self.due = Some(Instant::now() + PAUSE);
                false
            }
        }
    }

    /// Tells what is configured, and how it stands, if that has changed. What does not read is told once it does: each of
    /// these texts is a file.
    pub(crate) fn describe(&mut self, description: Description, status: Status) {
        if self.stuck.is_some() {
            return;
        }
        if self.description.as_ref() != Some(&description) {
            self.send_text(&ToControl::Description, &description.text());
            self.description = Some(description);
        }
        if self.status.as_ref() != Some(&status) {
            self.send_text(&ToControl::Status, &status.text());
            self.status = Some(status);
        }
    }

    /// Tells of workers that there are, or are in another state.
    pub(crate) fn show_workers<'a>(
        &mut self,
        workers: impl Iterator<Item = (Pid, &'a WorkerRecord, SeenState)>,
        children: &Children,
    ) {
        for (pid, record, state) in workers {
            match self.workers.insert(pid, (record.number, state)) {
                None => self.show_worker(pid, record, state, children),
                Some((number, before)) if before != state => {
                    self.send(&ToControl::WorkerState { number, state }, None);
                }
                Some(_) => {}
            }
        }
    }

    fn show_worker(&mut self, pid: Pid, record: &WorkerRecord, state: SeenState, children: &Children) {
        let number = record.number;
        let made = record.counters.memory().map(shared_memory::read_only).transpose().and_then(|memory| {
            let pair = Channel::pair()?;
            Ok((memory, pair))
        });
        let (memory, (ours, theirs)) = match made {
            Ok((Some(memory), pair)) => (memory, pair),
            Ok((None, _)) => return,
            Err(error) => return log::error!("showing worker {number} to the control process: {error}"),
        };
        let worker = ToControl::Worker {
            number,
            pid: pid.as_raw().cast_unsigned(),
            slot: u16::try_from(record.slot).unwrap_or(u16::MAX),
            started: record.started,
            limit: record.places as u64,
            state,
        };
        self.send(&worker, Some(memory.into()));
        let mut layout = Writer::default();
        record.counters.layout().upstreams().iter().for_each(|hosts| layout.line(hosts));
        self.send_text(&ToControl::Layout(number), &layout.into_text());
        children.tell(pid, &ToWorker::Desk, Some(theirs.as_fd()));
        self.send(&ToControl::WorkerChannel(number), Some(ours.into()));
    }

    /// A worker has ended.
    pub(crate) fn worker_ended(&mut self, pid: Pid, well: bool) {
        if let Some((number, _)) = self.workers.remove(&pid) {
            self.send(&ToControl::WorkerEnded { number, well }, None);
        }
    }

    /// A reload or an upgrade has ended.
    pub(crate) fn changed(&mut self, upgrade: bool, result: Result<String, String>) {
        if result.is_ok() {
            self.reloads += 1;
        }
        self.send(&ToControl::Changed { upgrade, number: self.covered, result }, None);
    }

    /// What was asked for with this number is done, or not.
    pub(crate) fn done(&mut self, number: u32, result: Result<String, String>) {
        self.send(&ToControl::Done { number, result }, None);
    }

    /// Gives it a connection to syslog. One that does not read gets none: it could have the guardian keep them all.
    pub(crate) fn give_system_log(&mut self) {
        if self.outbox.is_empty()
            && let Ok(connection) = logging::connect()
        {
            self.send(&ToControl::SystemLog, Some(connection.into()));
        }
    }

    fn send_text(&mut self, message: &ToControl, text: &str) {
        match sealed(text) {
            Ok(file) => self.send(message, Some(file.into())),
            Err(error) => log::error!("telling the control process: {error}"),
        }
    }

    /// Has a message sent.
    pub(crate) fn send(&mut self, message: &ToControl, descriptor: Option<OwnedFd>) {
        if self.pid.is_some() {
            self.outbox.push_back((message.encode(), descriptor));
        }
    }

    /// Sends what there is room for. A control process that does not read is killed, for it would miss what it has to know.
    pub(crate) fn flush(&mut self, children: &Children) {
        let Some(pid) = self.pid else { return };
        let Some(channel) = children.channel(pid) else { return };
        while let Some((message, descriptor)) = self.outbox.front() {
            match channel.send(message, descriptor.as_ref().map(AsFd::as_fd)) {
                Ok(()) => {
                    self.outbox.pop_front();
                    self.stuck = None;
                }
                // It ends, and then it is reaped.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return self.outbox.clear(),
                Err(_) => {
                    let stuck = *self.stuck.get_or_insert_with(Instant::now);
                    if stuck.elapsed() > STUCK || self.outbox.len() > MOST_WAITING {
                        log::error!("control process {pid} takes no message and is killed");
                        self.outbox.clear();
                        children.kill(pid);
                    }
                    return;
                }
            }
        }
    }
}

fn sealed(text: &str) -> io::Result<File> {
    let file = inherited::filled_memory_file(text.as_bytes())?;
    inherited::seal(&file)?;
    Ok(file)
}
