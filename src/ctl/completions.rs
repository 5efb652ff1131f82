//! The completions of tproxyctl for bash, zsh and fish.

use std::collections::BTreeMap;

use crate::ctl::arguments::CTL_OPTIONS;
use crate::ctl::subcommands::SUBCOMMANDS;

/// The first line of each file.
const HEAD: &str = "completion for tproxyctl: made from src/ctl/subcommands.rs by `make man`, do not edit";

/// The pairs of a FILTER.
const FILTERS: &str = "client original upstream port redirection worker state older";

/// What may follow as the next word, by the words before it.
fn followers() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for command in SUBCOMMANDS {
        let (first, second) = command.words.split_once(' ').unwrap_or((command.words, ""));
        for (before, word) in [("", first), (first, second)] {
            let known = all.entry(before).or_default();
            if !word.is_empty() && !known.contains(&word) {
                known.push(word);
            }
        }
    }
    all.retain(|_, words| !words.is_empty());
    all
}

fn options() -> Vec<String> {
    let letter = |short: &str| if short.is_empty() { Vec::new() } else { vec![format!("-{short}")] };
    CTL_OPTIONS.iter().flat_map(|(short, long, ..)| [letter(short), vec![format!("--{long}")]].concat()).collect()
}

/// `scripts/completions/tproxyctl.bash`
pub(super) fn bash() -> String {
    let case = |(before, words): (&str, Vec<&str>)| {
        let before = if before.is_empty() { "''" } else { before };
        format!("    {before}) words='{}' ;;\n", words.join(" "))
    };
    let cases: String = followers().into_iter().map(case).collect();
    format!(
        "# bash {HEAD}\n\
         # shellcheck shell=bash\n\n\
         _tproxyctl() {{\n    \
         local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} given='' words='' at\n    \
         case $before in\n    \
         -i | --instance)\n        \
         words=$(printf '%s\\n' /run/tproxy/*.sock | sed -n 's|.*/\\([^*]*\\)\\.sock$|\\1|p')\n        \
         mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n        \
         return\n        \
         ;;\n    \
         -S | --socket)\n        \
         compopt -o filenames\n        \
         mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n        \
         return\n        \
         ;;\n    \
         esac\n    \
         # The words of the command so far, without options and their values.\n    \
         for ((at = 1; at < COMP_CWORD; at++)); do\n        \
         case ${{COMP_WORDS[at]}} in\n        \
         -i | --instance | -S | --socket) at=$((at + 1)) ;;\n        \
         -*) ;;\n        \
         *) given=\"$given${{given:+ }}${{COMP_WORDS[at]}}\" ;;\n        \
         esac\n    \
         done\n    \
         case $given in\n\
         {cases}    \
         stop) words='--drain' ;;\n    \
         'show connections'*) words='{FILTERS}' ;;\n    \
         esac\n    \
         [[ $word != -* || $given == stop ]] || words='{}'\n    \
         mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n\
         }}\n\n\
         complete -F _tproxyctl tproxyctl\n",
        options().join(" ")
    )
}

/// `scripts/completions/_tproxyctl`, for zsh
pub(super) fn zsh() -> String {
    let mut text = format!("#compdef tproxyctl\n# zsh {HEAD}\n\n_tproxyctl_command() {{\n    case $words[1] in\n");
    let all = followers();
    for (before, following) in all.iter().filter(|(before, _)| !before.is_empty()) {
        text += &format!("    {before}) (( CURRENT == 2 )) && compadd {} ;;\n", following.join(" "));
    }
    text += "    stop) compadd -- --drain ;;\n    esac\n";
    text +=
        &format!("    [[ \"$words[1,2]\" == 'show connections' ]] && (( CURRENT > 2 )) && compadd {FILTERS}\n}}\n\n");
    text += "_arguments -S \\\n";
    for (short, long, value, help) in CTL_OPTIONS {
        let action = match *value {
            "" => "",
            "PATH" => ":PATH:_files",
            _ => ":NAME:(/run/tproxy/*.sock(N\\:t\\:r))",
        };
        let help = help.trim_end_matches('.').replace(':', "\\:");
        if !short.is_empty() {
            text += &format!("    '-{short}[{help}]{action}' \\\n");
        }
        let joint = if value.is_empty() { "" } else { "=" };
        text += &format!("    '--{long}{joint}[{help}]{action}' \\\n");
    }
    let first = all.get("").map(|words| words.join(" ")).unwrap_or_default();
    text + &format!("    '1:command:({first})' \\\n    '*::operand:_tproxyctl_command'\n")
}

/// `scripts/completions/tproxyctl.fish`
pub(super) fn fish() -> String {
    let mut text = format!("# fish {HEAD}\n\ncomplete -c tproxyctl -f\n");
    for (before, words) in followers() {
        let words = words.join(" ");
        text += &if before.is_empty() {
            format!("complete -c tproxyctl -n __fish_use_subcommand -a '{words}'\n")
        } else {
            format!("complete -c tproxyctl -n '__fish_seen_subcommand_from {before}' -a '{words}'\n")
        };
    }
    text += "complete -c tproxyctl -n '__fish_seen_subcommand_from stop' -l drain -x\n";
    text += &format!("complete -c tproxyctl -n '__fish_seen_subcommand_from connections' -a '{FILTERS}'\n");
    for (short, long, value, help) in CTL_OPTIONS {
        let short = if short.is_empty() { String::new() } else { format!(" -s {short}") };
        let value = match *value {
            "" => "",
            "PATH" => " -r -F",
            _ => " -x -a '(path basename -E /run/tproxy/*.sock)'",
        };
        text += &format!("complete -c tproxyctl{short} -l {long}{value} -d '{}'\n", help.trim_end_matches('.'));
    }
    text
}
