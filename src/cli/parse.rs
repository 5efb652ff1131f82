//! From the words of a command line to typed arguments in their order. This happens once for each command line and for
//! each line of a file.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use getopts::{Fail, HasArg, Matches, Occur, Options};

use crate::cli::option::{Opt, OptionId, Scope, Value};
use crate::cli::options::{self, OPTIONS};
use crate::error::Error;

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    options: Vec<Argument>,
    operands: Vec<String>,
}

/// An option as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Argument {
    pub id: OptionId,
    pub value: ArgumentValue,
}

/// The value of an option as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ArgumentValue {
    /// A flag.
    None,
    Text(String),
    /// An absolute path.
    Path(PathBuf),
}

/// Reads the words of a command line, without the name of the program. Relative paths start at `directory`, which is empty
/// if there is none.
///
/// Errors: an unknown option, a repeated one, a missing value, or a word that is none of those that the value may be.
pub(crate) fn parse(words: &[OsString], directory: &Path) -> Result<Arguments, Error> {
    let words = words.iter().map(|word| to_text(word.as_bytes()));
    let matches = tokenizer().parse(words).map_err(refused)?;
    let mut found = Vec::new();
    for opt in OPTIONS {
        for (position, value) in given(&matches, opt) {
            found.push((position, Argument { id: opt.id, value: typed(opt, value, directory)? }));
        }
    }
    // In a cluster of letters all have one position, and only the last of them may have a value.
    found.sort_by_key(|(position, argument)| (*position, options::opt(argument.id).value.is_some()));
    let mut options: Vec<Argument> = Vec::new();
    for (_, argument) in found {
        let overridden = options::opt(argument.id).overrides;
        options.retain(|former| Some(former.id) != overridden);
        options.push(argument);
    }
    let operands = matches.free.iter().map(|word| utf8("HOST PORT", from_text(word))).collect::<Result<_, _>>()?;
    Ok(Arguments { options, operands })
}

fn tokenizer() -> Options {
    let mut options = Options::new();
    for opt in OPTIONS {
        let has_value = if opt.value.is_some() { HasArg::Yes } else { HasArg::No };
        // To repeat a flag does no harm.
        let occurs = if opt.repeatable || opt.value.is_none() { Occur::Multi } else { Occur::Optional };
        options.opt(opt.short, opt.long, "", "", has_value, occurs);
    }
    options
}

/// Turns bytes into text that holds each byte as the character of that number. getopts and shell_words take text only,
/// the name of a file may be any bytes, and every character that they look for is ASCII, which stays what it is.
pub(crate) fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The way back from [`to_text`].
pub(crate) fn from_text(text: &str) -> OsString {
    OsString::from_vec(text.chars().map(|byte| u8::try_from(byte).unwrap_or(b'?')).collect())
}

fn given(matches: &Matches, opt: &Opt) -> Vec<(usize, OsString)> {
    if opt.value.is_none() {
        return matches.opt_positions(opt.long).into_iter().map(|position| (position, OsString::new())).collect();
    }
    let values = matches.opt_strs_pos(opt.long).into_iter();
    values.map(|(position, text)| (position, from_text(&text))).collect()
}

fn typed(opt: &Opt, value: OsString, directory: &Path) -> Result<ArgumentValue, Error> {
    let option = opt.to_string();
    match opt.value {
        None => Ok(ArgumentValue::None),
        Some(Value::File) if value.is_empty() => Err(Error::value(option, "", "the path of a file")),
        Some(Value::File) => {
            let path = directory.join(&value);
            if path.is_relative() {
                let expected = "an absolute path, because the directory in which tproxy was started is gone";
                return Err(Error::value(option, value.to_string_lossy(), expected));
            }
            Ok(ArgumentValue::Path(std::path::absolute(&path).unwrap_or(path)))
        }
        Some(Value::Text(..)) => Ok(ArgumentValue::Text(utf8(&option, value)?)),
        Some(Value::OneOf(words)) => match utf8(&option, value)? {
            word if words.contains(&word.as_str()) => Ok(ArgumentValue::Text(word)),
            other => Err(Error::value(option, other, listed(words))),
        },
    }
}

