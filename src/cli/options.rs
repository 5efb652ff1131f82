//! The options, each declared once. The parser, `--help` and the OPTIONS section of the man page are made from this
//! table.

use std::path::PathBuf;

use getopts::{HasArg, Matches, Occur, Options};

use crate::error::Error;

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// The letter, or empty.
    pub short: &'static str,
    /// The long name.
    pub long: &'static str,
    /// What its value is called, if it takes one.
    pub value: Option<&'static str>,
    /// Whether it may be given more than once.
    pub many: bool,
    /// What it is about.
    pub scope: Scope,
    /// What it does, in sentences.
    pub help: &'static str,
}

/// What an option is about, which decides where it may stand in a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One redirection.
    Redirection,
    /// The whole process.
    Process,
    /// What to do at all: the command line only.
    Command,
}

const fn flag(scope: Scope, short: &'static str, long: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: None, many: false, scope, help }
}

const fn one(scope: Scope, short: &'static str, long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: Some(value), many: false, scope, help }
}

const fn many(scope: Scope, short: &'static str, long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: Some(value), many: true, scope, help }
}

/// All options, in the order in which the documentation shows them.
pub const OPTIONS: &[Opt] = &[
    one(
        Scope::Redirection,
        "s",
        "listen",
        "PORT",
        "Listen on this TCP port, a number from 1 to 65535 or a name from services(5).",
    ),
    one(
        Scope::Redirection,
        "b",
        "bind",
        "ADDRESS",
        "Listen on this address of this host only. The default is all of them, IPv4 and IPv6; 0.0.0.0 leaves IPv6 out, :: leaves IPv4 out.",
    ),
    one(
        Scope::Process,
        "r",
        "user",
        "USER",
        "Relay as this user, a name or #UID, with its primary group and no other. Needs root. The default is to stay who started it.",
    ),
    flag(Scope::Command, "d", "foreground", "Stay in the foreground and log to standard error."),
    many(
        Scope::Redirection,
        "a",
        "allow",
        "SOURCE",
        "Serve clients from this address or network (CIDR) only. May be given more than once. Others are reset.",
    ),
    flag(
        Scope::Redirection,
        "",
        "only-redirected",
        "Reset connections that were not redirected and come to the listening port directly.",
    ),
    many(
        Scope::Redirection,
        "",
        "deny",
        "NET",
        "Never relay to this address or network (CIDR) because a client was going there, nor ask a proxy for it. May be given more than once; see SECURITY CONSIDERATIONS for what is never connected to anyway.",
    ),
    one(
        Scope::Process,
        "l",
        "access-log",
        "FILE",
        "Append one line per connection to this file instead of the log. It is opened again on SIGHUP.",
    ),
    one(
        Scope::Command,
        "c",
        "config",
        "FILE",
        "Read redirections from this file, each line of it a command line; see tproxy.conf(5).",
    ),
    flag(
        Scope::Redirection,
        "t",
        "transparent",
        "Relay each connection to where it was going; HOST and PORT are not needed.",
    ),
    flag(
        Scope::Redirection,
        "p",
        "proxy-only",
        "Relay to HOST and PORT only. This is the default; of -t and -p the last one counts.",
    ),
    one(
        Scope::Process,
        "P",
        "pidfile",
        "FILE",
        "Write the process id of the daemon to this file, and remove it at the end.",
    ),
    many(
        Scope::Redirection,
        "R",
        "redirect",
        "MATCH",
        "Install a firewall rule that redirects connections which match. May be given more than once. Needs root.",
    ),
    many(
        Scope::Redirection,
        "X",
        "exempt",
        "MATCH",
        "Leave connections which match alone. -X, --reject and -R are matched in the order in which they are given.",
    ),
    many(
        Scope::Redirection,
        "",
        "reject",
        "MATCH",
        "Refuse connections which match at once, with a reset, to this host and through it. May be given more than once.",
    ),
    one(
        Scope::Redirection,
        "",
        "local",
        "PORT|same",
        "Redirect to a service of this host on this port, or on the port that was asked for, and relay nothing.",
    ),
    flag(
        Scope::Redirection,
        "",
        "kernel",
        "Let the kernel send connections to HOST and PORT (DNAT and MASQUERADE), and relay nothing. Needs forwarding to be switched on.",
    ),
    one(
        Scope::Redirection,
        "",
        "proto",
        "tcp|udp",
        "The protocol of a MATCH that names none. udp is for --local and --kernel. The default is tcp.",
    ),
    flag(
        Scope::Redirection,
        "O",
        "output",
        "Also redirect connections that this host itself makes, except those of the user given with -r.",
    ),
    one(
        Scope::Process,
        "m",
        "max-connections",
        "NUMBER",
        "Serve at most this many connections at once. Further clients wait until one ends. The default is what the limit of open files allows. Each worker has an equal share.",
    ),
    one(
        Scope::Process,
        "",
        "max-per-source",
        "NUMBER",
        "Serve at most this many connections at once from one source. Further ones from there are reset. The default is no such limit.",
    ),
    one(
        Scope::Process,
        "",
        "source-block",
        "V4:V6",
        "What is one source to --max-per-source: addresses that have so many bits in common, of IPv4 and of IPv6. The default is 32:64, as a host has one address of IPv4 and a whole network of IPv6.",
    ),
    one(
        Scope::Process,
        "w",
        "workers",
        "NUMBER|auto",
        "Start this many worker processes, each with its own listening sockets; auto is one per processor. The default is 1.",
    ),
    flag(Scope::Process, "v", "verbose", "Log what is only of interest when something is being looked for."),
    one(Scope::Process, "", "syslog", "FACILITY", "Log to this facility of syslog(3). The default is daemon."),
    one(
        Scope::Process,
        "",
        "fail",
        "open|closed",
        "When no worker can be kept alive: open takes the redirection away, so that clients reach whom they wanted to; closed rejects them. The default is open.",
    ),
    one(
        Scope::Process,
        "",
        "upstream-grace",
        "SECONDS",
        "When no upstream of a redirection can be reached for this long, do what --fail says until one answers again. 0, the default, is never.",
    ),
    one(
        Scope::Process,
        "",
        "verify",
        "SECONDS",
        "Compare the rules in the firewall with what they should be this often, and put back what is missing or out of place. 0 is never. The default is 30.",
    ),
    one(
        Scope::Redirection,
        "",
        "balance",
        "first|round-robin|source",
        "With several upstreams: try the first in order, each in turn, or the same one for the same client address. The default is first.",
    ),
    flag(
        Scope::Redirection,
        "",
        "fallback",
        "When no upstream can be reached, relay to where the client was going, as if there were no --via and no --proxy-protocol.",
    ),
    one(
        Scope::Redirection,
        "",
        "via",
        "tcp|http|connect|socks5",
        "How HOST is spoken to: tcp as the client would; http as to an HTTP proxy, with requests in absolute form; connect and socks5 as to a proxy that is asked to connect to where the client was going. The default is tcp.",
    ),
    one(
        Scope::Redirection,
        "",
        "via-fallback",
        "connect",
        "With --via http: what is not HTTP goes through the same proxy with CONNECT. The default is to answer it with status 400.",
    ),
    flag(
        Scope::Redirection,
        "",
        "sni",
        "Ask the proxy for the name in the client's TLS ClientHello or Host header, if there is one, and not for the address. This waits at most 0.2 seconds for the first bytes of the client.",
    ),
    one(
        Scope::Redirection,
        "",
        "auth-file",
        "FILE",
        "Show the proxy the name and password in this file, which holds one line, USER:PASSWORD, and which nobody but its owner may read or write. It is read at start and at a reload.",
    ),
    one(
        Scope::Redirection,
        "",
        "forwarded",
        "forwarded|x-forwarded-for|both",
        "With --via http: add the client's address to each request, as Forwarded (RFC 7239), as X-Forwarded-For, or as both.",
    ),
    flag(
        Scope::Redirection,
        "",
        "host-check",
        "With --via http: believe a Host header only when its name has the address that the client was going to; if not, that address stands in the URL.",
    ),
    one(
        Scope::Redirection,
        "f",
        "page",
        "URL",
        "With --via http: every request is for this URL, except those whose Referer it is.",
    ),
    one(
        Scope::Redirection,
        "",
        "proxy-protocol",
        "v1|v2",
        "Before the payload, tell HOST the client's address and where it was going in a header of the PROXY protocol.",
    ),
    flag(
        Scope::Redirection,
        "",
        "accept-proxy",
        "Connections begin with a header of the PROXY protocol, version 1 or 2, which says who the client is and where it was going. Needs -a, which says who may speak for others.",
    ),
    one(
        Scope::Redirection,
        "",
        "connect-timeout",
        "SECONDS",
        "Try the next address of the upstream after this time without an answer. The default is 10.",
    ),
    one(
        Scope::Redirection,
        "",
        "handshake-timeout",
        "SECONDS",
        "Give up when the client's PROXY header, the head of a request or the proxy's answer is not complete after this time. The default is 10.",
    ),
    one(
        Scope::Redirection,
        "",
        "idle-timeout",
        "SECONDS",
        "Reset a connection on which no byte moved for this long. 0 is never. The default is 7440, the least that RFC 5382 allows and two minutes more than two hours.",
    ),
    one(
        Scope::Redirection,
        "",
        "fin-timeout",
        "SECONDS",
        "Reset a connection of which one direction has ended and the other is silent for this long. 0 is never. The default is 300.",
    ),
    one(
        Scope::Process,
        "",
        "drain",
        "SECONDS",
        "On SIGTERM let connections go on for this long before they are reset. The default is 30.",
    ),
    flag(
        Scope::Command,
        "",
        "print-rules",
        "Print exactly what would be fed to iptables-restore and ip6tables-restore, and touch nothing.",
    ),
    flag(
        Scope::Command,
        "",
        "check",
        "Check the command line, resolve the names in it, print what would be done, and touch nothing.",
    ),
    flag(
        Scope::Command,
        "",
        "flush",
        "Remove the rules that a tproxy on the port of -s has left in the firewall, or without -s those of all.",
    ),
    flag(Scope::Command, "h", "help", "Print this summary."),
    flag(Scope::Command, "V", "version", "Print the version."),
];

