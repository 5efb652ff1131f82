//! Scenario S3: a company whose clients reach the world through its proxy without knowing it. What the tests of
//! `via_http`, `via_tunnel` and `proxy_protocol` share.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Output;

use lab::daemon::{Daemon, Launch};
use lab::netns::Lab;
use lab::origin::Origin;
use lab::peers;
use lab::tempdir::TempDir;

/// The client's machine, the gateway with tproxy, moose, which is the world, and cow, where the proxy runs.
pub struct Office {
    /// The machines. moose is `moose` and `moose.example`, or `moose6` and `moose6.example` by its IPv6 address.
    pub lab: Lab,
    /// For files that the daemon reads, and what clients send.
    pub files: TempDir,
}

/// What is caught: the connections of the clients, not those of the proxy, which pass the same gateway.
fn caught(port: &str) -> Vec<String> {
    let one = |from: &str| ["-R".to_owned(), format!("-s {from} --dport {port}")];
    [one("10.1.0.0/24"), one("fd00:1::/64")].concat()
}

impl Office {
    /// `None` where there are no namespaces.
    pub fn new() -> Option<Office> {
        let lab = Lab::new()?;
        for net in [&lab.client, &lab.gateway, &lab.moose, &lab.cow] {
            net.hosts(
                "10.2.0.5 moose moose.example refused.example\nfd00:2::5 moose6 moose6.example\n\
                 10.3.0.3 cow cow.example\nfd00:3::3 cow6\n",
            );
        }
        Some(Office { lab, files: TempDir::new() })
    }

    /// The same with a web server on moose.
    pub fn with_origin() -> Option<(Office, Origin)> {
        let office = Office::new()?;
        let origin = office.lab.moose.enter(|| Origin::start("[::]:80"));
        Some((office, origin))
    }

    /// tproxy on the gateway, in front of what the clients send to `port`, with blank-separated arguments.
    pub fn relay(&self, port: &str, more: &str) -> Daemon {
        let launch = Launch::line("-d -s 8081 -r nobody").within(&self.lab.gateway);
        let launch = caught(port).into_iter().fold(launch, Launch::arg);
        more.split_whitespace().fold(launch, Launch::arg).ready()
    }

    /// A file for `--auth-file`.
    pub fn auth_file(&self, user: &str, password: &str) -> String {
        let path = self.files.file(&format!("{user}-{password}"));
        let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| writeln!(file, "{user}:{password}")).expect("auth file");
        path
    }

    /// What curl prints that the client runs; it must succeed.
    pub fn curl(&self, arguments: &[&str]) -> String {
        let done = self.try_curl(arguments);
        let (out, err) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "curl {arguments:?}: {}\n{out}{err}", done.status);
        out
    }

    /// curl on the client, which may fail.
    pub fn try_curl(&self, arguments: &[&str]) -> Output {
        peers::attempt(&self.lab.client, &[&["curl", "-sS", "--max-time", "60"], arguments].concat())
    }

    /// A connection of the client's for requests by hand.
    pub fn by_hand(&self, to: &str) -> Talk {
        Talk::new(self.lab.client.connect(to).expect("connect"))
    }
}

/// What a program printed.
pub fn text(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).to_string()
}

/// A web client that says exactly what it is told to, and takes the answers one by one.
pub struct Talk {
    reader: BufReader<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The first line.
    pub status: String,
    /// The other lines of the head.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

impl Talk {
    fn new(stream: TcpStream) -> Talk {
        Talk { reader: BufReader::new(stream) }
    }

    /// The connection, for those who want more of it.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Sends bytes as they are.
    pub fn say(&mut self, what: impl AsRef<[u8]>) {
        self.stream().write_all(what.as_ref()).expect("send");
    }

    /// Reads the head of an answer, and nothing beyond it.
    pub fn head(&mut self) -> Answer {
        let mut lines = std::iter::from_fn(|| {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("an answer");
            Some(line.trim_end().to_string()).filter(|line| !line.is_empty())
        });
        let status = lines.next().expect("an answer, but the connection was closed");
        Answer { status, headers: lines.collect(), body: String::new() }
    }

    /// Reads an answer whose length its head tells.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map_or(0, |value| value.parse().expect("a length"));
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("the whole body");
        answer.body = text(&body);
        answer
    }

    /// Reads exactly this many bytes.
    pub fn hear(&mut self, count: usize) -> Vec<u8> {
        let mut heard = vec![0; count];
        self.reader.read_exact(&mut heard).expect("as many bytes");
        heard
    }

    /// Reads to the end of the connection; a reset is an end like any other here.
    pub fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = self.reader.read_to_end(&mut all);
        text(&all)
    }
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}
