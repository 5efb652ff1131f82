//! The works that are measured. In each work, several contestants carry a load in turn.

use crate::contestant::{Contestant, Role, other_name};
use crate::drawn;
use crate::load::Load;

/// What the figures of a work are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Gigabyte,
    Request,
    /// For loads of streams and requests together.
    Second,
    /// For what is held and not done: memory, descriptors.
    Connection,
}

/// A contestant and its load.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub contestant: String,
    pub load: Load,
}

#[derive(Debug, Clone)]
pub struct Work {
    /// The name for ONLY=.
    pub name: String,
    pub title: String,
    pub unit: Unit,
    /// In the order in which they take turns, and of the table.
    pub entries: Vec<Entry>,
    /// One of the works whose size was drawn. They have one table together.
    pub drawn: bool,
}

/// What all works depend on.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The number of connections in the works that have many.
    pub many: usize,
    /// The origin is a web server, which has no endless streams and is no proxy.
    pub web_server: bool,
    /// How many sizes are drawn, from which seed.
    pub drawn: usize,
    pub seed: u64,
}

impl Work {
    /// Whether it compares contestants under one load, and not one contestant under several loads.
    pub fn is_comparison(&self) -> bool {
        let first = self.entries.first().map(|entry| &entry.contestant);
        let is_done = matches!(self.unit, Unit::Gigabyte | Unit::Request);
        is_done && !self.drawn && self.entries.iter().filter(|entry| Some(&entry.contestant) == first).count() == 1
    }
}

/// The works in which every contestant takes part that relays without further options: name, title, load.
const FOR_ALL: [(&str, &str, &str); 7] = [
    ("stream", "One stream", "down:1"),
    ("streams", "Eight streams", "down:8"),
    ("both", "One connection, a stream each way", "both:1"),
    ("objects", "Objects of 64 KiB, 64 kept-alive connections", "get:65536:64"),
    ("large", "Objects of 1 MiB, 16 kept-alive connections", "get:1048576:16"),
    ("small", "Objects of 200 bytes, 64 kept-alive connections", "get:200:64"),
    ("churn", "A connection for each object of 200 bytes, 64 at a time", "new:200:64"),
];

/// The same in front of a web server, and one of them with other clients than ours.
const FOR_WEB_SERVER: [(&str, &str, &str); 7] = [
    ("stream", "One stream of objects of 256 MiB", "bulk:1"),
    ("streams", "Eight streams of objects of 256 MiB", "bulk:8"),
    ("objects", "Objects of 64 KiB, 64 kept-alive connections", "get:65536:64"),
    ("large", "Objects of 1 MiB, 16 kept-alive connections", "get:1048576:16"),
    ("small", "Objects of 200 bytes, 64 kept-alive connections", "get:200:64"),
    ("churn", "A connection for each object of 200 bytes, 64 at a time", "new:200:64"),
    ("wrk", "Objects of 64 KiB, 64 kept-alive connections of wrk", "wrk:65536:64"),
];

/// Those of them that are also measured beside idle connections.
const BESIDE_IDLE: [&str; 4] = ["stream", "objects", "small", "churn"];

