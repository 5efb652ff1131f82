//! What is on the screen, and the shortest text that makes the terminal show it.

use std::fmt::Write;

/// How a character looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Look {
    #[default]
    Plain,
    Bold,
    Heading,
    Selected,
    Good,
    Warning,
    Bad,
    Graph,
}

impl Look {
    /// The attributes (ECMA-48, SGR). Without colour, what is bad is bold: nothing is told by colour alone.
    fn attributes(self, colour: bool) -> &'static str {
        match (self, colour) {
            (Look::Plain, _) | (Look::Good | Look::Graph, false) => "\x1b[0m",
            (Look::Bold, _) | (Look::Warning | Look::Bad, false) => "\x1b[0;1m",
            (Look::Heading, _) => "\x1b[0;1;4m",
            (Look::Selected, _) => "\x1b[0;7m",
            (Look::Good, true) => "\x1b[0;32m",
            (Look::Warning, true) => "\x1b[0;33m",
            (Look::Bad, true) => "\x1b[0;1;31m",
            (Look::Graph, true) => "\x1b[0;36m",
        }
    }
}

/// The characters of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Canvas {
    columns: usize,
    rows: usize,
    cells: Vec<(char, Look)>,
}

impl Canvas {
    pub(super) fn new(columns: usize, rows: usize) -> Canvas {
        Canvas { columns, rows, cells: vec![(' ', Look::Plain); columns * rows] }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Puts text at a place. What does not fit is cut off, and what is not printable becomes `?`.
    pub(super) fn put(&mut self, row: usize, column: usize, text: &str, look: Look) {
        let Some(start) = (row < self.rows).then(|| row * self.columns + column.min(self.columns)) else { return };
        let room = self.columns.saturating_sub(column);
        for (cell, c) in self.cells.iter_mut().skip(start).take(room).zip(text.chars()) {
            *cell = (if c.is_control() { '?' } else { c }, look);
        }
    }

    /// Gives a whole row one look.
    pub(super) fn paint(&mut self, row: usize, look: Look) {
        let cells = self.cells.iter_mut().skip(row * self.columns).take(self.columns);
        cells.for_each(|cell| cell.1 = look);
    }

    /// A row without the blanks at its end.
    #[cfg(test)]
    pub(super) fn text(&self, row: usize) -> String {
        let cells = self.cells.iter().skip(row * self.columns).take(self.columns);
        cells.map(|(c, _)| *c).collect::<String>().trim_end().to_owned()
    }

    /// What makes a terminal show this that shows `before`; all of it without.
    pub(super) fn changes(&self, before: Option<&Canvas>, colour: bool) -> String {
        let before = before.filter(|before| (before.columns, before.rows) == (self.columns, self.rows));
        let mut text = if before.is_none() { "\x1b[0m\x1b[2J".to_owned() } else { String::new() };
        let blank = (' ', Look::Plain);
        let (mut look, mut follows) = (None, None);
        for (at, cell) in self.cells.iter().enumerate() {
            if *cell == before.and_then(|before| before.cells.get(at).copied()).unwrap_or(blank) {
                continue;
            }
            if follows != Some(at) || at % self.columns == 0 {
                // Writing to a String does not fail.
                let _ = write!(text, "\x1b[{};{}H", at / self.columns + 1, at % self.columns + 1);
            }
            if look != Some(cell.1) {
                text += cell.1.attributes(colour);
                look = Some(cell.1);
            }
            text.push(cell.0);
            follows = Some(at + 1);
        }
        if look.is_some() {
            text += "\x1b[0m";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_written() {
        let mut before = Canvas::new(10, 2);
        before.put(0, 0, "hello", Look::Plain);
        let mut after = before.clone();
        assert_eq!(after.changes(Some(&before), true), "");
        after.put(1, 8, "abcdef", Look::Bad);
        assert_eq!(after.changes(Some(&before), true), "\x1b[2;9H\x1b[0;1;31mab\x1b[0m");
        assert!(after.changes(None, true).starts_with("\x1b[0m\x1b[2J"));
    }

    #[test]
    fn without_colour_there_is_none() {
        let mut canvas = Canvas::new(10, 1);
        for look in [Look::Good, Look::Warning, Look::Bad, Look::Graph, Look::Heading] {
            canvas.put(0, 0, "x", look);
            let text = canvas.changes(None, false);
            let codes = text.split(|c: char| !c.is_ascii_digit()).filter_map(|code| code.parse::<u32>().ok());
            assert!(text.ends_with("mx\u{1b}[0m") && codes.max() < Some(30), "{text:?}");
        }
    }

    #[test]
    fn nothing_reaches_beyond_the_picture() {
        let mut canvas = Canvas::new(3, 1);
        canvas.put(0, 2, "abc", Look::Plain);
        canvas.put(5, 0, "abc", Look::Plain);
        canvas.put(0, 9, "abc", Look::Plain);
        canvas.put(0, 0, "\x1b", Look::Plain);
        assert_eq!(canvas.text(0), "? a");
    }
}
