//! Answers: rows of named fields, as a table for people or as JSON for programs.
//!
//! JSON is only written, never read, so a crate would be larger than this file (docs/DEPENDENCIES.md).

use std::fmt::Write as _;
use std::time::Duration;

use crate::traffic::compact_addr::CompactAddr;

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Field {
    Text(String),
    /// A name of ours.
    Word(&'static str),
    Address(CompactAddr),
    Number(u64),
    /// In seconds.
    Time(Duration),
    /// Nothing is known: `null`, or `-`.
    Absent,
    List(Vec<String>),
    Counts(Vec<(&'static str, u64)>),
}

impl Field {
    pub(crate) fn text(text: impl Into<String>) -> Field {
        Field::Text(text.into())
    }

    /// A text, if there is one.
    pub(crate) fn maybe(text: Option<impl Into<String>>) -> Field {
        text.map_or(Field::Absent, |text| Field::Text(text.into()))
    }

    /// A time, if there is one.
    pub(crate) fn time(time: Option<Duration>) -> Field {
        time.map_or(Field::Absent, Field::Time)
    }

    fn json(&self, out: &mut String) {
        match self {
            Field::Text(text) => quote(text, out),
            Field::Word(word) => quote(word, out),
            // Writing to a String cannot fail.
            Field::Address(address) => _ = write!(out, "\"{address}\""),
            Field::Number(number) => _ = write!(out, "{number}"),
            Field::Time(time) => _ = write!(out, "{}.{:06}", time.as_secs(), time.subsec_micros()),
            Field::Absent => out.push_str("null"),
            Field::List(list) => {
                out.push('[');
                separated(list, out, |text, out| quote(text, out));
                out.push(']');
            }
            Field::Counts(counts) => {
                out.push('{');
                separated(counts, out, |(name, count), out| {
                    quote(name, out);
                    _ = write!(out, ":{count}");
                });
                out.push('}');
            }
        }
    }

    /// For people. It has no line break.
    pub(crate) fn cell(&self) -> String {
        let text = match self {
            Field::Text(text) => text.clone(),
            Field::Word(word) => (*word).to_owned(),
            Field::Address(address) => address.to_string(),
            Field::Number(number) => number.to_string(),
            Field::Time(time) => format!("{}.{:03}", time.as_secs(), time.subsec_millis()),
            Field::List(list) => list.join(","),
            Field::Counts(counts) => {
                let some = counts.iter().filter(|(_, count)| *count > 0);
                some.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
            }
            Field::Absent => String::new(),
        };
        if text.is_empty() { "-".to_owned() } else { text.replace(char::is_control, "?") }
    }
}

fn separated<T>(list: &[T], out: &mut String, mut write: impl FnMut(&T, &mut String)) {
    for (number, one) in list.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write(one, out);
    }
}

/// A string of JSON (RFC 8259, 7).
pub(crate) fn quote(text: &str, out: &mut String) {
    let is_special = |c: char| c.is_ascii_control() || c == '"' || c == '\\';
    out.push('"');
    // What needs no escape is copied in one piece.
    for part in text.split_inclusive(is_special) {
        let plain = part.strip_suffix(is_special);
        out.push_str(plain.unwrap_or(part));
        match part.chars().next_back().filter(|_| plain.is_some()) {
            None => {}
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some(control) => _ = write!(out, "\\u{:04x}", u32::from(control)),
        }
    }
    out.push('"');
}

/// Named fields, in the order of the documentation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row(pub Vec<(&'static str, Field)>);

impl Row {
    pub(crate) fn get(&self, name: &str) -> &Field {
        self.0.iter().find(|(other, _)| *other == name).map_or(&Field::Absent, |(_, field)| field)
    }

    /// As an object.
    pub(crate) fn json(&self, out: &mut String) {
        out.push('{');
        separated(&self.0, out, |(name, field), out| {
            // Our names need no escapes.
            out.push('"');
            out.push_str(name);
            out.push_str("\":");
            field.json(out);
        });
        out.push('}');
    }

    /// As an object in a line of its own.
    pub(crate) fn document(&self) -> String {
        let mut out = String::new();
        self.json(&mut out);
        out + "\n"
    }

    /// As lines `name: value`.
    pub(crate) fn lines(&self) -> String {
        self.0.iter().map(|(name, field)| format!("{name}: {}\n", field.cell())).collect()
    }
}

/// `{"name":[...]}`
pub(crate) fn json_list(name: &str, rows: &[Row]) -> String {
    let mut out = String::from("{");
    quote(name, &mut out);
    out.push_str(":[");
    for (number, row) in rows.iter().enumerate() {
        out.push_str(if number > 0 { ",\n" } else { "\n" });
        row.json(&mut out);
    }
    out.push_str("\n]}\n");
    out
}

/// These columns of the rows, below their names.
pub(crate) fn table(rows: &[Row], columns: &[&str]) -> String {
    let mut cells: Vec<Vec<String>> = vec![columns.iter().map(|name| (*name).to_owned()).collect()];
    cells.extend(rows.iter().map(|row| columns.iter().map(|name| row.get(name).cell()).collect()));
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        push_line(row, &widths, &mut out);
    }
    out
}

/// One line of a table whose columns have these widths, or more where a cell is longer.
pub(crate) fn push_line(cells: &[String], widths: &[usize], out: &mut String) {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        _ = write!(line, "{cell:<width$}  ");
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_programs_read() {
        let row = Row(vec![
            ("a", Field::text("x\"\\\n\u{1}é")),
            ("b", Field::Number(7)),
            ("c", Field::Time(Duration::from_millis(250))),
            ("d", Field::Absent),
            ("e", Field::List(vec!["1".into(), "2".into()])),
            ("f", Field::Counts(vec![("reset by client", 3), ("idle", 0)])),
        ]);
        let mut out = String::new();
        row.json(&mut out);
        let wanted =
            r#"{"a":"x\"\\\n\u0001é","b":7,"c":0.250000,"d":null,"e":["1","2"],"f":{"reset by client":3,"idle":0}}"#;
        assert_eq!(out, wanted);
        assert_eq!(json_list("rows", &[]), "{\"rows\":[\n]}\n");
        assert_eq!(row.lines(), "a: x\"\\??é\nb: 7\nc: 0.250\nd: -\ne: 1,2\nf: 3 reset by client\n");
    }

    #[test]
    fn columns_stand_below_their_names() {
        let row = |a: &str, b: u64| Row(vec![("name", Field::text(a)), ("count", Field::Number(b))]);
        let text = table(&[row("long-name", 1), row("b", 22)], &["name", "count", "none"]);
        assert_eq!(text, "name       count  none\nlong-name  1      -\nb          22     -\n");
    }
}
