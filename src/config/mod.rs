//! From the command line, and the file that it may name, to a checked configuration. Nothing is changed here.

use std::path::{Path, PathBuf};

use crate::cli::option::OptionId;
use crate::cli::parse::{self, Arguments};
use crate::cli::{CommandLine, options, quoting, relations};
use crate::config::control::ControlSocket;
use crate::config::outside::OutsideAnswers;
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::backend::FirewallChoice;
use crate::rules::nft::translation;
use crate::rules::one_family;
use crate::rules::policy_routing::Connects;
use crate::sys::account::{self, Capability};
use crate::traffic::service::{HostPort, Service, Source};
use crate::traffic::shared_counters::CounterLayout;
use crate::traffic::stock::SocketKind;

pub(crate) mod congestion;
pub(crate) mod control;
pub(crate) mod families;
pub(crate) mod file;
mod global;
mod local_names;
pub(crate) mod outside;
mod redirection;
pub(crate) mod rules;
mod source;
mod trusted_file;
mod values;
pub(crate) mod via;
mod waiting;

pub(crate) use global::{FailMode, Process};
pub(crate) use redirection::{Listen, Redirection, RuleKind, Target};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Version,
    /// `--flush`, of the instance of this name or of all.
    Flush(Option<String>),
    /// `--after-crash`.
    AfterCrash(Config),
    PrintRules(Config),
    Check(Config),
    Run(Config),
}

/// The configuration of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The name of the instance and of its rules.
    pub name: String,
    /// Where this was read from.
    pub command_line: CommandLine,
    /// The text of the file of `-c`: an upgrade hands over what serves, whatever the file says by then.
    pub file: Option<Vec<u8>>,
    /// What it took from outside.
    pub outside: OutsideAnswers,
    pub process: Process,
    pub redirections: Vec<Redirection>,
}

impl Config {
    /// The redirections that are relayed.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = (RedirectionId, &Redirection, &Service)> {
        self.redirections.iter().enumerate().filter_map(|(index, redirection)| match &redirection.target {
            Target::Relay(service) => Some((RedirectionId::from(index), redirection, service)),
            Target::Local(_) | Target::Kernel(_) => None,
        })
    }

    /// Whether workers have names looked up that clients claim to ask for.
    pub(crate) fn checks_hosts(&self) -> bool {
        self.relayed().any(|(_, _, service)| service.check_host)
    }

    /// Whether connections leave from addresses of clients (`--source client`).
    pub(crate) fn uses_client_addresses(&self) -> bool {
        self.relayed().any(|(_, _, service)| matches!(service.source, Source::Client { .. }))
    }

    /// Whether connections need sockets of this kind.
    pub(crate) fn uses_sockets(&self, kind: SocketKind) -> bool {
        let uses = |service: &Service| matches!(service.source, Source::Client { .. }) && service.zoned() == kind.zoned;
        self.relayed().any(|(_, _, service)| uses(service))
    }

    /// How sockets for that connect.
    pub(crate) fn connects(&self) -> Connects {
        let uses = |zoned| self.uses_sockets(SocketKind { is_v4: true, zoned });
        match (uses(true), uses(false)) {
            (true, _) => Connects::Zoned,
            (false, true) => Connects::Yes,
            (false, false) => Connects::No,
        }
    }

    /// Whether any firewall rule is asked for, or takes part in something else.
    pub(crate) fn has_rules(&self) -> bool {
        self.redirections.iter().any(|redirection| !redirection.rules.is_empty() || redirection.needs_routing())
    }

    /// Whether packets have to be kept here for sockets whose addresses are not this host's.
    pub(crate) fn needs_routing(&self) -> bool {
        self.redirections.iter().any(Redirection::needs_routing)
    }

    /// All host names that have to be resolved before anything can be redirected.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = self.names_in_rules();
        names.extend(self.names_to_follow());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The host names in rules: those of each MATCH, and the upstreams of `--kernel`.
    pub(crate) fn names_in_rules(&self) -> Vec<String> {
        let rules = self.redirections.iter().flat_map(|redirection| &redirection.rules);
        let mut names: Vec<String> = rules.flat_map(|(_, matching)| matching.names()).map(str::to_owned).collect();
        let kernel = self.redirections.iter().filter(|redirection| matches!(redirection.target, Target::Kernel(_)));
        names.extend(kernel.flat_map(Redirection::hosts).filter_map(HostPort::name_to_look_up));
        names
    }

    /// The host names of upstreams, which are looked up again and again.
    pub(crate) fn names_to_follow(&self) -> Vec<String> {
        let hosts = self.redirections.iter().flat_map(Redirection::hosts);
        let mut names: Vec<String> = hosts.filter_map(HostPort::name_to_look_up).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Where the control socket is, if there is one. The directory of locks is there for root with rules alone.
    pub(crate) fn control_path(&self) -> Option<PathBuf> {
        match &self.process.control.socket {
            ControlSocket::None => None,
            ControlSocket::At(path) => Some(path.clone()),
            ControlSocket::Usual if self.has_rules() && account::is_root() => Some(control::usual_path(&self.name)),
            ControlSocket::Usual => None,
        }
    }

    /// Whether an upstream is written so.
    pub(crate) fn has_upstream(&self, name: &str) -> bool {
        self.relayed().any(|(_, redirection, _)| redirection.hosts().iter().any(|host| host.to_string() == name))
    }

    /// What is counted: all redirections, and the upstreams of those that are relayed.
    pub(crate) fn counter_layout(&self) -> CounterLayout {
        let relayed = |redirection: &Redirection| matches!(redirection.target, Target::Relay(_));
        let hosts = |redirection: &Redirection| redirection.hosts().iter().map(HostPort::to_string).collect();
        let upstreams = self.redirections.iter().map(|one| if relayed(one) { hosts(one) } else { Vec::new() });
        CounterLayout::new(upstreams.collect())
    }

    /// Whether a single process can do it all: no rules to own, no privileges to drop, no name to look up, no second
    /// worker.
    pub(crate) fn needs_no_guardian(&self) -> bool {
        let process = &self.process;
        process.foreground
            && process.user.is_none()
            && process.workers == 1
            && !self.has_rules()
            && self.names_to_follow().is_empty()
            && !self.checks_hosts()
            && !self.uses_client_addresses()
            && !process.control.needs_guardian()
            && self.relayed().all(|(_, _, service)| service.check.is_none())
    }
}

