//! Why a request is refused, and the answer to the client.

use std::fmt;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The connection does not begin like HTTP/1. None of it has been used or passed on.
    NotHttp,
    /// It is meant as HTTP, but it is malformed or ambiguous. The text names the part.
    Malformed(&'static str),
    /// A head is longer than `--max-head`, or has too many fields.
    TooLong,
    /// The proxy's answers are not understood, and the client has asked for something that depends on them.
    Answer,
}

impl Refusal {
    /// The complete answer to the client; `None` if it would not be recognised as one.
    pub fn response(&self) -> Option<&'static [u8]> {
        Some(match self {
            Refusal::NotHttp => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                Content-Length: 28\r\n\r\nOnly HTTP/1 is spoken here.\n"
            }
            Refusal::Malformed(_) => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                Content-Length: 28\r\n\r\nThe request is not correct.\n"
            }
            Refusal::TooLong => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                Content-Length: 35\r\n\r\nThe head of a request is too long.\n"
            }
            Refusal::Answer => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotHttp => f.write_str("not HTTP"),
            Refusal::Malformed(what) => f.write_str(what),
            Refusal::TooLong => f.write_str("a head that is too long"),
            Refusal::Answer => f.write_str("an answer that is not understood"),
        }
    }
}

impl From<httparse::Error> for Refusal {
    fn from(error: httparse::Error) -> Refusal {
        match error {
            httparse::Error::TooManyHeaders => Refusal::TooLong,
            httparse::Error::HeaderName => Refusal::Malformed("the name of a field"),
            httparse::Error::HeaderValue => Refusal::Malformed("the value of a field"),
            httparse::Error::Version => Refusal::Malformed("the version"),
            _ => Refusal::Malformed("the request line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 3] = [Refusal::NotHttp, Refusal::Malformed("a bare LF"), Refusal::TooLong];

    #[test]
    fn an_answer_is_complete_ends_the_connection_and_has_one_line_of_text() {
        for refusal in ALL {
            let answer = str::from_utf8(refusal.response().unwrap()).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let lines: Vec<&str> = head.split("\r\n").collect();
            assert!(lines.contains(&"Connection: close"), "{answer}");
            assert!(lines.contains(&&*format!("Content-Length: {}", body.len())), "{} {answer}", body.len());
            assert_eq!(body.find('\n'), Some(body.len() - 1), "{answer}");
            assert!(!head.replace("\r\n", "").contains(char::is_control), "{answer}");
        }
    }

    #[test]
    fn too_long_has_a_status_of_its_own() {
        let statuses = ALL.map(|refusal| str::from_utf8(&refusal.response().unwrap()[..12]).unwrap());
        assert_eq!(statuses, ["HTTP/1.1 400", "HTTP/1.1 400", "HTTP/1.1 431"]);
    }

    #[test]
    fn the_log_gets_a_short_reason() {
        let reasons = ALL.map(|refusal| refusal.to_string());
        assert_eq!(reasons, ["not HTTP", "a bare LF", "a head that is too long"]);
    }
}
