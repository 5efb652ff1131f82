//! The texts about the options: `--help`, and the lists in the manual pages.

use crate::cli::option::{Group, Opt, Relation, Scope};
use crate::cli::options::OPTIONS;
use crate::cli::relations;

/// The lines of the synopsis.
const SYNOPSIS: &[&str] = &[
    "[options] -s PORT HOST PORT|same [HOST PORT|same ...]",
    "[options] -s PORT -t",
    "[options] --local PORT|same -R MATCH",
    "[options] --kernel -R MATCH HOST PORT|same",
    "[options] -c FILE",
    "[options] HOST PORT|same         (a socket from inetd or systemd)",
    "--check | --print-rules ...",
    "--flush [-s PORT | -c FILE]",
];

/// The width of a terminal, and the column at which the text about an option begins.
const WIDTH: usize = 79;
const COLUMN: usize = 27;

fn options(group: Group) -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().filter(move |opt| opt.group == group)
}

/// The text of `--help`. Each group fits on a screen of 24 lines.
pub(crate) fn help() -> String {
    let mut text = String::new();
    for (number, line) in SYNOPSIS.iter().enumerate() {
        text += if number == 0 { "usage: " } else { "       " };
        text += &format!("tproxy {line}\n");
    }
    text += "\nRelays TCP connections that the kernel redirected to a local port to another\nhost and port.\n";
    for group in Group::ALL {
        text += &format!("\n{}:\n", group.title());
        options(group).for_each(|opt| text += &help_of(opt));
    }
    text
}

fn help_of(opt: &Opt) -> String {
    let letter = if opt.short.is_empty() { "    ".to_owned() } else { format!("-{}, ", opt.short) };
    let value = opt.value.map(|value| format!(" {}", value.names().join("|"))).unwrap_or_default();
    let mut text = format!("  {letter}--{}{value}", opt.long);
    let mut lines = wrap(&sentences(opt), WIDTH - COLUMN).into_iter();
    if text.len() + 2 <= COLUMN
        && let Some(first) = lines.next()
    {
        text = format!("{text:COLUMN$}{first}");
    }
    text.push('\n');
    lines.for_each(|line| text += &format!("{:COLUMN$}{line}\n", ""));
    text
}

/// What an option does and needs.
fn sentences(opt: &Opt) -> String {
    let mut text = opt.help.to_owned();
    for relation in opt.goes_with {
        if let Relation::Needs(terms, _) = relation {
            text += &format!(" Needs {}.", relations::text(terms));
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

/// The list of options in tproxy(8), in mdoc(7).
pub(crate) fn manual_options() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        text += &format!(".Ss {}\n.Bl -tag -width Ds\n", group.title());
        options(group).for_each(|opt| text += &manual_option(opt));
        text += ".El\n";
        if group == Group::Without {
            text += &escaped(&format!(
                ".Pp\nWith --local and --kernel nothing is relayed.\nThey cannot be used with {}.\n",
                listed_relay_only()
            ));
        }
    }
    text
}

fn manual_option(opt: &Opt) -> String {
    let letter = if opt.short.is_empty() { String::new() } else { format!("Fl {} , ", opt.short) };
    let value = opt.value.map(|value| format!(" Ar {}", value.names().join(" | "))).unwrap_or_default();
    let mut about = vec![opt.help.to_owned()];
    if opt.repeatable {
        about.push("May be given more than once.".to_owned());
    }
    if !opt.more.is_empty() {
        about.push(opt.more.to_owned());
    }
    for relation in opt.goes_with {
        let (verb, terms, why) = match relation {
            Relation::Needs(terms, why) => ("Needs", terms, why),
            Relation::Excludes(terms, why) => ("Cannot be used with", terms, why),
        };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        about.push(format!("{verb} {}{why}.", relations::text(terms)));
    }
    format!(".It {letter}Fl -{}{value}\n{}\n", opt.long, escaped(&about.join(" ").replace(". ", ".\n")))
}

fn listed_relay_only() -> String {
    let names: Vec<String> = OPTIONS.iter().filter(|opt| opt.relay_only).map(|opt| opt.to_string()).collect();
    crate::cli::parse::listed(&names)
}

fn escaped(text: &str) -> String {
    text.replace('-', "\\-")
}

/// The sentences of tproxy.conf(5) about where options may stand.
pub(crate) fn manual_scopes() -> String {
    let list = |scope| {
        let of_scope = OPTIONS.iter().filter(|opt| opt.scope == scope);
        let names: Vec<String> = of_scope
            .map(|opt| if opt.short.is_empty() { format!("-{}", opt.long) } else { opt.short.to_owned() })
            .collect();
        format!(".Fl {} .\n", names.join(" , "))
    };
    format!(
        "Options for the whole process go on lines of their own.\nThese are\n{}The same option on the command line, next \
         to\n.Fl c ,\ntakes precedence.\n.Pp\nSome options are allowed on the command line only:\n{}",
        list(Scope::Process),
        list(Scope::Command)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_of_the_help_fits_on_a_screen() {
        let text = help();
        assert_eq!(text.split("\n\n").count(), 2 + Group::ALL.len());
        for group in text.split("\n\n") {
            assert!(group.lines().count() <= 24, "{} lines: {group}", group.lines().count());
            assert!(group.lines().all(|line| line.len() < 80), "{group}");
        }
    }
}