/// Reads a command line.
///
/// Errors: one sentence on the first thing that cannot be used.
pub(crate) fn parse(command_line: CommandLine) -> Result<Command, Error> {
    let words = command_line.arguments.clone();
    command(command_line).map_err(|error| quoting::explain(error, &words))
}

fn command(command_line: CommandLine) -> Result<Command, Error> {
    let arguments = parse::parse(&command_line.arguments, &command_line.directory)?;
    if arguments.has(OptionId::Help) {
        return Ok(Command::Help);
    }
    if arguments.has(OptionId::Version) {
        return Ok(Command::Version);
    }
    if arguments.has(OptionId::Flush) {
        return flush(&arguments);
    }
    let config = config(&arguments, command_line, None)?;
    if arguments.has(OptionId::AfterCrash) {
        return Ok(Command::AfterCrash(config));
    }
    if arguments.has(OptionId::PrintRules) {
        return Ok(Command::PrintRules(config));
    }
    if arguments.has(OptionId::Check) {
        return Ok(Command::Check(config));
    }
    check_privileges(&config)?;
    Ok(Command::Run(config))
}

/// Without a privilege that is needed later, nothing is begun.
fn check_privileges(config: &Config) -> Result<(), Error> {
    if config.has_rules() {
        check_privileges_for_rules("-R, -X and --reject", "install")?;
    }
    if config.uses_client_addresses() {
        let needed = [Capability::NetAdmin];
        check_root("--source client", "connect from addresses of clients", &needed, "which sockets for that need")?;
    }
    if config.process.user.is_some() {
        let needed = [Capability::SetUid, Capability::SetGid, Capability::Kill];
        check_root("-r", "become another user", &needed, "which workers of another user need")?;
    }
    Ok(())
}

/// Refuses an option that changes rules if this process may not. `verb` says what it would do to them.
pub(crate) fn check_privileges_for_rules(option: &str, verb: &str) -> Result<(), Error> {
    check_root(option, &format!("{verb} rules"), &[Capability::NetAdmin], "which changing rules needs")
}

/// Refuses an option for whose work this process has to be root with these capabilities; `why` says who needs them.
fn check_root(option: &str, work: &str, needed: &[Capability], why: &str) -> Result<(), Error> {
    if !account::is_root() {
        return Err(Error::Privilege(format!("{option}: only root can {work}")));
    }
    match account::first_lacking(needed).map_err(|error| Error::sys("capget", error))? {
        None => Ok(()),
        Some(missing) => Err(Error::Privilege(format!("{option}: root lacks the capability {missing}, {why}"))),
    }
}

/// Reads the command line of a running instance again, and the file that it names.
pub(crate) fn read_again(command_line: &CommandLine) -> Result<Config, Error> {
    read_from(command_line, None)
}

/// The same, as if the file that the command line names had this text.
pub(crate) fn read_from(command_line: &CommandLine, file: Option<&[u8]>) -> Result<Config, Error> {
    config(&parse::parse(&command_line.arguments, &command_line.directory)?, command_line.clone(), file)
}

/// Whether the addresses of `--source` can be used here and now.
fn check_sources(config: &Config) -> Result<(), Error> {
    config.relayed().try_for_each(|(_, redirection, service)| {
        source::check(service).map_err(|error| match &redirection.place {
            Some((file, line)) => error.in_file(file, *line),
            None => error,
        })
    })
}