fn utf8(option: &str, value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|value| {
        let odd = value.as_bytes().utf8_chunks().find_map(|chunk| chunk.invalid().first().copied());
        let expected = format!("UTF-8 text, which the byte 0x{:02x} is not", odd.unwrap_or_default());
        Error::value(option, value.to_string_lossy(), expected)
    })
}

/// The words as a list in a sentence: `a`, `a or b`, `a, b or c`.
pub(crate) fn listed(words: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for (number, word) in words.iter().enumerate() {
        match number {
            0 => {}
            _ if number + 1 == words.len() => text += " or ",
            _ => text += ", ",
        }
        text += word.as_ref();
    }
    text
}

fn refused(fail: Fail) -> Error {
    let (Fail::ArgumentMissing(name)
    | Fail::UnrecognizedOption(name)
    | Fail::OptionMissing(name)
    | Fail::OptionDuplicated(name)
    | Fail::UnexpectedArgument(name)) = &fail;
    let name = from_text(name).to_string_lossy().into_owned();
    let known = OPTIONS.iter().find(|opt| opt.short == name || opt.long == name);
    let dashed = if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") };
    let option = known.map_or(dashed, Opt::to_string);
    Error::Usage(match fail {
        Fail::ArgumentMissing(_) => {
            let value = known.and_then(|opt| opt.value).map(|value| value.names().join("|")).unwrap_or_default();
            format!("{option}: needs a value: {value}")
        }
        Fail::UnexpectedArgument(_) => format!("{option}: takes no value"),
        Fail::OptionDuplicated(_) => format!("{option}: given more than once"),
        Fail::UnrecognizedOption(_) | Fail::OptionMissing(_) => {
            format!("{option}: no such option; `tproxy --help` lists them all")
        }
    })
}

impl Arguments {
    /// What is not an option: `HOST PORT` once or more.
    pub(crate) fn operands(&self) -> &[String] {
        &self.operands
    }

    /// The options in their order.
    pub(crate) fn options(&self) -> &[Argument] {
        &self.options
    }

    pub(crate) fn has(&self, id: OptionId) -> bool {
        self.options.iter().any(|argument| argument.id == id)
    }

    /// The first option of a scope.
    pub(crate) fn first_of(&self, scope: Scope) -> Option<OptionId> {
        self.options.iter().map(|argument| argument.id).find(|id| options::opt(*id).scope == scope)
    }

    /// The value of an option that is neither a flag nor a file.
    pub(crate) fn text(&self, id: OptionId) -> Option<&str> {
        self.texts(id).next()
    }

