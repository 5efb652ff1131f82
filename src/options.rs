//! The options, each declared once. The parser, `--help` and the OPTIONS section of the man page are made from this
//! table.

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
    /// What it does, in sentences.
    pub help: &'static str,
}

const fn flag(short: &'static str, long: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: None, many: false, help }
}

const fn one(short: &'static str, long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: Some(value), many: false, help }
}

const fn many(short: &'static str, long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: Some(value), many: true, help }
}

/// All options, in the order in which the documentation shows them.
pub const OPTIONS: &[Opt] = &[
    one("s", "listen", "PORT", "Listen on this TCP port, a number from 1 to 65535 or a name from services(5)."),
    one(
        "b",
        "bind",
        "ADDRESS",
        "Listen on this address of this host only. The default is all of them, IPv4 and IPv6; 0.0.0.0 leaves IPv6 out, :: leaves IPv4 out.",
    ),
    one(
        "r",
        "user",
        "USER",
        "Relay as this user, a name or #UID, with its primary group and no other. Needs root. The default is to stay who started it.",
    ),
    flag("d", "foreground", "Stay in the foreground and log to standard error."),
    many(
        "a",
        "allow",
        "SOURCE",
        "Serve clients from this address or network (CIDR) only. May be given more than once. Others are reset.",
    ),
    one(
        "l",
        "access-log",
        "FILE",
        "Append one line per connection to this file instead of the log. It is opened again on SIGHUP.",
    ),
    flag("t", "transparent", "Relay each connection to where it was going; HOST and PORT are not needed."),
    flag("p", "proxy-only", "Relay to HOST and PORT only. This is the default; of -t and -p the last one counts."),
    one("P", "pidfile", "FILE", "Write the process id of the daemon to this file, and remove it at the end."),
    many(
        "R",
        "redirect",
        "MATCH",
        "Install a firewall rule that redirects connections which match. May be given more than once. Needs root.",
    ),
    many(
        "X",
        "exempt",
        "MATCH",
        "Leave connections which match alone. -X and -R are matched in the order in which they are given.",
    ),
    flag(
        "O",
        "output",
        "Also redirect connections that this host itself makes, except those of the user given with -r.",
    ),
    one(
        "m",
        "max-connections",
        "NUMBER",
        "Serve at most this many connections at once. Further clients wait until one ends. The default is what the limit of open files allows.",
    ),
    flag("v", "verbose", "Log what is only of interest when something is being looked for."),
    one("", "syslog", "FACILITY", "Log to this facility of syslog(3). The default is daemon."),
    one(
        "",
        "fail",
        "open|closed",
        "When no worker can be kept alive: open takes the redirection away, so that clients reach whom they wanted to; closed rejects them. The default is open.",
    ),
    one(
        "",
        "connect-timeout",
        "SECONDS",
        "Try the next address of the upstream after this time without an answer. The default is 10.",
    ),
    one(
        "",
        "idle-timeout",
        "SECONDS",
        "Reset a connection on which no byte moved for this long. 0 is never. The default is 7440, the least that RFC 5382 allows and two minutes more than two hours.",
    ),
    one(
        "",
        "fin-timeout",
        "SECONDS",
        "Reset a connection of which one direction has ended and the other is silent for this long. 0 is never. The default is 300.",
    ),
    one(
        "",
        "drain",
        "SECONDS",
        "On SIGTERM let connections go on for this long before they are reset. The default is 30.",
    ),
    flag(
        "",
        "print-rules",
        "Print exactly what would be fed to iptables-restore and ip6tables-restore, and touch nothing.",
    ),
    flag("", "check", "Check the command line, resolve the names in it, print what would be done, and touch nothing."),
    flag(
        "",
        "flush",
        "Remove the rules that a tproxy on the port of -s has left in the firewall, or without -s those of all.",
    ),
    flag("h", "help", "Print this summary."),
    flag("V", "version", "Print the version."),
];

/// The lines of the synopsis.
const SYNOPSIS: &[&str] = &[
    "[options] -s PORT HOST PORT",
    "[options] -s PORT -t",
    "--check | --print-rules [options] -s PORT HOST PORT | -t",
    "--flush [-s PORT]",
];

/// Takes a command line apart, without the name of the program.
///
/// Errors: an option that is not known, twice where it may stand once, or without its value.
pub fn parse(arguments: &[String]) -> Result<Matches, Error> {
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
            Fail::UnrecognizedOption(name) if name == "f" => {
                "-f: replacing URLs is not done here; relay to a web server that serves the page, with HOST PORT".into()
            }
            Fail::UnrecognizedOption(name) => {
                format!("{}: no such option; `tproxy --help` lists them all", dashed(&name))
            }
            Fail::OptionMissing(name) => format!("{}: not given", dashed(&name)),
            Fail::OptionDuplicated(name) => format!("{}: given twice, once wanted", dashed(&name)),
            Fail::UnexpectedArgument(name) => format!("{}: a value given, none wanted", dashed(&name)),
        })
    })
}

fn dashed(name: &str) -> String {
    if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") }
}

/// The text of `--help`.
pub fn help() -> String {
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
    fn an_unknown_option_is_named() {
        let error = parse(&words("--nonsense")).unwrap_err().to_string();
        assert_eq!(error, "--nonsense: no such option; `tproxy --help` lists them all");
    }
}
