//! Requests of programs that collect metrics: the head of one request, and the answer to it.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

/// Bytes of the longest head.
pub const SCRAPE_HEAD: usize = 8192;

/// The formats of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
    OpenMetrics,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What has come so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrapeRequest {
    /// The head is not complete.
    Partial,
    /// The metrics are wanted; with HEAD without the body.
    Metrics { format: Format, with_body: bool },
    /// This status is the answer.
    Refused(&'static str),
}

/// Reads the head of a request.
pub fn read(bytes: &[u8]) -> ScrapeRequest {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < SCRAPE_HEAD => return ScrapeRequest::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return ScrapeRequest::Refused("431 Request Header Fields Too Large");
        }
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return ScrapeRequest::Refused("400 Bad Request"),
    }
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return ScrapeRequest::Refused("405 Method Not Allowed"),
    };
    let path = request.path.unwrap_or_default();
    if path.split_once('?').map_or(path, |(path, _)| path) != "/metrics" {
        return ScrapeRequest::Refused("404 Not Found");
    }
    let accepts = |header: &httparse::Header<'_>| header.name.eq_ignore_ascii_case("accept");
    let format = request.headers.iter().filter(|header| accepts(header)).map(|header| format(header.value));
    let format = if format.into_iter().any(|format| format == Format::OpenMetrics) {
        Format::OpenMetrics
    } else {
        Format::Prometheus
    };
    ScrapeRequest::Metrics { format, with_body }
}

/// OpenMetrics is what a client gets that names it with a weight above nothing (RFC 9110, 12.5.1) and not below that of
/// plain text.
fn format(accept: &[u8]) -> Format {
    let text = str::from_utf8(accept).unwrap_or_default().to_ascii_lowercase();
    let (mut open, mut plain) = (0.0, 0.0);
    for part in text.split(',') {
        let mut words = part.split(';').map(str::trim);
        let kind = words.next().unwrap_or_default();
        let weight = words.find_map(|word| word.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        match kind {
            "application/openmetrics-text" => open = weight.max(open),
            "text/plain" => plain = weight.max(plain),
            _ => {}
        }
    }
    if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
}

/// The answer with metrics.
pub fn answer(format: Format, body: &str, with_body: bool) -> Vec<u8> {
    let (kind, length) = (format.content_type(), body.len());
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), if with_body { body.as_bytes() } else { b"" }].concat()
}

/// The answer to a request that is refused.
pub fn refusal(status: &str) -> Vec<u8> {
    let body = format!("{status}; the metrics are at /metrics\n");
    let length = body.len();
    // RFC 9110, 15.5.6.
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(head: &str) -> ScrapeRequest {
        read(head.as_bytes())
    }

    #[test]
    fn the_accept_header_chooses_the_format() {
        let prometheus =
            "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1\r\n";
        let plain = "accept: text/plain;q=0.9, application/openmetrics-text;q=0.2\r\n";
        for (header, format) in [
            ("", Format::Prometheus),
            (prometheus, Format::OpenMetrics),
            (plain, Format::Prometheus),
            ("Accept: application/openmetrics-text\r\n", Format::OpenMetrics),
            ("Accept: application/openmetrics-text;q=0\r\n", Format::Prometheus),
        ] {
            let request = asked(&format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{header}\r\n"));
            assert_eq!(request, ScrapeRequest::Metrics { format, with_body: true }, "{header}");
        }
    }

    #[test]
    fn everything_else_has_a_status() {
        let refused = |head: &str| match asked(head) {
            ScrapeRequest::Refused(status) => status.split_once(' ').unwrap().0.to_owned(),
            other => panic!("{head}: {other:?}"),
        };
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), "404");
        assert_eq!(refused("POST /metrics HTTP/1.1\r\n\r\n"), "405");
        assert_eq!(refused("\u{1}\r\n\r\n"), "400");
        assert_eq!(refused(&format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(SCRAPE_HEAD))), "431");
        assert_eq!(asked("GET /metr"), ScrapeRequest::Partial);
        assert_eq!(
            asked("HEAD /metrics?x=1 HTTP/1.0\r\n\r\n"),
            ScrapeRequest::Metrics { format: Format::Prometheus, with_body: false }
        );
        let text = String::from_utf8(refusal("405 Method Not Allowed")).unwrap();
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n"), "{text}");
        let text = String::from_utf8(answer(Format::OpenMetrics, "x\n", false)).unwrap();
        assert!(text.contains("Content-Length: 2\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }
}
