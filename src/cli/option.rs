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
    Process,
    Other,
}

impl Group {
    pub const ALL: [Group; 9] = [
        Group::Listening,
        Group::Rules,
        Group::Without,
        Group::Interception,
        Group::Upstream,
        Group::Proxies,
        Group::Limits,
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
