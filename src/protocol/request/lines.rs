//! The lines of a head or a trailer.

use std::ops::RangeInclusive;

use crate::protocol::request::refusal::Refusal;

/// Bytes of the longest trailer, and of the longest head unless `--max-head` says otherwise, with its empty line.
pub const HEAD: usize = 16 * 1024;

/// What `--max-head` can be.
pub const MAX_HEAD: RangeInclusive<usize> = 1024..=1024 * 1024;

/// The most fields in a head or a trailer.
pub const MOST: usize = 100;

/// The length of the head or trailer at the beginning of `input`, with its empty line; `None` while that is missing.
/// The first `seen` bytes were searched before. It has `most` bytes at most.
pub fn section(input: &[u8], seen: usize, most: usize) -> Result<Option<usize>, Refusal> {
    let input = input.get(..most).unwrap_or(input);
    for (feed, _) in input.iter().enumerate().skip(seen).filter(|(_, byte)| **byte == b'\n') {
        match input.get(..feed) {
            Some([b'\r'] | [.., b'\n', b'\r']) => return Ok(Some(feed + 1)),
            Some([.., b'\r']) => {}
            _ => return Err(Refusal::Malformed("a bare LF")),
        }
    }
    if input.len() == most { Err(Refusal::TooLong) } else { Ok(None) }
}

/// The length of the empty lines at the beginning of `input`. They need no carriage return.
pub fn empty_lines(input: &[u8]) -> usize {
    let mut rest = input;
    while let [b'\r', b'\n', behind @ ..] | [b'\n', behind @ ..] = rest {
        rest = behind;
    }
    input.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_behind_its_empty_line() {
        assert_eq!(section(b"a\r\nb: c\r\n\r\nd\r\n\r\n", 0, HEAD), Ok(Some(11)));
        assert_eq!(section(b"\r\na", 0, HEAD), Ok(Some(2)));
        for incomplete in ["", "\r", "a", "a\r", "a\r\n", "a\r\nb\r\n", "a\r\nb\r\n\r"] {
            assert_eq!(section(incomplete.as_bytes(), 0, HEAD), Ok(None), "{incomplete:?}");
        }
    }

    #[test]
    fn it_ends_in_the_same_place_however_much_was_seen_before() {
        let lines = b"a\r\nb: c\r\n\r\nd";
        for seen in 0..11 {
            assert_eq!(section(&lines[..seen], 0, HEAD), Ok(None));
            assert_eq!(section(lines, seen, HEAD), Ok(Some(11)), "{seen}");
        }
    }

    #[test]
    fn a_line_feed_alone_is_refused_at_once() {
        for input in ["\n", "a\n", "a\r\n\n", "a\r\nb\n", "a\n\r\n", "a\r\n\r\r\n\n", "a\r \n"] {
            assert_eq!(section(input.as_bytes(), 0, HEAD), Err(Refusal::Malformed("a bare LF")), "{input:?}");
        }
    }

    #[test]
    fn a_section_may_be_as_long_as_the_limit_and_not_longer() {
        let lines = |size: usize| [&vec![b'a'; size - 4], &b"\r\n\r\n"[..]].concat();
        assert_eq!(section(&lines(HEAD), 0, HEAD), Ok(Some(HEAD)));
        assert_eq!(section(&lines(HEAD + 1), 0, HEAD), Err(Refusal::TooLong));
        assert_eq!(section(&lines(HEAD + 1)[..HEAD], 0, HEAD), Err(Refusal::TooLong));
        assert_eq!(section(&lines(HEAD)[..HEAD - 1], 0, HEAD), Ok(None));
    }
}
