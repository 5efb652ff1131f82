//! The tables, which are Markdown and can be read on a terminal as well.

use std::fmt::Write;

use crate::contestant::{Contestant, Role};
use crate::figures::{Metric, Record, heading, shown};
use crate::goals::{Outcome, Played};
use crate::load::Load;
use crate::plan::{SCALE_NAME, Unit};

/// Rows of cells, the first of them the heading.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
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
                // Words to the left, numbers to the right.
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

/// Everything, as Markdown.
pub fn write(played: &[Played], outcomes: &[Outcome], contestants: &[Contestant]) -> String {
    let mut text = String::new();
    if !outcomes.is_empty() {
        let _ = writeln!(text, "### Goals\n\n{}", goals(outcomes).render());
    }
    for played in played {
        let _ = writeln!(text, "### {}\n\n{}", played.section.title, table(played, contestants).render());
        let calls = calls(played, contestants);
        if !calls.is_empty() {
            let _ = writeln!(text, "{calls}");
        }
        for note in notes(played) {
            let _ = writeln!(text, "- {note}\n");
        }
    }
    text
}

fn goals(outcomes: &[Outcome]) -> Table {
    let heading = ["work", "figure", "tproxy", "compared with", "ratio", "in single rounds", "must", "aim", ""];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for outcome in outcomes {
        let Outcome { work, figure, ours, theirs, ratio, spread, must, aim, verdict } = outcome;
        let cells = [work, figure, ours, theirs, ratio, spread, must, aim];
        rows.push(cells.into_iter().cloned().chain([verdict.to_string()]).collect());
    }
    Table { rows }
}

fn columns(unit: Unit) -> &'static [Metric] {
    use Metric::{
        AllMemory, AllSwitches, Answered, Buffers, Calls, Descriptors, Half, Machine, Memory, Packets, Pipes, Proxy,
        Slowest, Streamed, Switches,
    };
    match unit {
        Unit::Gigabyte => &[Streamed, Half, Slowest, Proxy, Machine, Switches, AllSwitches, Packets, Calls],
        Unit::Request => &[Answered, Half, Slowest, Proxy, Machine, Switches, AllSwitches, Packets, Calls],
        Unit::Second => &[Answered, Half, Slowest, Streamed, Proxy, Machine],
        Unit::Connection => &[Memory, Descriptors, Pipes, Buffers, AllMemory],
    }
}

fn table(played: &Played, contestants: &[Contestant]) -> Table {
    if played.section.name == SCALE_NAME {
        return scale(played, contestants);
    }
    let unit = played.section.unit;
    let ours = played.of("tproxy");
    let mut rows = vec![vec![String::new()]];
    for metric in columns(unit) {
        rows[0].push(heading(*metric, unit));
        if is_compared(*metric) && ours.is_some() {
            rows[0].push("×".to_owned());
        }
    }
    let repeats = played.section.entries.iter().filter(|entry| entry.who == played.section.entries[0].who).count() > 1;
    for (entry, record) in played.section.entries.iter().zip(&played.records) {
        let role = contestants.iter().find(|one| one.name == entry.who).map(|one| one.role);
        let mut row = vec![label(entry.who, repeats.then_some(&entry.load), contestants)];
        for metric in columns(unit) {
            let own = !matches!(
                (role, metric),
                (Some(Role::Floor), Metric::Proxy | Metric::Switches | Metric::Packets | Metric::Calls)
            );
            let value = record.median(*metric).filter(|_| own);
            row.push(value.map_or_else(String::new, |value| shown(*metric, unit, value)));
            if let Some(ours) = ours.filter(|_| is_compared(*metric)) {
                let ratio = record.ratio(ours, *metric).filter(|_| own);
                row.push(ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.of_medians)));
            }
        }
        rows.push(row);
    }
    Table { rows }
}

/// Beside these figures stands how many times tproxy's they are.
fn is_compared(metric: Metric) -> bool {
    matches!(metric, Metric::Proxy | Metric::Machine)
}

/// The title, with the load where that is what differs.
fn label(who: &str, load: Option<&Load>, contestants: &[Contestant]) -> String {
    let title = contestants.iter().find(|one| one.name == who).map_or(who, |one| one.title);
    load.map_or_else(|| title.to_owned(), |load| format!("{title}, {load}"))
}

/// A row for each contestant, a column for each number of connections.
fn scale(played: &Played, contestants: &[Contestant]) -> Table {
    let mut rows = vec![vec!["CPU, µs/request, proxy / machine".to_owned()]];
    for (entry, record) in played.section.entries.iter().zip(&played.records) {
        let count = entry.load.connections().to_string();
        let title = label(entry.who, None, contestants);
        if !rows[0].contains(&count) {
            rows[0].push(count);
        }
        let figure =
            |metric| record.median(metric).map_or_else(String::new, |value| shown(metric, Unit::Request, value));
        let cell = format!("{} / {}", figure(Metric::Proxy), figure(Metric::Machine));
        match rows.iter_mut().find(|row| row[0] == title) {
            Some(row) => row.push(cell),
            None => rows.push(vec![title, cell]),
        }
    }
    Table { rows }
}

/// The most frequent system calls of each.
fn calls(played: &Played, contestants: &[Contestant]) -> String {
    let mut text = String::new();
    for (entry, record) in played.section.entries.iter().zip(&played.records) {
        let frequent = record.calls.iter().filter(|(_, count)| *count >= share(record) / 50.0).take(9);
        let list: Vec<String> = frequent.map(|(name, count)| format!("{name} {}", amount(*count))).collect();
        if !list.is_empty() && played.section.name != SCALE_NAME {
            let _ = writeln!(text, "- {}: {}", label(entry.who, None, contestants), list.join(", "));
        }
    }
    text
}

fn share(record: &Record) -> f64 {
    record.calls.iter().map(|(_, count)| count).sum()
}

fn amount(count: f64) -> String {
    if count >= 100.0 { format!("{count:.0}") } else { format!("{count:.2}") }
}

/// What went wrong, each thing once.
fn notes(played: &Played) -> Vec<String> {
    let mut notes = Vec::new();
    for (entry, record) in played.section.entries.iter().zip(&played.records) {
        let failures: f64 = record.turns.iter().filter_map(|turn| turn.get(&Metric::Failures)).sum();
        if failures > 0.0 {
            notes.push(format!("{} with {}: {failures} failures", entry.who, entry.load));
        }
        let mut said: Vec<&String> = record.notes.iter().collect();
        said.sort();
        said.dedup();
        notes.extend(said.into_iter().map(|note| format!("{} with {}: {note}", entry.who, entry.load)));
    }
    notes
}