/// The configuration that another process has read: the same text, and the same answers.
pub(crate) fn read_alike(
    command_line: &CommandLine,
    file: Option<&[u8]>,
    outside: OutsideAnswers,
) -> Result<Config, Error> {
    let arguments = parse::parse(&command_line.arguments, &command_line.directory)?;
    outside::collecting(outside, || read(&arguments, command_line.clone(), file)).0
}

fn flush(arguments: &Arguments) -> Result<Command, Error> {
    let allowed = [OptionId::Flush, OptionId::Listen, OptionId::Config];
    let other = arguments.options().iter().find(|argument| !allowed.contains(&argument.id));
    if let Some(other) = other {
        return Err(Error::Usage(format!(
            "--flush: cannot be used with {}, only with -s or -c",
            options::opt(other.id)
        )));
    }
    if !arguments.operands().is_empty() {
        return Err(Error::Usage("--flush: cannot be used with HOST PORT, only with -s or -c".into()));
    }
    let port = arguments.value(OptionId::Listen, values::port)?;
    let file = arguments.path(OptionId::Config).map(name_of_file);
    Ok(Command::Flush(file.or(port.map(|port| port.to_string()))))
}

fn config(arguments: &Arguments, command_line: CommandLine, text: Option<&[u8]>) -> Result<Config, Error> {
    let (config, outside) = outside::collecting(OutsideAnswers::default(), || read(arguments, command_line, text));
    let config = config?;
    config.process.congestion.as_ref().map_or(Ok(()), congestion::check)?;
    check_sources(&config)?;
    Ok(Config { outside, ..config })
}

fn read(arguments: &Arguments, command_line: CommandLine, text: Option<&[u8]>) -> Result<Config, Error> {
    let mut file = None;
    let (process, mut redirections, name) = match arguments.path(OptionId::Config) {
        Some(path) => {
            file::check_beside(arguments)?;
            let text = text.map_or_else(|| file::read(path), |text| Ok(text.to_owned()))?;
            let (process, redirections) = file::parse(arguments, path, &text)?;
            file = Some(text);
            (process, redirections, name_of_file(path))
        }
        None => {
            relations::check(arguments)?;
            let redirection = redirection::read(arguments)?;
            let name = name_of_redirection(&redirection);
            (global::GlobalOptions::read(arguments)?.complete(), vec![redirection], name)
        }
    };
    local_names::give(&mut redirections);
    check_translatable(&process, &redirections)?;
    let Process { max_connections, workers, .. } = process;
    if let Some(most) = max_connections.filter(|most| *most < workers) {
        // The kernel chooses the worker of a client. One without room would let the client wait for ever.
        return Err(Error::value(
            "-m",
            most.to_string(),
            format!("at least one connection for each of {workers} workers"),
        ));
    }
    let control = process.control.clone().at(&command_line.directory);
    let process = Process { foreground: arguments.has(OptionId::Foreground), control, ..process };
    Ok(Config { name, command_line, file, outside: OutsideAnswers::default(), process, redirections })
}

/// With nft there is no match that only iptables has.
fn check_translatable(process: &Process, redirections: &[Redirection]) -> Result<(), Error> {
    if process.firewall != FirewallChoice::Nft {
        return Ok(());
    }
    for redirection in redirections {
        let placed = |error: Error| match &redirection.place {
            Some((file, line)) => error.in_file(file, *line),
            None => error,
        };
        for (_, matching) in &redirection.rules {
            let conditions = matching.conditions().iter().map(String::as_str);
            let words: Vec<&str> = ["-p", matching.protocol()].into_iter().chain(conditions).collect();
            let untranslated = |family| translation::translate(&words, family).err();
            if let Some(what) = one_family::families(matching.conditions()).into_iter().find_map(untranslated) {
                let sentence = format!("{}: {what} needs --firewall iptables", matching.shown());
                return Err(placed(Error::Usage(sentence)));
            }
        }
    }
    Ok(())
}

/// The longest name of an instance: between `tproxy.` and `.post` it makes the longest name of a chain.
const LONGEST_NAME: usize = 16;

fn name_of_file(path: &Path) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    stem.chars().map(plain).take(LONGEST_NAME).collect()
}

fn name_of_redirection(redirection: &Redirection) -> String {
    match (&redirection.target, &redirection.listen) {
        (Target::Relay(_), Listen::Port { port, .. }) => port.to_string(),
        (Target::Relay(_), Listen::Passed(_)) => "passed".into(),
        (Target::Local(Some(port)), _) => format!("local-{port}"),
        (Target::Local(None), _) => "local-same".into(),
        (Target::Kernel(HostPort { port: Some(port), .. }), _) => format!("kernel-{port}"),
        (Target::Kernel(_), _) => "kernel-same".into(),
    }
}
