//! Where the body of a request or an answer ends (RFC 9112, 6). A head that says it in two ways is refused.

use crate::protocol::request::refusal::Refusal;

/// The body that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// A fixed number of bytes. It is 0 if the head says nothing.
    Length(u64),
    Chunked,
}

/// The fields about the body that were read so far.
#[derive(Debug, Default)]
pub struct Framing {
    length: Option<u64>,
    codings: Codings,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// The last one does not say where the body ends.
    Endless,
    /// The last one is `chunked`.
    Chunked,
}

impl Framing {
    /// Adds a `Content-Length`.
    pub fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = number(value, 10).ok_or(Refusal::Malformed("Content-Length"))?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Refusal::Malformed("more than one Content-Length")),
        }
    }

    /// Adds a `Transfer-Encoding`. Several fields make one list.
    pub fn codings(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for coding in value.split(|byte| *byte == b',') {
            let coding = trim(coding);
            let is_token = !coding.is_empty() && coding.iter().all(|byte| is_token(*byte));
            if !is_token || self.codings == Codings::Chunked {
                return Err(Refusal::Malformed("Transfer-Encoding"));
            }
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            self.codings = if chunked { Codings::Chunked } else { Codings::Endless };
        }
        Ok(())
    }

    /// The body of a request of HTTP/1.`minor`.
    pub fn body(&self, minor: u8) -> Result<Body, Refusal> {
        match (&self.codings, self.length) {
            (Codings::None, length) => Ok(Body::Length(length.unwrap_or(0))),
            (_, Some(_)) => Err(Refusal::Malformed("Content-Length and Transfer-Encoding")),
            (_, None) if minor == 0 => Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0")),
            (Codings::Endless, None) => Err(Refusal::Malformed("Transfer-Encoding")),
            (Codings::Chunked, None) => Ok(Body::Chunked),
        }
    }
}

/// The body that follows the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerBody {
    Length(u64),
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

/// The fields about the body of an answer that were read so far.
#[derive(Debug, Default)]
pub struct AnswerFraming(Framing);

impl AnswerFraming {
    /// Adds a `Content-Length`. It may be repeated, with the same number. `None` if it is not understood.
    pub fn length(&mut self, value: &[u8]) -> Option<()> {
        let length = number(value, 10)?;
        let before = self.0.length.replace(length);
        before.is_none_or(|before| before == length).then_some(())
    }

    /// Adds a `Transfer-Encoding`. `None` if it is not understood.
    pub fn codings(&mut self, value: &[u8]) -> Option<()> {
        self.0.codings(value).ok()
    }

    /// The body of an answer of HTTP/1.`minor`; `None` if two fields contradict each other.
    pub fn body(&self, minor: u8) -> Option<AnswerBody> {
        match (&self.0.codings, self.0.length) {
            (Codings::None, None) => Some(AnswerBody::UntilClose),
            (Codings::None, Some(length)) => Some(AnswerBody::Length(length)),
            (_, Some(_)) => None,
            // Who speaks HTTP/1.0 does not know of codings, and has passed on what it does not understand.
            (_, None) if minor == 0 => Some(AnswerBody::UntilClose),
            (Codings::Endless, None) => Some(AnswerBody::UntilClose),
            (Codings::Chunked, None) => Some(AnswerBody::Chunked),
        }
    }
}

/// Accepts only digits. A number beyond i64 is refused: the proxy may use a signed type.
pub fn number(text: &[u8], radix: u32) -> Option<u64> {
    let digit = |byte: &u8| char::from(*byte).to_digit(radix).map(u64::from);
    let add = |sum: u64, byte| sum.checked_mul(radix.into())?.checked_add(digit(byte)?);
    let number = text.iter().try_fold(0, add)?;
    (!text.is_empty() && number <= i64::MAX as u64).then_some(number)
}

/// Removes the spaces and tabs around an element of a list (RFC 9110, 5.6.3).
pub fn trim(mut element: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = element {
        element = rest;
    }
    element
}

/// Whether a token may contain this byte (RFC 9110, 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(values: &[&str]) -> Result<Body, Refusal> {
        let mut framing = Framing::default();
        values.iter().try_for_each(|value| framing.length(value.as_bytes()))?;
        framing.body(1)
    }

    fn codings(values: &[&str], minor: u8) -> Result<Body, Refusal> {
        let mut framing = Framing::default();
        values.iter().try_for_each(|value| framing.codings(value.as_bytes()))?;
        framing.body(minor)
    }

    #[test]
    fn a_head_that_says_nothing_has_no_body() {
        assert_eq!(Framing::default().body(0), Ok(Body::Length(0)));
        assert_eq!(Framing::default().body(1), Ok(Body::Length(0)));
    }

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        assert_eq!(lengths(&["0"]), Ok(Body::Length(0)));
        assert_eq!(lengths(&["104857600"]), Ok(Body::Length(104_857_600)));
        assert_eq!(lengths(&["007"]), Ok(Body::Length(7)));
        assert_eq!(lengths(&["9223372036854775807"]), Ok(Body::Length(i64::MAX as u64)));
        let table = ["", "+5", "-5", "5 ", " 5", "5, 5", "5,5", "0x5", "5a", "5.0", "5 5", "٥", "5\t"];
        for value in table {
            assert_eq!(lengths(&[value]), Err(Refusal::Malformed("Content-Length")), "{value:?}");
        }
        for value in ["9223372036854775808", "18446744073709551615", "18446744073709551617", "99999999999999999999999"]
        {
            assert_eq!(lengths(&[value]), Err(Refusal::Malformed("Content-Length")), "{value:?}");
        }
    }

    #[test]
    fn two_lengths_are_refused_even_when_equal() {
        assert_eq!(lengths(&["5", "5"]), Err(Refusal::Malformed("more than one Content-Length")));
        assert_eq!(lengths(&["5", "6"]), Err(Refusal::Malformed("more than one Content-Length")));
    }

    #[test]
    fn chunked_must_be_the_last_coding_and_named_once() {
        for values in [&["chunked"][..], &["Chunked"], &["gzip, chunked"], &["gzip ,\tchunked"], &["gzip", "chunked"]] {
            assert_eq!(codings(values, 1), Ok(Body::Chunked), "{values:?}");
        }
        let table: [&[&str]; 22] = [
            &[""],
            &["identity"],
            &["gzip"],
            &["chunked, gzip"],
            &["chunked, identity"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["chunked", "identity"],
            &["chunked", ""],
            &["chunked,"],
            &[",chunked"],
            &["gzip,,chunked"],
            &["chunked;q=1"],
            &["chunked foo"],
            &["foo chunked"],
            &["xchunked"],
            &["chunked2"],
            &["\"chunked\""],
            &["foo;a=\",chunked\""],
            &["chunked\u{b}"],
            &["chunked\u{c}"],
            &["\u{a0}chunked"],
        ];
        for values in table {
            assert_eq!(codings(values, 1), Err(Refusal::Malformed("Transfer-Encoding")), "{values:?}");
        }
    }

    #[test]
    fn http_1_0_knows_no_codings() {
        assert_eq!(codings(&["chunked"], 0), Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0")));
    }

    #[test]
    fn a_length_and_a_coding_contradict_each_other() {
        for coding in ["chunked", "gzip"] {
            let mut framing = Framing::default();
            framing.length(b"5").unwrap();
            framing.codings(coding.as_bytes()).unwrap();
            assert_eq!(framing.body(1), Err(Refusal::Malformed("Content-Length and Transfer-Encoding")), "{coding}");
        }
    }
}