/// The works in which only some take part: name, title, load, contestants.
const FOR_SOME: [(&str, &str, &str, &[&str]); 10] = [
    ("workers", "Eight streams, one worker and two", "down:8", &["tproxy", "tproxy-w2"]),
    ("kernel", "Eight streams through the kernel's DNAT", "down:8", &["direct", "dnat", "tproxy-kernel"]),
    ("kernel-churn", "A connection for each object, through DNAT", "new:200:64", &["direct", "dnat", "tproxy-kernel"]),
    ("socks", "A connection for each object, through a SOCKS5 proxy", "new:200:64", &["tproxy-socks5", "redsocks"]),
    (
        "connect",
        "A connection for each object, through an HTTP proxy with CONNECT",
        "new:200:64",
        &["tproxy-connect", "redsocks-connect"],
    ),
    (
        "http",
        "Kept-alive requests for 1 KiB, rewritten for an HTTP proxy",
        "get:1024:32",
        &["direct", "tproxy", "tproxy-http", "haproxy-http"],
    ),
    (
        "http-churn",
        "A connection for each object, rewritten for an HTTP proxy",
        "new:200:64",
        &["tproxy", "tproxy-http", "haproxy-http", "redsocks-http"],
    ),
    (
        "connect-stream",
        "One stream through an HTTP proxy with CONNECT",
        "down:1",
        &["tproxy", "tproxy-connect", "redsocks-connect"],
    ),
    // The last ones: rules that they need stay.
    (
        "source",
        "A connection for each object, which leaves from the client's address",
        "new:200:64",
        &["tproxy", "tproxy-source", "tproxy-both", "haproxy-source", "nginx-source"],
    ),
    (
        "intercept",
        "A connection for each object, by REDIRECT and by TPROXY",
        "new:200:64",
        &["tproxy", "tproxy-intercept"],
    ),
];

/// The numbers of active connections in the work about scale.
const SCALE: [usize; 5] = [1, 10, 100, 1000, 5000];

/// The name of that work.
pub const SCALE_NAME: &str = "scale";

/// The name for all works whose sizes are drawn.
pub const DRAWN_NAME: &str = "drawn";

/// All works.
pub fn standard(all: &[Contestant], choice: Choice) -> Result<Vec<Work>, String> {
    let many = choice.many;
    let mut works = Vec::new();
    for (name, title, load) in if choice.web_server { FOR_WEB_SERVER } else { FOR_ALL } {
        works.push(for_all(name, title, load, all)?);
    }
    for (size, count) in drawn::draw(choice.seed, choice.drawn) {
        let work = for_all(DRAWN_NAME, "", &format!("get:{size}:{count}"), all)?;
        works.push(Work { drawn: true, title: format!("Objects of {size} bytes, {count} connections"), ..work });
    }
    // Without a proxy, the sizes tell nothing of one.
    let is_baseline = |name: &str| all.iter().any(|one| one.name == name && one.role == Role::Baseline);
    for work in works.iter_mut().filter(|work| work.drawn) {
        work.entries.retain(|entry| !is_baseline(&entry.contestant));
    }
    if choice.web_server {
        works.iter_mut().for_each(|work| {
            work.entries.retain(|entry| entry.contestant != "redsocks");
            add_other_build(work, all);
        });
        return Ok(works);
    }
    works.push(mixed()?);
    for name in BESIDE_IDLE {
        works.push(beside_idle(name, many)?);
    }
    works.push(scale(many)?);
    for (name, title, load, contestants) in FOR_SOME {
        let entries: Vec<_> = contestants.iter().map(|contestant| (*contestant, load)).collect();
        works.push(work(name, title, &entries)?);
    }
    works.push(held("idle", "Idle connections", &format!("idle:{many}"), all)?);
    works.push(held("slow", "Slow readers of 256 KiB", &format!("slow:{many}"), all)?);
    works.iter_mut().for_each(|work| add_other_build(work, all));
    Ok(works)
}

/// The works of ONLY=: standard works by their names, and loads that all contestants carry.
pub fn selected(only: &str, all: &[Contestant], choice: Choice) -> Result<Vec<Work>, String> {
    let standard = standard(all, choice)?;
    let mut names: Vec<&str> = standard.iter().map(|work| work.name.as_str()).collect();
    names.dedup();
    let mut selected = Vec::new();
    for word in only.split([' ', ',']).filter(|word| !word.is_empty()) {
        if word.contains(':') {
            let mut work = for_all(word, word, word, all)?;
            add_other_build(&mut work, all);
            selected.push(work);
        } else if names.contains(&word) {
            selected.extend(standard.iter().filter(|work| work.name == word).cloned());
        } else {
            let names = names.join(" ");
            return Err(format!("ONLY={word}: no such work; there are: {names}, and loads such as get:9000:8"));
        }
    }
    Ok(selected)
}

