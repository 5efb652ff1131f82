//! Requests as data: written as a client does, and read again by another reader than the one under test.

use super::*;

use httparse::{EMPTY_HEADER, Status};

type Lines = Vec<(String, Vec<u8>)>;

/// A valid request in origin form.
#[derive(Debug, Clone)]
pub struct Request {
    /// Empty lines stand before it.
    blank: &'static str,
    method: String,
    path: String,
    minor: u8,
    host: Option<(String, Option<u16>)>,
    headers: Lines,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Length(Vec<u8>),
    /// With the extension of each, and the last one's.
    Chunks(Vec<(Vec<u8>, String)>, String, Lines),
}

/// A request as a proxy understands it.
#[derive(Debug, PartialEq, Eq)]
pub struct AsRead {
    line: String,
    headers: Lines,
    body: Vec<u8>,
    trailer: Lines,
}

const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PATH: &[u8] = b"/?=&%20;:@!$'()*+,-._~[]{}|\\^`\"<>abcXYZ123\x80\xe4\xff";
const ALPHANUMERIC: &[u8] = b"abcXYZ019";
const NAME: &[u8] = b"abcXYZ019-_";
const VALUE: &[u8] = b"abcXYZ019 \t:;,=\"()<>/\\\x80\xa0\xff";

fn text(of: &'static [u8], size: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(select(of), size).prop_map(|bytes| bytes.into_iter().map(char::from).collect())
}

fn lines() -> impl Strategy<Value = Lines> {
    // In front of the name stands what no header has that means something.
    let name = text(TOKEN, 0..12).prop_map(|name| format!("X-{name}"));
    let value = vec(select(VALUE), 0..30).prop_map(|value| value.trim_ascii().to_vec());
    vec((name, value), 0..4)
}

