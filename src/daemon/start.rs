//! From a configuration to the process that serves it: alone, as the guardian, for one connection of inetd, or in place of
//! the former program of this process.
//!
//! The order of a start: the process id is written to its file; the name of the rules is locked; the names are resolved;
//! the sockets listen; the limit of open files is raised; the access log is opened; the workers start, give up their
//! privileges and say that they are ready; the rules are installed and verified; the shell and the service manager are
//! told. All but the first is the work of [`Transition`](crate::daemon::transition::Transition).

use std::fs::File;
use std::net::TcpStream;
use std::rc::Rc;

use crate::cli::CommandLine;
use crate::config::{self, Config, Listen, Process, Redirection};
use crate::daemon::children::GenerationId;
use crate::daemon::generation::{self, Generation};
use crate::daemon::guardian::Guardian;
use crate::daemon::handover::{self, Handover};
use crate::daemon::inherited::Inherited;
use crate::daemon::instance_lock::InstanceLock;
use crate::daemon::listeners::{ListenSocket, Listeners};
use crate::daemon::names::Names;
use crate::daemon::notify::Notifier;
use crate::daemon::pidfile::PidFile;
use crate::daemon::reconciler::Reconciler;
use crate::daemon::sources::Sources;
use crate::daemon::terminal::{self, Terminal};
use crate::daemon::transition::Kind;
use crate::daemon::worker;
use crate::daemon::worker_args::WorkerArgs;
use crate::daemon::{confine, keep_alive, ready, resolver, upgrade};
use crate::error::Error;
use crate::logging;
use crate::sys::process::{self, Detached};
use crate::sys::{inherited, sockopt};
use crate::traffic::shared_counters::WorkerCounters;

/// Runs the daemon. Returns in the process that the shell waits for, with the status for it.
pub(crate) fn run(config: Config) -> Result<u8, Error> {
    let stdin = config.relayed().any(|(_, redirection, _)| matches!(redirection.listen, Listen::Passed(_)));
    let mut inherited = Inherited::find(stdin)?;
    let process = &config.process;
    // So that no file system is kept from being unmounted, and no path means another file later.
    std::env::set_current_dir("/").map_err(|error| Error::sys("/", error))?;
    if let Some(connection) = inherited.connection.take() {
        return one_connection(&config, connection, inherited.from_inetd).map(|()| 0);
    }
    if inherited.from_inetd && !process.foreground {
        log_without_stderr(process)?;
        return guard(config, inherited, Terminal::none());
    }
    let facility = (!process.foreground).then_some(process.facility);
    if process.foreground {
        logging::start("tproxy", facility, process.verbose);
        if config.needs_no_guardian() {
            return alone(config, inherited).map(|()| 0);
        }
        return guard(config, inherited, Terminal::foreground());
    }
    match process::detach().map_err(|error| Error::sys("leaving the terminal", error))? {
        Detached::Shell(report) => Ok(terminal::wait_for_daemon(&report)),
        Detached::Daemon(report) => {
            logging::start("tproxy", facility, process.verbose);
            guard(config, inherited, Terminal::shell(report))
        }
    }
}

/// Returns the exit status.
fn guard(config: Config, inherited: Inherited, mut terminal: Terminal) -> Result<u8, Error> {
    process::block_signals().map_err(|error| Error::sys("blocking signals", error))?;
    let pidfile = match config.process.pidfile.as_deref().map(PidFile::write).transpose() {
        Ok(pidfile) => pidfile,
        Err(error) => return Ok(terminal.fail(&error)),
    };
    let mut guardian = Guardian::new(inherited, terminal, pidfile)?;
    guardian.begin(Kind::Start, config);
    guardian.run()
}

/// Goes on with what the former program of this process served, and begins to change to the configuration that the command
/// line says now.
pub(crate) fn resume(mut handover: Handover, command_line: &CommandLine) -> Result<u8, Error> {
    let facility = |facility| (!handover.logs_to_stderr).then_some(facility);
    // Until the configuration says better: a failure here must not be silent.
    logging::start("tproxy", facility(syslog::Facility::LOG_DAEMON), false);
    let config = upgrade::serving_config(&handover, command_line)
        .inspect_err(|error| log::error!("upgrade: {error}; the workers go on without a guardian"))?;
    logging::start("tproxy", facility(config.process.facility), config.process.verbose);
    let terminal = if handover.logs_to_stderr {
        Terminal::foreground()
    } else {
        logging::leave_terminal()?;
        Terminal::none()
    };
    let pidfile = handover.pidfile.take();
    let pidfile = pidfile.map(|(path, number)| Ok(PidFile::adopt(path, handover::descriptor(number)?))).transpose()?;
    let mut guardian = Guardian::new(handover.take_unused_sockets()?, terminal, pidfile)?;
    let instance = &mut guardian.instance;
    if let Some(descriptor) = handover.lock.take().map(handover::descriptor).transpose()? {
        instance.lock = InstanceLock::handed_over(descriptor, &config.name)
            .inspect_err(|error| log::error!("upgrade: {error}; it is tried again at the next reload"))
            .unwrap_or_default();
    }
    instance.names.want(&config.names(), &config.names_to_follow());
    handover.names.drain(..).for_each(|(name, addresses)| instance.names.adopt(&name, addresses));
    instance.stats.inherit(std::mem::take(&mut handover.past));
    if let Some(lifeline) = handover.take_lifeline()? {
        instance.children.lifeline = Rc::new(lifeline);
    }
    let table_owner = handover.take_table_owner(&mut instance.children)?;
    let listeners = Listeners::adopt(handover.take_listeners()?);
    let access_log = handover.access_log.take().map(handover::descriptor).transpose()?.map(File::from);
    let mut serving = Generation::new(instance.next_generation(), config, listeners, access_log)?;
    handover.take_children(&mut serving, &mut instance.children)?;
    if let Some(snapshot) = handover.snapshot.take() {
        let (snapshot, set) = (snapshot.into_string().unwrap_or_default(), serving.rules(&instance.names)?);
        let former = std::mem::take(&mut handover.former_redirects);
        instance.rules = Reconciler::resume(set, &serving.config.process, snapshot, former, table_owner);
    }
    std::mem::take(&mut handover.control).resume(&serving.config, instance)?;
    instance.serving = Some(serving);
    instance.fill_slots();
    match config::read_again(command_line) {
        Ok(config) => guardian.begin(Kind::Upgrade, config),
        Err(error) => {
            log::error!("upgrade: {error}; nothing has changed");
            guardian.instance.rules.iter_mut().for_each(Reconciler::verify_now);
        }
    }
    guardian.run()
}

