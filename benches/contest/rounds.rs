//! Lets the contestants carry their loads, one after the other, round after round.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clients::{self, Probe};
use crate::contestant::{Contestant, Lab};
use crate::figures::{Figures, Record, of_activity, of_footprint, units};
use crate::origin::Origin;
use crate::resources::{Footprint, Totals, Used, unavailable};
use crate::strace::Strace;
use crate::works::{Entry, Unit, Work};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// Length of a turn.
    pub window: Duration,
    /// Whether system calls are counted, each contestant's in a turn of its own.
    pub trace: bool,
}

pub struct Runner<'a> {
    pub lab: &'a Lab,
    pub origin: &'a Origin,
    pub contestants: &'a mut [Contestant],
    pub effort: Effort,
}

/// The time for slow readers to fill every buffer between them and the origin.
const FILL: Duration = Duration::from_secs(3);

/// What connections hold hardly differs from one round to the next, so a few rounds are enough.
const FOOTPRINT_ROUNDS: usize = 3;

/// How long the gateway tracks a closed connection (scripts/bench sets a second), and a little more. While it tracks one
/// that DNAT has translated, a new connection with the same ports fails.
const CONNTRACK_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long system calls are counted.
const TRACE_WINDOW: Duration = Duration::from_millis(700);

impl Runner<'_> {
    /// Runs all turns of a work, and returns a record for each of its entries.
    pub fn measure(&mut self, work: &Work) -> Vec<Record> {
        let mut records = vec![Record::default(); work.entries.len()];
        let is_footprint = work.unit == Unit::Connection;
        if work.drawn {
            eprintln!("  {}", work.title);
        }
        let rounds = if is_footprint { self.effort.rounds.min(FOOTPRINT_ROUNDS) } else { self.effort.rounds };
        for round in 1..=rounds {
            eprintln!("  {}: round {round} of {rounds}", work.name);
            let mut turns: Vec<_> = work.entries.iter().zip(&mut records).collect();
            // Back and forth: the second of two may profit from what the first has warmed up, or suffer from it.
            if round % 2 == 0 {
                turns.reverse();
            }
            for (entry, record) in turns {
                match self.turn(work, entry) {
                    Ok((figures, failure)) => {
                        record.turns.push(figures);
                        record.notes.extend(failure);
                    }
                    Err(error) => record.notes.push(error),
                }
                self.wait_for_close(entry);
            }
        }
        if self.effort.trace && work.is_comparison() {
            eprintln!("  {}: system calls", work.name);
            for (entry, record) in work.entries.iter().zip(&mut records) {
                match self.count_system_calls(work, entry) {
                    Ok(calls) => record.calls = calls,
                    Err(error) => record.notes.push(error),
                }
                self.wait_for_close(entry);
            }
        }
        records
    }

    fn contestant(&mut self, entry: &Entry) -> Result<&mut Contestant, String> {
        let found = self.contestants.iter_mut().find(|one| one.name == entry.contestant);
        found.ok_or_else(|| format!("there is no contestant {}", entry.contestant))
    }

    fn turn(&mut self, work: &Work, entry: &Entry) -> Result<(Figures, Option<String>), String> {
        match work.unit {
            Unit::Connection => self.measure_footprint(entry),
            unit => self.measure_activity(entry, unit),
        }
    }

    fn measure_activity(&mut self, entry: &Entry, unit: Unit) -> Result<(Figures, Option<String>), String> {
        let (lab, origin, window) = (self.lab, self.origin, self.effort.window);
        let contestant = self.contestant(entry)?;
        contestant.start(lab)?;
        let mut probe = UsageProbe { pid: contestant.pid(), start: None, used: Used::default() };
        let mut counts = clients::run(&entry.load, contestant.address(), window, origin, &mut probe)?;
        let figures = of_activity(&entry.load, unit, &mut counts, &probe.used);
        Ok((figures, counts.first_failure))
    }

    /// Starts a new process each time, because a process seldom gives memory back.
    fn measure_footprint(&mut self, entry: &Entry) -> Result<(Figures, Option<String>), String> {
        let (lab, origin, window) = (self.lab, self.origin, self.effort.window);
        let contestant = self.contestant(entry)?;
        contestant.stop();
        contestant.start(lab)?;
        let pid = contestant.pid().ok_or("it has no process")?;
        let mut probe = FootprintProbe { pid, gateway: lab.gateway.clone(), footprint: Footprint::default() };
        wait_for_memory();
        let before = Footprint::read(pid, &lab.gateway);
        let window = if entry.load.has_slow_readers() { FILL } else { window };
        let counts = clients::run(&entry.load, contestant.address(), window, origin, &mut probe)?;
        let footprint = probe.footprint.since(&before, entry.load.connections());
        Ok((of_footprint(&counts, &footprint), counts.first_failure))
    }

    /// System calls per unit. strace slows the contestant down, so nothing else is measured in this turn.
    fn count_system_calls(&mut self, work: &Work, entry: &Entry) -> Result<Vec<(String, f64)>, String> {
        let (lab, origin) = (self.lab, self.origin);
        let contestant = self.contestant(entry)?;
        contestant.start(lab)?;
        let Some(pid) = contestant.pid() else { return Ok(Vec::new()) };
        let mut strace = Strace::new(pid, &lab.directory);
        let counts = clients::run(&entry.load, contestant.address(), TRACE_WINDOW, origin, &mut strace)?;
        let units = units(work.unit, &counts);
        if units == 0.0 {
            return Err("nothing arrived while system calls were counted".to_owned());
        }
        Ok(strace.counts().into_iter().map(|(name, count)| (name, count / units)).collect())
    }

    /// Waits until the connections of a turn are closed everywhere, so that the next turn does not pay for them.
    fn wait_for_close(&mut self, entry: &Entry) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let open = |origin: &Origin| origin.connections.load(Ordering::Relaxed) > 0;
        while open(self.origin) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if open(self.origin)
            && let Ok(contestant) = self.contestant(entry)
        {
            contestant.stop();
        }
        if entry.load.has_new_connections() {
            std::thread::sleep(CONNTRACK_TIMEOUT);
        }
    }
}

/// Waits until the machine's memory has stopped growing or shrinking.
///
/// The kernel frees the sockets of the turn before only after a while, and the contestant that comes next looked as much
/// cheaper as that one was dear.
fn wait_for_memory() {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut before = unavailable();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = unavailable();
        if (now - before).abs() < 1024.0 * 1024.0 || Instant::now() > deadline {
            return;
        }
        before = now;
    }
}

/// Reads what the contestant and the machine use during the turn.
struct UsageProbe {
    pid: Option<u32>,
    start: Option<Totals>,
    used: Used,
}

impl Probe for UsageProbe {
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

/// Reads what the contestant holds at the end of the turn.
struct FootprintProbe {
    pid: u32,
    gateway: String,
    footprint: Footprint,
}

impl Probe for FootprintProbe {
    fn begin(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.footprint = Footprint::read(self.pid, &self.gateway);
        Ok(())
    }
}
