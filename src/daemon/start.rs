//! Starting: what is done, in this order, before the first connection is redirected.
//!
//! - the process id is written to its file
//! - the name of the rules is claimed
//! - the names are resolved, however long that takes
//! - the sockets listen
//! - the limit of open files is raised
//! - the access log is opened
//! - the workers start without privileges, and say that they are ready
//! - the rules are installed and verified
//! - the shell and the service manager are told

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::config::rules::Known;
use crate::config::{Config, Listen, Target, via};
use crate::daemon::confine;
use crate::daemon::generation::Generation;
use crate::daemon::guardian::{Guardian, wait_readable, watch};
use crate::daemon::inherited::Inherited;
use crate::daemon::instance_lock::InstanceLock;
use crate::daemon::listeners::{self, Listeners};
use crate::daemon::names::Names;
use crate::daemon::notify::Notifier;
use crate::daemon::pidfile::PidFile;
use crate::daemon::reconciler::Reconciler;
use crate::daemon::resolver;
use crate::daemon::worker::{self, Start};
use crate::error::Error;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::sys::process::{self, Detached, Report};
use crate::traffic::redirections::ActiveRedirection;
use crate::traffic::service::{Destination, Service};
use crate::traffic::token::EventToken;

/// How long the shell waits for a daemon whose names do not resolve yet.
const SHELL_WAITS: Duration = Duration::from_secs(30);

/// How long new workers may take to say that they are ready.
const WORKER_WAITS: Duration = Duration::from_secs(10);

/// The exit status of a shell that did not wait any longer: EX_TEMPFAIL of sysexits(3).
const NOT_YET: u8 = 75;

/// Runs the daemon. Returns in the process that the shell waits for, with the status for it.
pub(crate) fn run(config: Config) -> Result<u8, Error> {
    let stdin = config.relayed().any(|(_, redirection, _)| matches!(redirection.listen, Listen::Passed(_)));
    let mut passed = Inherited::find(stdin)?;
    let process = &config.process;
    if passed.from_inetd && (passed.connection.is_some() || !process.foreground) {
        // Standard error is the socket too (inetd(8)).
        logging::start("tproxy", Some(process.facility), process.verbose);
        logging::leave_terminal()?;
        return match passed.connection.take() {
            Some(connection) => one_connection(&config, connection).map(|()| 0),
            None => guard(config, passed, None, None).map(|()| 0),
        };
    }
    let facility = (!process.foreground).then_some(process.facility);
    if process.foreground || passed.report.is_some() {
        logging::start("tproxy", facility, process.verbose);
        if config.needs_no_guardian() && passed.report.is_none() {
            return alone(config, &mut passed).map(|()| 0);
        }
        let report = passed.report.take();
        return guard(config, passed, report, None).map(|()| 0);
    }
    match process::detach().map_err(|error| Error::sys("leaving the terminal", error))? {
        Detached::Shell(report) => Ok(wait_for_daemon(&report)),
        Detached::Daemon(report) => {
            logging::start("tproxy", facility, process.verbose);
            let until = Instant::now() + SHELL_WAITS;
            guard(config, passed, Some(report), Some(until)).map(|()| 0)
        }
    }
}

/// The daemon writes its messages to the shell's terminal itself; only the status has to be brought.
fn wait_for_daemon(report: &OwnedFd) -> u8 {
    match process::read_report(report, Some(SHELL_WAITS)) {
        Report::Status(status) => status,
        Report::Gone => 70,
        Report::Late => {
            eprintln!("tproxy: not ready after {} seconds; it goes on trying", SHELL_WAITS.as_secs());
            NOT_YET
        }
    }
}

/// One process is enough: no rules, no user to become, no name to follow.
fn alone(config: Config, passed: &mut Inherited) -> Result<(), Error> {
    let pidfile = config.process.pidfile.as_deref().map(PidFile::write).transpose()?;
    let mut generation = Generation::prepare(config, &Listeners::default(), passed)?;
    let names = Names::new();
    let lines = generation.lines(&names);
    let listeners = generation.listeners.all.iter_mut();
    let listeners =
        listeners.filter_map(|socket| Some((socket.listeners.first_mut()?.take()?, socket.redirection))).collect();
    log_ready(&generation, &names);
    Notifier::from_environment().tell("READY=1");
    let Generation { config, access_log, capacity, source_limit, .. } = &mut generation;
    let access_log = access_log.take();
    let start = Start {
        number: 1,
        config,
        listeners,
        lines,
        access_log,
        guardian: None,
        capacity: *capacity,
        source_limit: source_limit.take(),
        first: None,
    };
    let served = worker::run(start, confine::alone()?);
    drop(pidfile);
    served
}

