//! The web server of the fuzzing: it answers as the client wants it to, in good and in bad ways, and is a witness of what
//! the proxies have passed on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lab::servers::Server;

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a request may ask for with `X-Answer`. AGREE stands for an answer that agrees to a switch, if one was asked for.
pub const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n26;a=b\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nno",
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 36\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nuntil the end",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
    "garbage\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "AGREE",
    "AGREE",
    "AGREE",
    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nAGREE",
];

/// What the server has seen.
#[derive(Clone, Default)]
pub struct Witness(Arc<Seen>);

#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    switched: AtomicU64,
    /// Heads that came by way of a proxy and do not tell of the client.
    past: Mutex<Vec<String>>,
}

impl Witness {
    /// Starts the server.
    pub fn serve(&self) -> Server {
        let witness = self.clone();
        Server::threaded("[::]:80", move |stream| _ = witness.converse(&stream))
    }

    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// How often a switch was agreed to.
    pub fn switched(&self) -> u64 {
        self.0.switched.load(Ordering::Relaxed)
    }

    /// Fails if a request has come past tproxy.
    pub fn judge(&self, seed: u64) {
        let past = self.0.past.lock().expect("heads");
        assert!(past.is_empty(), "seed {seed}: came past tproxy: {past:?}");
    }

    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        let (mut reader, mut writer) = (BufReader::new(stream), stream);
        loop {
            let head = head(&mut reader)?;
            // What has come through a tunnel was said by the client itself.
            let is_by_proxy = ["via: 1.1 squid", "via: 1.1 haproxy"].iter().any(|via| head.contains(via));
            if !is_by_proxy {
                return drain(&mut reader);
            }
            self.0.requests.fetch_add(1, Ordering::Relaxed);
            let is_told = |line: &str| line.starts_with("x-forwarded-for:") && line.contains(super::CLIENT);
            if !head.lines().any(is_told) {
                self.0.past.lock().expect("heads").push(head.clone());
            }
            body(&mut reader, &head)?;
            let number = value(&head, "x-answer").and_then(|number| number.parse().ok()).unwrap_or(0_usize);
            let answer = *ANSWERS.get(number).unwrap_or(&ANSWERS[0]);
            let (before, agrees) = answer.strip_suffix("AGREE").map_or((answer, false), |before| (before, true));
            writer.write_all(before.as_bytes())?;
            let consent = match agrees {
                true if head.starts_with("connect ") => "HTTP/1.1 200 Connected\r\n\r\n",
                true if value(&head, "upgrade").is_some() => SWITCHING,
                _ => "",
            };
            if !consent.is_empty() {
                writer.write_all(consent.as_bytes())?;
                self.0.switched.fetch_add(1, Ordering::Relaxed);
                return drain(&mut reader);
            } else if agrees {
                writer.write_all(ANSWERS[0].as_bytes())?;
            } else if !answer.contains("Content-Length: 0") && !answer.contains("hello") {
                // Where it ends is not clear to everybody.
                return Ok(());
            }
        }
    }
}

/// A head in small letters, with its empty line.
fn head(reader: &mut impl BufRead) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).to_ascii_lowercase())
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(known, _)| *known == name).map(|(_, value)| value.trim())
}

fn body(reader: &mut impl BufRead, head: &str) -> io::Result<()> {
    let mut line = String::new();
    if value(head, "transfer-encoding").is_none() {
        let length = value(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        return io::copy(&mut reader.take(length), &mut io::sink()).map(|_| ());
    }
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let digits = line.trim().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(digits, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if size == 0 {
            break;
        }
        io::copy(&mut reader.take(size + 2), &mut io::sink())?;
    }
    while line.trim() != "" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    io::copy(reader, &mut io::sink()).map(|_| ())
}
