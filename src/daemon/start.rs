//! Starting: what is done, in this order, before the first connection is redirected.
//!
//! - the process id is written to its file
//! - the names are resolved, however long that takes
//! - the sockets listen
//! - the limit of open files is raised
//! - the access log is opened
//! - the worker starts without privileges, and says that it is ready
//! - the rules are installed and verified
//! - the shell and the service manager are told

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::Events;
use nix::sys::signal::Signal;

use crate::config::Config;
use crate::daemon::guardian::Guardian;
use crate::daemon::keeper::Keeper;
use crate::daemon::orphans::{Holder, holders};
use crate::daemon::pidfile::PidFile;
use crate::daemon::worker::{self, Capacity, Start};
use crate::error::Error;
use crate::logging;
use crate::rules::rule::Family;
use crate::sys::process::{self, Detached, Report};
use crate::sys::sockopt::{self, Beside};
use crate::traffic::journal;
use crate::traffic::service::Destination;
use crate::traffic::upstream::Upstream;

/// How long the shell waits for a daemon whose names do not resolve yet.
const SHELL_WAITS: Duration = Duration::from_secs(30);

/// How long a new worker may take to say that it is ready.
const WORKER_WAITS: Duration = Duration::from_secs(10);

/// The exit status of a shell that did not wait any longer: EX_TEMPFAIL of sysexits(3).
const NOT_YET: u8 = 75;

