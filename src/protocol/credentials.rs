//! The user name and password for a proxy.

use std::fmt;

use data_encoding::BASE64;

/// Bytes of the longest name and of the longest password that SOCKS 5 can carry (RFC 1929, 2).
const LONGEST: usize = 255;

/// Never shown, not even in a debug message.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Without a colon (RFC 7617, 2).
    pub user: String,
    pub password: String,
}

impl Credentials {
    /// Reads the text of a file: one line `user:password`, besides comments with `#` and empty lines. That line is not
    /// trimmed, since a password may end with a space. Errors say what is wrong, and never quote the text.
    pub fn parse(text: &str) -> Result<Credentials, &'static str> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or("no line user:password in it")?;
        if lines.next().is_some() {
            return Err("more than one line user:password in it");
        }
        let (user, password) = line.split_once(':').ok_or("no colon between user and password")?;
        if line.contains(char::is_control) {
            return Err("a control character in user or password");
        }
        let fits = |part: &str| (1..=LONGEST).contains(&part.len());
        if !fits(user) || !fits(password) {
            return Err("user and password must have 1 to 255 bytes each");
        }
        Ok(Credentials { user: user.to_owned(), password: password.to_owned() })
    }

    /// Appends a `Proxy-Authorization` header (RFC 7617, 2). Every request has one, so it allocates nothing but in `out`.
    #[cfg_attr(
        not(test),
        expect(clippy::indexing_slicing, clippy::disallowed_methods, reason = "the indices are our own")
    )]
    pub fn write_header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Proxy-Authorization: Basic ");
        let start = out.len();
        for part in [&self.user, ":", &self.password] {
            out.extend_from_slice(part.as_bytes());
        }
        let end = out.len();
        out.resize(end + BASE64.encode_len(end - start), 0);
        let (pair, encoded) = out[start..].split_at_mut(end - start);
        BASE64.encode_mut(pair, encoded);
        out.drain(start..end);
        out.extend_from_slice(b"\r\n");
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: &str, password: &str) -> Result<Credentials, &'static str> {
        Ok(Credentials { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn the_line_is_found_among_comments_and_empty_lines() {
        assert_eq!(Credentials::parse("cow:moo"), credentials("cow", "moo"));
        assert_eq!(Credentials::parse("# the proxy's\n\n  \r\ncow:moo\r\n# end\n"), credentials("cow", "moo"));
    }

    #[test]
    fn all_that_follows_the_first_colon_is_the_password() {
        assert_eq!(Credentials::parse("cow:mo:o:"), credentials("cow", "mo:o:"));
        assert_eq!(Credentials::parse(" cow : moo # \n"), credentials(" cow ", " moo # "));
        assert_eq!(Credentials::parse("Kuh:müh\n"), credentials("Kuh", "müh"));
    }

    #[test]
    fn whatever_is_wrong_is_said_without_showing_it() {
        let (longest, longer) = ("x".repeat(255), "x".repeat(256));
        assert_eq!(Credentials::parse(&format!("{longest}:{longest}")), credentials(&longest, &longest));
        let sizes = "user and password must have 1 to 255 bytes each";
        let table = [
            ("", "no line user:password in it"),
            ("# cow:moo\n", "no line user:password in it"),
            ("cow:moo\nmoose:bell\n", "more than one line user:password in it"),
            ("cow\n", "no colon between user and password"),
            ("cow:m\too\n", "a control character in user or password"),
            ("cow:m\roo\n", "a control character in user or password"),
            ("cow:m\0oo\n", "a control character in user or password"),
            ("cow:m\u{85}oo\n", "a control character in user or password"),
            (":moo\n", sizes),
            ("cow:\n", sizes),
            (&format!("{longer}:moo"), sizes),
            (&format!("cow:{longer}"), sizes),
        ];
        for (text, wrong) in table {
            assert_eq!(Credentials::parse(text), Err(wrong), "{text:?}");
        }
    }

    #[test]
    fn basic_is_what_rfc_7617_gives_as_examples() {
        let header = |user, password| {
            let mut out = b"before ".to_vec();
            credentials(user, password).unwrap().write_header(&mut out);
            String::from_utf8(out).unwrap()
        };
        let aladdin = "before Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
        assert_eq!(header("Aladdin", "open sesame"), aladdin);
        assert_eq!(header("test", "123£"), "before Proxy-Authorization: Basic dGVzdDoxMjPCow==\r\n");
    }

    #[test]
    fn a_debug_line_shows_nothing() {
        assert_eq!(format!("{:?}", credentials("cow", "moo")), "Ok(Credentials)");
    }
}
