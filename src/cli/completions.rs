//! The completions for bash, zsh and fish.

use crate::cli::option::{Opt, OptionId, Value};
use crate::cli::options::OPTIONS;

/// The first line of each file.
const HEAD: &str = "completion for tproxy: made from src/cli/options.rs by `make man`, do not edit";

/// What can be suggested for the value of an option.
enum Suggest {
    Files,
    Users,
    Services,
    Words(&'static [&'static str]),
    Nothing,
}

fn suggest(opt: &Opt) -> Option<Suggest> {
    Some(match (opt.id, opt.value?) {
        (_, Value::File) => Suggest::Files,
        (OptionId::User, _) => Suggest::Users,
        (OptionId::Listen, _) => Suggest::Services,
        (_, Value::OneOf(words) | Value::Text(_, words)) if !words.is_empty() => Suggest::Words(words),
        (_, Value::OneOf(_) | Value::Text(..)) => Suggest::Nothing,
    })
}

fn dashed(opt: &Opt) -> Vec<String> {
    let short = (!opt.short.is_empty()).then(|| format!("-{}", opt.short));
    short.into_iter().chain([format!("--{}", opt.long)]).collect()
}

/// One line of description.
fn brief(opt: &Opt) -> &'static str {
    let first = opt.help.split(". ").next().unwrap_or_default();
    first.split(": ").next().unwrap_or_default().trim_end_matches('.')
}

/// `scripts/completions/tproxy.bash`
pub(crate) fn bash() -> String {
    // The options by what is suggested for their values.
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    for opt in OPTIONS {
        let Some(suggested) = suggest(opt) else { continue };
        let reply = match suggested {
            Suggest::Files => "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$word\")".to_owned(),
            Suggest::Users => "mapfile -t COMPREPLY < <(compgen -u -- \"$word\")".to_owned(),
            Suggest::Services => "mapfile -t COMPREPLY < <(compgen -A service -- \"$word\")".to_owned(),
            Suggest::Words(words) => {
                format!("mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$word\")", words.join(" "))
            }
            Suggest::Nothing => "COMPREPLY=()".to_owned(),
        };
        match cases.iter_mut().find(|(other, _)| *other == reply) {
            Some((_, names)) => names.extend(dashed(opt)),
            None => cases.push((reply, dashed(opt))),
        }
    }
    let case = |(reply, names): &(String, Vec<String>)| format!("    {}) {reply} ;;\n", names.join(" | "));
    let cases: String = cases.iter().map(case).collect();
    let all: Vec<String> = OPTIONS.iter().flat_map(dashed).collect();
    format!(
        "# bash {HEAD}\n\
         # shellcheck shell=bash\n\n\
         _tproxy() {{\n    \
         local word=${{COMP_WORDS[COMP_CWORD]}} option=${{COMP_WORDS[COMP_CWORD - 1]}}\n    \
         # Readline makes three words of --option=value.\n    \
         if [[ $word == '=' ]]; then\n        \
         word=\n    \
         elif [[ $option == '=' ]]; then\n        \
         option=${{COMP_WORDS[COMP_CWORD - 2]}}\n    \
         fi\n    \
         case $option in\n\
         {cases}    \
         *)\n        \
         if [[ $word == -* ]]; then\n            \
         mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$word\")\n        \
         else\n            \
         mapfile -t COMPREPLY < <(compgen -A hostname -- \"$word\")\n        \
         fi\n        \
         ;;\n    \
         esac\n\
         }}\n\n\
         complete -F _tproxy tproxy\n",
        all.join(" ")
    )
}

/// `scripts/completions/_tproxy`, for zsh
pub(crate) fn zsh() -> String {
    let mut text = format!("#compdef tproxy\n# zsh {HEAD}\n\n_arguments -s -S \\\n");
    for opt in OPTIONS {
        let names = dashed(opt);
        let once = if opt.repeatable { "*".to_owned() } else { format!("({})", names.join(" ")) };
        let action = match suggest(opt) {
            None => String::new(),
            Some(suggested) => format!(
                ":{}:{}",
                if let Some(Value::Text(name, _)) = opt.value { name.replace(':', "\\:") } else { opt.long.to_owned() },
                match suggested {
                    Suggest::Files => "_files".to_owned(),
                    Suggest::Users => "_users".to_owned(),
                    Suggest::Services => "_ports".to_owned(),
                    Suggest::Words(words) => format!("({})", words.join(" ")),
                    Suggest::Nothing => " ".to_owned(),
                }
            ),
        };
        let brief = brief(opt).replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]");
        for name in &names {
            // The value may be attached to a letter, and to a name after '='.
            let joint = match (&opt.value, name.starts_with("--")) {
                (None, _) => "",
                (Some(_), true) => "=",
                (Some(_), false) => "+",
            };
            text += &format!("    '{once}{name}{joint}[{brief}]{action}' \\\n");
        }
    }
    text + "    '*:host:_hosts'\n"
}

/// `scripts/completions/tproxy.fish`
pub(crate) fn fish() -> String {
    let mut text = format!("# fish {HEAD}\n\ncomplete -c tproxy -f -a '(__fish_print_hostnames)'\n");
    for opt in OPTIONS {
        let short = if opt.short.is_empty() { String::new() } else { format!(" -s {}", opt.short) };
        let value = match suggest(opt) {
            None => String::new(),
            Some(Suggest::Files) => " -r -F".to_owned(),
            Some(Suggest::Users) => " -x -a '(__fish_complete_users)'".to_owned(),
            Some(Suggest::Words(words)) => format!(" -x -a '{}'", words.join(" ")),
            Some(Suggest::Services | Suggest::Nothing) => " -x".to_owned(),
        };
        text += &format!("complete -c tproxy{short} -l {}{value} -d '{}'\n", opt.long, brief(opt).replace('\'', "\\'"));
    }
    text
}
