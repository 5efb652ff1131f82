//! The head of an answer: its status, and where its body ends (RFC 9112, 6.3). Servers write heads carelessly, so only
//! what decides about these two is checked.

use crate::protocol::request::framing::{AnswerBody, AnswerFraming, trim};

/// Bytes of a line that are looked at. What comes behind them is a reason, a value or an extension that is not used.
pub const LINE: usize = 1024;

/// What was read of a head so far.
#[derive(Debug, Default)]
pub struct AnswerHead {
    status: u16,
    minor: u8,
    framing: AnswerFraming,
    /// Whether the last field says where the body ends. A second line of it is not understood by everybody.
    is_about_body: bool,
}

impl AnswerHead {
    /// Reads the status line.
    pub fn begin(line: &[u8]) -> Option<AnswerHead> {
        let rest = line.strip_prefix(b"HTTP/1.")?;
        let (minor, rest) = rest.split_first().filter(|(digit, _)| digit.is_ascii_digit())?;
        let (digits, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
        let number = |sum: u16, byte: &u8| Some(sum * 10 + u16::from(byte.is_ascii_digit().then(|| byte - b'0')?));
        let status = digits.iter().try_fold(0, number).filter(|status| *status >= 100)?;
        let is_apart = reason.is_empty() || reason.starts_with(b" ");
        is_apart.then(|| AnswerHead { status, minor: minor - b'0', ..AnswerHead::default() })
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// Reads a line with a field. `None` if it says in an unclear way where the body ends.
    pub fn field(&mut self, line: &[u8]) -> Option<()> {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return (!self.is_about_body).then_some(());
        }
        let end = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at_checked(end)?;
        let is = |other: &[u8]| name.trim_ascii().eq_ignore_ascii_case(other);
        let (is_length, is_coding) = (is(b"Content-Length"), is(b"Transfer-Encoding"));
        self.is_about_body = is_length || is_coding;
        if !self.is_about_body {
            return Some(());
        }
        let value = trim(value.strip_prefix(b":")?);
        let is_clear = name.trim_ascii().len() == name.len() && line.len() < LINE;
        let known = if is_length { self.framing.length(value) } else { self.framing.codings(value) };
        known.filter(|()| is_clear)
    }

    /// The body that follows, unless the status or the request says that there is none.
    pub fn body(&self) -> Option<AnswerBody> {
        self.framing.body(self.minor)
    }
}
