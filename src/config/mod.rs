//! From the command line, and the file that it may name, to a checked configuration. Checks values, touches nothing.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use getopts::Matches;
use syslog::Facility;

use crate::cli::CommandLine;
use crate::cli::options::{self, Scope};
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::relay::timeouts::Timeouts;
use crate::rules::matching::Match;
use crate::sys::account::{self, Account};
use crate::sys::clock::ticks;
use crate::traffic::service::{Destination, HostPort, Service, Via};
use crate::traffic::source_limit::SourcePrefix;
use crate::traffic::upstreams::HOSTS;

pub(crate) mod file;
pub(crate) mod rules;
pub(crate) mod values;
pub(crate) mod via;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// `--flush`, of the instance of this name or of all.
    Flush(Option<String>),
    /// `--print-rules`.
    PrintRules(Config),
    /// `--check`.
    Check(Config),
    /// Run.
    Run(Config),
}

/// A whole daemon.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What names this daemon and its rules among others.
    pub name: String,
    /// Where this was read from.
    pub command_line: CommandLine,
    /// The whole process.
    pub process: Process,
    /// The redirections, in order.
    pub redirections: Vec<Redirection>,
}

/// What concerns the whole daemon.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Who relays, if not who started it.
    pub user: Option<Account>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// The file for one line per connection.
    pub access_log: Option<PathBuf>,
    /// The file for the process id.
    pub pidfile: Option<PathBuf>,
    /// The most connections at once of all workers, if less than the descriptors allow.
    pub max_connections: Option<usize>,
    /// The most of them from one source.
    pub max_per_source: Option<usize>,
    /// What counts as one source.
    pub source_block: SourcePrefix,
    /// Log more.
    pub verbose: bool,
    /// Where in syslog.
    pub facility: Facility,
    /// What becomes of a redirection that nobody can serve.
    pub fail: FailMode,
    /// How long connections may go on after SIGTERM.
    pub drain: Duration,
    /// How many workers.
    pub workers: Workers,
    /// How often the rules are compared with what they should be; `None` is never.
    pub verify: Option<Duration>,
    /// How long all upstreams of a redirection may be unreachable before `fail` counts; `None` is for ever.
    pub upstream_grace: Option<Duration>,
}

/// A number of workers.
pub(crate) type Workers = usize;

/// One redirection.
#[derive(Debug, Clone)]
pub(crate) struct Redirection {
    /// Where redirected connections arrive.
    pub listen: Listen,
    /// What is done with them.
    pub target: Target,
    /// The rules, in the order of the command line.
    pub lines: Vec<(RuleKind, Match)>,
    /// Whether this host's own connections are redirected too.
    pub output: bool,
    /// The file and the line that it was read from.
    pub place: Option<(String, usize)>,
}

/// Where redirected connections arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// At a port that is opened for them, on one address of this host or on all.
    Port {
        /// The port.
        port: u16,
        /// The address; `None` is all.
        bind: Option<IpAddr>,
    },
    /// At sockets that whoever started the daemon has opened: those of this name, or all.
    Passed(Option<String>),
}

/// What is done with the traffic of a redirection.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// It is relayed.
    Relay(Service),
    /// It goes to a port of this host, or to the port it asked for on this host.
    Local(Option<u16>),
    /// The kernel sends it to another host.
    Kernel(HostPort),
}

/// What a rule does with the traffic that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleKind {
    /// `-X`: leaves it alone.
    Exempt,
    /// `--reject`: refuses it.
    Reject,
    /// `-R`: hands it to the target.
    Redirect,
}

/// What becomes of traffic that nobody can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailMode {
    /// It goes where it wanted to.
    Open,
    /// It is rejected.
    Closed,
}

