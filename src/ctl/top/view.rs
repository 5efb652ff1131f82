//! Draws what is known and chosen.

use crate::ctl::top::lists::{CONNECTIONS, Column, ListOf, SOURCES, UPSTREAMS};
use crate::ctl::top::model::{COLUMN_SECONDS, History, Model};
use crate::ctl::top::numbers::{amount, graph, rate, seconds};
use crate::ctl::top::screen::{Canvas, Look};
use crate::ctl::top::state::{Mode, Panel, State};

/// The smallest terminal on which everything has its place.
const LEAST: (usize, usize) = (60, 16);

/// Rows above the lists, and the width of what stands beside a graph.
const HEAD: usize = 5;
const BESIDE_GRAPH: usize = 26;

/// The whole screen.
pub(super) fn draw(model: &Model, state: &State, size: (usize, usize), unicode: bool) -> Canvas {
    let mut canvas = Canvas::new(size.0, size.1);
    if size.0 < LEAST.0 || size.1 < LEAST.1 {
        canvas.put(0, 0, &format!("the terminal is smaller than {} x {}", LEAST.0, LEAST.1), Look::Plain);
        return canvas;
    }
    head(&mut canvas, model);
    graph_line(&mut canvas, 3, "new/s", &model.accepted, unicode);
    graph_line(&mut canvas, 4, "B/s", &model.bytes, unicode);
    if state.mode == Mode::Help {
        help(&mut canvas);
    } else {
        lists(&mut canvas, model, state);
    }
    foot(&mut canvas, state);
    canvas
}

fn head(canvas: &mut Canvas, model: &Model) {
    let all = &model.overview;
    canvas.put(0, 0, &format!("tproxy {}", all.instance), Look::Bold);
    let health = if all.reason.is_empty() { all.health.clone() } else { format!("{}: {}", all.health, all.reason) };
    let look = if all.health == "serving" { Look::Good } else { Look::Bad };
    canvas.put(0, 9 + all.instance.chars().count(), &health, look);
    let up = format!(" up {}", seconds(all.uptime));
    canvas.put(0, canvas.columns().saturating_sub(up.len()), &up, Look::Plain);
    let line = format!(
        "open {} of {}   new/s {}   failed/s {}   up {}B/s   down {}B/s",
        amount(all.open),
        amount(all.limit),
        rate(all.accepted.rate),
        rate(all.failed.rate),
        rate(all.up.rate),
        rate(all.down.rate),
    );
    canvas.put(1, 0, &line, Look::Plain);
    let draining = if all.draining > 0.0 { format!("+{}", all.draining) } else { String::new() };
    let line = format!(
        "accepted {}   failed {}   workers {}{draining}   pipes {}   pauses {}   rules {}",
        amount(all.accepted.total),
        amount(all.failed.total),
        all.workers,
        amount(all.pipes),
        amount(all.accept_pauses),
        all.rules,
    );
    canvas.put(2, 0, &line, Look::Plain);
}

fn graph_line(canvas: &mut Canvas, row: usize, name: &str, history: &History, unicode: bool) {
    let values = history.last(canvas.columns().saturating_sub(BESIDE_GRAPH));
    let largest = values.iter().copied().fold(0.0, f64::max);
    canvas.put(row, 0, name, Look::Plain);
    canvas.put(row, 6, &graph(values, unicode), Look::Graph);
    let minutes = seconds((values.len() as u64 * COLUMN_SECONDS) as f64);
    let beside = format!("{minutes}, most {}", rate(largest));
    canvas.put(row, canvas.columns().saturating_sub(BESIDE_GRAPH - 7), &beside, Look::Plain);
}

/// Gives each list its rows: upstreams what they need up to a third, the other two what is left.
fn lists(canvas: &mut Canvas, model: &Model, state: &State) {
    let room = canvas.rows() - HEAD - 1;
    let upstreams = (model.upstreams.len().max(1) + 1).min(room / 3);
    let sources = (room - upstreams) * 2 / 5;
    let mut row = HEAD;
    for panel in Panel::ALL {
        let rows = match (state.zoomed, panel) {
            (true, panel) if panel == state.focus => room,
            (true, _) => 0,
            (false, Panel::Upstreams) => upstreams,
            (false, Panel::Connections) => room - upstreams - sources,
            (false, Panel::Sources) => sources,
        };
        let place = Place { panel, row, rows };
        match panel {
            Panel::Upstreams => place.list(canvas, state, &UPSTREAMS, &model.upstreams),
            Panel::Connections => place.list(canvas, state, &CONNECTIONS, &model.connections),
            Panel::Sources => place.list(canvas, state, &SOURCES, &model.sources),
        }
        row += rows;
    }
}

