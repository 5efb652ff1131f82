//! The table of options. The parser, the checks of what goes together, `--help`, the lists in the manual pages and the
//! completions for shells are made from it.

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
    Local,
    Kernel,
    Proto,
    Output,
    Verify,
    Fail,
    Transparent,
    ProxyOnly,
    Balance,
    Fallback,
    UpstreamGrace,
    Deny,
    ProxyProtocol,
    Via,
    ViaFallback,
    Sni,
    AuthFile,
    Forwarded,
    HostCheck,
    Page,
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
    Check,
    PrintRules,
    Flush,
    Help,
    Version,
}

use OptionId as Id;

impl OptionId {
    /// The entry in the table.
    pub fn opt(self) -> &'static Opt {
        // A test compares the order of both.
        &OPTIONS[self as usize]
    }
}

impl fmt::Display for OptionId {
    /// As the documentation names it: by the letter, if it has one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.opt() {
            Opt { short: "", long, .. } => write!(f, "--{long}"),
            Opt { short, .. } => write!(f, "-{short}"),
        }
    }
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
    Upstream,
    Proxies,
    Limits,
    Process,
    Other,
}

impl Group {
    pub const ALL: [Group; 7] =
        [Group::Listening, Group::Rules, Group::Upstream, Group::Proxies, Group::Limits, Group::Process, Group::Other];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Listening => "Listening",
            Group::Rules => "Rules",
            Group::Upstream => "Upstream",
            Group::Proxies => "Proxies",
            Group::Limits => "Limits",
            Group::Process => "Process",
            Group::Other => "Instead of running",
        }
    }

    /// Its options, in the order of the table.
    pub fn options(self) -> impl Iterator<Item = &'static Opt> {
        OPTIONS.iter().filter(move |opt| opt.group == self)
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

const VIA_HTTP: Term = Term::Is(Id::Via, "http");
const VIA_CONNECT: Term = Term::Is(Id::Via, "connect");
const VIA_SOCKS5: Term = Term::Is(Id::Via, "socks5");

const NEEDS_HTTP: &[Relation] = &[Relation::Needs(&[VIA_HTTP], "")];

const fn entry(id: OptionId, group: Group, scope: Scope) -> Opt {
    Opt {
        id,
        short: "",
        long: "",
        value: None,
        repeatable: false,
        group,
        scope,
        overrides: None,
        relay_only: false,
        goes_with: &[],
        help: "",
        more: "",
    }
}

/// Of one redirection.
const fn one(id: OptionId, group: Group) -> Opt {
    entry(id, group, Scope::Redirection)
}

/// Of one redirection that is relayed.
const fn relay(id: OptionId, group: Group) -> Opt {
    Opt { relay_only: true, ..one(id, group) }
}

const fn process(id: OptionId, group: Group) -> Opt {
    entry(id, group, Scope::Process)
}

const fn command(id: OptionId, group: Group) -> Opt {
    entry(id, group, Scope::Command)
}

const fn text(name: &'static str) -> Option<Value> {
    Some(Value::Text(name, &[]))
}