impl Config {
    /// The redirections that are relayed.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = (RedirectionId, &Redirection, &Service)> {
        self.redirections.iter().enumerate().filter_map(|(index, redirection)| match &redirection.target {
            Target::Relay(service) => Some((RedirectionId::from(index), redirection, service)),
            Target::Local(_) | Target::Kernel(_) => None,
        })
    }

    /// Whether names that clients claim to ask for are looked up.
    pub(crate) fn checks_hosts(&self) -> bool {
        let checks = |via: &Via| matches!(via, Via::Http(rewriting, _) if rewriting.check_host);
        self.relayed().any(|(_, _, service)| checks(&service.via))
    }

    /// Whether any firewall rule is asked for.
    pub(crate) fn has_rules(&self) -> bool {
        self.redirections.iter().any(|redirection| !redirection.lines.is_empty())
    }

    /// All host names that have to be resolved before anything can be redirected.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = self.names_in_rules();
        names.extend(self.names_to_follow());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The host names that stand in rules: those of the MATCHes, and the upstreams of `--kernel`.
    pub(crate) fn names_in_rules(&self) -> Vec<String> {
        let lines = self.redirections.iter().flat_map(|redirection| &redirection.lines);
        let mut names: Vec<String> = lines.flat_map(|(_, matching)| matching.names()).map(str::to_owned).collect();
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

    /// Whether a single process can do it all: no rules to own, no privileges to shed, no name to follow or to look up,
    /// no second worker to feed.
    pub(crate) fn needs_no_guardian(&self) -> bool {
        let process = &self.process;
        process.foreground
            && process.user.is_none()
            && process.workers == 1
            && !self.has_rules()
            && self.names_to_follow().is_empty()
            && !self.checks_hosts()
    }
}

impl Redirection {
    /// The upstreams.
    pub(crate) fn hosts(&self) -> &[HostPort] {
        match &self.target {
            Target::Relay(service) => service.destination.hosts(),
            Target::Kernel(host) => std::slice::from_ref(host),
            Target::Local(_) => &[],
        }
    }

    /// The addresses to listen on.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let Listen::Port { port, bind } = self.listen else { return Vec::new() };
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let wanted = bind.map_or(all.to_vec(), |address| vec![address]);
        wanted.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }
}

/// Reads a command line.
///
/// Errors: one sentence on the first value that cannot be used.
pub(crate) fn parse(command_line: CommandLine) -> Result<Command, Error> {
    let matches = arguments(&command_line)?;
    if matches.opt_present("help") {
        return Ok(Command::Help);
    }
    if matches.opt_present("version") {
        return Ok(Command::Version);
    }
    if matches.opt_present("flush") {
        return flush(&matches);
    }
    let config = config(&matches, command_line)?;
    if matches.opt_present("print-rules") {
        return Ok(Command::PrintRules(config));
    }
    if matches.opt_present("check") {
        return Ok(Command::Check(config));
    }
    if !account::is_root() {
        if config.has_rules() {
            return Err(Error::Privilege("-R, -X and --reject: rules can be installed by root only".into()));
        }
        if config.process.user.is_some() {
            return Err(Error::Privilege("-r: only root can become another user".into()));
        }
    }
    Ok(Command::Run(config))
}

fn flush(matches: &Matches) -> Result<Command, Error> {
    let allowed = ["flush", "listen", "config"];
    let others = options::OPTIONS.iter().any(|opt| !allowed.contains(&opt.long) && matches.opt_present(opt.long));
    if others || !matches.free.is_empty() {
        return Err(Error::Usage("--flush: other arguments given, only -s PORT, -c FILE or none wanted".into()));
    }
    let port = matches.opt_str("listen").map(|text| values::port("-s", &text)).transpose()?;
    let file = matches.opt_str("config").map(|path| file_name(&path));
    Ok(Command::Flush(file.or(port.map(|port| port.to_string()))))
}

/// Reads the command line that a daemon was started with once more, and the file that it names.
pub(crate) fn read_again(command_line: &CommandLine) -> Result<Config, Error> {
    config(&arguments(command_line)?, command_line.clone())
}

/// The arguments, with the paths of files made absolute: the daemon leaves the directory in which they were typed.
fn arguments(command_line: &CommandLine) -> Result<Matches, Error> {
    let text = |word: &OsString| {
        word.to_str().map(str::to_owned).ok_or_else(|| Error::Usage(format!("{word:?} given, UTF-8 text wanted")))
    };
    let words = command_line.arguments.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let here = |file: &str| command_line.directory.join(file);
    options::parse(&options::placed(&options::parse(&words)?, here))
}

