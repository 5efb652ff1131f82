//! The picture: bars for the CPU time of each work, the machine's and the proxy's part of it, and lines for the CPU time
//! of a request over the number of connections.

use std::fmt::Write;

use crate::canvas::Canvas;
use crate::contestant::{Contestant, Role};
use crate::figures::{Measured, Metric, heading, text};
use crate::works::{SCALE_NAME, Unit};

const WIDTH: f64 = 920.0;
const COLUMN: f64 = WIDTH / 2.0;
const MARGIN: f64 = 20.0;
/// Height of a bar and of the gap below it.
const ROW: f64 = 20.0;
/// Where the bars of a panel begin, and the length of the longest.
const LABELS: f64 = 135.0;
const LONGEST: f64 = COLUMN - LABELS - 2.0 * MARGIN - 95.0;
const PLOT_HEIGHT: f64 = 200.0;
/// A bar ends at this multiple of tproxy's, so that it leaves room for the others.
const LONGEST_RATIO: f64 = 4.0;

const OURS: (&str, &str) = ("#1f6f43", "#9fd3b5");
const OTHERS: (&str, &str) = ("#3b4a6b", "#b9c3d9");
const LINES: [&str; 4] = ["#1f6f43", "#b3541e", "#3b4a6b", "#7a3b8f"];

pub fn draw(measured: &[Measured], contestants: &[Contestant]) -> String {
    let mut canvas = Canvas::default();
    canvas.text(
        MARGIN,
        28.0,
        "class=\"head\"",
        "CPU time per unit of work: the whole machine's, and the proxy's part of it",
    );
    legend(&mut canvas);
    let panels: Vec<&Measured> = measured.iter().filter(|measured| measured.work.is_comparison()).collect();
    let mut top = 70.0;
    for pair in panels.chunks(2) {
        let heights = pair
            .iter()
            .enumerate()
            .map(|(at, measured)| panel(&mut canvas, measured, contestants, at as f64 * COLUMN + MARGIN, top));
        top += heights.fold(0.0, f64::max);
    }
    if let Some(measured) = measured.iter().find(|measured| measured.work.name == SCALE_NAME) {
        top += scale(&mut canvas, measured, contestants, top);
    }
    canvas.picture(WIDTH, top)
}

fn legend(canvas: &mut Canvas) {
    let marks = [
        (OURS.0, "tproxy"),
        (OURS.1, "the rest of the machine"),
        (OTHERS.0, "another proxy"),
        (OTHERS.1, "the rest of the machine"),
    ];
    for (at, (colour, text)) in marks.into_iter().enumerate() {
        let x = MARGIN + at as f64 * 170.0;
        canvas.bar(x, 40.0, 12.0, 12.0, colour);
        canvas.text(x + 17.0, 50.0, "class=\"small\"", text);
    }
}

/// Draws the bars of a work, and returns the height.
fn panel(canvas: &mut Canvas, measured: &Measured, contestants: &[Contestant], left: f64, top: f64) -> f64 {
    let unit = measured.work.unit;
    canvas.text(left, top + 14.0, "class=\"title\"", &measured.work.title);
    let costs = |metric| measured.records.iter().map(move |record| record.median(metric).unwrap_or(0.0));
    let machine: Vec<f64> = costs(Metric::MachineCpu).collect();
    let proxy: Vec<f64> = costs(Metric::ProxyCpu).collect();
    let ours = measured.of("tproxy").and_then(|record| record.median(Metric::MachineCpu)).unwrap_or(f64::INFINITY);
    let most = machine.iter().copied().fold(0.0, f64::max).min(ours * LONGEST_RATIO).max(1.0);
    canvas.text(left, top + 29.0, "class=\"small\"", &heading(Metric::MachineCpu, unit));
    for (at, entry) in measured.work.entries.iter().enumerate() {
        let y = top + 38.0 + at as f64 * ROW;
        let Some(one) = contestants.iter().find(|one| one.name == entry.contestant) else { continue };
        let (dark, light) = if matches!(one.role, Role::Tproxy | Role::OtherBuild) { OURS } else { OTHERS };
        let class = if matches!(one.role, Role::Tproxy | Role::OtherBuild) { "class=\"ours\"" } else { "" };
        let length = |cost: f64| (cost / most).min(1.0) * LONGEST;
        canvas.text(left, y + 12.0, class, &one.title);
        canvas.bar(left + LABELS, y, length(machine[at]), ROW - 5.0, light);
        canvas.bar(left + LABELS, y, length(proxy[at]), ROW - 5.0, dark);
        let figure = |metric, value: f64| text(metric, unit, value);
        let mut label = figure(Metric::MachineCpu, machine[at]);
        if proxy[at] > 0.0 {
            let _ = write!(label, ", proxy {}", figure(Metric::ProxyCpu, proxy[at]));
        }
        canvas.text(left + LABELS + length(machine[at]) + 5.0, y + 12.0, "class=\"small\"", &label);
    }
    38.0 + measured.work.entries.len() as f64 * ROW + 22.0
}

