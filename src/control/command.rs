//! The commands of the control socket (docs/CONTROL.md).

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

use ipnet::IpNet;

use crate::control::filter::{self, ConnectionFilter, shown};
use crate::redirection::RedirectionId;
use crate::traffic::service::SAME;

/// Bytes of the longest command.
pub const LINE: usize = 1024;

/// The longest `HOST:PORT`: a name, brackets, an interface and a port.
pub(crate) const LONGEST_UPSTREAM: usize = 300;

/// What can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    Summary,
    Redirections,
    Upstreams,
    Connections(Box<ConnectionFilter>),
    Workers,
    Rules,
    Config,
}

/// What an administrator has said about an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamOrder {
    Enable,
    Disable,
    Drain,
}

impl UpstreamOrder {
    pub const ALL: [UpstreamOrder; 3] = [UpstreamOrder::Enable, UpstreamOrder::Disable, UpstreamOrder::Drain];

    /// The state of an upstream after it.
    pub(crate) fn state(self) -> &'static str {
        match self {
            UpstreamOrder::Enable => "enabled",
            UpstreamOrder::Disable => "disabled",
            UpstreamOrder::Drain => "draining",
        }
    }

    /// The order after which an upstream has this state.
    pub(crate) fn of_state(state: &str) -> Option<UpstreamOrder> {
        UpstreamOrder::ALL.into_iter().find(|order| order.state() == state)
    }
}

/// Which connections to reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victims {
    /// The number of a worker, and that of a connection there.
    Connection(u32, u64),
    Source(IpNet),
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlCommand {
    Show(View),
    Health,
    Monitor,
    Prompt,
    Quit,
    Help,
    Upstream(UpstreamOrder, String),
    Redirection(RedirectionId, bool),
    Kill(Victims),
    Reload,
    Reopen,
    Upgrade,
    /// For so many seconds, if that is said.
    Stop(Option<u32>),
    Verbose(bool),
}

impl ControlCommand {
    /// Only an administrator may use it.
    pub fn needs_administrator(&self) -> bool {
        !matches!(
            self,
            ControlCommand::Show(_)
                | ControlCommand::Health
                | ControlCommand::Monitor
                | ControlCommand::Prompt
                | ControlCommand::Quit
                | ControlCommand::Help
        )
    }
}

/// A line that was understood, or the sentence why not.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedLine {
    /// The answer is wanted as JSON.
    pub json: bool,
    pub command: Result<ControlCommand, String>,
}