/// The lines of the synopsis.
const SYNOPSIS: &[&str] = &[
    "[options] -s PORT HOST PORT [HOST PORT ...]",
    "[options] -s PORT -t",
    "[options] --local PORT|same -R MATCH",
    "[options] --kernel -R MATCH HOST PORT",
    "[options] -c FILE",
    "[options] HOST PORT                 (a socket from inetd or systemd)",
    "--check | --print-rules ...",
    "--flush [-s PORT | -c FILE]",
];

/// Takes a command line apart, without the name of the program.
///
/// Errors: an option that is not known, twice where it may stand once, or without its value.
pub(crate) fn parse(arguments: &[String]) -> Result<Matches, Error> {
    let mut options = Options::new();
    for opt in OPTIONS {
        let has_value = if opt.value.is_some() { HasArg::Yes } else { HasArg::No };
        // A flag that is said twice means what it means.
        let occurs = if opt.many || opt.value.is_none() { Occur::Multi } else { Occur::Optional };
        options.opt(opt.short, opt.long, "", "", has_value, occurs);
    }
    options.parse(arguments).map_err(|fail| {
        use getopts::Fail;
        Error::Usage(match fail {
            Fail::ArgumentMissing(name) => format!("{}: nothing given, a value wanted", dashed(&name)),
            Fail::UnrecognizedOption(name) => {
                format!("{}: no such option; `tproxy --help` lists them all", dashed(&name))
            }
            Fail::OptionMissing(name) => format!("{}: not given", dashed(&name)),
            Fail::OptionDuplicated(name) => format!("{}: given twice, once wanted", dashed(&name)),
            Fail::UnexpectedArgument(name) => format!("{}: a value given, none wanted", dashed(&name)),
        })
    })
}

