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
    /// Two numbers with a hyphen between them.
    Pair(u64, u64),
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
            // These need no escapes.
            Field::Address(_) | Field::Pair(..) => {
                out.push('"');
                self.push_cell(out);
                out.push('"');
            }
            Field::Number(number) => push_number(*number, 1, out),
            Field::Time(time) => push_time(time.as_secs(), time.subsec_micros(), 6, out),
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
                    out.push(':');
                    push_number(*count, 1, out);
                });
                out.push('}');
            }
        }
    }

    /// For people. It has no line break.
    pub(crate) fn cell(&self) -> String {
        let mut out = String::new();
        self.push_cell(&mut out);
        out
    }

    fn push_cell(&self, out: &mut String) {
        let begin = out.len();
        match self {
            Field::Text(text) => push_plain(text, out),
            Field::Word(word) => out.push_str(word),
            Field::Address(address) => address.push_to(out),
            Field::Number(number) => push_number(*number, 1, out),
            Field::Pair(first, second) => {
                push_number(*first, 1, out);
                out.push('-');
                push_number(*second, 1, out);
            }
            Field::Time(time) => push_time(time.as_secs(), time.subsec_millis(), 3, out),
            Field::List(list) => push_plain(&list.join(","), out),
            Field::Counts(counts) => {
                let some = counts.iter().filter(|(_, count)| *count > 0);
                let some: Vec<String> = some.map(|(name, count)| format!("{count} {name}")).collect();
                out.push_str(&some.join(", "));
            }
            Field::Absent => {}
        }
        if out.len() == begin {
            out.push('-');
        }
    }
}

/// Seconds with a fraction of so many digits.
fn push_time(seconds: u64, fraction: u32, digits: usize, out: &mut String) {
    push_number(seconds, 1, out);
    out.push('.');
    push_number(fraction.into(), digits, out);
}

/// A text without control characters.
fn push_plain(text: &str, out: &mut String) {
    out.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
}

/// A number with this many digits, or more. A list of connections has eight numbers for each of them, too many for the
/// machinery of std::fmt.
fn push_number(mut number: u64, width: usize, out: &mut String) {
    let mut digits = [b'0'; 20];
    let mut begin = digits.len();
    while number > 0 || digits.len() - begin < width {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.push_str(str::from_utf8(&digits[begin..]).unwrap_or_default());
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

    /// As a line of a table with these columns, which have these widths, or more where a cell is longer.
    pub(crate) fn push_line(&self, columns: &[(&str, usize)], out: &mut String) {
        let line = out.len();
        for (name, width) in columns {
            let begin = out.len();
            self.get(name).push_cell(out);
            let length = out.get(begin..).map_or(0, |cell| cell.chars().count());
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(length) + 2));
        }
        let length = out.get(line..).map_or(0, |line| line.trim_end().len());
        out.truncate(line + length);
        out.push('\n');
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

/// The names of columns, as [`Row::push_line`] writes what is below them.
pub(crate) fn push_head(columns: &[(&'static str, usize)], out: &mut String) {
    Row(columns.iter().map(|(name, _)| (*name, Field::Word(name))).collect()).push_line(columns, out);
}

/// These columns of the rows, below their names.
pub(crate) fn table(rows: &[Row], columns: &[&'static str]) -> String {
    let length = |name: &str, row: &Row| row.get(name).cell().chars().count();
    let width = |name: &str| rows.iter().map(|row| length(name, row)).max().unwrap_or(0).max(name.len());
    let columns: Vec<(&'static str, usize)> = columns.iter().map(|name| (*name, width(name))).collect();
    let mut out = String::new();
    push_head(&columns, &mut out);
    rows.iter().for_each(|row| row.push_line(&columns, &mut out));
    out
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
            ("g", Field::Pair(0, u64::MAX)),
            ("h", Field::Time(Duration::new(3, 1_007_999))),
            ("e", Field::List(vec!["1".into(), "2".into()])),
            ("f", Field::Counts(vec![("reset by client", 3), ("idle", 0)])),
        ]);
        let mut out = String::new();
        row.json(&mut out);
        let wanted = r#"{"a":"x\"\\\n\u0001é","b":7,"c":0.250000,"d":null,"g":"0-18446744073709551615","h":3.001007,"e":["1","2"],"f":{"reset by client":3,"idle":0}}"#;
        assert_eq!(out, wanted);
        assert_eq!(json_list("rows", &[]), "{\"rows\":[\n]}\n");
        assert_eq!(
            row.lines(),
            "a: x\"\\??é\nb: 7\nc: 0.250\nd: -\ng: 0-18446744073709551615\nh: 3.001\ne: 1,2\nf: 3 reset by client\n"
        );
    }

    #[test]
    fn columns_stand_below_their_names() {
        let row = |a: &str, b: u64| Row(vec![("name", Field::text(a)), ("count", Field::Number(b))]);
        let text = table(&[row("long-name", 1), row("b", 22)], &["name", "count", "none"]);
        assert_eq!(text, "name       count  none\nlong-name  1      -\nb          22     -\n");
    }
}