/// One process is enough: no rules, no user to become, no name to follow.
fn alone(config: Config, inherited: Inherited) -> Result<(), Error> {
    process::block_signals().map_err(|error| Error::sys("blocking signals", error))?;
    let pidfile = config.process.pidfile.as_deref().map(PidFile::write).transpose()?;
    let mut generation = Generation::prepare(GenerationId(0), config, &Listeners::default(), &inherited)?;
    generation.listeners.renew(0, &generation.config)?;
    let names = Names::new();
    let redirections = generation.active_redirections(&names);
    ready::log_ready(&generation, &names);
    Notifier::from_environment().tell("READY=1");
    let sockets = std::mem::take(&mut generation.listeners.all).into_iter();
    let first = |socket: ListenSocket| Some((socket.listeners.into_iter().next()?, socket.redirection));
    let listeners = sockets.filter_map(first).collect();
    let Generation { config, access_log, capacity, source_limit, .. } = &mut generation;
    let args = WorkerArgs {
        number: 1,
        config,
        listeners,
        redirections,
        access_log: access_log.take(),
        guardian: None,
        capacity: *capacity,
        source_limit: source_limit.take(),
        connection: None,
        counters: own_counters(config)?,
        orders: Vec::new(),
    };
    let served = worker::run(args, confine::alone(Sources::of(config))?);
    drop(pidfile);
    served
}

/// The counters of a process that nobody else reads.
fn own_counters(config: &Config) -> Result<WorkerCounters, Error> {
    WorkerCounters::new(config.counter_layout()).map_err(|error| Error::sys("memory for the counters", error))
}

/// Logs to syslog only: standard error is the socket too (inetd(8), StandardError= of systemd.exec(5)).
fn log_without_stderr(process: &Process) -> Result<(), Error> {
    logging::start("tproxy", Some(process.facility), process.verbose);
    logging::leave_terminal()
}

/// One connection that inetd (nowait) or systemd (Accept=yes) has accepted, relayed by a process of its own.
fn one_connection(config: &Config, connection: TcpStream, from_inetd: bool) -> Result<(), Error> {
    if from_inetd || !config.process.foreground || inherited::is_stderr(&connection) {
        log_without_stderr(&config.process)?;
    } else {
        logging::start("tproxy", None, config.process.verbose);
    }
    if connection.peer_addr().is_err() {
        log::info!("the client has gone before it was served");
        return Ok(());
    }
    let takes = |(_, redirection, _): (_, &Redirection, _)| matches!(redirection.listen, Listen::Passed(_));
    if !config.relayed().next().is_some_and(takes) || config.has_rules() {
        let sentence = "a connection was passed (nowait, Accept=yes), which -s and rules are not for: leave them out, or \
                        have a listening socket passed (wait, Accept=no)";
        return Err(Error::Usage(sentence.into()));
    }
    if config.checks_hosts() {
        let sentence = "--host-check: cannot be used with a connection that was passed (nowait, Accept=yes); have a \
                        listening socket passed (wait, Accept=no), or use -s";
        return Err(Error::Usage(sentence.into()));
    }
    if config.uses_client_addresses() {
        let sentence = "--source client: cannot be used with a connection that was passed (nowait, Accept=yes); have a \
                        listening socket passed (wait, Accept=no), or use -s";
        return Err(Error::Usage(sentence.into()));
    }
    if let Some(times) = keep_alive::needed() {
        sockopt::set_keep_alive(&connection, times).map_err(|error| Error::sys("TCP_KEEPIDLE", error))?;
    }
    let known = resolver::look_up_some(config.names_to_follow());
    let addresses = |name: &str| known.get(name).cloned().unwrap_or_default();
    if !config.can_serve(&addresses) {
        return Err(Error::Failed("no upstream resolves".into()));
    }
    let redirections = generation::active_redirections(config, addresses);
    let without = Config { redirections: Vec::new(), ..config.clone() };
    let generation = Generation::prepare(GenerationId(0), without, &Listeners::default(), &Inherited::default())?;
    let args = WorkerArgs {
        number: 1,
        config,
        listeners: Vec::new(),
        redirections,
        access_log: generation.access_log,
        guardian: None,
        capacity: generation.capacity,
        source_limit: None,
        connection: Some(connection),
        counters: own_counters(config)?,
        orders: Vec::new(),
    };
    worker::run(args, confine::alone(Sources::of(config))?)
}
