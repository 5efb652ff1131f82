//! A web server for exact assertions: it keeps every request as it arrived, and answers with what it understood.

use crate::clients::IO_PATIENCE;
use crate::pattern::Sum;
use crate::servers::Server;
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who sent it.
    pub peer: SocketAddr,
    /// GET, POST...
    pub method: String,
    /// What the first line asks for, as it was written.
    pub target: String,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: String,
    /// Names and values in their order.
    pub headers: Vec<(String, String)>,
    /// The length and the SHA-256 of the body, without its chunks' frames.
    pub body: Sum,
}

impl Seen {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str, word: &str) -> bool {
        self.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    }

    /// What the server answers with.
    fn page(&self) -> String {
        format!("{} {} {} {}\n", self.method, self.target, self.body.bytes, hex(&self.body.hash))
    }
}

/// A hash as sha256sum(1) writes it.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server. HTTP/1.1 with kept-alive and pipelined connections, chunked bodies, `Expect: 100-continue`, and
/// upgrades to a protocol that sends back what it gets.
pub struct Origin {
    seen: Arc<Mutex<Vec<Seen>>>,
    _server: Server,
}

impl Origin {
    /// Starts it at an address.
    pub fn start(at: &str) -> Origin {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let server = Server::threaded(at, move |stream| {
            // A client that goes away in the middle is no concern of the server's.
            let _ = converse(&stream, |seen| record.lock().expect("seen").push(seen));
        });
        Origin { seen, _server: server }
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("seen").clone()
    }

    /// The latest request.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the web server was asked for something")
    }
}

fn converse(stream: &TcpStream, record: impl Fn(Seen)) -> io::Result<()> {
    stream.set_read_timeout(Some(IO_PATIENCE))?;
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(mut seen) = head(&mut reader, peer)? {
        if seen.has("Expect", "100-continue") {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        seen.body = body(&mut reader, &seen)?;
        record(seen.clone());
        if seen.has("Connection", "upgrade") {
            return upgrade(&mut reader, writer, seen.header("Upgrade").unwrap_or("websocket"));
        }
        let last = seen.version == "HTTP/1.0" || seen.has("Connection", "close");
        let page = if seen.method == "HEAD" { String::new() } else { seen.page() };
        let (length, end) = (seen.page().len(), if last { "close" } else { "keep-alive" });
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {end}\r\n");
        writer.write_all(format!("{head}\r\n{page}").as_bytes())?;
        if last {
            break;
        }
    }
    Ok(())
}

fn upgrade(reader: &mut impl Read, mut writer: impl Write, protocol: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    writer.write_all(head.as_bytes())?;
    io::copy(reader, &mut writer).map(|_| ())
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut raw = Vec::new();
    let count = reader.read_until(b'\n', &mut raw)?;
    Ok((count > 0).then(|| String::from_utf8_lossy(&raw).trim_end_matches(['\r', '\n']).to_string()))
}

fn head(reader: &mut impl BufRead, peer: SocketAddr) -> io::Result<Option<Seen>> {
    let Some(first) = line(reader)? else { return Ok(None) };
    let mut words = first.splitn(3, ' ').map(str::to_string);
    let mut word = || words.next().unwrap_or_default();
    let (method, target, version) = (word(), word(), word());
    let mut headers = Vec::new();
    while let Some(text) = line(reader)?.filter(|text| !text.is_empty()) {
        let (name, value) = text.split_once(':').unwrap_or((text.as_str(), ""));
        headers.push((name.to_string(), value.trim().to_string()));
    }
    let body = Sum { bytes: 0, hash: Sha256::digest(b"").into() };
    Ok(Some(Seen { peer, method, target, version, headers, body }))
}

fn body(reader: &mut impl BufRead, seen: &Seen) -> io::Result<Sum> {
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    if seen.has("Transfer-Encoding", "chunked") {
        while let Some(size) = chunk_size(reader)? {
            bytes += take(reader, size, &mut hasher)?;
            line(reader)?;
        }
        // The trailer section, up to its empty line.
        while line(reader)?.is_some_and(|text| !text.is_empty()) {}
    } else if let Some(length) = seen.header("Content-Length") {
        let length = length.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        bytes = take(reader, length, &mut hasher)?;
    }
    Ok(Sum { bytes, hash: hasher.finalize().into() })
}

/// `None` for the last chunk, which is empty.
fn chunk_size(reader: &mut impl BufRead) -> io::Result<Option<u64>> {
    let text = line(reader)?.unwrap_or_default();
    let digits = text.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(digits, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((size > 0).then_some(size))
}

fn take(reader: &mut impl Read, length: u64, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 65536];
    let mut rest = reader.take(length);
    let mut bytes = 0;
    loop {
        let count = rest.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
    if bytes == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
