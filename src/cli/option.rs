//! What the table of options says about an option.

use std::fmt;

/// The name of an option in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionId {
    Listen,
    Bind,
    Allow,
    OnlyRedirected,
    AcceptProxy,
    Redirect,
    Exempt,
    Reject,
    RejectQuic,
    Output,
    Firewall,
    Verify,
    Fail,
    Local,
    Kernel,
    Proto,
    Intercept,
    Source,
    NoConntrack,
    TproxyMark,
    TproxyTable,
    Transparent,
    ProxyOnly,
    Balance,
    Fallback,
    UpstreamGrace,
    Deny,
    CongestionControl,
    ProxyProtocol,
    Via,
    ViaFallback,
    Sni,
    AuthFile,
    Forwarded,
    HostCheck,
    Page,
    MaxHead,
    MaxConnections,
    MaxPerSource,
    SourceBlock,
    ConnectTimeout,
    HandshakeTimeout,
    IdleTimeout,
    FinTimeout,
    CheckInterval,
    CheckHttp,
    CheckTls,
    Rise,
    Fall,
    Control,
    ControlGroup,
    Metrics,
    HealthFile,
    DrainDelay,
    Config,
    User,
    Foreground,
    Workers,
    AccessLog,
    Syslog,
    Verbose,
    PidFile,
    Drain,
    RetireTimeout,
    Check,
    PrintRules,
    Flush,
    AfterCrash,
    Help,
    Version,
}

/// One option.
#[derive(Debug)]
pub struct Opt {
    pub id: OptionId,
    /// The letter, or empty.
    pub short: &'static str,
    pub long: &'static str,
    /// `None` for a flag.
    pub value: Option<Value>,
    pub repeatable: bool,
    pub group: Group,
    pub scope: Scope,
    /// An option before this one that no longer counts.
    pub overrides: Option<OptionId>,
    /// Does nothing for `--local` and `--kernel`, and is refused with them.
    pub relay_only: bool,
    pub goes_with: &'static [Relation],
    /// What it does, in one or two sentences.
    pub help: &'static str,
    /// Further sentences, for the manual page only.
    pub more: &'static str,
}

impl fmt::Display for Opt {
    /// As the documentation names it: by the letter, if it has one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opt { short: "", long, .. } => write!(f, "--{long}"),
            Opt { short, .. } => write!(f, "-{short}"),
        }
    }
}

/// Of one redirection.
pub(crate) const fn one(id: OptionId, short: &'static str, long: &'static str, group: Group) -> Opt {
    Opt {
        id,
        short,
        long,
        value: None,
        repeatable: false,
        group,
        scope: Scope::Redirection,
        overrides: None,
        relay_only: false,
        goes_with: &[],
        help: "",
        more: "",
    }
}

/// Of one redirection that is relayed.
pub(crate) const fn relay(id: OptionId, short: &'static str, long: &'static str, group: Group) -> Opt {
    Opt { relay_only: true, ..one(id, short, long, group) }
}

pub(crate) const fn process(id: OptionId, short: &'static str, long: &'static str, group: Group) -> Opt {
    Opt { scope: Scope::Process, ..one(id, short, long, group) }
}

pub(crate) const fn command(id: OptionId, short: &'static str, long: &'static str, group: Group) -> Opt {
    Opt { scope: Scope::Command, ..one(id, short, long, group) }
}

pub(crate) const fn text(name: &'static str) -> Option<Value> {
    Some(Value::Text(name, &[]))
}

pub(crate) const VIA_HTTP: Term = Term::Is(OptionId::Via, "http");
pub(crate) const VIA_CONNECT: Term = Term::Is(OptionId::Via, "connect");
pub(crate) const VIA_SOCKS5: Term = Term::Is(OptionId::Via, "socks5");

pub(crate) const BY_TPROXY: Term = Term::Is(OptionId::Intercept, "tproxy");

