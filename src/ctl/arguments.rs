//! The command line of tproxyctl.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use getopts::{Matches, Options};

use crate::ctl::failure::CtlFailure;
use crate::ctl::subcommands;

/// An option of tproxyctl: letter, name, what its value is called, and what it does.
pub(crate) type CtlOption = (&'static str, &'static str, &'static str, &'static str);

pub(crate) const CTL_OPTIONS: &[CtlOption] = &[
    ("i", "instance", "NAME", "Ask the instance of /run/tproxy/NAME.sock."),
    ("S", "socket", "PATH", "Ask the instance with this socket."),
    ("", "json", "", "Print JSON, for programs."),
    ("h", "help", "", "Print this summary."),
    ("V", "version", "", "Print the version."),
];

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Help,
    Version,
    Command(CtlRequest),
}

/// A command for an instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CtlRequest {
    pub which: Which,
    pub json: bool,
    /// The words of the table.
    name: &'static str,
    /// The words as they were given.
    words: Vec<String>,
}

/// Which instance is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Which {
    TheOnly,
    Instance(String),
    Path(PathBuf),
}

impl CtlRequest {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// The line for the control socket.
    pub(super) fn line(&self) -> String {
        let json = if self.json { "json " } else { "" };
        format!("{json}{}\n", self.words.join(" "))
    }

    /// How long the daemon may take for a part of the answer; `None` for as long as it likes.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self.name {
            "health" => Some(Duration::from_secs(3)),
            // These end when they are done, and a stop or a reload may have to wait for much.
            "reload" | "upgrade" | "stop" | "redirection disable" | "redirection enable" => None,
            _ => Some(Duration::from_secs(10)),
        }
    }
}

pub(super) fn parse(words: Vec<OsString>) -> Result<Asked, CtlFailure> {
    let mut options = Options::new();
    for (short, long, value, _) in CTL_OPTIONS {
        if value.is_empty() {
            options.optflag(short, long, "");
        } else {
            options.optopt(short, long, "", "");
        }
    }
    // Of one command only.
    options.optopt("", "drain", "", "");
    let given = options.parse(words).map_err(|error| CtlFailure::Usage(error.to_string()))?;
    if given.opt_present("help") {
        return Ok(Asked::Help);
    }
    if given.opt_present("version") {
        return Ok(Asked::Version);
    }
    request(&given).map(Asked::Command).map_err(CtlFailure::Usage)
}

fn request(given: &Matches) -> Result<CtlRequest, String> {
    let mut words = given.free.clone();
    let name = subcommands::find(&words)?.words;
    // A line has its words between blanks, and there are no quotes in it.
    if let Some(word) = words.iter().find(|word| word.is_empty() || word.contains(|c: char| c <= ' ')) {
        return Err(format!("invalid word '{word}': expected no blank in it"));
    }
    if let Some(seconds) = given.opt_str("drain") {
        if name != "stop" {
            return Err("--drain goes with 'stop' only".to_owned());
        }
        if seconds.parse::<u32>().is_err() {
            return Err(format!("--drain: invalid value '{seconds}': expected a number of seconds"));
        }
        words.extend(["--drain".to_owned(), seconds]);
    }
    let json = given.opt_present("json");
    if json && name == "top" {
        return Err("--json does not go with 'top', which is for people".to_owned());
    }
    let which = match (given.opt_str("instance"), given.opt_str("socket")) {
        (Some(_), Some(_)) => return Err("-i and -S cannot both be given: each names an instance".to_owned()),
        (Some(name), None) => Which::Instance(name),
        (None, Some(path)) => Which::Path(path.into()),
        (None, None) => Which::TheOnly,
    };
    Ok(CtlRequest { which, json, name, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, CtlFailure> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    fn line(text: &str) -> String {
        match parsed(text) {
            Ok(Asked::Command(request)) => request.line(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn options_may_stand_anywhere() {
        assert_eq!(line("--json show summary"), "json show summary\n");
        assert_eq!(line("show summary --json -i web"), "json show summary\n");
        assert_eq!(line("stop --drain 5 -S /tmp/a.sock"), "stop --drain 5\n");
    }

    #[test]
    fn bad_command_lines_are_refused() {
        for text in ["-i", "-x", "-i a -S b health", "--drain 5 reload", "stop --drain soon", "--json top", "show"] {
            assert!(matches!(parsed(text), Err(CtlFailure::Usage(_))), "{text}");
        }
        assert!(parse(vec!["kill".into(), "1\nstop".into()]).is_err());
    }
}
