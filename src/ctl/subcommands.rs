//! The table of commands. The help, the manual page and the completions are made from it.

/// One command.
#[derive(Debug)]
pub(crate) struct Subcommand {
    pub words: &'static str,
    /// What has to follow, as the documentation names it; or empty.
    pub operands: &'static str,
    pub kind: CommandKind,
    /// One line.
    pub help: &'static str,
    /// Further sentences, for the manual page only.
    pub more: &'static str,
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Look,
    Change,
}

impl CommandKind {
    pub(crate) const ALL: [CommandKind; 2] = [CommandKind::Look, CommandKind::Change];

    /// The heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            CommandKind::Look => "Looking",
            CommandKind::Change => "Changing (administrators only)",
        }
    }
}

const fn look(words: &'static str, operands: &'static str, help: &'static str, more: &'static str) -> Subcommand {
    Subcommand { words, operands, kind: CommandKind::Look, help, more }
}

const fn change(words: &'static str, operands: &'static str, help: &'static str, more: &'static str) -> Subcommand {
    Subcommand { words, operands, kind: CommandKind::Change, help, more }
}

pub(crate) const SUBCOMMANDS: &[Subcommand] = &[
    look("show summary", "", "All of the instance in one look.", ""),
    look("show redirections", "", "Each redirection with its counters.", ""),
    look("show upstreams", "", "Each upstream: state, checks, times.", ""),
    look(
        "show connections",
        "[FILTER]",
        "Connections that are open now.",
        "FILTER is any number of pairs, all of which have to hold; see FILTERS.",
    ),
    look("show workers", "", "The worker processes.", ""),
    look(
        "show rules",
        "",
        "The rules, and whether they are in place.",
        "They are printed as --print-rules of tproxy(8) prints them, as they should be now.",
    ),
    look("show config", "", "The configuration at work.", ""),
    look(
        "health",
        "",
        "Whether new clients are served, as exit status.",
        "It ends with 0 if they are, and all rules are in place; with 1 if the instance drains or a redirection is \
         withdrawn; with 2 if there is no answer within 3 seconds.",
    ),
    look(
        "monitor",
        "",
        "Follow events: upstreams, rules, workers.",
        "It prints one line for each event as it happens, also for reloads, upgrades and changes of health, and ends with 2 when the instance ends. After an upgrade it goes on with another line 'monitor'.",
    ),
    look("top", "", "A live view of all this.", "See LIVE VIEW."),
    change(
        "upstream disable",
        "HOST:PORT",
        "No new connections to this upstream.",
        "It is not checked either. Established connections go on. HOST:PORT is written as in the configuration, an IPv6 address in brackets.",
    ),
    change(
        "upstream drain",
        "HOST:PORT",
        "The same, but it is still checked.",
        "monitor tells when its last connection has ended.",
    ),
    change("upstream enable", "HOST:PORT", "Take either back.", ""),
    change(
        "redirection disable",
        "N",
        "Remove the rules of redirection N.",
        "Its clients reach their original destination. Established connections go on.",
    ),
    change("redirection enable", "N", "Install them again.", ""),
    change("kill", "ID", "Reset one connection.", "ID is its number as in the log, with or without #."),
    change("kill source", "ADDRESS", "Reset all connections of a client (or network).", ""),
    change(
        "reload",
        "",
        "Read the configuration again; as SIGHUP.",
        "It ends when the new configuration serves, or with the error.",
    ),
    change("reopen", "", "Open the log files again, and nothing else.", "This is what logrotate(8) needs."),
    change(
        "upgrade",
        "",
        "Go on with the program that is on the disk now.",
        "It ends when the new program serves, or with the error.",
    ),
    change(
        "stop",
        "[--drain SECONDS]",
        "Stop; connections may go on for so long.",
        "The default is --drain of tproxy(8). It ends when the stop has begun.",
    ),
    change("verbose on", "", "Log debug messages.", "Until the next reload or verbose off."),
    change("verbose off", "", "Log no debug messages.", ""),
];

impl Subcommand {
    /// Whether these words begin with this command.
    fn begins(&self, words: &[String]) -> bool {
        let mut given = words.iter();
        self.words.split(' ').all(|word| given.next().is_some_and(|other| other == word))
    }

    fn length(&self) -> usize {
        self.words.split(' ').count()
    }

    fn takes(&self, count: usize) -> bool {
        match self.operands {
            "[FILTER]" => count.is_multiple_of(2),
            // The option is no operand.
            "" | "[--drain SECONDS]" => count == 0,
            _ => count == 1,
        }
    }
}

/// The command that these words are. The error is a sentence.
pub(crate) fn find(words: &[String]) -> Result<&'static Subcommand, String> {
    let given = words.join(" ");
    // The longest one: `kill source` is not `kill ID`.
    match SUBCOMMANDS.iter().filter(|it| it.begins(words)).max_by_key(|it| it.length()) {
        Some(found) if found.takes(words.len() - found.length()) => Ok(found),
        Some(found) if found.operands.is_empty() => {
            Err(format!("invalid command '{given}': expected nothing after '{}'", found.words))
        }
        Some(found) if found.operands == "[FILTER]" => {
            Err(format!("invalid command '{given}': expected pairs of a word and a value after '{}'", found.words))
        }
        Some(found) => Err(format!("invalid command '{given}': expected '{} {}'", found.words, found.operands)),
        None => Err(unknown(words)),
    }
}

fn unknown(words: &[String]) -> String {
    let first = words.first().map(String::as_str).unwrap_or_default();
    let second = |it: &Subcommand| Some(it.words.strip_prefix(first)?.strip_prefix(' ')?.to_owned());
    let mut wanted: Vec<String> = SUBCOMMANDS.iter().filter_map(second).collect();
    let after = if wanted.is_empty() { String::new() } else { format!(" after '{first}'") };
    if wanted.is_empty() {
        wanted = SUBCOMMANDS.iter().filter_map(|it| it.words.split(' ').next()).map(str::to_owned).collect();
        wanted.dedup();
    }
    match words {
        [] => format!("a command is missing: expected {}", crate::cli::parse::listed(&wanted)),
        _ => format!("invalid command '{}': expected {}{after}", words.join(" "), crate::cli::parse::listed(&wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: &str) -> Result<&'static str, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        find(&words).map(|found| found.words)
    }

    #[test]
    fn the_longest_command_is_meant() {
        assert_eq!(named("kill 1-2"), Ok("kill"));
        assert_eq!(named("kill source 10.0.0.1"), Ok("kill source"));
        assert_eq!(named("show connections client 10.0.0.1 port 80"), Ok("show connections"));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_expected() {
        for (line, said) in [
            ("", "a command is missing: expected show, health, "),
            ("shwo summary", "invalid command 'shwo summary': expected show, health, "),
            ("show sumary", "invalid command 'show sumary': expected summary, redirections, "),
            ("show summary now", "invalid command 'show summary now': expected nothing after 'show summary'"),
            ("upstream disable", "invalid command 'upstream disable': expected 'upstream disable HOST:PORT'"),
            ("show connections client", "invalid command 'show connections client': expected pairs of "),
        ] {
            let sentence = named(line).expect_err(line);
            assert!(sentence.starts_with(said), "{line}: {sentence}");
        }
    }
}