fn config(matches: &Matches, command_line: CommandLine) -> Result<Config, Error> {
    let (process, redirections, name) = match values::path(matches, "-c", "config")? {
        Some(path) => {
            let (process, redirections) = from_file(matches, &path)?;
            (process, redirections, file_name(&path.to_string_lossy()))
        }
        None => {
            let redirection = redirection(matches)?;
            let name = flag_name(&redirection);
            (process(matches)?, vec![redirection], name)
        }
    };
    let config = Config { name, command_line, process, redirections };
    if config.redirections.is_empty() {
        return Err(Error::Usage("-c: the file holds no redirection; at least one is wanted".into()));
    }
    let Process { max_connections, workers, .. } = config.process;
    if let Some(most) = max_connections.filter(|most| *most < workers) {
        // Whom the kernel gives to a worker without a place would wait for ever.
        return Err(Error::value("-m", most.to_string(), format!("one connection for each of {workers} workers")));
    }
    Ok(config)
}

fn from_file(matches: &Matches, path: &std::path::Path) -> Result<(Process, Vec<Redirection>), Error> {
    let given = |scope| options::OPTIONS.iter().find(move |opt| opt.scope == scope && matches.opt_present(opt.long));
    if let Some(opt) = given(Scope::Redirection) {
        return Err(Error::Usage(format!(
            "--{}: given beside -c, wanted in the file, on the line it belongs to",
            opt.long
        )));
    }
    if !matches.free.is_empty() {
        return Err(Error::Usage(format!("'{}' given beside -c, wanted in the file", matches.free.join(" "))));
    }
    let shown = path.display().to_string();
    let beside = |file: &str| path.with_file_name("").join(file);
    // What is said on the command line counts more than what the file says.
    let mut whole = vec![matches.clone()];
    let mut redirections = Vec::new();
    for line in file::read(path)? {
        let located = |error: Error| error.in_file(&shown, line.number);
        let matches = options::parse(&line.words).map_err(located)?;
        let matches = options::parse(&options::placed(&matches, beside)).map_err(located)?;
        match kind(&matches).map_err(located)? {
            Scope::Process => {
                process(&matches).map_err(located)?;
                whole.push(matches);
            }
            _ => {
                let new = redirection(&matches).map_err(located)?;
                if let Some(port) = redirections.iter().find_map(|former| shared_port(former, &new)) {
                    return Err(located(Error::Usage(format!(
                        "-s: port {port} given twice, once for each address wanted"
                    ))));
                }
                redirections.push(Redirection { place: Some((shown.clone(), line.number)), ..new });
            }
        }
    }
    let merged = options::merge(&whole, Scope::Process);
    let foreground = matches.opt_present("foreground");
    Ok((Process { foreground, ..process(&options::parse(&merged)?)? }, redirections))
}

/// The port on which two redirections would listen at the same address.
fn shared_port(one: &Redirection, other: &Redirection) -> Option<u16> {
    let theirs = other.addresses();
    one.addresses().iter().find(|address| theirs.contains(address)).map(SocketAddr::port)
}

/// What a line of a file is about: a redirection, or the whole process.
fn kind(matches: &Matches) -> Result<Scope, Error> {
    let of = |scope| options::OPTIONS.iter().find(move |opt| opt.scope == scope && matches.opt_present(opt.long));
    if let Some(opt) = of(Scope::Command) {
        return Err(Error::Usage(format!("--{}: given in a file, wanted on the command line", opt.long)));
    }
    let redirection = of(Scope::Redirection).is_some() || !matches.free.is_empty();
    match of(Scope::Process) {
        Some(opt) if redirection => {
            Err(Error::Usage(format!("--{}: given with a redirection, wanted on a line of its own", opt.long)))
        }
        Some(_) => Ok(Scope::Process),
        None => Ok(Scope::Redirection),
    }
}

/// The most characters of a name: with `tproxy.` before and `.post` behind it is the longest name of a chain.
const LONGEST_NAME: usize = 16;