fn unit(load: &Load) -> Unit {
    match (load.has_streams(), load.has_requests()) {
        (true, true) => Unit::Second,
        (true, false) => Unit::Gigabyte,
        (false, true) => Unit::Request,
        (false, false) => Unit::Connection,
    }
}

fn work(name: &str, title: &str, entries: &[(&str, &str)]) -> Result<Work, String> {
    let entry = |(name, load): &(&str, &str)| Ok(Entry { contestant: name.to_string(), load: load.parse()? });
    let entries = entries.iter().map(entry).collect::<Result<Vec<Entry>, String>>()?;
    // Where loads differ, the last one has all parts.
    let unit = entries.last().map_or(Unit::Second, |entry| unit(&entry.load));
    Ok(Work { name: name.to_owned(), title: title.to_owned(), unit, entries, drawn: false })
}

/// The contestants in the works for all. The others are variants of tproxy, rewrite requests, or need CONNECT.
const GENERAL: [&str; 9] =
    ["direct", "dnat", "tproxy", "haproxy-splice", "haproxy", "nginx", "rinetd", "redsocks", "socat"];

fn for_all(name: &str, title: &str, load: &str, all: &[Contestant]) -> Result<Work, String> {
    let parsed: Load = load.parse()?;
    let takes_part =
        |one: &&Contestant| GENERAL.contains(&one.name.as_str()) && parsed.connections() <= one.max_connections;
    let entries: Vec<_> = all.iter().filter(takes_part).map(|one| (one.name.as_str(), load)).collect();
    work(name, title, &entries)
}

/// A work that tells what contestants hold. Those without a process hold nothing.
fn held(name: &str, title: &str, load: &str, all: &[Contestant]) -> Result<Work, String> {
    let mut work = for_all(name, title, load, all)?;
    work.entries.retain(|entry| all.iter().any(|one| one.name == entry.contestant && one.role != Role::Baseline));
    Ok(work)
}

/// Requests without and with a stream beside them.
fn mixed() -> Result<Work, String> {
    let loads = ["get:200:4", "get:200:4+down:1"];
    let contestants = ["tproxy", "haproxy-splice", "haproxy", "nginx"];
    let entries: Vec<_> = contestants.iter().flat_map(|name| loads.map(|load| (*name, load))).collect();
    work("mixed", "Small requests, alone and beside a stream", &entries)
}

/// A work without and with idle connections beside it.
fn beside_idle(name: &str, many: usize) -> Result<Work, String> {
    let (_, title, load) = FOR_ALL.into_iter().find(|(other, ..)| *other == name).ok_or("no such work")?;
    let with_idle = format!("{load}+idle:{many}");
    let title = format!("{title}, alone and beside {many} idle connections");
    work(&format!("{name}-beside"), &title, &[("tproxy", load), ("tproxy", with_idle.as_str())])
}

fn scale(many: usize) -> Result<Work, String> {
    let counts = SCALE.into_iter().filter(|count| *count <= many);
    let loads: Vec<_> = counts.map(|count| format!("get:200:{count}")).collect();
    let contestants = ["tproxy", "haproxy-splice", "nginx"];
    let entries: Vec<_> = contestants.iter().flat_map(|name| loads.iter().map(|load| (*name, load.as_str()))).collect();
    work(SCALE_NAME, "Small requests over more and more connections", &entries)
}

/// Lets the other build carry each load right after this build, so that both meet the same machine.
fn add_other_build(work: &mut Work, all: &[Contestant]) {
    let with_other = |entry: Entry| {
        let name = other_name(&entry.contestant);
        let other = all.iter().any(|one| one.name == name && one.role == Role::OtherBuild);
        let other = other.then(|| Entry { contestant: name, load: entry.load.clone() });
        [Some(entry), other]
    };
    work.entries = std::mem::take(&mut work.entries).into_iter().flat_map(with_other).flatten().collect();
}
