//! What is measured: sections, each of which lets several contestants carry a load in turn.

use crate::contestant::{Contestant, Role};
use crate::load::Load;

/// What the figures of a section are for one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Gigabyte,
    Request,
    /// Where both are carried.
    Second,
    /// What is held, not what is done.
    Connection,
}

/// A load and who carries it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub who: &'static str,
    pub load: Load,
}

/// Entries that are measured in turn and stand in one table.
#[derive(Debug, Clone)]
pub struct Section {
    pub name: String,
    pub title: String,
    pub unit: Unit,
    pub entries: Vec<Entry>,
}

impl Section {
    /// Whether it sets different contestants to the same work, and not one to different work.
    pub fn is_contest(&self) -> bool {
        let first = self.entries.first().map(|entry| entry.who);
        let work = matches!(self.unit, Unit::Gigabyte | Unit::Request);
        work && self.entries.iter().filter(|entry| Some(entry.who) == first).count() == 1
    }
}

/// What everybody carries: name, title, load.
const WORK: [(&str, &str, &str); 7] = [
    ("stream", "One stream", "down:1"),
    ("streams", "Eight streams", "down:8"),
    ("both", "One connection, a stream each way", "both:1"),
    ("objects", "Objects of 64 KiB, 64 kept-alive connections", "get:65536:64"),
    ("large", "Objects of 1 MiB, 16 kept-alive connections", "get:1048576:16"),
    ("small", "Objects of 200 bytes, 64 kept-alive connections", "get:200:64"),
    ("churn", "A connection for each object of 200 bytes, 64 at a time", "new:200:64"),
];

/// What is also measured beside idle connections.
pub const BESIDE: [&str; 4] = ["stream", "objects", "small", "churn"];

/// How many connections are active in the section about scale.
pub const SCALE: [usize; 5] = [1, 10, 100, 1000, 5000];

/// The name of that section.
pub const SCALE_NAME: &str = "scale";

/// All sections that are measured unless some are asked for; `crowd` is the number of idle and slow connections.
pub fn usual(all: &[Contestant], crowd: usize) -> Result<Vec<Section>, String> {
    let mut sections = Vec::new();
    for (name, title, load) in WORK {
        sections.push(everybody(name, title, load, all)?);
    }
    sections.push(mixed()?);
    for work in BESIDE {
        sections.push(beside(work, crowd)?);
    }
    sections.push(scale(crowd)?);
    let workers = [("tproxy", "down:8"), ("tproxy-w2", "down:8")];
    sections.push(section("workers", "Eight streams, one worker and two", Unit::Gigabyte, &workers)?);
    let kernel = ["direct", "dnat", "tproxy-kernel"].map(|who| (who, "down:8"));
    sections.push(section("kernel", "Eight streams through the kernel's DNAT", Unit::Gigabyte, &kernel)?);
    let kernel = ["direct", "dnat", "tproxy-kernel"].map(|who| (who, "new:200:64"));
    sections.push(section("kernel-churn", "A connection for each object, through DNAT", Unit::Request, &kernel)?);
    let socks = [("tproxy-socks5", "new:200:64"), ("redsocks", "new:200:64")];
    sections.push(section("socks", "A connection for each object, through a SOCKS5 proxy", Unit::Request, &socks)?);
    sections.push(holding("idle", "Idle connections", &format!("idle:{crowd}"), all)?);
    sections.push(holding("slow", "Slow readers of 256 KiB", &format!("slow:{crowd}"), all)?);
    Ok(sections)
}

/// The sections that were asked for, by name or as a load for everybody.
pub fn chosen(only: &str, all: &[Contestant], crowd: usize) -> Result<Vec<Section>, String> {
    let usual = usual(all, crowd)?;
    let names: Vec<&str> = usual.iter().map(|section| section.name.as_str()).collect();
    let find = |word: &str| match usual.iter().find(|section| section.name == word) {
        Some(section) => Ok(section.clone()),
        None if word.contains(':') => everybody(word, word, word, all),
        None => {
            Err(format!("there is no section {word}; there are: {}, and loads such as get:9000:8", names.join(" ")))
        }
    };
    only.split([' ', ',']).filter(|word| !word.is_empty()).map(find).collect()
}

fn unit(load: &Load) -> Unit {
    match (load.streams(), load.requests()) {
        (true, true) => Unit::Second,
        (true, false) => Unit::Gigabyte,
        (false, true) => Unit::Request,
        (false, false) => Unit::Connection,
    }
}

fn section(name: &str, title: &str, unit: Unit, entries: &[(&'static str, &str)]) -> Result<Section, String> {
    let entry = |&(who, load): &(&'static str, &str)| Ok(Entry { who, load: load.parse()? });
    let entries = entries.iter().map(entry).collect::<Result<_, String>>()?;
    Ok(Section { name: name.to_owned(), title: title.to_owned(), unit, entries })
}

/// All but the variants of tproxy, which have sections of their own.
fn everybody(name: &str, title: &str, load: &str, all: &[Contestant]) -> Result<Section, String> {
    let parsed: Load = load.parse()?;
    let takes_part = |one: &&Contestant| {
        (one.role != Role::Ours || ["tproxy", "other"].contains(&one.name)) && parsed.connections() <= one.most
    };
    let entries: Vec<_> = all.iter().filter(takes_part).map(|one| (one.name, load)).collect();
    section(name, title, unit(&parsed), &entries)
}

/// What everybody but those without a process of their own holds.
fn holding(name: &str, title: &str, load: &str, all: &[Contestant]) -> Result<Section, String> {
    let mut section = everybody(name, title, load, all)?;
    section.entries.retain(|entry| all.iter().any(|one| one.name == entry.who && one.role != Role::Floor));
    Ok(section)
}

/// Requests with and without a stream at their side.
fn mixed() -> Result<Section, String> {
    let loads = ["get:200:4", "get:200:4+down:1"];
    let whom = ["tproxy", "haproxy-splice", "haproxy", "nginx"];
    let entries: Vec<_> = whom.iter().flat_map(|who| loads.map(|load| (*who, load))).collect();
    section("mixed", "Small requests, alone and beside a stream", Unit::Second, &entries)
}

/// Work with and without idle connections at its side.
fn beside(work: &str, crowd: usize) -> Result<Section, String> {
    let (_, title, load) = WORK.into_iter().find(|(name, ..)| *name == work).ok_or("no such work")?;
    let crowded = format!("{load}+idle:{crowd}");
    let entries = [("tproxy", load), ("tproxy", crowded.as_str())];
    let title = format!("{title}, alone and beside {crowd} idle connections");
    section(&format!("{work}-beside"), &title, unit(&load.parse()?), &entries)
}

fn scale(crowd: usize) -> Result<Section, String> {
    let loads: Vec<_> =
        SCALE.into_iter().filter(|count| *count <= crowd).map(|count| format!("get:200:{count}")).collect();
    let whom = ["tproxy", "haproxy-splice", "nginx"];
    let entries: Vec<_> = whom.iter().flat_map(|who| loads.iter().map(|load| (*who, load.as_str()))).collect();
    section(SCALE_NAME, "Small requests over more and more connections", Unit::Request, &entries)
}
