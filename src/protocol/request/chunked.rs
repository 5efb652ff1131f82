//! The parts of a chunked body other than its data (RFC 9112, 7.1).

use httparse::{EMPTY_HEADER, Status};

use crate::protocol::request::framing::number;
use crate::protocol::request::lines::MOST;
use crate::protocol::request::refusal::Refusal;

/// Bytes of the longest line with the size of a chunk. Extensions are next to unused.
const LINE: usize = 1024;

/// Digits of the longest size.
const DIGITS: usize = 16;

/// Fields that would change the meaning of the request, or what we have added to it, for a server that merges the trailer
/// into the head (RFC 9110, 6.5.1).
const NOT_IN_A_TRAILER: [&str; 10] = [
    "Connection",
    "Content-Length",
    "Forwarded",
    "Host",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Transfer-Encoding",
    "Upgrade",
    "Via",
    "X-Forwarded-For",
];

/// Reads the line with the size of a chunk: the length of the line, and the size. `None` while the line is incomplete.
pub fn size(input: &[u8]) -> Result<Option<(usize, u64)>, Refusal> {
    let input = input.get(..LINE).unwrap_or(input);
    let is_end = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let end = input.iter().position(is_end);
    let (line, rest) = end.and_then(|end| input.split_at_checked(end)).unwrap_or((input, &[]));
    match rest {
        [] | [b'\r'] if input.len() == LINE => Err(Refusal::Malformed("a chunk's size is too long")),
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => {
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let size = number(digits, 16).filter(|_| digits.len() <= DIGITS);
            Ok(Some((line.len() + 2, size.ok_or(Refusal::Malformed("a chunk's size"))?)))
        }
        _ => Err(Refusal::Malformed("a chunk's size")),
    }
}

/// The length of the line end after the data of a chunk; `None` while it is incomplete.
pub fn end(input: &[u8]) -> Result<Option<usize>, Refusal> {
    match input {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        _ => Err(Refusal::Malformed("the end of a chunk")),
    }
}

/// Checks a trailer, which includes its empty line.
pub fn check_trailer(trailer: &[u8]) -> Result<(), Refusal> {
    if trailer == b"\r\n" {
        return Ok(());
    }
    let mut headers = [EMPTY_HEADER; MOST];
    match httparse::parse_headers(trailer, &mut headers)? {
        Status::Complete((length, headers)) if length == trailer.len() => {
            let misplaced = |name: &str| NOT_IN_A_TRAILER.iter().any(|other| name.eq_ignore_ascii_case(other));
            match headers.iter().any(|header| misplaced(header.name)) {
                false => Ok(()),
                true => Err(Refusal::Malformed("a field that is not allowed in a trailer")),
            }
        }
        _ => Err(Refusal::Malformed("the trailer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_hexadecimal_and_extensions_pass() {
        assert_eq!(size(b"5\r\nhello\r\n"), Ok(Some((3, 5))));
        assert_eq!(size(b"0\r\n\r\n"), Ok(Some((3, 0))));
        assert_eq!(size(b"00aF\r\n"), Ok(Some((6, 0xaf))));
        assert_eq!(size(b"7fffffffffffffff\r\n"), Ok(Some((18, i64::MAX as u64))));
        assert_eq!(size(b"a;name=value; other=\"a;\tb\"\r\n"), Ok(Some((28, 10))));
        assert_eq!(size(b"a;\r\n"), Ok(Some((4, 10))));
    }

    #[test]
    fn anything_else_is_no_size() {
        let table = [
            "\r\n",
            ";a=b\r\n",
            "g\r\n",
            "0x5\r\n",
            "+5\r\n",
            "-1\r\n",
            " 5\r\n",
            "5 \r\n",
            "5 ;a\r\n",
            "5\t\r\n",
            "5,5\r\n",
            "5 5\r\n",
            "5\n",
            "5;a\n",
            "5;a\nb\r\n",
            "5\ra",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "5;\x7f\r\n",
            "\0",
            "8000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000005\r\n",
            "00000000000000005\r\n",
        ];
        for line in table {
            assert_eq!(size(line.as_bytes()), Err(Refusal::Malformed("a chunk's size")), "{line:?}");
        }
    }

    #[test]
    fn an_incomplete_line_is_waited_for_until_it_is_too_long() {
        for line in ["", "5", "5\r", "5;a=b", "5;a=b\r"] {
            assert_eq!(size(line.as_bytes()), Ok(None), "{line:?}");
        }
        let line = |length: usize| ["5;", &"a".repeat(length - 4), "\r\n"].concat().into_bytes();
        let too_long = Err(Refusal::Malformed("a chunk's size is too long"));
        assert_eq!(size(&line(LINE)), Ok(Some((LINE, 5))));
        assert_eq!(size(&line(LINE)[..LINE - 1]), Ok(None));
        assert_eq!(size(&line(LINE + 1)), too_long);
        assert_eq!(size(&line(LINE + 1)[..LINE]), too_long);
    }

    #[test]
    fn a_line_end_follows_the_data() {
        assert_eq!(end(b"\r\n5"), Ok(Some(2)));
        assert_eq!(end(b""), Ok(None));
        assert_eq!(end(b"\r"), Ok(None));
        for wrong in ["\n", "\ra", "a\r\n", "5\r\n", "\0"] {
            assert_eq!(end(wrong.as_bytes()), Err(Refusal::Malformed("the end of a chunk")), "{wrong:?}");
        }
    }

    #[test]
    fn a_trailer_is_headers_or_nothing() {
        for trailer in ["\r\n", "Digest: abc\r\n\r\n", "A: b\r\nC:\td\r\nA: e\r\n\r\n"] {
            assert_eq!(check_trailer(trailer.as_bytes()), Ok(()), "{trailer:?}");
        }
        let table = [
            "a\r\n\r\n",
            "A : b\r\n\r\n",
            " A: b\r\n\r\n",
            "A: b\r\n c\r\n\r\n",
            "A: b\rc\r\n\r\n",
            "A: b\0\r\n\r\n",
            ": b\r\n\r\n",
            "Host: b\r\n\r\n",
            "content-length: 5\r\n\r\n",
            "A: b\r\ntransfer-encoding: chunked\r\n\r\n",
        ];
        for trailer in table {
            let refusal = check_trailer(trailer.as_bytes());
            assert!(matches!(refusal, Err(Refusal::Malformed(_))), "{trailer:?}: {refusal:?}");
        }
    }

    #[test]
    fn a_trailer_has_as_many_lines_as_a_head() {
        let lines = |count: usize| ["A: b\r\n".repeat(count).as_bytes(), b"\r\n"].concat();
        assert_eq!(check_trailer(&lines(MOST)), Ok(()));
        assert_eq!(check_trailer(&lines(MOST + 1)), Err(Refusal::TooLong));
    }
}
