//! The tables. They are Markdown that can be read on a terminal as well.

use std::fmt::Write;

use crate::contestant::{Contestant, Role, other_name};
use crate::figures::{Measured, Metric, Ratio, Record, heading, text};
use crate::load::Load;
use crate::targets::{Outcome, outcomes, to_best_peer};
use crate::works::{SCALE_NAME, Unit};

/// Rows of cells; the first row is the heading.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn with_heading(cells: &[&str]) -> Table {
        Table { rows: vec![cells.iter().map(|cell| cell.to_string()).collect()] }
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| self.rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            text.push('|');
            for (at, wide) in widths.iter().enumerate() {
                let cell = row.get(at).map_or("", String::as_str);
                let gap = " ".repeat(wide - width(cell));
                // Names are aligned on the left, numbers on the right.
                let (before, after) = if at == 0 { ("", gap.as_str()) } else { (gap.as_str(), "") };
                let _ = write!(text, " {before}{cell}{after} |");
            }
            text.push('\n');
            if number == 0 {
                let rule = |(at, wide): (usize, &usize)| match at {
                    0 => "-".repeat(wide + 2),
                    _ => format!("{}:", "-".repeat(wide + 1)),
                };
                let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
                let _ = writeln!(text, "|{}|", rules.join("|"));
            }
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// Under which conditions everything was measured.
#[derive(Debug)]
pub struct Conditions {
    /// The congestion control of all machines.
    pub congestion: String,
    pub web_server: bool,
    /// That of the sizes that were drawn.
    pub seed: u64,
}

impl Conditions {
    /// A name for headings and files: `cubic-nginx`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.congestion, if self.web_server { "nginx" } else { "blocks" })
    }
}

/// All tables as Markdown.
pub fn write(measured: &[Measured], contestants: &[Contestant], conditions: &Conditions) -> String {
    let mut text = String::new();
    let builds = builds(measured);
    if builds.rows.len() > 1 {
        let _ = writeln!(text, "#### This build divided by the other build\n\n{BUILDS_NOTE}\n\n{}", builds.render());
    }
    let outcomes = outcomes(measured, contestants, &conditions.congestion);
    if !outcomes.is_empty() {
        let _ = writeln!(text, "#### Targets\n\n{}", targets(outcomes).render());
    }
    let drawn = drawn(measured, contestants);
    if drawn.rows.len() > 1 {
        let seed = conditions.seed;
        let _ = writeln!(text, "#### Objects of drawn sizes, SEED={seed}\n\n{DRAWN_NOTE}\n\n{}", drawn.render());
    }
    for measured in measured {
        notes(measured, &mut text);
        if measured.work.drawn {
            continue;
        }
        let _ = writeln!(text, "#### {}\n\n{}", measured.work.title, table(measured, contestants).render());
        let system_calls = system_calls(measured, contestants);
        if !system_calls.is_empty() {
            let _ = writeln!(text, "{system_calls}");
        }
    }
    text
}

const DRAWN_NOTE: &str = "Each number is tproxy's figure divided by that of the best peer in this figure, whose name \
stands beside it.";

/// A row for each size that was drawn.
fn drawn(measured: &[Measured], contestants: &[Contestant]) -> Table {
    let mut table = Table::with_heading(&["bytes", "connections", "proxy CPU", "machine CPU", "p99"]);
    for measured in measured.iter().filter(|measured| measured.work.drawn) {
        let Some(load) = measured.work.entries.first().map(|entry| &entry.load) else { continue };
        let cell = |metric| match to_best_peer(measured, contestants, metric) {
            Some((name, ratio)) => format!("{:.2} ({name})", ratio.of_medians),
            None => String::new(),
        };
        let sizes: Vec<String> = load.sizes().map(|size| size.to_string()).collect();
        let figures = [Metric::ProxyCpu, Metric::MachineCpu, Metric::P99].map(cell);
        let row = [sizes.join(" "), load.connections().to_string()].into_iter().chain(figures);
        table.rows.push(row.collect());
    }
    table
}

const BUILDS_NOTE: &str = "Each number is the figure of this build divided by that of the other build. A higher rate is \
better; of everything else, less is better. Where there were several rounds, the range of their ratios is in brackets.";

