//! The texts about the commands: `--help`, and the lists in the manual page.

use crate::ctl::arguments::CTL_OPTIONS;
use crate::ctl::subcommands::{CommandKind, SUBCOMMANDS, Subcommand};

/// The column at which the text about a command begins.
const COLUMN: usize = 30;

fn commands(kind: CommandKind) -> impl Iterator<Item = &'static Subcommand> {
    SUBCOMMANDS.iter().filter(move |it| it.kind == kind)
}

/// The text of `--help`.
pub(super) fn help() -> String {
    let mut text = "usage: tproxyctl [-i NAME | -S PATH] [--json] COMMAND\n\n\
                    Shows what a running tproxy does, and steers it. Without -i and -S it asks the\n\
                    only instance that runs.\n"
        .to_owned();
    for kind in CommandKind::ALL {
        text += &format!("\n{}:\n", kind.title());
        for command in commands(kind) {
            text += &line(&format!("{} {}", command.words, command.operands), command.help);
        }
    }
    text += "\nOptions:\n";
    for (short, long, value, help) in CTL_OPTIONS {
        let letter = if short.is_empty() { "    ".to_owned() } else { format!("-{short}, ") };
        text += &line(&format!("{letter}--{long} {value}"), help);
    }
    text + "\nThe exit status is 0 if it was done, 1 if not, 2 if no tproxy answers, and 64\nfor a bad command line.\n"
}

fn line(names: &str, help: &str) -> String {
    format!("  {names:width$}{help}\n", width = COLUMN - 2)
}

/// The list of commands in tproxyctl(8), in mdoc(7).
pub(super) fn manual_commands() -> String {
    let mut text = String::new();
    for kind in CommandKind::ALL {
        text += &format!(".Ss {}\n.Bl -tag -width Ds\n", kind.title());
        for command in commands(kind) {
            let operands: String = command.operands.split(' ').map(operand).collect();
            let words = command.words.replace(' ', " Cm ");
            let about = format!("{} {}", command.help, command.more);
            text += &format!(".It Cm {words}{operands}\n{}\n", escaped(&about.trim_end().replace(". ", ".\n")));
        }
        text += ".El\n";
    }
    text + &manual_options()
}

fn operand(word: &str) -> String {
    match word {
        "" => String::new(),
        "[FILTER]" => " Op Ar FILTER".to_owned(),
        "[--drain" => " Op Fl -drain".to_owned(),
        _ => format!(" Ar {}", word.trim_end_matches(']')),
    }
}

fn manual_options() -> String {
    let mut text = ".Ss Options\n.Bl -tag -width Ds\n".to_owned();
    for (short, long, value, help) in CTL_OPTIONS {
        let letter = if short.is_empty() { String::new() } else { format!("Fl {short} , ") };
        let value = if value.is_empty() { String::new() } else { format!(" Ar {value}") };
        text += &format!(".It {letter}Fl -{long}{value}\n{}\n", escaped(help));
    }
    text + ".El\n"
}

fn escaped(text: &str) -> String {
    text.replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_part_of_the_help_fits_on_a_screen() {
        for part in super::help().split("\n\n") {
            assert!(part.lines().count() <= 24, "{part}");
            assert!(part.lines().all(|line| line.len() < 80), "{part}");
        }
    }
}
