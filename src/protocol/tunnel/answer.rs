//! The answers of a proxy: the messages that it sends, and its refusal.

use std::fmt;

/// Characters of a proxy's answer that the log shows.
const SHOWN: usize = 120;

/// The next message of the proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The head of an answer to CONNECT.
    Head,
    /// The authentication method that it chooses.
    Method,
    /// Whether it accepts user name and password.
    Authentication,
    /// Whether it has connected us.
    Reply,
    Payload,
}

/// The length of a complete message and what is expected after it, or `None` while the message is incomplete.
pub(super) type Parsed = Result<Option<(usize, Expected)>, ProxyRefusal>;

/// Why the proxy does not connect us, for the log: a short text of printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRefusal(String);

impl ProxyRefusal {
    pub(super) fn new(reason: &str) -> ProxyRefusal {
        let shown = reason.chars().take(SHOWN);
        ProxyRefusal(shown.map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect())
    }
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