/// One connection that inetd has accepted, relayed by a process of its own.
fn one_connection(config: &Config, connection: TcpStream) -> Result<(), Error> {
    if config.checks_hosts() {
        let sentence = "--host-check: given with a connection (inetd's nowait), a listening socket (wait) or -s wanted";
        return Err(Error::Usage(sentence.into()));
    }
    let known = resolver::look_up_all(config.names_to_follow())?;
    let active = |id: RedirectionId, service: &Service| {
        let hosts = service.destination.hosts().iter();
        let hosts: Vec<_> =
            hosts.map(|host| host.addresses(|name| known.get(name).cloned().unwrap_or_default())).collect();
        ActiveRedirection::new(id, service.clone(), &hosts)
    };
    let lines = config.relayed().map(|(id, _, service)| active(id, service)).collect();
    let generation = Generation::prepare(
        Config { redirections: Vec::new(), ..config.clone() },
        &Listeners::default(),
        &mut Inherited::default(),
    )?;
    let start = Start {
        number: 1,
        config,
        listeners: Vec::new(),
        lines,
        access_log: generation.access_log,
        guardian: None,
        capacity: generation.capacity,
        source_limit: None,
        first: Some(connection),
    };
    worker::run(start, confine::alone()?)
}

fn guard(config: Config, mut passed: Inherited, report: Option<OwnedFd>, shell: Option<Instant>) -> Result<(), Error> {
    let (upgrade, former) = (report.is_some() && shell.is_none(), passed.former.take());
    let started = match Starting::new(config, passed, shell).and_then(|starting| starting.start(upgrade)) {
        Ok(started) => started,
        Err(error) => {
            if let Some(report) = &report {
                tell(report, error.exit_status());
            }
            return Err(error);
        }
    };
    let Some((mut guardian, pidfile)) = started else { return Ok(()) };
    if let Some(report) = report {
        if !guardian.generation.config.process.foreground {
            logging::leave_terminal()?;
        }
        tell(&report, 0);
    }
    if let Some(former) = former {
        guardian.follow(former)?;
    }
    guardian.notifier.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    let served = guardian.serve();
    if served.is_err() {
        guardian.abandon();
    }
    drop(pidfile);
    log::info!("stopped");
    served
}

fn tell(report: &OwnedFd, status: u8) {
    // The shell may have stopped waiting, or be gone.
    let _ = nix::unistd::write(report, &[status]);
}

/// What there is before there is anything to guard.
struct Starting {
    config: Config,
    passed: Inherited,
    program: PathBuf,
    poll: Poll,
    signals: SignalFd,
    names: Names,
    /// A shell does not wait longer, and whoever reads what it wrote must not either: the terminal is left then.
    terminal_until: Option<Instant>,
}

impl Starting {
    fn new(config: Config, passed: Inherited, terminal_until: Option<Instant>) -> Result<Starting, Error> {
        let failed = |error| Error::sys("setting up the guardian", error);
        let own = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGCHLD];
        let signals = process::signals(&own).map_err(failed)?;
        let poll = Poll::new().map_err(failed)?;
        watch(&poll, signals.as_fd(), EventToken::Signals)?;
        // After an upgrade the link of this process points at a file that is gone; now it points at the program.
        let program = std::env::current_exe().map_err(failed)?;
        Ok(Starting { config, passed, program, poll, signals, names: Names::new(), terminal_until })
    }

    /// The steps. `None` when the daemon was told to stop meanwhile.
    fn start(mut self, upgrade: bool) -> Result<Option<(Guardian, Option<PidFile>)>, Error> {
        let path = self.config.process.pidfile.clone();
        let mut pidfile = path.as_deref().filter(|_| !upgrade).map(PidFile::write).transpose()?;
        let lock = match self.passed.lock.take() {
            None if self.config.has_rules() => Some(InstanceLock::stake(&self.config.name)?),
            handed_over => handed_over,
        };
        if !self.resolve()? {
            return Ok(None);
        }
        self.check_forwarding()?;
        let Starting { config, mut passed, program, poll, signals, names, .. } = self;
        let generation = Generation::prepare(config, &Listeners::default(), &mut passed)?;
        let mut guardian = Guardian::new(generation, names, poll, signals, program);
        (guardian.lock, guardian.workers) = (lock, passed.workers);
        if let Err(error) = bring_up(&mut guardian, upgrade) {
            guardian.abandon();
            return Err(error);
        }
        if guardian.is_stopping() {
            return guardian.serve().map(|()| None);
        }
        if upgrade && let Some(path) = path {
            // Not before: until here the file speaks of the former guardian, which goes on if this one fails.
            pidfile = PidFile::take_over(&path).inspect_err(|error| log::error!("the pid file: {error}")).ok();
        }
        Ok(Some((guardian, pidfile)))
    }

    /// Resolves all names. `false` when the daemon was told to stop instead.
    fn resolve(&mut self) -> Result<bool, Error> {
        self.names.want(&self.config.names(), &self.config.names_to_follow());
        while self.names.unknown().is_some() {
            if self.terminal_until.is_some_and(|until| until <= Instant::now()) {
                logging::leave_terminal()?;
                self.terminal_until = None;
            }
            if let Some(hung) = self.names.ask(&self.config, self.poll.registry())? {
                process::send_signal(hung.pid, Signal::SIGKILL).map_err(|error| Error::sys("kill", error))?;
            }
            let due = self.names.due().into_iter().chain(self.terminal_until).min();
            let timeout = due.map_or(FIRST_LOOK, |due| due.saturating_duration_since(Instant::now()));
            match self.names.resolver() {
                Some(child) => wait_readable(&[child.line.as_fd(), self.signals.as_fd()], timeout)?,
                None => wait_readable(&[self.signals.as_fd()], timeout)?,
            }
            while let Some(signal) =
                process::next_signal(&self.signals).map_err(|error| Error::sys("reading signals", error))?
            {
                match signal {
                    Signal::SIGTERM | Signal::SIGINT => return Ok(false),
                    Signal::SIGCHLD => {
                        while let Some((pid, _)) = process::reap() {
                            if self.names.resolver().is_some_and(|child| child.pid == pid) {
                                self.names.lost();
                            }
                        }
                    }
                    _ => {}
                }
            }
            self.names.answer();
        }
        Ok(true)
    }

    /// The kernel forwards nothing for `--kernel` unless it is told to, and that is for the administrator to decide.
    fn check_forwarding(&self) -> Result<(), Error> {
        let addresses = |name: &str| self.names.addresses(name).to_vec();
        let known = Known { addresses: &addresses, listening: &|_| Vec::new() };
        for family in self.config.forwards(&known) {
            let name = match family {
                Family::V4 => "net.ipv4.ip_forward",
                Family::V6 => "net.ipv6.conf.all.forwarding",
            };
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0") {
                return Err(Error::Usage(format!("--kernel: {name} is 0, 1 wanted (`sysctl -w {name}=1`)")));
            }
        }
        Ok(())
    }
}