/// Draws lines over the logarithm of the number of connections, and returns the height.
fn scale(canvas: &mut Canvas, measured: &Measured, contestants: &[Contestant], top: f64) -> f64 {
    let (left, right, bottom) = (MARGIN + 40.0, WIDTH - 180.0, top + 40.0 + PLOT_HEIGHT);
    canvas.text(MARGIN, top + 14.0, "class=\"title\"", &measured.work.title);
    canvas.text(MARGIN, top + 29.0, "class=\"small\"", &heading(Metric::ProxyCpu, Unit::Request));
    let costs = || measured.records.iter().filter_map(|record| record.median(Metric::ProxyCpu));
    let most = costs().fold(1.0, f64::max) * 1.1;
    let counts = || measured.work.entries.iter().map(|entry| entry.load.connections());
    let decades = counts().max().map_or(1.0, |count| (count as f64).log10()).max(1.0);
    let place = |count: usize, cost: f64| {
        let x = left + (count as f64).log10() / decades * (right - left);
        (x, bottom - cost / most * PLOT_HEIGHT)
    };
    canvas.line(&[(left, bottom), (right, bottom)], "#999", 1.0);
    canvas.line(&[(left, bottom), (left, bottom - PLOT_HEIGHT)], "#999", 1.0);
    for quarter in 1..=4 {
        let cost = most * f64::from(quarter) / 4.0;
        let (_, y) = place(1, cost);
        canvas.line(&[(left, y), (right, y)], "#eee", 1.0);
        canvas.text(MARGIN, y + 4.0, "class=\"small\"", &text(Metric::ProxyCpu, Unit::Request, cost));
    }
    let mut names: Vec<&str> = Vec::new();
    for entry in &measured.work.entries {
        let (x, _) = place(entry.load.connections(), 0.0);
        if names.is_empty() || names == [&entry.contestant] {
            canvas.text(
                x,
                bottom + 16.0,
                "class=\"small\" text-anchor=\"middle\"",
                &entry.load.connections().to_string(),
            );
        }
        if !names.contains(&entry.contestant.as_str()) {
            names.push(&entry.contestant);
        }
    }
    for (name, colour) in names.into_iter().zip(LINES) {
        let entries = measured.work.entries.iter().zip(&measured.records).filter(|(entry, _)| entry.contestant == name);
        let points: Vec<(f64, f64)> = entries
            .filter_map(|(entry, record)| Some(place(entry.load.connections(), record.median(Metric::ProxyCpu)?)))
            .collect();
        canvas.line(&points, colour, 2.0);
        let title = contestants.iter().find(|one| one.name == name).map_or(name, |one| &one.title);
        if let Some((x, y)) = points.last() {
            canvas.text(x + 8.0, y + 4.0, &format!("fill=\"{colour}\""), title);
        }
    }
    canvas.text((left + right) / 2.0, bottom + 32.0, "class=\"small\" text-anchor=\"middle\"", "connections");
    PLOT_HEIGHT + 90.0
}