/// Reads a line without its end. `None` for an empty one.
pub fn parse(line: &[u8]) -> Option<ParsedLine> {
    let Ok(text) = str::from_utf8(line) else {
        return Some(ParsedLine { json: false, command: Err("the command is no UTF-8 text".into()) });
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (json, words) = match words.as_slice() {
        [] => return None,
        ["json", rest @ ..] => (true, rest),
        all => (false, all),
    };
    Some(ParsedLine { json, command: command(words) })
}

fn command(words: &[&str]) -> Result<ControlCommand, String> {
    Ok(match words {
        [] => return Err("a command is missing; try 'help'".into()),
        ["show", rest @ ..] => ControlCommand::Show(view(rest, words)?),
        ["health"] => ControlCommand::Health,
        ["monitor"] => ControlCommand::Monitor,
        ["prompt"] => ControlCommand::Prompt,
        ["quit" | "exit"] => ControlCommand::Quit,
        ["help"] => ControlCommand::Help,
        ["upstream", "enable", host] => ControlCommand::Upstream(UpstreamOrder::Enable, upstream(host)?),
        ["upstream", "disable", host] => ControlCommand::Upstream(UpstreamOrder::Disable, upstream(host)?),
        ["upstream", "drain", host] => ControlCommand::Upstream(UpstreamOrder::Drain, upstream(host)?),
        ["upstream", ..] => return Err(expected(words, "upstream enable|disable|drain HOST:PORT")),
        ["redirection", "enable", number] => ControlCommand::Redirection(filter::redirection(number)?, true),
        ["redirection", "disable", number] => ControlCommand::Redirection(filter::redirection(number)?, false),
        ["redirection", ..] => return Err(expected(words, "redirection enable|disable NUMBER")),
        ["kill", "source", network] => ControlCommand::Kill(Victims::Source(filter::network(network)?)),
        ["kill", id] => ControlCommand::Kill(connection(id)?),
        ["kill", ..] => return Err(expected(words, "kill ID, or kill source ADDRESS")),
        ["reload"] => ControlCommand::Reload,
        ["reopen"] => ControlCommand::Reopen,
        ["upgrade"] => ControlCommand::Upgrade,
        ["stop"] => ControlCommand::Stop(None),
        ["stop", "--drain", seconds] => ControlCommand::Stop(Some(drain(seconds)?)),
        ["stop", ..] => return Err(expected(words, "stop [--drain SECONDS]")),
        ["verbose", "on"] => ControlCommand::Verbose(true),
        ["verbose", "off"] => ControlCommand::Verbose(false),
        ["verbose", ..] => return Err(expected(words, "verbose on|off")),
        [word @ ("health" | "monitor" | "prompt" | "quit" | "exit" | "help" | "reload" | "reopen" | "upgrade"), ..] => {
            return Err(expected(words, &format!("nothing after '{word}'")));
        }
        [other, ..] => return Err(format!("'{}': no such command; try 'help'", shown(other))),
    })
}

fn view(rest: &[&str], words: &[&str]) -> Result<View, String> {
    Ok(match rest {
        ["summary"] => View::Summary,
        ["redirections"] => View::Redirections,
        ["upstreams"] => View::Upstreams,
        ["connections", rest @ ..] => View::Connections(Box::new(ConnectionFilter::parse(rest)?)),
        ["workers"] => View::Workers,
        ["rules"] => View::Rules,
        ["config"] => View::Config,
        _ => {
            return Err(expected(words, "show summary|redirections|upstreams|connections|workers|rules|config"));
        }
    })
}

/// The sentence about words that are no command.
fn expected(words: &[&str], what: &str) -> String {
    format!("'{}': expected {what}", shown(&words.join(" ")))
}

fn upstream(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').map(|(_, port)| port);
    let good = port.is_some_and(|port| port == SAME || port.parse::<u16>().is_ok_and(|port| port != 0));
    let good = good && text.len() <= LONGEST_UPSTREAM && !text.contains(char::is_control);
    good.then(|| text.to_owned()).ok_or_else(|| format!("'{}': expected HOST:PORT", shown(text)))
}

fn connection(text: &str) -> Result<Victims, String> {
    let parts = text.strip_prefix('#').unwrap_or(text).split_once('-');
    let numbers = parts.and_then(|(worker, number)| Some((worker.parse().ok()?, number.parse().ok()?)));
    let (worker, number) =
        numbers.ok_or_else(|| format!("'{}': expected the ID of a connection, such as 2-17", shown(text)))?;
    Ok(Victims::Connection(worker, number))
}

fn drain(text: &str) -> Result<u32, String> {
    const LONGEST: u32 = 30 * 24 * 3600;
    let seconds = text.parse().ok().filter(|seconds| *seconds <= LONGEST);
    seconds.ok_or_else(|| format!("--drain: '{}': expected a number of seconds from 0 to {LONGEST}", shown(text)))
}

/// The answer to `help`.
pub(crate) const HELP: &str = "\
show summary | redirections | upstreams | workers | rules | config
show connections [client NET] [original NET] [upstream NET] [port PORT]
                 [redirection N] [worker N] [state STATE] [older SECONDS]
health, monitor
upstream enable | disable | drain HOST:PORT
redirection enable | disable N
kill ID, kill source ADDRESS
reload, reopen, upgrade, stop [--drain SECONDS]
verbose on | off
prompt, quit, help
json in front of a command: the answer as JSON
";

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(line: &str) -> ControlCommand {
        parse(line.as_bytes()).unwrap().command.unwrap()
    }

    #[test]
    fn every_command_is_understood() {
        assert_eq!(understood(" show  summary "), ControlCommand::Show(View::Summary));
        assert_eq!(understood("kill #2-17"), ControlCommand::Kill(Victims::Connection(2, 17)));
        assert_eq!(understood("kill 2-17"), understood("kill #2-17"));
        assert_eq!(understood("kill source 10.0.0.1"), understood("kill source 10.0.0.1/32"));
        assert_eq!(understood("kill source ::ffff:10.0.0.0/104"), understood("kill source 10.0.0.0/8"));
        assert_eq!(understood("redirection disable 2"), ControlCommand::Redirection(RedirectionId(1), false));
        assert_eq!(understood("stop --drain 0"), ControlCommand::Stop(Some(0)));
        let order = ControlCommand::Upstream(UpstreamOrder::Drain, "[fd00::1]:80".into());
        assert_eq!(understood("upstream drain [fd00::1]:80"), order);
        for word in ["health", "monitor", "prompt", "help", "reload", "reopen", "upgrade", "verbose off", "show config"]
        {
            assert!(
                parse(format!("json {word}").as_bytes()).is_some_and(|line| line.json && line.command.is_ok()),
                "{word}"
            );
        }
        let filter = "show connections client 10.0.0.0/8 original ::1 upstream 10.3.0.3 port 80 redirection 1 worker 2 state open older 60";
        assert!(matches!(understood(filter), ControlCommand::Show(View::Connections(_))));
    }

    #[test]
    fn what_is_no_command_is_one_sentence() {
        for line in [
            "show",
            "show cow",
            "cow\u{7}",
            "upstream disable cow",
            "upstream disable cow:0",
            "redirection disable 0",
            "redirection disable 65537",
            "kill",
            "kill 1",
            "kill source cow",
            "kill source 010.0.0.0/8",
            "stop --drain x",
            "stop now",
            "verbose",
            "json",
            "show connections client",
            "show connections state dead",
            "show connections cow 1",
            "show connections port 65536",
            "show connections state \u{1b}[1m",
            "upstream disable \u{1b}[1m:80",
            "kill source \u{1b}[1m",
            "reload now",
            "monitor json",
        ] {
            let error = parse(line.as_bytes()).unwrap().command.unwrap_err();
            assert!(!error.contains(char::is_control), "{line}: {error}");
            // It names what was given: the last word, or the one whose value that is.
            let words = line.split(' ').rev().take(2).map(|word| word.replace(char::is_control, "?"));
            assert!(line == "json" || words.into_iter().any(|word| error.contains(&word)), "{line}: {error}");
        }
        assert_eq!(parse(b"  "), None);
        assert!(parse(b"\xff").unwrap().command.is_err());
    }

    #[test]
    fn readers_may_look_and_change_nothing() {
        for line in ["show rules", "health", "monitor", "help"] {
            assert!(!understood(line).needs_administrator(), "{line}");
        }
        for line in [
            "kill 1-1",
            "reload",
            "reopen",
            "stop",
            "upgrade",
            "verbose on",
            "upstream enable a:1",
            "redirection enable 1",
        ] {
            assert!(understood(line).needs_administrator(), "{line}");
        }
    }
}