/// The longest pause without a look at the names.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Workers, then rules, then whoever served before may go. AddrPair early when the daemon was told to stop.
fn bring_up(guardian: &mut Guardian, upgrade: bool) -> Result<(), Error> {
    for slot in 0..guardian.generation.slots.len() {
        let number = guardian.next_number();
        guardian.generation.start_worker(slot, number, &guardian.names, guardian.poll.registry())?;
    }
    wait_for_workers(guardian)?;
    if guardian.is_stopping() {
        return Ok(());
    }
    if let Some(set) = guardian.generation.rules(&guardian.names)? {
        if set.own_uid.is_none() && set.specs.iter().any(|spec| spec.output) {
            log::warn!("-O without -r: connections of tproxy itself cannot be exempted, and are reset when redirected");
        }
        guardian.reconciler = Some(Reconciler::install(set, guardian.generation.config.process.verify, upgrade)?);
    }
    guardian.local.look(&guardian.generation.config);
    listeners::relieve(&guardian.generation.listeners.orphans);
    log_ready(&guardian.generation, &guardian.names);
    Ok(())
}

fn wait_for_workers(guardian: &mut Guardian) -> Result<(), Error> {
    let limit = Instant::now() + WORKER_WAITS;
    let mut events = Events::with_capacity(8);
    while !guardian.generation.is_ready() && !guardian.is_stopping() {
        guardian.turn(&mut events, Some(limit))?;
        if limit <= Instant::now() {
            return Err(Error::Failed(format!("the workers are not ready after {} seconds", WORKER_WAITS.as_secs())));
        }
        if guardian.generation.slots.iter().any(|slot| slot.respawn.has_died()) {
            return Err(Error::Failed("a worker died while it started".into()));
        }
    }
    Ok(())
}

/// From so many redirections on, only their number is logged.
const MANY: usize = 16;

fn log_ready(generation: &Generation, names: &Names) {
    let count = generation.config.redirections.len();
    if count > MANY {
        return log::info!("ready: {count} redirections");
    }
    for redirection in &generation.config.redirections {
        let what = match &redirection.target {
            Target::Relay(service) => relay_text(generation, redirection, service, names),
            Target::Local(Some(port)) => format!("redirecting to port {port} of this host"),
            Target::Local(None) => "redirecting to the same port of this host".into(),
            Target::Kernel(host) => format!("the kernel sends to {}", host_text(host, names)),
        };
        log::info!("ready: {what}");
    }
}

fn relay_text(
    generation: &Generation,
    redirection: &crate::config::Redirection,
    service: &Service,
    names: &Names,
) -> String {
    let line = generation.config.relayed().find(|(_, other, _)| std::ptr::eq(*other, redirection)).map(|(id, ..)| id);
    let listening = line.map(|line| generation.listeners.addresses(line)).unwrap_or_default();
    let listening: Vec<String> = listening.iter().map(SocketAddr::to_string).collect();
    let target = match &service.destination {
        Destination::Original => "the original destination".to_owned(),
        Destination::Hosts(hosts) => hosts.iter().map(|host| host_text(host, names)).collect::<Vec<_>>().join(", "),
    };
    let (via, places) = (via::text(&service.via), generation.capacity.places * generation.slots.len().max(1));
    format!("listening on {}; relaying to {target}{via}; at most {places} connections", listening.join(", "))
}

fn host_text(host: &crate::traffic::service::HostPort, names: &Names) -> String {
    let addresses = crate::daemon::generation::addresses(host, names);
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    format!("{}:{} ({})", host.name, host.port, addresses.join(", "))
}
