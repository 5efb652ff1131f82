//! What a turn comes to, and what several turns come to together.

use std::collections::BTreeMap;

use crate::gauge::{Held, Used};
use crate::load::{Load, Tally};
use crate::plan::Unit;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Bytes of streams in a second.
    Streamed,
    /// Answers in a second.
    Answered,
    /// Microseconds.
    Half,
    /// Microseconds.
    Slowest,
    /// Nanoseconds of CPU of the contestant for a unit.
    Proxy,
    /// Nanoseconds of CPU of the machine for a unit.
    Machine,
    /// Context switches of the contestant for a unit.
    Switches,
    /// Context switches of the machine for a unit.
    AllSwitches,
    /// Packets that the gateway sends for a unit.
    Packets,
    /// System calls of the contestant for a unit.
    Calls,
    Failures,
    /// Bytes of private memory for a connection.
    Memory,
    Descriptors,
    Pipes,
    /// Bytes of the gateway's sockets for a connection.
    Buffers,
    /// Bytes of the machine's memory for a connection.
    AllMemory,
}

/// The figures of one turn.
pub type Figures = BTreeMap<Metric, f64>;

/// What was done in a turn, and what it took.
pub fn of_work(load: &Load, unit: Unit, tally: &mut Tally, used: &Used) -> Figures {
    let units = units(unit, tally);
    let mut figures = Figures::from([(Metric::Failures, tally.failures as f64)]);
    if load.streams() {
        figures.insert(Metric::Streamed, tally.streamed as f64 / tally.seconds);
    }
    if load.requests() {
        figures.insert(Metric::Answered, tally.answers as f64 / tally.seconds);
    }
    // Where there are both, the requests are what somebody waits for.
    let times = if load.requests() { &mut tally.waits } else { &mut tally.delays };
    times.sort_unstable();
    figures.insert(Metric::Half, quantile(times, 0.5));
    figures.insert(Metric::Slowest, quantile(times, 0.99));
    if units > 0.0 {
        figures.insert(Metric::Proxy, used.cpu / units);
        figures.insert(Metric::Machine, used.machine / units);
        figures.insert(Metric::Switches, used.switches / units);
        figures.insert(Metric::Packets, used.packets / units);
        figures.insert(Metric::AllSwitches, used.machine_switches / units);
    }
    figures
}

/// How many units a turn has carried.
pub fn units(unit: Unit, tally: &Tally) -> f64 {
    match unit {
        Unit::Gigabyte => tally.streamed as f64 / 1e9,
        Unit::Request => tally.answers as f64,
        Unit::Second | Unit::Connection => tally.seconds,
    }
}

/// What was held in a turn.
pub fn of_holding(tally: &Tally, held: &Held) -> Figures {
    Figures::from([
        (Metric::Failures, tally.failures as f64),
        (Metric::Memory, held.memory),
        (Metric::Descriptors, held.descriptors),
        (Metric::Pipes, held.pipes),
        (Metric::Buffers, held.buffers),
        (Metric::AllMemory, held.machine),
    ])
}

fn quantile(sorted: &[u32], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |value| f64::from(*value))
}

/// The middle of some numbers, or the mean of the two in the middle.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers.iter().copied().filter(|number| number.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Everything that was measured of an entry.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub turns: Vec<Figures>,
    /// The system calls of a unit, the most frequent first.
    pub calls: Vec<(String, f64)>,
    /// What went wrong.
    pub notes: Vec<String>,
}

impl Record {
    /// The median of all turns.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        if metric == Metric::Calls {
            return (!self.calls.is_empty()).then(|| self.calls.iter().map(|(_, count)| count).sum());
        }
        median(&self.each(metric))
    }

    fn each(&self, metric: Metric) -> Vec<f64> {
        self.turns.iter().filter_map(|turn| turn.get(&metric).copied()).collect()
    }

    /// The ratio of the medians to those of another record, and the least and the greatest ratio of a turn.
    pub fn ratio(&self, other: &Record, metric: Metric) -> Option<Ratio> {
        let of_medians = self.median(metric)? / other.median(metric)?;
        let pairs = self.each(metric).into_iter().zip(other.each(metric));
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        of_medians.is_finite().then_some(Ratio { of_medians, least, greatest })
    }
}

/// How one contestant compares with another.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub of_medians: f64,
    pub least: f64,
    pub greatest: f64,
}

/// A figure as it stands in a table.
pub fn shown(metric: Metric, unit: Unit, value: f64) -> String {
    let scaled = value / scale(metric, unit);
    match scaled.abs() {
        _ if !scaled.is_finite() => "–".to_owned(),
        size if size >= 100.0 => format!("{scaled:.0}"),
        size if size >= 10.0 => format!("{scaled:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{scaled:.2}"),
    }
}

/// What a column is called.
pub fn heading(metric: Metric, unit: Unit) -> String {
    let each = match unit {
        Unit::Gigabyte => "/GB",
        Unit::Request => "/request",
        Unit::Second => "/s",
        Unit::Connection => "",
    };
    match metric {
        Metric::Streamed => "GB/s".to_owned(),
        Metric::Answered => "requests/s".to_owned(),
        Metric::Half => format!("p50, {}", time_unit(unit)),
        Metric::Slowest => format!("p99, {}", time_unit(unit)),
        Metric::Proxy => format!("proxy CPU, {}", cpu_unit(unit)),
        Metric::Machine => format!("machine CPU, {}", cpu_unit(unit)),
        Metric::Switches => format!("switches{each}"),
        Metric::AllSwitches => format!("all switches{each}"),
        Metric::Packets => format!("packets{each}"),
        Metric::Calls => format!("calls{each}"),
        Metric::Failures => "failures".to_owned(),
        Metric::Memory => "memory, bytes".to_owned(),
        Metric::Descriptors => "descriptors".to_owned(),
        Metric::Pipes => "pipes".to_owned(),
        Metric::Buffers => "socket buffers, KiB".to_owned(),
        Metric::AllMemory => "machine's memory, KiB".to_owned(),
    }
}

fn time_unit(unit: Unit) -> &'static str {
    if unit == Unit::Gigabyte { "ms" } else { "µs" }
}

fn cpu_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Gigabyte => "ms/GB",
        Unit::Request => "µs/request",
        Unit::Second | Unit::Connection => "%",
    }
}

fn scale(metric: Metric, unit: Unit) -> f64 {
    match (metric, unit) {
        (Metric::Streamed, _) => 1e9,
        (Metric::Half | Metric::Slowest, Unit::Gigabyte) => 1e3,
        (Metric::Proxy | Metric::Machine, Unit::Gigabyte) => 1e6,
        (Metric::Proxy | Metric::Machine, Unit::Request) => 1e3,
        (Metric::Proxy | Metric::Machine, _) => 1e7,
        (Metric::Buffers | Metric::AllMemory, _) => 1024.0,
        _ => 1.0,
    }
}