/// A row for each load that both builds carried.
fn builds(measured: &[Measured]) -> Table {
    let heading =
        ["work", "load", "rate", "p50", "p99", "proxy CPU", "machine CPU", "packets", "system calls", "memory"];
    let mut table = Table::with_heading(&heading);
    for measured in measured {
        let entries = || measured.work.entries.iter().zip(&measured.records);
        for (entry, record) in entries() {
            let other = other_name(&entry.contestant);
            let is_other = |entry_of_other: &crate::works::Entry| {
                other != entry.contestant && entry_of_other.contestant == other && entry_of_other.load == entry.load
            };
            let Some((_, other)) = entries().find(|(entry, _)| is_other(entry)) else { continue };
            let ratio = |metric| record.ratio(other, metric);
            let rate = ratio(Metric::RequestRate).or_else(|| ratio(Metric::Throughput));
            let columns = [
                Metric::P50,
                Metric::P99,
                Metric::ProxyCpu,
                Metric::MachineCpu,
                Metric::Packets,
                Metric::SystemCalls,
                Metric::Memory,
            ];
            let ratios = std::iter::once(rate).chain(columns.map(ratio));
            let name = format!("{}, {}", measured.work.name, entry.contestant);
            let cells = [name, entry.load.to_string()].into_iter().chain(ratios.map(ratio_text));
            table.rows.push(cells.collect());
        }
    }
    table
}

fn ratio_text(ratio: Option<Ratio>) -> String {
    match ratio {
        None => String::new(),
        // One round, or a figure that was measured once.
        Some(ratio) if ratio.least == ratio.greatest || !ratio.least.is_finite() => format!("{:.2}", ratio.of_medians),
        Some(ratio) => format!("{:.2} ({})", ratio.of_medians, ratio.range()),
    }
}

fn targets(outcomes: Vec<Outcome>) -> Table {
    let heading = ["work", "figure", "tproxy", "compared with", "ratio", "in single rounds", "required", "desired", ""];
    let mut table = Table::with_heading(&heading);
    for outcome in outcomes {
        let Outcome { work, figure, ours, reference, ratio, range, required, desired, verdict } = outcome;
        table.rows.push(vec![work, figure, ours, reference, ratio, range, required, desired, verdict.to_owned()]);
    }
    table
}

fn columns(unit: Unit) -> &'static [Metric] {
    use Metric::{
        Descriptors, MachineCpu, MachineMemory, MachineSwitches, Memory, P50, P99, Packets, Pipes, ProxyCpu,
        RequestRate, SocketBuffers, Switches, SystemCalls, Throughput,
    };
    match unit {
        Unit::Gigabyte => {
            &[Throughput, P50, P99, ProxyCpu, MachineCpu, Switches, MachineSwitches, Packets, SystemCalls]
        }
        Unit::Request => {
            &[RequestRate, P50, P99, ProxyCpu, MachineCpu, Switches, MachineSwitches, Packets, SystemCalls]
        }
        Unit::Second => &[RequestRate, P50, P99, Throughput, ProxyCpu, MachineCpu],
        Unit::Connection => &[Memory, Descriptors, Pipes, SocketBuffers, MachineMemory],
    }
}

fn table(measured: &Measured, contestants: &[Contestant]) -> Table {
    if measured.work.name == SCALE_NAME {
        return scale(measured, contestants);
    }
    let unit = measured.work.unit;
    let role = |name: &str| contestants.iter().find(|one| one.name == name).map(|one| one.role);
    let entries = || measured.work.entries.iter().zip(&measured.records);
    // The column × divides by the first tproxy in the table.
    let reference =
        entries().find(|(entry, _)| role(&entry.contestant) == Some(Role::Tproxy)).map(|(_, record)| record);
    let with_ratio =
        |metric| reference.filter(|record| has_ratio(metric) && record.median(metric).is_some_and(|value| value > 0.0));
    let mut rows = vec![vec![String::new()]];
    for metric in columns(unit) {
        rows[0].push(heading(*metric, unit));
        if with_ratio(*metric).is_some() {
            rows[0].push("×".to_owned());
        }
    }
    let repeats =
        measured.work.entries.iter().filter(|entry| entry.contestant == measured.work.entries[0].contestant).count()
            > 1;
    for (entry, record) in entries() {
        let mut row = vec![label(&entry.contestant, repeats.then_some(&entry.load), contestants)];
        for metric in columns(unit) {
            let has_metric = role(&entry.contestant) != Some(Role::Baseline) || !needs_process(*metric);
            let value = record.median(*metric).filter(|_| has_metric);
            row.push(value.map_or_else(String::new, |value| text(*metric, unit, value)));
            if let Some(reference) = with_ratio(*metric) {
                let ratio = record.ratio(reference, *metric).filter(|_| has_metric);
                row.push(ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.of_medians)));
            }
        }
        rows.push(row);
    }
    Table { rows }
}

