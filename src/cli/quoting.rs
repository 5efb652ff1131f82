//! What may be behind an error about a command line: a MATCH that was not quoted, or quoted with other characters than the
//! shell knows.

use std::ffi::OsString;

use crate::cli::option::{Opt, OptionId};
use crate::cli::options;
use crate::error::Error;

/// The options with a MATCH.
const WITH_MATCH: [OptionId; 3] = [OptionId::Redirect, OptionId::Exempt, OptionId::Reject];

/// Options of iptables that take a value, as they are typed. Alone, none of them is a MATCH.
const VALUED: [&str; 6] = ["-s", "-d", "-p", "-i", "-o", "-m"];

/// Long options of iptables that are a MATCH without a value.
const ALONE: [&str; 2] = ["--syn", "--fragment"];

/// How the names of further options begin that are common in a MATCH.
const COMMON: [&str; 14] = [
    "dport",
    "sport",
    "dst",
    "src",
    "source",
    "destination",
    "protocol",
    "in-interface",
    "out-interface",
    "match",
    "ports",
    "syn",
    "ctstate",
    "comment",
];

/// Characters that word processors and web pages put in the place of others.
const LOOKALIKES: [(&[char], &str, &str); 3] = [
    (&['“', '”', '„', '‘', '’', '‚', '«', '»', '´', '″', '′'], "a typographic quote", "' or \""),
    (&['–', '—', '‒', '−', '‐', '‑'], "a typographic dash", "-"),
    (&['\u{a0}', '\u{202f}', '\u{2007}'], "a no-break space", "a blank"),
];

/// The same error, with what may be behind it.
pub(crate) fn explain(error: Error, words: &[OsString]) -> Error {
    if !matches!(error, Error::Usage(_) | Error::Value { .. }) {
        return error;
    }
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let sentence = error.to_string();
    match unquoted(&words, &sentence).or_else(|| lookalike(&words, &sentence)) {
        Some(hint) => Error::Usage(format!("{sentence}; {hint}")),
        None => error,
    }
}

/// Says so if a MATCH seems to have become several words.
fn unquoted(words: &[String], sentence: &str) -> Option<String> {
    let no_such = sentence.strip_prefix("--").filter(|_| sentence.contains(": no such option"));
    let is_common = no_such.is_some_and(|name| COMMON.iter().any(|common| name.starts_with(common)));
    let is_broken = |(_, value): &(_, &str)| {
        let is_alone = *value == "!" || VALUED.contains(value) || is_long_without_value(value);
        let one_of_several = value.starts_with('-') && !value.contains(' ') && no_such.is_some();
        (is_alone || one_of_several || is_common) && !value.starts_with(QUOTES)
    };
    let (opt, value) = matches(words).into_iter().find(is_broken)?;
    let first = value.split(' ').next().unwrap_or_default();
    Some(format!("a MATCH is one quoted argument: {opt} '{first} ...'"))
}

const QUOTES: &[char] = LOOKALIKES[0].0;

fn is_long_without_value(value: &str) -> bool {
    value.starts_with("--") && !value.contains(['=', ' ']) && !ALONE.contains(&value)
}

/// Each MATCH with its option, attached or apart.
fn matches(words: &[String]) -> Vec<(&'static Opt, &str)> {
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        for opt in WITH_MATCH.map(options::opt) {
            let (short, long) = (format!("-{}", opt.short), format!("--{}", opt.long));
            let attached = word.strip_prefix(&format!("{long}=")).or(word.strip_prefix(&short));
            let value = match attached {
                _ if *word == long || (*word == short && !opt.short.is_empty()) => {
                    words.get(at + 1).map(String::as_str)
                }
                value => value.filter(|_| !opt.short.is_empty() || word.starts_with(&long)),
            };
            found.extend(value.map(|value| (opt, value)));
        }
    }
    found
}

/// Names the first character that looks like another one.
fn lookalike(words: &[String], sentence: &str) -> Option<String> {
    let quoted = |word: &&str| word.starts_with(QUOTES) || word.ends_with(QUOTES) || sentence.contains(word);
    let values = matches(words).into_iter().map(|(_, value)| value);
    let mut letters = values.chain(words.iter().map(String::as_str).filter(quoted)).flat_map(str::chars);
    letters.find_map(|letter| {
        let (_, name, instead) = LOOKALIKES.iter().find(|(letters, ..)| letters.contains(&letter))?;
        Some(format!(
            "'{letter}' is {name} (U+{:04X}), write {instead}: a MATCH is one quoted argument",
            u32::from(letter)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(error: &str, line: &str) -> String {
        let words: Vec<OsString> = shell_words::split(line).unwrap().into_iter().map(OsString::from).collect();
        explain(Error::Usage(error.into()), &words).to_string()
    }

    #[test]
    fn a_match_in_several_words_is_recognised() {
        let table = [
            "-R -d moose --dport 80 cow 80",
            "-R-d moose --dport 80 cow 80",
            "--redirect=-d moose --dport 80 cow 80",
            "-s 80 --reject -p tcp --dport 80 cow 80",
            "-X -i eth0 -R '-d moose' cow 80",
            "-R ! -d moose --dport 80 cow 80",
            "-R --dport 80 cow 80",
            "-R -d=moose --dport=80 cow 80",
            "-R '-d moose' --dport 80 cow 80",
        ];
        for line in table {
            let text = explained("--dport: no such option; x", line);
            assert!(
                text.starts_with("--dport: no such option; x; a MATCH is one quoted argument: -"),
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        for line in
            ["-R '-d moose' cow 80", "-R --syn cow 80", "-R '-p tcp' -X '-d cow'", "-s 80 cow 80", "-R -ieth0 cow 80"]
        {
            let error = "--drain: invalid value 'soon': expected x";
            assert_eq!(explained(error, line), error, "{line}");
        }
        assert_eq!(explained("--drian: no such option", "-R '-d moose' --drian 5"), "--drian: no such option");
        let other = explain(Error::Failed("x".into()), &["-R".into(), "-d".into()]);
        assert!(matches!(other, Error::Failed(_)));
    }

    #[test]
    fn a_character_that_looks_like_another_is_named() {
        let table = [
            ("-R “-d moose --dport 80” cow 80", "'“' is a typographic quote (U+201C), write ' or \": a MATCH"),
            ("-R ‘-p tcp’ cow 80", "a typographic quote (U+2018)"),
            ("-R '-d moose –dport 80' cow 80", "'–' is a typographic dash (U+2013), write -: a MATCH"),
            ("-R '-d moose\u{a0}--dport 80' cow 80", "a no-break space (U+00A0), write a blank"),
        ];
        for (line, wanted) in table {
            let text = explained("x", line);
            assert!(text.contains(wanted), "{line}: {text}");
        }
    }
}