/// All options, in the order in which the documentation shows them.
pub const OPTIONS: &[Opt] = &[
    Opt {
        short: "s",
        long: "listen",
        value: text("PORT"),
        help: "Listen on this TCP port: a number from 1 to 65535, or a name from services(5).",
        more: "fd:NAME stands for the sockets that systemd passes under this name.",
        ..relay(Id::Listen, Group::Listening)
    },
    Opt {
        short: "b",
        long: "bind",
        value: text("ADDRESS"),
        goes_with: &[Relation::Needs(&[Term::Given(Id::Listen)], "")],
        help: "Listen on this address of this host only. The default is all addresses, IPv4 and IPv6.",
        more: "0.0.0.0 leaves IPv6 out, :: leaves IPv4 out.",
        ..relay(Id::Bind, Group::Listening)
    },
    Opt {
        short: "a",
        long: "allow",
        value: text("SOURCE"),
        repeatable: true,
        help: "Serve only clients from this address or network (CIDR), and reset others.",
        ..relay(Id::Allow, Group::Listening)
    },
    Opt {
        long: "only-redirected",
        goes_with: &[Relation::Excludes(&[Term::Given(Id::AcceptProxy)], "a balancer connects directly")],
        help: "Reset connections that were not redirected but come to the listening port directly.",
        ..relay(Id::OnlyRedirected, Group::Listening)
    },
    Opt {
        long: "accept-proxy",
        goes_with: &[Relation::Needs(&[Term::Given(Id::Allow)], "the balancers that may speak for clients")],
        help: "Expect a header of the PROXY protocol, version 1 or 2, at the start of each connection.",
        more: "It names the client and its original destination.",
        ..relay(Id::AcceptProxy, Group::Listening)
    },
    Opt {
        short: "R",
        long: "redirect",
        value: text("MATCH"),
        repeatable: true,
        help: "Redirect connections that match: what you would write between the chain name and -j for iptables. \
               Needs root.",
        ..one(Id::Redirect, Group::Rules)
    },
    Opt {
        short: "X",
        long: "exempt",
        value: text("MATCH"),
        repeatable: true,
        help: "Leave connections that match alone.",
        more: "-X, --reject and -R are tried in the order in which they are given.",
        ..one(Id::Exempt, Group::Rules)
    },
    Opt {
        long: "reject",
        value: text("MATCH"),
        repeatable: true,
        help: "Refuse connections that match with a reset, to this host and through it.",
        ..one(Id::Reject, Group::Rules)
    },
    Opt {
        long: "local",
        value: Some(Value::Text("PORT", &["same"])),
        goes_with: &[
            Relation::Needs(&[Term::Given(Id::Redirect)], ""),
            Relation::Excludes(&[Term::Given(Id::Kernel), Term::Operands], ""),
        ],
        help: "Redirect to this port of this host, or to the same port that the client asked for. Nothing is relayed.",
        ..one(Id::Local, Group::Rules)
    },
    Opt {
        long: "kernel",
        goes_with: &[Relation::Needs(&[Term::Given(Id::Redirect)], "")],
        help: "Let the kernel send connections to HOST PORT (DNAT and MASQUERADE). Nothing is relayed.",
        more: "Forwarding must be switched on.",
        ..one(Id::Kernel, Group::Rules)
    },
    Opt {
        long: "proto",
        value: Some(Value::OneOf(&["tcp", "udp"])),
        help: "Protocol of a MATCH that names none. The default is tcp.",
        more: "udp is for --local and --kernel.",
        ..one(Id::Proto, Group::Rules)
    },
    Opt {
        short: "O",
        long: "output",
        goes_with: &[Relation::Needs(
            &[Term::Given(Id::Redirect), Term::Given(Id::Exempt), Term::Given(Id::Reject)],
            "",
        )],
        help: "Apply the rules to this host's own connections too, except those of the user of -r.",
        ..one(Id::Output, Group::Rules)
    },
    Opt {
        long: "verify",
        value: text("SECONDS"),
        help: "Compare the rules in the firewall with the configuration this often, and repair them. 0 means never. \
               The default is 30.",
        ..process(Id::Verify, Group::Rules)
    },
    Opt {
        long: "fail",
        value: Some(Value::OneOf(&["open", "closed"])),
        help: "When no worker can be kept alive: open removes the redirection, so clients reach their original \
               destination; closed rejects them. The default is open.",
        ..process(Id::Fail, Group::Rules)
    },
    Opt {
        short: "t",
        long: "transparent",
        overrides: Some(Id::ProxyOnly),
        goes_with: &[Relation::Excludes(&[VIA_HTTP, VIA_CONNECT, VIA_SOCKS5], "give the proxy's HOST PORT instead")],
        help: "Relay each connection to its original destination. HOST PORT is not needed.",
        ..relay(Id::Transparent, Group::Upstream)
    },
    Opt {
        short: "p",
        long: "proxy-only",
        overrides: Some(Id::Transparent),
        help: "Relay to HOST PORT only. This is the default; of -t and -p the last one counts.",
        ..one(Id::ProxyOnly, Group::Upstream)
    },
    Opt {
        long: "balance",
        value: Some(Value::OneOf(&["first", "round-robin", "source"])),
        help: "Order in which several upstreams are tried: as given, each first in turn, or by the client's address. \
               The default is first.",
        ..relay(Id::Balance, Group::Upstream)
    },
    Opt {
        long: "fallback",
        help: "When no upstream can be reached, relay to the original destination.",
        more: "Then --via and --proxy-protocol are ignored.",
        ..relay(Id::Fallback, Group::Upstream)
    },
    Opt {
        long: "upstream-grace",
        value: text("SECONDS"),
        help: "When no upstream of a redirection can be reached for this long, do what --fail says until one answers. \
               0, the default, means never.",
        ..process(Id::UpstreamGrace, Group::Upstream)
    },
    Opt {
        long: "deny",
        value: text("NET"),
        repeatable: true,
        goes_with: &[Relation::Needs(
            &[Term::Given(Id::Transparent), Term::Given(Id::Fallback), VIA_HTTP, VIA_CONNECT, VIA_SOCKS5],
            "otherwise clients do not choose the destination",
        )],
        help: "Refuse connections whose original destination is in NET, directly or through a proxy.",
        more: "NET is an address or a network (CIDR). SECURITY CONSIDERATIONS lists what is always refused.",
        ..relay(Id::Deny, Group::Upstream)
    },
    Opt {
        long: "proxy-protocol",
        value: Some(Value::OneOf(&["v1", "v2"])),
        goes_with: &[Relation::Excludes(&[VIA_HTTP, VIA_CONNECT, VIA_SOCKS5], "")],
        help: "Send the client's address and its original destination to the upstream, in a header of the PROXY \
               protocol.",
        ..relay(Id::ProxyProtocol, Group::Upstream)
    },
    Opt {
        long: "via",
        value: Some(Value::OneOf(&["tcp", "http", "connect", "socks5"])),
        help: "Speak to HOST as the client would (tcp), as to an HTTP proxy (http), or ask a proxy to connect to the \
               original destination (connect, socks5). The default is tcp.",
        more: "http sends requests with absolute URLs.",
        ..relay(Id::Via, Group::Proxies)
    },
    Opt {
        long: "via-fallback",
        value: Some(Value::OneOf(&["connect"])),
        goes_with: NEEDS_HTTP,
        help: "Send what is not HTTP through the same proxy with CONNECT, instead of answering it with status 400.",
        ..relay(Id::ViaFallback, Group::Proxies)
    },
    Opt {
        long: "sni",
        goes_with: &[Relation::Needs(&[VIA_CONNECT, VIA_SOCKS5, Term::Given(Id::ViaFallback)], "")],
        help: "Ask the proxy for the name in the client's TLS ClientHello or Host header, not for the address.",
        more: "Without such a name it is asked for the address. This waits at most 0.2 seconds for the client's first bytes.",
        ..relay(Id::Sni, Group::Proxies)
    },
    Opt {
        long: "auth-file",
        value: Some(Value::File),
        goes_with: &[Relation::Needs(&[VIA_HTTP, VIA_CONNECT, VIA_SOCKS5], "")],
        help: "Take the proxy's user and password from this file: one line, USER:PASSWORD.",
        more: "Nobody but its owner may read or write the file. It is read at start and at a reload.",
        ..relay(Id::AuthFile, Group::Proxies)
    },
    Opt {
        long: "forwarded",
        value: Some(Value::OneOf(&["forwarded", "x-forwarded-for", "both"])),
        goes_with: NEEDS_HTTP,
        help: "Add the client's address to each request: Forwarded (RFC 7239), X-Forwarded-For, or both.",
        ..relay(Id::Forwarded, Group::Proxies)
    },
    Opt {
        long: "host-check",
        goes_with: NEEDS_HTTP,
        help: "Use the name in a Host header only if it resolves to the original destination.",
        more: "Otherwise the URL gets the address.",
        ..relay(Id::HostCheck, Group::Proxies)
    },
    Opt {
        short: "f",
        long: "page",
        value: text("URL"),
        goes_with: NEEDS_HTTP,
        help: "Send every request to URL, except requests whose Referer is URL.",
        ..relay(Id::Page, Group::Proxies)
    },
    Opt {
        short: "m",
        long: "max-connections",
        value: text("NUMBER"),
        help: "Serve at most this many connections at once; further clients wait. The default is what the limit of \
               open files allows.",
        more: "Each worker has an equal share.",
        ..process(Id::MaxConnections, Group::Limits)
    },
    Opt {
        long: "max-per-source",
        value: text("NUMBER"),
        help: "Serve at most this many connections at once from one source, and reset further ones.",
        more: "The default is no limit.",
        ..process(Id::MaxPerSource, Group::Limits)
    },
    Opt {
        long: "source-block",
        value: text("V4:V6"),
        help: "Prefix lengths (IPv4:IPv6) by which --max-per-source groups clients. The default is 32:64.",
        more: "A host usually has one IPv4 address, and a whole network of IPv6 addresses.",
        ..process(Id::SourceBlock, Group::Limits)
    },
    Opt {
        long: "connect-timeout",
        value: text("SECONDS"),
        help: "Try the next address of the upstream after this time without an answer. The default is 10.",
        ..relay(Id::ConnectTimeout, Group::Limits)
    },
    Opt {
        long: "handshake-timeout",
        value: text("SECONDS"),
        help: "Give up when a PROXY header, the head of a request or a proxy's answer takes longer. The default is 10.",
        ..relay(Id::HandshakeTimeout, Group::Limits)
    },
    Opt {
        long: "idle-timeout",
        value: text("SECONDS"),
        help: "Reset a connection on which no byte moved for this long. 0 means never. The default is 7440.",
        more: "These 2 hours and 4 minutes are the least that RFC 5382 allows.",
        ..relay(Id::IdleTimeout, Group::Limits)
    },
    Opt {
        long: "fin-timeout",
        value: text("SECONDS"),
        help: "Reset a connection when one direction has ended and the other is silent for this long. 0 means never. \
               The default is 300.",
        ..relay(Id::FinTimeout, Group::Limits)
    },
    Opt {
        short: "c",
        long: "config",
        value: Some(Value::File),
        help: "Read redirections from this file, one on each line; see tproxy.conf(5).",
        ..command(Id::Config, Group::Process)
    },
    Opt {
        short: "r",
        long: "user",
        value: text("USER"),
        help: "Relay as this user: a name or #UID. Needs root. The default is the user who starts tproxy.",
        more: "The processes have the primary group of this user and no other.",
        ..process(Id::User, Group::Process)
    },
    Opt {
        short: "d",
        long: "foreground",
        help: "Stay in the foreground and log to standard error.",
        ..command(Id::Foreground, Group::Process)
    },
    Opt {
        short: "w",
        long: "workers",
        value: Some(Value::Text("NUMBER", &["auto"])),
        help: "Start this many workers; auto means one per processor. The default is 1.",
        more: "Each has its own listening sockets.",
        ..process(Id::Workers, Group::Process)
    },
    Opt {
        short: "l",
        long: "access-log",
        value: Some(Value::File),
        help: "Append one line per connection to this file instead of the log.",
        more: "SIGHUP opens it again.",
        ..process(Id::AccessLog, Group::Process)
    },
    Opt {
        long: "syslog",
        value: text("FACILITY"),
        help: "Log to this facility of syslog(3). The default is daemon.",
        ..process(Id::Syslog, Group::Process)
    },
    Opt { short: "v", long: "verbose", help: "Log debug messages.", ..process(Id::Verbose, Group::Process) },
    Opt {
        short: "P",
        long: "pidfile",
        value: Some(Value::File),
        help: "Write the process id of the daemon to this file, and remove the file at the end.",
        ..process(Id::PidFile, Group::Process)
    },
    Opt {
        long: "drain",
        value: text("SECONDS"),
        help: "On SIGTERM, let connections go on for this long before they are reset. The default is 30.",
        ..process(Id::Drain, Group::Process)
    },
    Opt {
        long: "check",
        help: "Check the command line and the file of -c, resolve the names, print what would be done, and change \
               nothing.",
        ..command(Id::Check, Group::Other)
    },
    Opt {
        long: "print-rules",
        help: "Print exactly what iptables-restore and ip6tables-restore would be given, and change nothing.",
        ..command(Id::PrintRules, Group::Other)
    },
    Opt {
        long: "flush",
        help: "Remove the rules that tproxy has left in the firewall: those for the port of -s, those for the file of \
               -c, or all.",
        ..command(Id::Flush, Group::Other)
    },
    Opt { short: "h", long: "help", help: "Print this summary.", ..command(Id::Help, Group::Other) },
    Opt { short: "V", long: "version", help: "Print the version.", ..command(Id::Version, Group::Other) },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_at_the_place_of_its_id() {
        for (place, opt) in OPTIONS.iter().enumerate() {
            assert_eq!((opt.id as usize, opt.id.opt().long), (place, opt.long));
        }
        assert_eq!(OPTIONS.len(), Id::Version as usize + 1);
    }

    #[test]
    fn every_long_and_short_name_stands_once() {
        let mut names: Vec<&str> = OPTIONS.iter().flat_map(|opt| [opt.short, opt.long]).collect();
        names.retain(|name| !name.is_empty());
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_relation_names_values_that_exist() {
        for opt in OPTIONS {
            for Relation::Needs(terms, _) | Relation::Excludes(terms, _) in opt.goes_with {
                for term in *terms {
                    let Term::Is(id, value) = term else { continue };
                    assert!(
                        id.opt().value.is_some_and(|known| known.names().contains(value)),
                        "{}: {term:?}",
                        opt.long
                    );
                }
            }
        }
    }

    #[test]
    fn options_of_a_group_stand_together() {
        let mut groups: Vec<Group> = OPTIONS.iter().map(|opt| opt.group).collect();
        groups.dedup();
        assert_eq!(groups, Group::ALL);
    }
}