/// Whether a column with the ratio to tproxy stands beside this figure.
fn has_ratio(metric: Metric) -> bool {
    matches!(metric, Metric::ProxyCpu | Metric::MachineCpu)
}

/// Whether only contestants with a process have this figure.
fn needs_process(metric: Metric) -> bool {
    matches!(metric, Metric::ProxyCpu | Metric::Switches | Metric::Packets | Metric::SystemCalls)
}

/// The title of a contestant, with the load where loads differ.
fn label(name: &str, load: Option<&Load>, contestants: &[Contestant]) -> String {
    let title = contestants.iter().find(|one| one.name == name).map_or(name, |one| &one.title);
    load.map_or_else(|| title.to_owned(), |load| format!("{title}, {load}"))
}

/// A row for each contestant, and a column for each number of connections.
fn scale(measured: &Measured, contestants: &[Contestant]) -> Table {
    let mut rows = vec![vec!["CPU, µs/request, proxy / machine".to_owned()]];
    for (entry, record) in measured.work.entries.iter().zip(&measured.records) {
        let count = entry.load.connections().to_string();
        let title = label(&entry.contestant, None, contestants);
        if !rows[0].contains(&count) {
            rows[0].push(count);
        }
        let figure =
            |metric| record.median(metric).map_or_else(String::new, |value| text(metric, Unit::Request, value));
        let cell = format!("{} / {}", figure(Metric::ProxyCpu), figure(Metric::MachineCpu));
        match rows.iter_mut().find(|row| row[0] == title) {
            Some(row) => row.push(cell),
            None => rows.push(vec![title, cell]),
        }
    }
    Table { rows }
}

/// A line for each contestant with its most frequent system calls.
fn system_calls(measured: &Measured, contestants: &[Contestant]) -> String {
    let mut text = String::new();
    for (entry, record) in measured.work.entries.iter().zip(&measured.records) {
        let total = total_calls(record);
        let frequent = record.calls.iter().filter(|(_, count)| *count >= total / 50.0).take(9);
        let list: Vec<String> = frequent.map(|(name, count)| format!("{name} {}", call_count(*count))).collect();
        if !list.is_empty() && measured.work.name != SCALE_NAME {
            let _ = writeln!(text, "- {}: {}", label(&entry.contestant, None, contestants), list.join(", "));
        }
    }
    text
}

fn total_calls(record: &Record) -> f64 {
    record.calls.iter().map(|(_, count)| count).sum()
}

fn call_count(count: f64) -> String {
    if count >= 100.0 { format!("{count:.0}") } else { format!("{count:.2}") }
}

/// Adds the failures, each of them once.
fn notes(measured: &Measured, text: &mut String) {
    let mut notes = Vec::new();
    for (entry, record) in measured.work.entries.iter().zip(&measured.records) {
        let failures: f64 = record.turns.iter().filter_map(|turn| turn.get(&Metric::Failures)).sum();
        if failures > 0.0 {
            notes.push(format!("{} with {}: {failures} failures", entry.contestant, entry.load));
        }
        let mut texts: Vec<&String> = record.notes.iter().collect();
        texts.sort();
        texts.dedup();
        notes.extend(texts.into_iter().map(|note| format!("{} with {}: {note}", entry.contestant, entry.load)));
    }
    for note in notes {
        let _ = writeln!(text, "- {note}\n");
    }
}