pub(crate) const NEEDS_HTTP: &[Relation] = &[Relation::Needs(&[VIA_HTTP], "")];

pub(crate) const NEEDS_CHECKS: &[Relation] = &[Relation::Needs(&[Term::Given(OptionId::CheckInterval)], "")];

pub(crate) const OF_TLS_CHECKS: &[Relation] = &[
    Relation::Needs(&[Term::Given(OptionId::CheckInterval)], ""),
    Relation::Excludes(&[Term::Given(OptionId::CheckHttp)], ""),
];

pub(crate) const OF_LOCAL: &[Relation] = &[
    Relation::Needs(&[Term::Given(OptionId::Redirect)], ""),
    Relation::Excludes(&[Term::Given(OptionId::Kernel), Term::Operands], ""),
];

pub(crate) const OF_OUTPUT: &[Relation] = &[
    Relation::Needs(
        &[Term::Given(OptionId::Redirect), Term::Given(OptionId::Exempt), Term::Given(OptionId::Reject)],
        "",
    ),
    Relation::Excludes(
        &[BY_TPROXY],
        "TPROXY sees only what comes in from other hosts; only --intercept redirect takes connections of this one",
    ),
];

pub(crate) const OF_DENY: &[Relation] = &[Relation::Needs(
    &[Term::Given(OptionId::Transparent), Term::Given(OptionId::Fallback), VIA_HTTP, VIA_CONNECT, VIA_SOCKS5],
    "otherwise clients do not choose the destination",
)];

pub(crate) const OF_REJECT_QUIC: &[Relation] = &[
    Relation::Needs(&[Term::Given(OptionId::Redirect)], ""),
    Relation::Excludes(&[Term::Is(OptionId::Proto, "udp")], ""),
];

/// A rule with a MATCH.
pub(crate) const fn matching(id: OptionId, short: &'static str, long: &'static str) -> Opt {
    Opt { value: text("MATCH"), repeatable: true, ..one(id, short, long, Group::Rules) }
}

/// The value of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// The path of a file.
    File,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text: what the documentation calls it, and the words that may stand for it.
    Text(&'static str, &'static [&'static str]),
}

impl Value {
    /// What the documentation calls it, in parts of which one is to be chosen.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Value::File => vec!["FILE"],
            Value::OneOf(words) => words.to_vec(),
            Value::Text(name, words) => [&[*name], *words].concat(),
        }
    }
}

/// A part of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Listening,
    Rules,
    Without,
    Interception,
    Upstream,
    Proxies,
    Limits,
    Checks,
    Control,
    Process,
    Other,
}

impl Group {
    pub const ALL: [Group; 11] = [
        Group::Listening,
        Group::Rules,
        Group::Without,
        Group::Interception,
        Group::Upstream,
        Group::Proxies,
        Group::Limits,
        Group::Checks,
        Group::Control,
        Group::Process,
        Group::Other,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Listening => "Listening",
            Group::Rules => "Rules",
            Group::Without => "Without a relay",
            Group::Interception => "Interception",
            Group::Upstream => "Upstream",
            Group::Proxies => "Proxies",
            Group::Limits => "Limits",
            Group::Checks => "Checks of upstreams",
            Group::Control => "Control",
            Group::Process => "Process",
            Group::Other => "Instead of running",
        }
    }
}

/// Where an option may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// With a redirection: on the command line, or on a line of a file.
    Redirection,
    /// On the command line, or on a line of a file without a redirection.
    Process,
    /// On the command line only.
    Command,
}

/// What an option goes with. The text says why, or is empty.
#[derive(Debug, Clone, Copy)]
pub enum Relation {
    /// One of these has to stand beside it.
    Needs(&'static [Term], &'static str),
    /// None of these may stand beside it.
    Excludes(&'static [Term], &'static str),
}

/// Something that may stand on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// This option.
    Given(OptionId),
    /// This option with this value.
    Is(OptionId, &'static str),
    /// `HOST PORT`.
    Operands,
}