fn method() -> impl Strategy<Value = String> {
    let usual = select(vec!["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "M-SEARCH"]).prop_map(str::to_owned);
    prop_oneof![3 => usual, 1 => text(TOKEN, 1..10)]
}

fn host() -> impl Strategy<Value = (String, Option<u16>)> {
    // No label begins with a hyphen, and the last one is no number.
    let label = (text(ALPHANUMERIC, 1..2), text(NAME, 0..7)).prop_map(|(first, rest)| first + &rest + ".");
    let name = vec(label, 0..3).prop_map(|labels| labels.concat());
    let name = name.prop_map(|labels: String| labels + "cow");
    let literal = select(vec!["10.2.0.5", "[fd00:2::5]", "[::]"]).prop_map(str::to_owned);
    (prop_oneof![3 => name, 1 => literal], option::of(1..=u16::MAX))
}

fn body() -> impl Strategy<Value = Body> {
    let data = || vec(any::<u8>(), 0..40);
    let extension =
        || prop_oneof![3 => Just(String::new()), 1 => text(b"ab=\"; \t", 0..9).prop_map(|rest| format!(";{rest}"))];
    let chunk = (vec(any::<u8>(), 1..40), extension());
    let chunks = (vec(chunk, 0..4), extension(), lines());
    prop_oneof![
        Just(Body::None),
        data().prop_map(Body::Length),
        chunks.prop_map(|(chunks, last, trailer)| Body::Chunks(chunks, last, trailer)),
    ]
}

/// Any valid request that is neither a CONNECT nor an upgrade.
pub fn request() -> impl Strategy<Value = Request> {
    let path = text(PATH, 0..20).prop_map(|rest| format!("/{rest}"));
    let host = option::weighted(0.9, host());
    let blank = prop_oneof![8 => Just(""), 1 => select(vec!["\r\n", "\n", "\r\n\r\n", "\n\r\n\n"])];
    (blank, method(), path, 0..=1u8, host, lines(), body()).prop_map(
        |(blank, method, path, minor, host, headers, body)| {
            let minor = if matches!(body, Body::Chunks(..)) { 1 } else { minor };
            let method = if method == "CONNECT" { "GET".to_owned() } else { method };
            Request { blank, method, path, minor, host, headers, body }
        },
    )
}

impl Request {
    /// As a client sends it.
    pub fn bytes(&self) -> Vec<u8> {
        [self.blank.as_bytes(), &joined(&self.head()), b"\r\n", &self.body()].concat()
    }

    /// The lines of its head, without their ends.
    pub fn head(&self) -> Vec<Vec<u8>> {
        let line = format!("{} {} HTTP/1.{}", self.method, self.path, self.minor);
        let headers = self.all_headers().into_iter().map(|(name, value)| [name.as_bytes(), b": ", &value].concat());
        [line.into_bytes()].into_iter().chain(headers).collect()
    }

    /// Its body as it travels.
    pub fn body(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Length(data) => data.clone(),
            Body::Chunks(chunks, last, trailer) => {
                let chunk = |(data, extension): &(Vec<u8>, String)| {
                    [format!("{:x}{extension}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
                };
                let mut bytes: Vec<u8> = chunks.iter().flat_map(chunk).collect();
                bytes.extend(format!("0{last}\r\n").bytes());
                for (name, value) in trailer {
                    bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
                }
                bytes.extend(b"\r\n");
                bytes
            }
        }
    }

    /// The same request with this body, as a list of chunks, or none.
    pub fn with_chunks(mut self, chunks: Option<Vec<u8>>) -> Request {
        self.minor = 1;
        self.blank = "";
        self.body = match chunks {
            Some(data) => Body::Chunks(vec![(data, String::new())], String::new(), Vec::new()),
            None => Body::None,
        };
        self
    }

    /// What the proxy is to read.
    pub fn as_read(&self, addrs: &AddrPair) -> AsRead {
        let usual = |port: u16| if port == 80 { String::new() } else { format!(":{port}") };
        // An address that is not the original destination is asked for.
        let literal = |host: &str| host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let doubted = |host: &str| literal(host).is_some_and(|ip| ip != addrs.original.ip());
        let host = self.host.clone().filter(|(host, _)| !doubted(host) || is_believed(host.trim_matches(['[', ']'])));
        let authority = match (&host, addrs.original) {
            (Some((host, Some(port))), _) => format!("{host}:{port}"),
            (Some((host, None)), original) => host.clone() + &usual(original.port()),
            (None, SocketAddr::V4(original)) => original.ip().to_string() + &usual(original.port()),
            (None, SocketAddr::V6(original)) => format!("[{}]{}", original.ip(), usual(original.port())),
        };
        let (body, trailer) = match &self.body {
            Body::None => (Vec::new(), Vec::new()),
            Body::Length(data) => (data.clone(), Vec::new()),
            Body::Chunks(chunks, _, trailer) => {
                (chunks.iter().flat_map(|(data, _)| data.clone()).collect(), trailer.clone())
            }
        };
        let line = format!("{} http://{authority}{} HTTP/1.{}", self.method, self.path, self.minor);
        let mut headers = self.all_headers();
        if let Some(host) = headers.iter_mut().find(|(name, _)| name == "hOST").filter(|_| host.is_none()) {
            *host = ("Host".to_owned(), authority.into_bytes());
        }
        AsRead { line, headers, body, trailer }
    }

    fn all_headers(&self) -> Lines {
        let mut headers = self.headers.clone();
        let middle = headers.len() / 2;
        if let Some((host, port)) = &self.host {
            let value = host.clone() + &port.map_or(String::new(), |port| format!(":{port}"));
            headers.insert(middle, ("hOST".to_owned(), value.into_bytes()));
        }
        match &self.body {
            Body::None => {}
            Body::Length(data) => headers.push(("Content-length".to_owned(), data.len().to_string().into_bytes())),
            Body::Chunks(..) => headers.insert(0, ("transfer-Encoding".to_owned(), b"chunked".to_vec())),
        }
        headers
    }
}

/// Lines with their ends.
pub fn joined(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect()
}

/// Reads requests as a proxy would.
pub fn read(mut bytes: &[u8]) -> Vec<AsRead> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        found.push(read_one(&mut bytes));
    }
    found
}

fn read_one(bytes: &mut &[u8]) -> AsRead {
    let mut headers = [EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(Status::Complete(length)) = request.parse(bytes) else { panic!("no head: {:?}", bytes.escape_ascii()) };
    take(bytes, length);
    let (method, path, minor) = (request.method.unwrap(), request.path.unwrap(), request.version.unwrap());
    let headers = lines_of(request.headers);
    let value = |name: &str| headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let (mut body, mut trailer) = (Vec::new(), Vec::new());
    if value("Transfer-Encoding").is_some() {
        (body, trailer) = read_chunks(bytes);
    } else if let Some(length) = value("Content-Length") {
        body = take(bytes, str::from_utf8(length).unwrap().parse().unwrap()).to_vec();
    }
    AsRead { line: format!("{method} {path} HTTP/1.{minor}"), headers, body, trailer }
}

fn read_chunks(bytes: &mut &[u8]) -> (Vec<u8>, Lines) {
    let mut body = Vec::new();
    loop {
        let Ok(Status::Complete((length, size))) = httparse::parse_chunk_size(bytes) else { panic!("no chunk") };
        take(bytes, length);
        if size == 0 {
            break;
        }
        body.extend(take(bytes, size as usize));
        assert_eq!(take(bytes, 2), b"\r\n");
    }
    let mut headers = [EMPTY_HEADER; 100];
    let Ok(Status::Complete((length, lines))) = httparse::parse_headers(bytes, &mut headers) else {
        panic!("no trailer")
    };
    let trailer = lines_of(lines);
    take(bytes, length);
    (body, trailer)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn lines_of(headers: &[httparse::Header<'_>]) -> Lines {
    headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect()
}