    /// The values of an option that may be repeated, in their order.
    pub(crate) fn texts(&self, id: OptionId) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |argument| argument.id == id).filter_map(|argument| match &argument.value {
            ArgumentValue::Text(text) => Some(text.as_str()),
            ArgumentValue::Path(_) | ArgumentValue::None => None,
        })
    }

    /// The value of an option that is a file.
    pub(crate) fn path(&self, id: OptionId) -> Option<&Path> {
        self.options.iter().filter(|argument| argument.id == id).find_map(|argument| match &argument.value {
            ArgumentValue::Path(path) => Some(path.as_path()),
            ArgumentValue::Text(_) | ArgumentValue::None => None,
        })
    }

    /// Reads the value of an option. `read` says what it expects when it cannot use the text.
    pub(crate) fn value<T>(
        &self,
        id: OptionId,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let read =
            |text: &str| read(text).map_err(|expected| Error::value(options::opt(id).to_string(), text, expected));
        self.text(id).map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::option::OptionId as Id;

    fn read(words: &[&[u8]]) -> Result<Arguments, Error> {
        let words: Vec<OsString> = words.iter().map(|word| OsString::from_vec(word.to_vec())).collect();
        parse(&words, Path::new("/home"))
    }

    fn line(text: &str) -> Result<Arguments, Error> {
        let words: Vec<OsString> = shell_words::split(text).unwrap().into_iter().map(OsString::from).collect();
        parse(&words, Path::new("/home"))
    }

    fn refusal(text: &str) -> String {
        line(text).unwrap_err().to_string()
    }

    #[test]
    fn options_keep_their_order_and_values_may_begin_with_a_dash() {
        let arguments =
            line("-dX '-s 10.0.0.1' -l ./log cow -R'-d moose' -P /run/pid --reject=-i=eth0 80 -- -4").unwrap();
        let order: Vec<Id> = arguments.options().iter().map(|argument| argument.id).collect();
        assert_eq!(order, [Id::Foreground, Id::Exempt, Id::AccessLog, Id::Redirect, Id::PidFile, Id::Reject]);
        assert_eq!(arguments.operands(), ["cow", "80", "-4"]);
        assert_eq!(arguments.text(Id::Exempt), Some("-s 10.0.0.1"));
        assert_eq!(arguments.text(Id::Redirect), Some("-d moose"));
        assert_eq!(arguments.text(Id::Reject), Some("-i=eth0"));
        assert_eq!(arguments.path(Id::AccessLog), Some(Path::new("/home/log")));
        assert_eq!(arguments.path(Id::PidFile), Some(Path::new("/run/pid")));
        assert_eq!((arguments.text(Id::AccessLog), arguments.path(Id::Exempt)), (None, None));
    }

    #[test]
    fn the_name_of_every_file_may_be_any_bytes() {
        let name = b"\xff\xc3\xbc \x80\xc3";
        for opt in OPTIONS.iter().filter(|opt| opt.value == Some(Value::File)) {
            let attached = [format!("--{}=", opt.long).as_bytes(), name].concat();
            let apart = format!("--{}", opt.long);
            for words in [&[&attached[..]][..], &[apart.as_bytes(), name]] {
                let arguments = read(words).unwrap();
                let wanted = [b"/home/", &name[..]].concat();
                assert_eq!(arguments.path(opt.id).unwrap().as_os_str().as_bytes(), wanted, "{}", opt.long);
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_text(&to_text(&all)).as_bytes(), all);
    }

    #[test]
    fn what_is_not_a_file_must_be_text() {
        let error = read(&[b"--drain", b"so\xffn"]).unwrap_err().to_string();
        assert_eq!(error, "--drain: invalid value 'so\u{fffd}n': expected UTF-8 text, which the byte 0xff is not");
        assert!(read(&[b"k\xfche", b"80"]).unwrap_err().to_string().contains("expected UTF-8 text"));
        assert_eq!(read(&["-R".as_bytes(), "k\u{fc}he".as_bytes()]).unwrap().text(Id::Redirect), Some("k\u{fc}he"));
    }

    #[test]
    fn of_two_that_override_each_other_the_last_one_counts() {
        for (text, transparent) in [("-t", true), ("-t -p", false), ("-p -t", true), ("-p -t -p", false)] {
            assert_eq!(line(text).unwrap().has(Id::Transparent), transparent, "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_option_and_what_is_wrong() {
        let table = [
            ("--nonsense", "--nonsense: no such option; `tproxy --help` lists them all"),
            ("-Z", "-Z: no such option; `tproxy --help` lists them all"),
            ("--drain", "--drain: needs a value: SECONDS"),
            ("-w", "-w: needs a value: NUMBER|auto"),
            ("--sni=yes", "--sni: takes no value"),
            ("-s 1 --listen 2", "-s: given more than once"),
            ("--via https", "--via: invalid value 'https': expected tcp, http, connect or socks5"),
            ("--fail ''", "--fail: invalid value '': expected open or closed"),
            ("--via-fallback http", "--via-fallback: invalid value 'http': expected connect"),
            ("-l ''", "-l: invalid value '': expected the path of a file"),
        ];
        for (text, wanted) in table {
            assert_eq!(refusal(text), wanted);
        }
    }
}
