//! The three lists: which columns they have, and in which order their lines are.

use std::cmp::Ordering;

use crate::ctl::top::model::{ConnectionLine, SourceLine, UpstreamLine};
use crate::ctl::top::numbers::{amount, rate, seconds, short_time};
use crate::ctl::top::screen::Look;

/// A column of a list.
pub(super) struct Column<T> {
    pub name: &'static str,
    pub width: usize,
    /// Takes what is left of the width of the terminal.
    pub grows: bool,
    /// Only on a terminal that has so many columns.
    pub from: usize,
    pub cell: fn(&T) -> String,
    /// What lines are sorted by, the largest first; by the text, if there is none.
    pub rank: Option<fn(&T) -> f64>,
    pub look: fn(&T) -> Look,
}

/// How one list is shown.
pub(super) struct ListOf<T: 'static> {
    pub columns: &'static [Column<T>],
    /// What tells a line from all others.
    pub key: fn(&T) -> String,
}

const fn words<T>(name: &'static str, width: usize, cell: fn(&T) -> String) -> Column<T> {
    Column { name, width, grows: false, from: 0, cell, rank: None, look: |_| Look::Plain }
}

const fn wide<T>(name: &'static str, width: usize, cell: fn(&T) -> String) -> Column<T> {
    Column { name, width, grows: true, from: 0, cell, rank: None, look: |_| Look::Plain }
}

const fn figure<T>(name: &'static str, width: usize, cell: fn(&T) -> String, rank: fn(&T) -> f64) -> Column<T> {
    Column { name, width, grows: false, from: 0, cell, rank: Some(rank), look: |_| Look::Plain }
}

/// Columns of a terminal that has room for more.
const ROOMY: usize = 120;

fn look_of_state(line: &UpstreamLine) -> Look {
    match line.state.as_str() {
        "up" => Look::Good,
        "down" => Look::Bad,
        _ => Look::Warning,
    }
}

pub(super) static UPSTREAMS: ListOf<UpstreamLine> = ListOf {
    columns: &[
        figure("#", 2, |line| line.redirection.to_string(), |line| -line.redirection),
        wide("UPSTREAM", 24, |line| line.name.clone()),
        Column { look: look_of_state, ..words("STATE", 10, |line| line.state.clone()) },
        words("CHECK", 8, |line| line.check.clone()),
        figure("OPEN", 6, |line| amount(line.open), |line| line.open),
        figure("NEW/s", 7, |line| rate(line.connected.rate), |line| line.connected.rate),
        figure("FAILED", 7, |line| amount(line.failed), |line| line.failed),
        figure(
            "TIME",
            8,
            |line| line.connect_time.map_or("-".to_owned(), short_time),
            |line| line.connect_time.unwrap_or(-1.0),
        ),
    ],
    key: |line| format!("{} {}", line.redirection, line.name),
};

pub(super) static CONNECTIONS: ListOf<ConnectionLine> = ListOf {
    columns: &[
        words("ID", 9, |line| line.id.clone()),
        wide("CLIENT", 21, |line| line.client.clone()),
        wide("ORIGINAL", 20, |line| line.original.clone()),
        Column { from: ROOMY, ..wide("UPSTREAM", 20, |line| line.upstream.clone()) },
        Column { from: ROOMY, ..words("STATE", 10, |line| line.state.clone()) },
        figure("B/s", 7, |line| rate(line.bytes.rate), |line| line.bytes.rate),
        figure("BYTES", 7, |line| amount(line.bytes.total), |line| line.bytes.total),
        figure("AGE", 7, |line| seconds(line.age), |line| line.age),
    ],
    key: |line| line.id.clone(),
};

pub(super) static SOURCES: ListOf<SourceLine> = ListOf {
    columns: &[
        wide("SOURCE", 46, |line| line.address.clone()),
        figure("OPEN", 8, |line| amount(line.open), |line| line.open),
        figure("B/s", 8, |line| rate(line.bytes.rate), |line| line.bytes.rate),
        figure("BYTES", 8, |line| amount(line.bytes.total), |line| line.bytes.total),
    ],
    key: |line| line.address.clone(),
};

/// How a list is sorted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sorting {
    pub column: usize,
    pub reversed: bool,
}

impl<T> ListOf<T> {
    /// The lines that have the filter in one of their cells, in order.
    pub(super) fn arranged<'a>(&self, lines: &'a [T], filter: &str, sorting: Sorting) -> Vec<&'a T> {
        let filter = filter.to_lowercase();
        let has = |line: &T| {
            let mut texts = self.columns.iter().filter(|column| column.rank.is_none());
            texts.any(|column| (column.cell)(line).to_lowercase().contains(&filter))
        };
        let mut found: Vec<&T> = lines.iter().filter(|line| filter.is_empty() || has(line)).collect();
        if let Some(column) = self.columns.get(sorting.column) {
            // Lines that are equal stay in an order, or they would jump about.
            found.sort_by(|a, b| column.compare(a, b).then_with(|| (self.key)(a).cmp(&(self.key)(b))));
        }
        if sorting.reversed {
            found.reverse();
        }
        found
    }

    /// Which of the lines is selected: that with the key, or the first one.
    pub(super) fn selected(&self, lines: &[&T], key: Option<&String>) -> usize {
        lines.iter().position(|line| Some(&(self.key)(line)) == key).unwrap_or(0)
    }
}

impl<T> Column<T> {
    fn compare(&self, a: &T, b: &T) -> Ordering {
        match self.rank {
            Some(rank) => rank(b).total_cmp(&rank(a)),
            None => (self.cell)(a).cmp(&(self.cell)(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: &str, open: f64) -> SourceLine {
        SourceLine { address: address.to_owned(), open, ..SourceLine::default() }
    }

    #[test]
    fn lines_are_sorted_and_filtered() {
        let lines = [line("10.0.0.1", 5.0), line("FD00::1", 7.0), line("10.0.0.2", 7.0)];
        let order = |filter: &str, column: usize, reversed: bool| {
            let found = SOURCES.arranged(&lines, filter, Sorting { column, reversed });
            found.iter().map(|line| line.address.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order("", 1, false), "10.0.0.2 FD00::1 10.0.0.1");
        assert_eq!(order("", 1, true), "10.0.0.1 FD00::1 10.0.0.2");
        assert_eq!(order("", 0, false), "10.0.0.1 10.0.0.2 FD00::1");
        assert_eq!(order("fd", 0, false), "FD00::1");
        let all: Vec<&SourceLine> = lines.iter().collect();
        assert_eq!(SOURCES.selected(&all, Some(&"10.0.0.2".to_owned())), 2);
        assert_eq!(SOURCES.selected(&all, Some(&"gone".to_owned())), 0);
    }
}