fn file_name(path: &str) -> String {
    let stem = std::path::Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    stem.unwrap_or_default().chars().map(plain).take(LONGEST_NAME).collect()
}

fn flag_name(redirection: &Redirection) -> String {
    match (&redirection.target, &redirection.listen) {
        (Target::Relay(_), Listen::Port { port, .. }) => port.to_string(),
        (Target::Relay(_), Listen::Passed(_)) => "passed".into(),
        (Target::Local(Some(port)), _) => format!("local-{port}"),
        (Target::Local(None), _) => "local-same".into(),
        (Target::Kernel(host), _) => format!("kernel-{}", host.port),
    }
}

fn process(matches: &Matches) -> Result<Process, Error> {
    Ok(Process {
        user: matches.opt_str("user").map(|name| values::user(&name)).transpose()?,
        foreground: matches.opt_present("foreground"),
        access_log: values::path(matches, "-l", "access-log")?,
        pidfile: values::path(matches, "-P", "pidfile")?,
        max_connections: values::connections(matches, "-m", "max-connections")?,
        max_per_source: values::connections(matches, "--max-per-source", "max-per-source")?,
        source_block: matches.opt_str("source-block").map_or(Ok(SourcePrefix::DEFAULT), |text| values::block(&text))?,
        verbose: matches.opt_present("verbose"),
        facility: values::facility(matches.opt_str("syslog"))?,
        fail: values::fail(matches.opt_str("fail"))?,
        drain: values::seconds(matches, "drain", 0, 30)?,
        workers: matches.opt_str("workers").map_or(Ok(1), |text| values::workers(&text))?,
        verify: values::unless_never(matches, "verify", 30)?,
        upstream_grace: values::unless_never(matches, "upstream-grace", 0)?,
    })
}

fn redirection(matches: &Matches) -> Result<Redirection, Error> {
    let target = target(matches)?;
    let protocols = protocols(matches, &target)?;
    let listen = match &target {
        Target::Relay(_) => values::listen(matches)?,
        _ => Listen::Passed(None),
    };
    let redirection = Redirection {
        listen,
        target,
        lines: lines(matches, protocols)?,
        output: matches.opt_present("output"),
        place: None,
    };
    let has = |verb| redirection.lines.iter().any(|(other, _)| *other == verb);
    if redirection.output && redirection.lines.is_empty() {
        return Err(Error::Usage("-O: given without -R, which says what to redirect".into()));
    }
    if !matches!(redirection.target, Target::Relay(_)) && !has(RuleKind::Redirect) {
        return Err(Error::Usage("--local and --kernel: given without -R, which says what to redirect".into()));
    }
    if let Listen::Port { bind: Some(ip), .. } = redirection.listen
        && ip.is_loopback()
        && has(RuleKind::Redirect)
    {
        let wants = "an address that redirected connections can reach (the kernel sends them to the address of the interface they come in on)";
        return Err(Error::value("-b", ip.to_string(), wants));
    }
    Ok(redirection)
}

fn target(matches: &Matches) -> Result<Target, Error> {
    let local = matches.opt_str("local");
    let kernel = matches.opt_present("kernel");
    if local.is_none() && !kernel {
        return Ok(Target::Relay(service(matches)?));
    }
    let only_relays = [
        "listen",
        "bind",
        "allow",
        "only-redirected",
        "deny",
        "transparent",
        "fallback",
        "balance",
        "via",
        "via-fallback",
        "sni",
        "auth-file",
        "forwarded",
        "host-check",
        "page",
        "proxy-protocol",
        "accept-proxy",
        "connect-timeout",
        "handshake-timeout",
        "idle-timeout",
        "fin-timeout",
    ];
    if let Some(name) = only_relays.iter().find(|name| matches.opt_present(name)) {
        return Err(Error::Usage(format!("--{name}: given with --local or --kernel, which relay nothing")));
    }
    match local {
        Some(_) if kernel => Err(Error::Usage("--local and --kernel: given together, one of them wanted".into())),
        Some(_) if !matches.free.is_empty() => {
            Err(Error::Usage(format!("'{}' given with --local, nothing wanted", matches.free.join(" "))))
        }
        Some(text) if text == "same" => Ok(Target::Local(None)),
        Some(text) => Ok(Target::Local(Some(values::port("--local", &text)?))),
        None => Ok(Target::Kernel(values::host(&matches.free)?)),
    }
}