/// A command line that says what the first of `lines` that says it says, for the options of one scope.
pub(crate) fn merge(lines: &[Matches], scope: Scope) -> Vec<String> {
    let said = |opt: &Opt| {
        let line = lines.iter().find(|line| line.opt_present(opt.long))?;
        Some(match line.opt_str(opt.long) {
            Some(value) => format!("--{}={value}", opt.long),
            None => format!("--{}", opt.long),
        })
    };
    OPTIONS.iter().filter(|opt| opt.scope == scope).filter_map(said).collect()
}

/// The same command line in long names and in the same order, with its files where `place` says: the daemon reads it
/// again when it has left the directory in which it was typed.
pub(crate) fn placed(matches: &Matches, place: impl Fn(&str) -> PathBuf) -> Vec<String> {
    let mut said: Vec<(usize, String)> = Vec::new();
    for Opt { long, value: kind, .. } in OPTIONS {
        let value = |value: String| match *kind {
            Some("FILE") if !value.is_empty() => place(&value).display().to_string(),
            _ => value,
        };
        let with = matches.opt_strs_pos(long).into_iter().map(|(at, text)| (at, format!("--{long}={}", value(text))));
        said.extend(with);
        if kind.is_none() {
            said.extend(matches.opt_positions(long).into_iter().map(|at| (at, format!("--{long}"))));
        }
    }
    said.sort_by_key(|(at, _)| *at);
    let options = said.into_iter().map(|(_, words)| words);
    options.chain(["--".to_owned()]).chain(matches.free.iter().cloned()).collect()
}

