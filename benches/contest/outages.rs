//! How long a failover takes, as clients see it. scripts/demo-ha runs both ends of this program:
//!
//! ```text
//! outages serve ADDRESS:PORT                            the server: says from which address it was reached, and echoes
//! outages probe SECONDS EVENT ADDRESS:PORT [ADDRESS:PORT...]   the clients; prints a row for each address
//! outages heading                                       the heading of the rows
//! ```
//!
//! Each address gets a new connection 200 times a second, and has 20 connections that are established before and send a
//! byte every 100 ms.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Time from one new connection to the next.
const EVERY: Duration = Duration::from_millis(5);

/// Connections that are established before.
const ESTABLISHED: usize = 20;

/// Time from one byte on an established connection to the next.
const BEAT: Duration = Duration::from_millis(100);

/// A new connection that is answered later than this was held up.
const LATE: Duration = Duration::from_millis(300);

/// An established connection that is silent for so long at the end is lost, even if nobody has told it.
const DEAD: Duration = Duration::from_secs(1);

/// A connection that is not answered within this time has failed. It is longer than the second after which TCP sends
/// its first packet again (RFC 6298).
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match &words[..] {
        ["serve", address] => serve(address),
        ["probe", seconds, event, addresses @ ..] if !addresses.is_empty() => probe(seconds, event, addresses),
        ["heading"] => {
            heading();
            Ok(())
        }
        _ => Err("usage: outages serve ADDRESS:PORT | probe SECONDS EVENT ADDRESS:PORT... | heading".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("outages: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// A thread for each connection: there are few at a time.
fn serve(address: &str) -> Result<(), String> {
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        std::thread::spawn(move || {
            let Ok(peer) = stream.peer_addr() else { return };
            let _ = stream.set_nodelay(true);
            if writeln!(stream, "{}", peer.ip().to_canonical()).is_err() {
                return;
            }
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

/// How a new connection ended.
enum Fate {
    Answered { took: Duration, gateway: IpAddr },
    Failed(String),
    Silent,
}

/// One connection.
struct Client {
    stream: TcpStream,
    address: usize,
    since: Instant,
    said: Vec<u8>,
    /// When the last byte came, of an established connection.
    beat: Option<Instant>,
}

/// What was seen of one address.
#[derive(Default)]
struct Seen {
    /// When each new connection began, and its fate.
    fates: Vec<(Instant, Fate)>,
    established: usize,
    broken: usize,
    longest_pause: Duration,
}

struct Prober {
    poll: Poll,
    addresses: Vec<SocketAddr>,
    clients: HashMap<usize, Client>,
    seen: Vec<Seen>,
    next: usize,
}

fn probe(seconds: &str, event: &str, addresses: &[&str]) -> Result<(), String> {
    let seconds: u64 = seconds.parse().map_err(|_| format!("{seconds}: expected a number of seconds"))?;
    let parse = |text: &&str| text.parse().map_err(|_| format!("{text}: expected ADDRESS:PORT"));
    let addresses = addresses.iter().map(parse).collect::<Result<Vec<SocketAddr>, String>>()?;
    let mut prober = Prober::new(addresses).map_err(|error| format!("epoll: {error}"))?;
    prober.establish()?;
    // The script waits for this before it makes the event happen.
    eprintln!("ready");
    prober.run(Duration::from_secs(seconds)).map_err(|error| format!("epoll: {error}"))?;
    for (address, seen) in prober.addresses.iter().zip(&prober.seen) {
        println!("{}", row(event, address, seen));
    }
    Ok(())
}

impl Prober {
    fn new(addresses: Vec<SocketAddr>) -> io::Result<Prober> {
        let seen = addresses.iter().map(|_| Seen::default()).collect();
        Ok(Prober { poll: Poll::new()?, addresses, clients: HashMap::new(), seen, next: 0 })
    }

    fn connect(&mut self, address: usize, is_new: bool) -> io::Result<()> {
        let since = Instant::now();
        match TcpStream::connect(self.addresses[address]) {
            Ok(mut stream) => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(self.next), interest)?;
                let beat = (!is_new).then_some(since);
                self.clients.insert(self.next, Client { stream, address, since, said: Vec::new(), beat });
                self.next += 1;
            }
            Err(error) => self.seen[address].fates.push((since, Fate::Failed(error.to_string()))),
        }
        Ok(())
    }

    /// Makes the connections that are to be there before.
    fn establish(&mut self) -> Result<(), String> {
        for address in 0..self.addresses.len() {
            for _ in 0..ESTABLISHED {
                self.connect(address, false).map_err(|error| error.to_string())?;
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.clients.values().any(|client| client.said.is_empty()) {
            self.turn(Duration::from_millis(50)).map_err(|error| error.to_string())?;
            let all = self.addresses.len() * ESTABLISHED;
            if Instant::now() > deadline || self.clients.len() < all {
                return Err("the server cannot be reached before anything has happened".to_owned());
            }
        }
        // A pause until now belongs to what was before.
        for seen in &mut self.seen {
            (seen.established, seen.longest_pause) = (ESTABLISHED, Duration::ZERO);
        }
        let now = Instant::now();
        self.clients.values_mut().for_each(|client| client.beat = Some(now));
        Ok(())
    }

    fn run(&mut self, length: Duration) -> io::Result<()> {
        let start = Instant::now();
        let (mut connected, mut beats) = (0, 0);
        while start.elapsed() < length + PATIENCE {
            let elapsed = start.elapsed();
            while elapsed < length && EVERY * connected <= elapsed {
                connected += 1;
                (0..self.addresses.len()).try_for_each(|address| self.connect(address, true))?;
            }
            if BEAT * beats <= elapsed {
                beats += 1;
                self.beat();
            }
            if elapsed >= length && self.clients.values().all(|client| client.beat.is_some()) {
                break;
            }
            self.turn(EVERY / 2)?;
            self.give_up();
        }
        let now = Instant::now();
        for client in self.clients.values() {
            let seen = &mut self.seen[client.address];
            seen.pause(client, now);
            seen.broken += usize::from(client.beat.is_some_and(|beat| now - beat > DEAD));
        }
        Ok(())
    }

    /// Sends a byte on each established connection.
    fn beat(&mut self) {
        for client in self.clients.values_mut().filter(|client| client.beat.is_some()) {
            // A full buffer, or a broken connection: the next event says which.
            let _ = client.stream.write(b".");
        }
    }

    fn turn(&mut self, longest: Duration) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, Some(longest)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &events {
            self.hear(event.token().0);
        }
        Ok(())
    }

    fn hear(&mut self, number: usize) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let mut bytes = [0; 256];
        let ended = loop {
            match client.stream.read(&mut bytes) {
                Ok(0) => break Some("closed".to_owned()),
                Ok(count) => client.said.extend_from_slice(&bytes[..count]),
                // Not SO_ERROR: it also tells of an ICMP error that an established connection outlives (tcp(7)).
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        let (now, address, since) = (Instant::now(), client.address, client.since);
        if client.beat.is_some() {
            self.seen[address].pause(client, now);
            if !client.said.is_empty() {
                client.beat = Some(now);
            }
            // The first line shows that it is established.
            client.said.truncate(1);
            if ended.is_some() {
                self.seen[address].broken += 1;
                self.clients.remove(&number);
            }
            return;
        }
        let line = client.said.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
        let fate = match (line, ended) {
            (Some(gateway), _) => Fate::Answered { took: now - since, gateway },
            (None, Some(why)) => Fate::Failed(why),
            (None, None) => return,
        };
        self.seen[address].fates.push((since, fate));
        self.clients.remove(&number);
    }

    fn give_up(&mut self) {
        let is_silent = |client: &Client| client.beat.is_none() && client.since.elapsed() > PATIENCE;
        let silent: Vec<usize> =
            self.clients.iter().filter(|(_, client)| is_silent(client)).map(|(number, _)| *number).collect();
        for number in silent {
            if let Some(client) = self.clients.remove(&number) {
                self.seen[client.address].fates.push((client.since, Fate::Silent));
            }
        }
    }
}

impl Seen {
    /// Notes how long an established connection has been silent.
    fn pause(&mut self, client: &Client, now: Instant) {
        if let Some(beat) = client.beat {
            self.longest_pause = self.longest_pause.max(now.saturating_duration_since(beat));
        }
    }

    /// When the first new connection began.
    fn begin(&self) -> Option<Instant> {
        self.fates.iter().map(|(since, _)| *since).min()
    }

    /// Which gateways have served new connections in the first second, or in the last.
    fn gateways(&self, at_first: bool) -> String {
        let begin = self.begin();
        let end = self.fates.iter().map(|(since, _)| *since).max();
        let (Some(begin), Some(end)) = (begin, end) else { return String::new() };
        let counts = |since: Instant| match at_first {
            true => since - begin < Duration::from_secs(1),
            false => end - since < Duration::from_secs(1),
        };
        let last_part = |gateway: &IpAddr| gateway.to_string().rsplit(['.', ':']).next().unwrap_or_default().to_owned();
        let mut found: Vec<String> = self
            .fates
            .iter()
            .filter_map(|(since, fate)| match fate {
                Fate::Answered { gateway, .. } if counts(*since) => Some(last_part(gateway)),
                _ => None,
            })
            .collect();
        found.sort();
        found.dedup();
        found.join("+")
    }

    /// The longest time in which no new connection was answered in time.
    fn outage(&self) -> Duration {
        let mut fates: Vec<&(Instant, Fate)> = self.fates.iter().collect();
        fates.sort_by_key(|(since, _)| *since);
        let (mut longest, mut begun) = (Duration::ZERO, None);
        for (since, fate) in fates {
            let is_good = matches!(fate, Fate::Answered { took, .. } if *took <= LATE);
            if let Some(begin) = begun {
                longest = longest.max(*since - begin);
            }
            begun = if is_good { None } else { begun.or(Some(*since)) };
        }
        longest
    }
}

const COLUMNS: [(&str, usize); 9] = [
    ("event", 40),
    ("family", 6),
    ("new", 5),
    ("failed", 6),
    ("late", 5),
    ("outage", 8),
    ("kept", 7),
    ("pause", 8),
    ("gateway", 12),
];

fn line(cells: &[String]) -> String {
    let cell = |(text, (_, width)): (&String, &(&str, usize))| format!("{text:width$}");
    cells.iter().zip(&COLUMNS).map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn heading() {
    println!("{}", line(&COLUMNS.map(|(name, _)| name.to_owned())));
}

fn row(event: &str, address: &SocketAddr, seen: &Seen) -> String {
    let count = |want: fn(&Fate) -> bool| seen.fates.iter().filter(|(_, fate)| want(fate)).count();
    let failed = count(|fate| !matches!(fate, Fate::Answered { .. }));
    let late = count(|fate| matches!(fate, Fate::Answered { took, .. } if *took > LATE));
    let begin = seen.begin();
    for (since, fate) in &seen.fates {
        let why = match fate {
            Fate::Failed(why) => why,
            Fate::Silent => "no answer",
            Fate::Answered { .. } => continue,
        };
        let at = begin.map_or(Duration::ZERO, |begin| *since - begin);
        eprintln!("{address}: begun after {} ms: {why}", at.as_millis());
    }
    line(&[
        event.to_owned(),
        if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        seen.fates.len().to_string(),
        failed.to_string(),
        late.to_string(),
        format!("{} ms", seen.outage().as_millis()),
        format!("{}/{}", seen.established - seen.broken, seen.established),
        format!("{} ms", seen.longest_pause.as_millis()),
        format!("{}->{}", seen.gateways(true), seen.gateways(false)),
    ])
}