/// The protocols that a MATCH may name, first the one that is meant when it names none.
fn protocols(matches: &Matches, target: &Target) -> Result<&'static [&'static str], Error> {
    match (matches.opt_str("proto").as_deref(), target) {
        (None | Some("tcp"), _) => Ok(&["tcp"]),
        (Some("udp"), Target::Relay(_)) => Err(Error::value(
            "--proto",
            "udp",
            "tcp (udp can be redirected with --local and --kernel, a relay takes tcp)",
        )),
        (Some("udp"), _) => Ok(&["udp"]),
        (Some(other), _) => Err(Error::value("--proto", other, "tcp or udp")),
    }
}

fn service(matches: &Matches) -> Result<Service, Error> {
    let destination = destination(matches)?;
    let accept_proxy = matches.opt_present("accept-proxy");
    if accept_proxy && !matches.opt_present("allow") {
        return Err(Error::Usage("--accept-proxy: given without -a, which says who may speak for others".into()));
    }
    let only_redirected = matches.opt_present("only-redirected");
    if accept_proxy && only_redirected {
        let sentence =
            "--only-redirected: given with --accept-proxy, one of them wanted (a balancer connects directly)";
        return Err(Error::Usage(sentence.into()));
    }
    let (via, fallback) = (via::via(matches, &destination)?, matches.opt_present("fallback"));
    let chosen_by_clients = destination == Destination::Original || fallback || !matches!(via, Via::Tcp(_));
    if matches.opt_present("deny") && !chosen_by_clients {
        let sentence =
            "--deny: given with HOST PORT alone, where clients have no choice; -t, --via or --fallback wanted";
        return Err(Error::Usage(sentence.into()));
    }
    Ok(Service {
        via,
        destination,
        accept_proxy,
        balance: values::balance(matches.opt_str("balance"))?,
        fallback,
        allow: values::networks(matches, "-a", "allow")?,
        only_redirected,
        deny: values::networks(matches, "--deny", "deny")?,
        timeouts: Timeouts {
            connect: ticks(values::seconds(matches, "connect-timeout", 1, 10)?),
            handshake: ticks(values::seconds(matches, "handshake-timeout", 1, 10)?),
            idle: values::timeout(matches, "idle-timeout", 7440)?,
            fin: values::timeout(matches, "fin-timeout", 300)?,
        },
    })
}

fn destination(matches: &Matches) -> Result<Destination, Error> {
    let last = |name: &str| matches.opt_positions(name).last().copied();
    let words = &matches.free;
    if last("transparent") > last("proxy-only") {
        return match words.len() {
            0 | 2 => Ok(Destination::Original),
            _ => Err(Error::Usage(format!("'{}' given, HOST PORT or nothing wanted with -t", words.join(" ")))),
        };
    }
    if words.is_empty() {
        return Err(Error::Usage("HOST PORT: not given; where to relay to is wanted, or -t".into()));
    }
    if words.len() > 2 * HOSTS {
        return Err(Error::Usage(format!("{} upstreams given, at most {HOSTS} wanted", words.len().div_ceil(2))));
    }
    words.chunks(2).map(values::host).collect::<Result<_, _>>().map(Destination::Hosts)
}

fn lines(matches: &Matches, protocols: &[&str]) -> Result<Vec<(RuleKind, Match)>, Error> {
    let mut found = Vec::new();
    for (name, option, verb) in [
        ("redirect", "-R", RuleKind::Redirect),
        ("exempt", "-X", RuleKind::Exempt),
        ("reject", "--reject", RuleKind::Reject),
    ] {
        for (position, text) in matches.opt_strs_pos(name) {
            found.push((position, verb, Match::parse(option, &text, protocols)?));
        }
    }
    found.sort_by_key(|(position, ..)| *position);
    Ok(found.into_iter().map(|(_, verb, matching)| (verb, matching)).collect())
}
