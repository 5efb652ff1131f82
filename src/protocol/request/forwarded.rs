//! The fields that tell the proxy the address of the client.

use std::io::Write;
use std::net::IpAddr;

/// Which of them are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    #[default]
    No,
    /// `Forwarded` (RFC 7239).
    Standard,
    /// `X-Forwarded-For`.
    XForwardedFor,
    Both,
}

impl Forwarded {
    pub fn has_standard(self) -> bool {
        matches!(self, Forwarded::Standard | Forwarded::Both)
    }

    /// Appends the lines.
    pub fn write(self, client: IpAddr, out: &mut Vec<u8>) {
        if self.has_standard() {
            // Writing to a Vec cannot fail.
            let _ = match client {
                IpAddr::V4(address) => write!(out, "Forwarded: for={address}\r\n"),
                IpAddr::V6(address) => write!(out, "Forwarded: for=\"[{address}]\"\r\n"),
            };
        }
        if matches!(self, Forwarded::XForwardedFor | Forwarded::Both) {
            let _ = write!(out, "X-Forwarded-For: {client}\r\n");
        }
    }
}

/// Whether the quotes of a `Forwarded` are open at its end. Several lines are one list (RFC 9110, 5.3), so what is added
/// behind it would stand in the quotes. Not everybody takes a backslash for what it is (RFC 9110, 5.6.4).
pub fn is_open(value: &[u8]) -> bool {
    let quotes = value.iter().filter(|byte| **byte == b'"').count();
    let (mut quoted, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted || quotes % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_that_do_not_end_are_found_whatever_a_backslash_means() {
        for closed in
            ["", "for=cow", "for=\"[fd00::2]:80\"", "for=\"a\", for=\"b;c, d\"", "by=\"\\\\\"", "a\\b", "\"\\a\""]
        {
            assert!(!is_open(closed.as_bytes()), "{closed}");
        }
        for open in
            ["\"", "for=\"cow", "for=\"a\", for=\"b", "for=\"a\\\"", "\"a\\\"b\"", "a\\\"", "\"\"\"", "\"\\\"\"\\\""]
        {
            assert!(is_open(open.as_bytes()), "{open}");
        }
    }
}