/// Runs the daemon. Returns in the process that the shell waits for, with the status for it.
pub fn run(config: Config) -> Result<u8, Error> {
    if config.needs_no_guardian() {
        logging::start("tproxy", None, config.verbose);
        return alone(&config).map(|()| 0);
    }
    if config.foreground {
        logging::start("tproxy", None, config.verbose);
        return guard(config, None).map(|()| 0);
    }
    match process::detach().map_err(|error| Error::sys("leaving the terminal", error))? {
        Detached::Shell(report) => Ok(wait_for_daemon(&report)),
        Detached::Daemon(report) => {
            logging::start("tproxy", Some(config.facility), config.verbose);
            guard(config, Some(report)).map(|()| 0)
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
fn alone(config: &Config) -> Result<(), Error> {
    let upstream = Upstream::new(literal(config).into_iter().collect());
    let (listeners, _) = listen(config)?;
    let capacity = capacity(config)?;
    let access_log = config.access_log.as_deref().map(journal::open).transpose()?;
    let pidfile = config.pidfile.as_deref().map(PidFile::write).transpose()?;
    log_ready(config, &listeners, &upstream, capacity);
    crate::daemon::notify::Notifier::from_environment().tell("READY=1");
    let served = worker::run(Start { config, listeners, upstream, access_log, guardian: None, capacity });
    drop(pidfile);
    served
}

fn guard(config: Config, report: Option<OwnedFd>) -> Result<(), Error> {
    let mut guardian = Guardian::new(config).map_err(|error| Error::sys("setting up the guardian", error))?;
    let pidfile = match start(&mut guardian, report.is_some()) {
        Ok(pidfile) => pidfile,
        Err(error) => {
            guardian.abandon();
            if let Some(report) = &report {
                tell_shell(report, error.exit_status());
            }
            return Err(error);
        }
    };
    if !guardian.is_stopping() {
        if let Some(report) = report {
            logging::leave_terminal()?;
            tell_shell(&report, 0);
        }
        guardian.notifier.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }
    let served = guardian.serve();
    if served.is_err() {
        guardian.abandon();
    }
    drop(pidfile);
    log::info!("stopped");
    served
}

fn tell_shell(report: &OwnedFd, status: u8) {
    // The shell may have stopped waiting, or be gone.
    let _ = nix::unistd::write(report, &[status]);
}

/// The steps. Ends early, and well, when a signal to stop comes meanwhile.
fn start(guardian: &mut Guardian, shell_waits: bool) -> Result<Option<PidFile>, Error> {
    let pidfile = guardian.config.pidfile.as_deref().map(PidFile::write).transpose()?;
    let known = resolve(guardian, shell_waits.then(|| Instant::now() + SHELL_WAITS))?;
    if guardian.is_stopping() {
        return Ok(pidfile);
    }
    let (listeners, orphans) = listen(&guardian.config)?;
    guardian.listeners = listeners;
    guardian.capacity = capacity(&guardian.config)?;
    guardian.access_log = guardian.config.access_log.as_deref().map(journal::open).transpose()?;
    guardian.start_worker()?;
    wait_for_worker(guardian)?;
    install(guardian, &known)?;
    relieve(&orphans);
    log_ready(&guardian.config, &guardian.listeners, &guardian.upstream, guardian.capacity);
    Ok(pidfile)
}

/// Resolves all names of the command line, one after the other, until each has an address.
fn resolve(
    guardian: &mut Guardian,
    mut terminal_until: Option<Instant>,
) -> Result<HashMap<String, Vec<IpAddr>>, Error> {
    let mut names: Vec<String> = guardian.config.names_in_rules().into_iter().map(str::to_owned).collect();
    names.extend(guardian.config.service.name().map(str::to_owned));
    let mut known = HashMap::new();
    for name in names {
        if let Some(addresses) = wait_for_name(guardian, &name, &mut terminal_until)? {
            known.insert(name, addresses);
        }
    }
    let found = guardian.config.service.name().and_then(|name| known.get(name));
    guardian.upstream = match (&guardian.config.service.destination, found) {
        (Destination::Host { port, .. }, Some(ips)) => {
            Upstream::new(ips.iter().map(|ip| SocketAddr::new(*ip, *port)).collect())
        }
        _ => Upstream::new(literal(&guardian.config).into_iter().collect()),
    };
    Ok(known)
}

/// Asks for a name until it has an answer; `None` when the daemon was told to stop instead. A shell does not wait so
/// long, and whoever reads what it wrote must not either: the terminal is left then.
fn wait_for_name(
    guardian: &mut Guardian,
    name: &str,
    terminal_until: &mut Option<Instant>,
) -> Result<Option<Vec<IpAddr>>, Error> {
    guardian.names.forget();
    while !guardian.is_stopping() {
        if terminal_until.is_some_and(|until| until <= Instant::now()) {
            logging::leave_terminal()?;
            *terminal_until = None;
        }
        let Guardian { names, config, poll, .. } = &mut *guardian;
        if let Some(hung) = names.ask(config, name, poll.registry())? {
            process::send_signal(hung.pid, Signal::SIGKILL).map_err(|error| Error::sys("kill", error))?;
        }
        guardian.await_answer(*terminal_until)?;
        if let Some(addresses) = guardian.names.answer(name) {
            return Ok(Some(addresses));
        }
    }
    Ok(None)
}

/// The address of an upstream that was not given by name.
fn literal(config: &Config) -> Option<SocketAddr> {
    match &config.service.destination {
        Destination::Host { host, port } => Some(SocketAddr::new(host.parse().ok()?, *port)),
        Destination::Original => None,
    }
}

/// Opens the listening sockets, beside those of orphaned workers if there are any. Without `-b` a family that this host
/// does not have is left out.
fn listen(config: &Config) -> Result<(Vec<TcpListener>, Vec<Holder>), Error> {
    let addresses = config.service.addresses();
    let mut listeners = Vec::new();
    let mut orphans = Vec::new();
    for address in addresses {
        match listen_on(address, &mut orphans) {
            Ok(listener) => listeners.push(listener),
            Err(Error::Sys { source, .. }) if config.service.bind.is_none() && lacks_family(&source) => {
                log::info!("not listening on {address}: {source}");
            }
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() {
        return Err(Error::Failed("this host has neither IPv4 nor IPv6".into()));
    }
    orphans.dedup();
    Ok((listeners, orphans))
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn listen_on(address: SocketAddr, orphans: &mut Vec<Holder>) -> Result<TcpListener, Error> {
    let failed = |error| Error::sys(format!("listening on {address}"), error);
    match sockopt::listener(address, Beside::Nobody) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        result => return result.map_err(failed),
    }
    let holders = holders(address);
    if holders.is_empty() || !holders.iter().all(Holder::is_worker) {
        let others = holders.iter().filter(|holder| !holder.is_worker());
        let names: Vec<String> = others.map(|holder| format!("{} (process {})", holder.name, holder.pid)).collect();
        let by = if names.is_empty() { "another process".to_owned() } else { names.join(", ") };
        return Err(Error::Taken(format!("-s: port {} is in use by {by}", address.port())));
    }
    orphans.extend(holders);
    sockopt::listener(address, Beside::Orphans).map_err(failed)
}

fn capacity(config: &Config) -> Result<Capacity, Error> {
    let descriptors = process::raise_open_files().map_err(|error| Error::sys("RLIMIT_NOFILE", error))?;
    let capacity = Capacity::plan(descriptors, config.max_connections);
    if config.max_connections.is_some_and(|wanted| wanted > capacity.places) {
        log::warn!("{descriptors} open files are enough for {} connections, not for those of -m", capacity.places);
    }
    let tracked = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").ok();
    if let Some(most) = tracked.and_then(|text| text.trim().parse::<usize>().ok())
        && most < 2 * capacity.places
    {
        log::warn!("nf_conntrack_max is {most}: {} connections need two entries each", capacity.places);
    }
    Ok(capacity)
}

fn wait_for_worker(guardian: &mut Guardian) -> Result<(), Error> {
    let limit = Instant::now() + WORKER_WAITS;
    let mut events = Events::with_capacity(8);
    while !guardian.worker_is_ready && !guardian.is_stopping() {
        guardian.turn(&mut events, Some(limit))?;
        if limit <= Instant::now() {
            return Err(Error::Failed("the worker is not ready after 10 seconds".into()));
        }
        if guardian.worker.is_none() {
            return Err(Error::Failed("the worker died while it started".into()));
        }
    }
    Ok(())
}

fn install(guardian: &mut Guardian, known: &HashMap<String, Vec<IpAddr>>) -> Result<(), Error> {
    let lookup = |name: &str| known.get(name).cloned().unwrap_or_default();
    if guardian.is_stopping() {
        return Ok(());
    }
    if let Some(set) = guardian.config.rules(families(&guardian.listeners), &lookup)? {
        if set.output && set.own_uid.is_none() {
            log::warn!("-O without -r: connections of tproxy itself cannot be exempted, and are reset when redirected");
        }
        guardian.keeper = Some(Keeper::install(set)?);
    }
    Ok(())
}

fn families(listeners: &[TcpListener]) -> Vec<Family> {
    listeners.iter().filter_map(|listener| Some(Family::of(&listener.local_addr().ok()?.ip()))).collect()
}

/// Workers that lost their guardian serve what they have to its end, and take nothing new.
fn relieve(orphans: &[Holder]) {
    for Holder { pid, .. } in orphans {
        log::info!("relieving worker {pid}, whose guardian is gone");
        if let Err(error) = process::send_signal(*pid, Signal::SIGHUP) {
            log::warn!("worker {pid}: {error}");
        }
    }
}

fn log_ready(config: &Config, listeners: &[TcpListener], upstream: &Upstream, capacity: Capacity) {
    let listening = listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.to_string()));
    let listening: Vec<String> = listening.collect();
    let target = match &config.service.destination {
        Destination::Original => "the original destination".to_owned(),
        Destination::Host { host, port } => {
            let addresses: Vec<String> = upstream.addresses().iter().map(SocketAddr::to_string).collect();
            format!("{host}:{port} ({})", addresses.join(", "))
        }
    };
    let places = capacity.places;
    log::info!("ready: listening on {}; relaying to {target}; at most {places} connections", listening.join(", "));
}