/// Where a list goes.
struct Place {
    panel: Panel,
    row: usize,
    rows: usize,
}

impl Place {
    fn list<T>(&self, canvas: &mut Canvas, state: &State, list: &ListOf<T>, lines: &[T]) {
        let Some(shown) = self.rows.checked_sub(1) else { return };
        let choice = state.choice(self.panel);
        let lines = list.arranged(lines, &state.filter, choice.sorting);
        let has_focus = state.focus == self.panel;
        let columns = columns(list, canvas.columns());
        self.heading(canvas, state, &columns);
        let selected = list.selected(&lines, choice.selected.as_ref());
        // The selected line stays in sight.
        let first = if has_focus { (selected + 1).saturating_sub(shown) } else { 0 };
        for (at, line) in lines.iter().enumerate().skip(first).take(shown) {
            let row = self.row + 1 + at - first;
            for it in &columns {
                let text = fitted(&(it.column.cell)(line), it.width, it.column.rank.is_some());
                canvas.put(row, it.at, &text, (it.column.look)(line));
            }
            if has_focus && at == selected {
                canvas.paint(row, Look::Selected);
            }
        }
        if lines.is_empty() && shown > 0 {
            canvas.put(self.row + 1, 0, "none", Look::Plain);
        }
    }

    /// The names of the columns. The one that lines are sorted by is marked.
    fn heading<T>(&self, canvas: &mut Canvas, state: &State, columns: &[Placed<T>]) {
        let sorting = state.choice(self.panel).sorting;
        canvas.paint(self.row, Look::Heading);
        for it in columns {
            let mark = match (it.number == sorting.column, sorting.reversed) {
                (false, _) => "",
                (true, false) => "*",
                (true, true) => "^",
            };
            let text = fitted(&format!("{mark}{}", it.column.name), it.width, it.column.rank.is_some());
            canvas.put(self.row, it.at, &text, Look::Heading);
        }
    }
}

/// A column on the screen.
struct Placed<T: 'static> {
    number: usize,
    column: &'static Column<T>,
    at: usize,
    width: usize,
}

/// The columns for which there is room. What is left of the width goes to those that grow.
fn columns<T>(list: &ListOf<T>, room: usize) -> Vec<Placed<T>> {
    let shown = || list.columns.iter().enumerate().filter(|(_, column)| column.from <= room);
    let least: usize = shown().map(|(_, column)| column.width + 1).sum();
    let growing = shown().filter(|(_, column)| column.grows).count().max(1);
    let more = (room + 1).saturating_sub(least) / growing;
    let mut at = 0;
    let place = |(number, column): (usize, &'static Column<T>)| {
        let width = column.width + if column.grows { more } else { 0 };
        let placed = Placed { number, column, at, width };
        at += width + 1;
        placed
    };
    shown().map(place).collect()
}

fn fitted(text: &str, width: usize, right: bool) -> String {
    match (text.chars().count() > width, right) {
        (true, _) => text.chars().take(width.saturating_sub(1)).chain(['~']).collect(),
        (false, true) => format!("{text:>width$}"),
        (false, false) => format!("{text:width$}"),
    }
}

const HELP: &[&str] = &[
    "u c s, Tab     upstreams, connections, sources",
    "arrows, Page   select a line",
    "Enter, z       the list on the whole screen, and back",
    "o O            sort by the next column, the one before",
    "r              the other way round",
    "/              show lines with a text only; Escape shows all",
    "d n e          disable, drain, enable the selected upstream",
    "k              kill the selected connection, or all of the source",
    "q              quit",
];

fn help(canvas: &mut Canvas) {
    canvas.put(HEAD, 0, "Keys", Look::Bold);
    for (number, line) in HELP.iter().enumerate() {
        canvas.put(HEAD + 1 + number, 2, line, Look::Plain);
    }
}

fn foot(canvas: &mut Canvas, state: &State) {
    let row = canvas.rows() - 1;
    let (text, look) = match &state.mode {
        Mode::Asking { question, .. } => (format!("{question} y/n"), Look::Bad),
        Mode::Filtering(_) => (format!("filter: {}_", state.filter), Look::Bold),
        Mode::Help => ("any key goes back".to_owned(), Look::Plain),
        Mode::Looking if !state.message.is_empty() => (state.message.clone(), Look::Bold),
        Mode::Looking if !state.filter.is_empty() => {
            (format!("filter: {}   Escape shows all   ? help   q quit", state.filter), Look::Plain)
        }
        Mode::Looking => {
            ("Tab list  o sort  / filter  d disable  n drain  e enable  k kill  ? help  q quit".to_owned(), Look::Plain)
        }
    };
    canvas.put(row, 0, &text, look);
}
