//! Text that our own processes write for each other: lines of words. A word may be any bytes; what would end a word or a
//! line is escaped.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A text under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer(String);

impl Writer {
    /// Adds a line.
    pub(crate) fn line<W: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = W>) {
        for (number, word) in words.into_iter().enumerate() {
            if number > 0 {
                self.0.push(' ');
            }
            escape(word.as_ref(), &mut self.0);
        }
        self.0.push('\n');
    }

    /// The finished text.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

fn escape(word: &OsStr, text: &mut String) {
    for byte in word.as_bytes() {
        match byte {
            b'%' | 0x7f.. | ..=b' ' => text.push_str(&format!("%{byte:02x}")),
            plain => text.push(char::from(*plain)),
        }
    }
}

/// The words of one line. `None` if it was not made by a [`Writer`].
pub(crate) fn words(line: &str) -> Option<Vec<OsString>> {
    line.split(' ').map(unescape).collect()
}

/// The same where every word is text.
pub(crate) fn text_words(line: &str) -> Option<Vec<String>> {
    words(line)?.into_iter().map(|word| word.into_string().ok()).collect()
}

fn unescape(word: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut parts = word.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_survives() {
        let odd = OsString::from_vec((0..=255).collect());
        let all = [odd.as_os_str(), OsStr::new(""), OsStr::new("-d moose --dport 80"), OsStr::new("50%")];
        let mut writer = Writer::default();
        writer.line(all);
        let text = writer.into_text();
        let (line, rest) = text.split_once('\n').unwrap();
        assert_eq!((words(line).unwrap(), rest), (all.map(OsStr::to_owned).to_vec(), ""));
        assert!(line.is_ascii());
    }

    #[test]
    fn a_broken_escape_is_nothing() {
        for line in ["%", "a%4", "%zz", "%é0"] {
            assert_eq!(words(line), None, "{line}");
            assert_eq!(text_words(line), None, "{line}");
        }
    }
}
