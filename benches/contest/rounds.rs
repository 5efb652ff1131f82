//! Letting the contestants carry their loads, one after the other, round after round.

use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Lab};
use crate::figures::{Figures, Record, of_holding, of_work, units};
use crate::gauge::{Held, Totals, Used};
use crate::load::{self, Probe};
use crate::origin::Origin;
use crate::plan::{Entry, Section, Unit};
use crate::strace::Strace;
use std::sync::atomic::Ordering;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// How long a turn is counted.
    pub window: Duration,
    /// Whether system calls are counted in a turn of their own.
    pub trace: bool,
}

/// Everything that a turn needs.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    pub origin: &'a Origin,
    pub contestants: &'a mut [Contestant],
    pub effort: Effort,
}

/// How long slow readers may take to fill every buffer on their way.
const FILL: Duration = Duration::from_secs(3);

/// What is held is much the same each time.
const HOLDING_ROUNDS: usize = 3;

impl Stage<'_> {
    /// Runs all turns of a section.
    pub fn play(&mut self, section: &Section) -> Vec<Record> {
        let mut records = vec![Record::default(); section.entries.len()];
        let holding = section.unit == Unit::Connection;
        let rounds = if holding { self.effort.rounds.min(HOLDING_ROUNDS) } else { self.effort.rounds };
        for round in 1..=rounds {
            eprintln!("  {}: round {round} of {rounds}", section.name);
            for (entry, record) in section.entries.iter().zip(&mut records) {
                match self.turn(section, entry) {
                    Ok((figures, complaint)) => {
                        record.turns.push(figures);
                        record.notes.extend(complaint);
                    }
                    Err(error) => record.notes.push(error),
                }
                self.clear(entry);
            }
        }
        if self.effort.trace && section.is_contest() {
            eprintln!("  {}: system calls", section.name);
            for (entry, record) in section.entries.iter().zip(&mut records) {
                match self.trace(section, entry) {
                    Ok(calls) => record.calls = calls,
                    Err(error) => record.notes.push(error),
                }
                self.clear(entry);
            }
        }
        records
    }

    fn contestant(&mut self, entry: &Entry) -> Result<&mut Contestant, String> {
        let found = self.contestants.iter_mut().find(|one| one.name == entry.who);
        found.ok_or_else(|| format!("there is no {}", entry.who))
    }

    fn turn(&mut self, section: &Section, entry: &Entry) -> Result<(Figures, Option<String>), String> {
        match section.unit {
            Unit::Connection => self.hold(entry),
            unit => self.work(entry, unit),
        }
    }

    fn work(&mut self, entry: &Entry, unit: Unit) -> Result<(Figures, Option<String>), String> {
        let (lab, origin, window) = (self.lab, self.origin, self.effort.window);
        let contestant = self.contestant(entry)?;
        contestant.start(lab)?;
        let mut clock = Clock::new(contestant.pid());
        let mut tally = load::run(&entry.load, contestant.address(), window, origin, &mut clock)?;
        let figures = of_work(&entry.load, unit, &mut tally, &clock.used);
        Ok((figures, tally.complaint))
    }

    /// A fresh process each time: memory that was used once stays with it.
    fn hold(&mut self, entry: &Entry) -> Result<(Figures, Option<String>), String> {
        let (lab, origin, window) = (self.lab, self.origin, self.effort.window);
        let contestant = self.contestant(entry)?;
        contestant.stop();
        contestant.start(lab)?;
        let pid = contestant.pid().ok_or("it has no process")?;
        let mut scales = Scales { pid, gateway: lab.gateway.clone(), held: Held::default() };
        let before = Held::read(pid, &lab.gateway);
        let window = if entry.load.is_slow() { FILL } else { window };
        let tally = load::run(&entry.load, contestant.address(), window, origin, &mut scales)?;
        let held = scales.held.since(&before, entry.load.connections());
        Ok((of_holding(&tally, &held), tally.complaint))
    }

    /// The system calls of a unit. The tracing slows the contestant down, so nothing else is measured then.
    fn trace(&mut self, section: &Section, entry: &Entry) -> Result<Vec<(String, f64)>, String> {
        let (lab, origin) = (self.lab, self.origin);
        let contestant = self.contestant(entry)?;
        contestant.start(lab)?;
        let Some(pid) = contestant.pid() else { return Ok(Vec::new()) };
        let mut strace = Strace::new(pid, &lab.directory);
        let tally = load::run(&entry.load, contestant.address(), TRACED, origin, &mut strace)?;
        let units = units(section.unit, &tally);
        if units == 0.0 {
            return Err("nothing was carried while system calls were counted".to_owned());
        }
        Ok(strace.counts().into_iter().map(|(name, count)| (name, count / units)).collect())
    }

    /// Waits until the connections of a turn are gone everywhere, so that the next one does not pay for them.
    fn clear(&mut self, entry: &Entry) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.origin.guests.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.origin.guests.load(Ordering::Relaxed) > 0
            && let Ok(contestant) = self.contestant(entry)
        {
            contestant.stop();
        }
        if entry.load.is_fresh() {
            std::thread::sleep(FORGOTTEN);
        }
    }
}

/// How long the gateway tracks a connection that is over (scripts/bench sets a second), and a bit. While it tracks those
/// that DNAT has led to the server, new ones from the gateway fail.
const FORGOTTEN: Duration = Duration::from_millis(1500);

/// How long system calls are counted.
const TRACED: Duration = Duration::from_millis(700);

/// Looks at what the contestant and the machine have used.
struct Clock {
    pid: Option<u32>,
    start: Option<Totals>,
    used: Used,
}

impl Clock {
    fn new(pid: Option<u32>) -> Clock {
        Clock { pid, start: None, used: Used::default() }
    }
}

impl Probe for Clock {
    fn begin(&mut self) -> Result<(), String> {
        self.start = Some(Totals::read(self.pid));
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let end = Totals::read(self.pid);
        self.used = self.start.map(|start| start.until(&end)).unwrap_or_default();
        Ok(())
    }
}

/// Looks at what the contestant holds in the end.
struct Scales {
    pid: u32,
    gateway: String,
    held: Held,
}

impl Probe for Scales {
    fn begin(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.held = Held::read(self.pid, &self.gateway);
        Ok(())
    }
}
