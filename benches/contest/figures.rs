//! The figures of a turn, their medians and ratios over several turns, and their text in a table.

use std::collections::BTreeMap;

use crate::clients::Counts;
use crate::load::Load;
use crate::resources::{Footprint, Used};
use crate::works::{Unit, Work};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Bytes of streams per second.
    Throughput,
    /// Answers per second.
    RequestRate,
    /// Microseconds: the median of response times, or of a block's time in transit.
    P50,
    /// Microseconds: the 99th percentile of the same.
    P99,
    /// Nanoseconds of the contestant's CPU time per unit.
    ProxyCpu,
    /// Nanoseconds of the machine's CPU time per unit.
    MachineCpu,
    /// Context switches of the contestant per unit.
    Switches,
    /// Context switches of the machine per unit.
    MachineSwitches,
    /// Packets that the gateway sends per unit.
    Packets,
    /// System calls of the contestant per unit.
    SystemCalls,
    Failures,
    /// Bytes of the contestant's private memory per connection.
    Memory,
    Descriptors,
    Pipes,
    /// Bytes of the gateway's socket buffers per connection.
    SocketBuffers,
    /// Bytes of the machine's memory per connection.
    MachineMemory,
}

/// The figures of one turn.
pub type Figures = BTreeMap<Metric, f64>;

/// The figures of a load that does something.
pub fn of_activity(load: &Load, unit: Unit, counts: &mut Counts, used: &Used) -> Figures {
    let units = units(unit, counts);
    let mut figures = Figures::from([(Metric::Failures, counts.failures as f64)]);
    if load.has_streams() {
        figures.insert(Metric::Throughput, counts.streamed as f64 / counts.seconds);
    }
    if load.has_requests() {
        figures.insert(Metric::RequestRate, counts.answers as f64 / counts.seconds);
    }
    // Where a load has both, people wait for the requests.
    let times = if load.has_requests() { &mut counts.response_times } else { &mut counts.delays };
    times.sort_unstable();
    figures.insert(Metric::P50, quantile(times, 0.5));
    figures.insert(Metric::P99, quantile(times, 0.99));
    if units > 0.0 {
        figures.insert(Metric::ProxyCpu, used.cpu / units);
        figures.insert(Metric::MachineCpu, used.machine / units);
        figures.insert(Metric::Switches, used.switches / units);
        figures.insert(Metric::Packets, used.packets / units);
        figures.insert(Metric::MachineSwitches, used.machine_switches / units);
    }
    figures
}

/// The number of units in a turn.
pub fn units(unit: Unit, counts: &Counts) -> f64 {
    match unit {
        Unit::Gigabyte => counts.streamed as f64 / 1e9,
        Unit::Request => counts.answers as f64,
        Unit::Second | Unit::Connection => counts.seconds,
    }
}

/// The figures of a load that only holds connections.
pub fn of_footprint(counts: &Counts, footprint: &Footprint) -> Figures {
    Figures::from([
        (Metric::Failures, counts.failures as f64),
        (Metric::Memory, footprint.memory),
        (Metric::Descriptors, footprint.descriptors),
        (Metric::Pipes, footprint.pipes),
        (Metric::SocketBuffers, footprint.buffers),
        (Metric::MachineMemory, footprint.machine),
    ])
}

fn quantile(sorted: &[u32], fraction: f64) -> f64 {
    let at = ((sorted.len() as f64 * fraction) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |value| f64::from(*value))
}

/// The median; `None` if no number is finite.
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

/// Everything that was measured of an entry of a work.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub turns: Vec<Figures>,
    /// System calls per unit, the most frequent first.
    pub calls: Vec<(String, f64)>,
    /// Failures, in words.
    pub notes: Vec<String>,
}

impl Record {
    pub fn median(&self, metric: Metric) -> Option<f64> {
        if metric == Metric::SystemCalls {
            return (!self.calls.is_empty()).then(|| self.calls.iter().map(|(_, count)| count).sum());
        }
        median(&self.values(metric))
    }

    fn values(&self, metric: Metric) -> Vec<f64> {
        self.turns.iter().filter_map(|turn| turn.get(&metric).copied()).collect()
    }

    /// The ratio of this record's median to that of another record, and the range of the ratios of single rounds.
    pub fn ratio(&self, other: &Record, metric: Metric) -> Option<Ratio> {
        let of_medians = self.median(metric)? / other.median(metric)?;
        let pairs = self.values(metric).into_iter().zip(other.values(metric));
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        of_medians.is_finite().then_some(Ratio { of_medians, least, greatest })
    }
}

/// A work with a record for each of its entries.
#[derive(Debug)]
pub struct Measured {
    pub work: Work,
    pub records: Vec<Record>,
}

impl Measured {
    /// The first record of a contestant.
    pub fn of(&self, name: &str) -> Option<&Record> {
        let at = self.work.entries.iter().position(|entry| entry.contestant == name)?;
        self.records.get(at)
    }
}

/// One contestant divided by another.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub of_medians: f64,
    pub least: f64,
    pub greatest: f64,
}

impl Ratio {
    /// The least and the greatest ratio of single rounds.
    pub fn range(self) -> String {
        format!("{:.2} to {:.2}", self.least, self.greatest)
    }
}

/// The text of a figure in a table.
pub fn text(metric: Metric, unit: Unit, value: f64) -> String {
    let scaled = value / scale(metric, unit);
    match scaled.abs() {
        _ if !scaled.is_finite() => "–".to_owned(),
        size if size >= 100.0 => format!("{scaled:.0}"),
        size if size >= 10.0 => format!("{scaled:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{scaled:.2}"),
    }
}

/// The heading of a column.
pub fn heading(metric: Metric, unit: Unit) -> String {
    let per = match unit {
        Unit::Gigabyte => "/GB",
        Unit::Request => "/request",
        Unit::Second => "/s",
        Unit::Connection => "",
    };
    match metric {
        Metric::Throughput => "GB/s".to_owned(),
        Metric::RequestRate => "requests/s".to_owned(),
        Metric::P50 => format!("p50, {}", time_unit(unit)),
        Metric::P99 => format!("p99, {}", time_unit(unit)),
        Metric::ProxyCpu => format!("proxy CPU, {}", cpu_unit(unit)),
        Metric::MachineCpu => format!("machine CPU, {}", cpu_unit(unit)),
        Metric::Switches => format!("switches{per}"),
        Metric::MachineSwitches => format!("machine's switches{per}"),
        Metric::Packets => format!("packets{per}"),
        Metric::SystemCalls => format!("system calls{per}"),
        Metric::Failures => "failures".to_owned(),
        Metric::Memory => "memory, bytes".to_owned(),
        Metric::Descriptors => "descriptors".to_owned(),
        Metric::Pipes => "pipes".to_owned(),
        Metric::SocketBuffers => "socket buffers, KiB".to_owned(),
        Metric::MachineMemory => "machine's memory, KiB".to_owned(),
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
        (Metric::Throughput, _) => 1e9,
        (Metric::P50 | Metric::P99, Unit::Gigabyte) => 1e3,
        (Metric::ProxyCpu | Metric::MachineCpu, Unit::Gigabyte) => 1e6,
        (Metric::ProxyCpu | Metric::MachineCpu, Unit::Request) => 1e3,
        (Metric::ProxyCpu | Metric::MachineCpu, _) => 1e7,
        (Metric::SocketBuffers | Metric::MachineMemory, _) => 1024.0,
        _ => 1.0,
    }
}
