//! The fields that a client names in `Connection`: the next recipient takes them out of the request (RFC 9110, 7.6.1).
//! Those that we add or rely on must not be among them.

use crate::protocol::request::framing::{is_token, trim};
use crate::protocol::request::refusal::Refusal;

/// Fields that are meant for the proxy, and for all behind it. No client that means well names one.
const NOT_OPTIONS: [&str; 7] =
    ["Content-Length", "Forwarded", "Host", "Proxy-Authorization", "Transfer-Encoding", "Via", "X-Forwarded-For"];

/// What the options of one field say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `upgrade` is among them.
    pub upgrade: bool,
    /// A field is among them that must stay.
    pub has_wrong: bool,
}

impl ConnectionOptions {
    /// Reads the value of `Connection` or `Proxy-Connection`. What is no list of tokens is read in other ways by others, so
    /// it is refused if it may name a field that must stay.
    pub fn parse(value: &[u8]) -> Result<ConnectionOptions, Refusal> {
        let mut options = ConnectionOptions { upgrade: false, has_wrong: false };
        for option in value.split(|byte| *byte == b',').map(trim) {
            options.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            options.has_wrong |= is_wrong(option);
            if !option.iter().all(|byte| is_token(*byte)) && NOT_OPTIONS.iter().any(|name| contains(option, name)) {
                return Err(Refusal::Malformed("Connection"));
            }
        }
        Ok(options)
    }
}

/// Appends the line of `Connection` or `Proxy-Connection` without the fields that must stay; nothing if no other option
/// is left.
pub fn write_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let mut before: [&[u8]; 2] = [name, b": "];
    let options = value.split(|byte| *byte == b',').map(trim);
    for option in options.filter(|option| !option.is_empty() && !is_wrong(option)) {
        before.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(option);
        before = [b", ", b""];
    }
    if before[1].is_empty() {
        out.extend_from_slice(b"\r\n");
    }
}

fn is_wrong(option: &[u8]) -> bool {
    NOT_OPTIONS.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()))
}

fn contains(text: &[u8], name: &str) -> bool {
    text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<(bool, bool), Refusal> {
        ConnectionOptions::parse(value.as_bytes()).map(|options| (options.upgrade, options.has_wrong))
    }

    fn rest(value: &str) -> String {
        let mut out = Vec::new();
        write_line(b"cOnnection", value.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_that_must_stay_are_found_among_the_options() {
        let table = [
            ("", (false, false)),
            ("close", (false, false)),
            (" , keep-alive ,\tUpGrade,,", (true, false)),
            ("TE, HTTP2-Settings, Keep-Alive, X-Own", (false, false)),
            ("X-Forwarded-Fo, X-Forwarded-For-, xvia", (false, false)),
            ("a b; c=\"d\"", (false, false)),
            ("x-forwarded-FOR", (false, true)),
            ("close,\t Forwarded\t,upgrade", (true, true)),
        ];
        for (value, wanted) in table {
            assert_eq!(parse(value), Ok(wanted), "{value:?}");
        }
        for name in NOT_OPTIONS {
            assert_eq!(parse(&format!("close,{}", name.to_uppercase())), Ok((false, true)), "{name}");
        }
    }

    #[test]
    fn what_may_name_one_in_the_eyes_of_others_is_refused() {
        for value in
            ["\"Host\"", "Host;q=1", "close Host", "Via\u{a0}", "a, x\u{b}forwarded\u{b}", "\"a, Via\"", "=via"]
        {
            assert_eq!(parse(value), Err(Refusal::Malformed("Connection")), "{value:?}");
        }
    }

    #[test]
    fn the_other_options_stay_and_an_empty_line_does_not() {
        assert_eq!(rest("close, Host"), "cOnnection: close\r\n");
        assert_eq!(rest("VIA,\tTE ,Forwarded,,upgrade"), "cOnnection: TE, upgrade\r\n");
        assert_eq!(rest("Host,via, "), "");
    }
}