fn dashed(name: &str) -> String {
    if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") }
}

/// The text of `--help`.
pub(crate) fn help() -> String {
    let mut text = String::new();
    for (number, line) in SYNOPSIS.iter().enumerate() {
        text += if number == 0 { "usage: " } else { "       " };
        text += &format!("tproxy {line}\n");
    }
    text += "\nRelays TCP connections which the kernel redirected to a local port to another host and port.\n\n";
    for opt in OPTIONS {
        let letter = if opt.short.is_empty() { "    ".to_owned() } else { format!("-{}, ", opt.short) };
        let value = opt.value.map(|value| format!(" {value}")).unwrap_or_default();
        text += &format!("  {letter}--{}{value}\n", opt.long);
        for line in wrap(opt.help, 100) {
            text += &format!("        {line}\n");
        }
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The OPTIONS list of the man page, in mdoc(7).
pub fn man_fragment() -> String {
    let mut text = String::from(".Bl -tag -width Ds\n");
    for opt in OPTIONS {
        let letter = if opt.short.is_empty() { String::new() } else { format!("Fl {} , ", opt.short) };
        let value = opt.value.map(|value| format!(" Ar {}", value.replace('|', " | "))).unwrap_or_default();
        text += &format!(".It {letter}Fl -{}{value}\n", opt.long);
        text += &format!("{}\n", opt.help.replace(". ", ".\n").replace('-', "\\-"));
    }
    text += ".El\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        shell_words::split(line).unwrap()
    }

    #[test]
    fn a_value_may_begin_with_a_dash_and_keeps_its_place() {
        let matches = parse(&words("-X '-s 10.0.0.1' cow -R '-d moose' 80 -s 81")).unwrap();
        let (redirect, exempt) = (matches.opt_strs_pos("redirect"), matches.opt_strs_pos("exempt"));
        assert_eq!(redirect[0].1, "-d moose");
        assert_eq!(exempt[0].1, "-s 10.0.0.1");
        assert!(exempt[0].0 < redirect[0].0);
        assert_eq!(matches.free, ["cow", "80"]);
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
    fn a_command_line_that_is_said_again_means_the_same_in_another_directory() {
        let line = "-dX '-s 10.0.0.1' -l log cow -R'-d moose' -pP /run/pid -t 80 -c '' -- -4";
        let matches = parse(&words(line)).unwrap();
        let again = placed(&matches, |file| std::path::Path::new("/home").join(file));
        let wanted = "--foreground '--exempt=-s 10.0.0.1' --access-log=/home/log '--redirect=-d moose' --proxy-only \
                      --pidfile=/run/pid --transparent --config= -- cow 80 -4";
        assert_eq!(again, words(wanted));
        let (first, second) = (matches, parse(&again).unwrap());
        assert_eq!(first.free, second.free);
        assert!(second.opt_positions("transparent") > second.opt_positions("proxy-only"));
        assert!(second.opt_positions("exempt") < second.opt_positions("redirect"));
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = parse(&words("--nonsense")).unwrap_err().to_string();
        assert_eq!(error, "--nonsense: no such option; `tproxy --help` lists them all");
    }
}
