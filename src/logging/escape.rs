//! Lines hold text that others chose: names of processes, what iptables and proxies say, words of files. A terminal obeys
//! control characters in it, and a line break would begin a line that looks like ours. So they are written as numbers.

use std::fmt::{self, Write};

/// Nothing in it could be obeyed.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Writes text to the end of a line, with what could be obeyed as `\x1b` or `\u{202e}`.
#[derive(Debug)]
pub(crate) struct Escaping<'a>(pub &'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            self.0.push_str(text);
            return Ok(());
        }
        for character in text.chars() {
            match u32::from(character) {
                number @ 0..=0xff if character.is_control() => write!(self.0, "\\x{number:02x}")?,
                number if is_invisible(character) => write!(self.0, "\\u{{{number:x}}}")?,
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}

/// Whether a character shows nothing, but changes what others look like: separators of lines, directions of writing, joiners
/// and tags (Unicode 16, general categories Cf, Zl and Zp, as far as terminals act on them).
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// The same with what a line has from here on. `start` is where a character begins.
pub(crate) fn escape_from(line: &mut String, start: usize) {
    if line.get(start..).is_some_and(|text| !is_plain(text)) {
        let text = line.split_off(start);
        // Writing to a String cannot fail.
        let _ = Escaping(line).write_str(&text);
    }
}

/// The same as a text of its own.
pub(crate) fn escaped(text: impl fmt::Display) -> String {
    let mut line = String::new();
    // Writing to a String cannot fail.
    let _ = write!(Escaping(&mut line), "{text}");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_becomes_a_number() {
        let table = [
            ("plain text, 100% ~", "plain text, 100% ~"),
            ("Kuh müh 牛", "Kuh müh 牛"),
            ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
            ("a\nroot[1]: b\r\tc\0", "a\\x0aroot[1]: b\\x0d\\x09c\\x00"),
            ("\x7f\u{9b}31m", "\\x7f\\x9b31m"),
            ("a\u{202e}b\u{2028}c\u{200b}d\u{feff}", "a\\u{202e}b\\u{2028}c\\u{200b}d\\u{feff}"),
        ];
        for (text, wanted) in table {
            assert_eq!(escaped(text), wanted);
            let mut line = format!("a\n{text}");
            escape_from(&mut line, 2);
            assert_eq!(line, format!("a\n{wanted}"));
        }
        let all: String = ('\0'..=char::MAX).collect();
        assert!(!escaped(all).contains(char::is_control));
    }
}
