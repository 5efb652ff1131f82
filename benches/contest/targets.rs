//! Targets for tproxy's figures, most of them ratios to its peers in the same run.

use crate::contestant::{Contestant, Role};
use crate::figures::{Measured, Metric, Ratio, Record, heading, median, text};
use crate::works::{DRAWN_NAME, SCALE_NAME};

/// What a figure of tproxy is divided by.
#[derive(Debug, Clone, Copy)]
enum Reference {
    /// The lowest figure of all peers.
    BestPeer,
    /// The figure of this contestant.
    One(&'static str),
    /// Its own figure in the first entry, where it carries less.
    Alone,
    /// Nothing: the target is for the figure itself.
    None,
    /// The lowest of its own figures.
    OwnLowest,
}

/// Bounds for a ratio or a figure: upper bounds, or lower bounds for a rate.
struct Target {
    work: &'static str,
    contestant: &'static str,
    metric: Metric,
    reference: Reference,
    required: Option<f64>,
    desired: Option<f64>,
}

/// One row of the table of targets.
#[derive(Debug)]
pub struct Outcome {
    pub work: String,
    pub figure: String,
    pub ours: String,
    pub reference: String,
    pub ratio: String,
    pub range: String,
    pub required: String,
    pub desired: String,
    pub verdict: &'static str,
}

fn targets(congestion: &str) -> Vec<Target> {
    use Reference::{Alone, BestPeer, None as Nothing, One, OwnLowest};
    let target = |work, metric, reference, required, desired| Target {
        work,
        contestant: "tproxy",
        metric,
        reference,
        required,
        desired,
    };
    let mut targets = Vec::new();
    // Work; required and desired ratio for the proxy's CPU time, and for the machine's.
    let bulk = if congestion == "bbr" { (0.85, 0.7, 0.95, 0.85) } else { (0.5, 0.4, 0.5, 0.4) };
    let costs = [
        ("stream", bulk),
        ("streams", bulk),
        ("both", (0.85, 0.7, 0.95, 0.85)),
        ("objects", (0.85, 0.7, 0.97, 0.9)),
        ("large", (0.85, 0.7, 0.97, 0.9)),
        ("wrk", (0.85, 0.7, 0.97, 0.9)),
        ("small", (0.9, 0.8, 0.98, 0.95)),
        ("churn", (0.95, 0.85, 0.95, 0.9)),
    ];
    for (work, (proxy_required, proxy_desired, machine_required, machine_desired)) in costs {
        targets.push(target(work, Metric::ProxyCpu, BestPeer, Some(proxy_required), Some(proxy_desired)));
        targets.push(target(work, Metric::MachineCpu, BestPeer, Some(machine_required), Some(machine_desired)));
        targets.push(target(work, Metric::P99, BestPeer, Some(1.0), Some(0.5)));
    }
    let (one, eight) = if congestion == "bbr" { (1.3, 1.8) } else { (1.05, 1.05) };
    targets.push(target("stream", Metric::MachineCpu, One("dnat"), None, Some(one)));
    targets.push(target("streams", Metric::MachineCpu, One("dnat"), None, Some(eight)));
    targets.push(target("both", Metric::MachineCpu, One("dnat"), None, None));
    targets.push(target("idle", Metric::Memory, Nothing, Some(300.0), Some(200.0)));
    targets.push(target("idle", Metric::Descriptors, Nothing, Some(2.0), Some(2.0)));
    for work in ["stream-beside", "objects-beside", "small-beside", "churn-beside"] {
        targets.push(target(work, Metric::ProxyCpu, Alone, Some(1.05), Some(1.0)));
    }
    targets.push(target("mixed", Metric::P99, Alone, None, Some(1.0)));
    for peer in ["haproxy", "haproxy-splice"] {
        targets.push(target("slow", Metric::Memory, One(peer), Some(1.0), None));
        targets.push(target("slow", Metric::MachineMemory, One(peer), Some(1.0), None));
    }
    targets.push(target("slow", Metric::Pipes, Nothing, None, None));
    targets.push(Target {
        contestant: "tproxy-w2",
        ..target("workers", Metric::Throughput, One("tproxy"), None, Some(1.3))
    });
    for work in ["kernel", "kernel-churn"] {
        let target = target(work, Metric::MachineCpu, One("dnat"), None, Some(1.0));
        targets.push(Target { contestant: "tproxy-kernel", ..target });
    }
    for (contestant, work) in [
        ("tproxy-socks5", "socks"),
        ("tproxy-connect", "connect"),
        ("tproxy-http", "http"),
        ("tproxy-http", "http-churn"),
        ("tproxy-connect", "connect-stream"),
    ] {
        targets.push(Target { contestant, ..target(work, Metric::ProxyCpu, BestPeer, None, None) });
    }
    targets.push(target(SCALE_NAME, Metric::ProxyCpu, OwnLowest, Some(1.3), None));
    targets
}

/// An outcome for every target whose work was measured.
pub fn outcomes(measured: &[Measured], contestants: &[Contestant], congestion: &str) -> Vec<Outcome> {
    let targets = targets(congestion);
    let single = targets.iter().filter_map(|target| outcome(target, measured, contestants));
    single.chain(drawn_outcomes(measured, contestants)).collect()
}

/// The drawn sizes that have a target, in bytes.
const OBJECTS: std::ops::RangeInclusive<usize> = 20 * 1024..=2 * 1024 * 1024;

/// The median and the worst ratio over the drawn sizes.
fn drawn_outcomes(measured: &[Measured], contestants: &[Contestant]) -> Vec<Outcome> {
    let is_object = |measured: &&Measured| {
        let load = measured.work.entries.first().map(|entry| &entry.load);
        measured.work.drawn && load.is_some_and(|load| load.sizes().all(|size| OBJECTS.contains(&size)))
    };
    // The figure; required and desired for the median, and for the worst.
    let bounds = [
        (Metric::ProxyCpu, [0.85, 1.0], [Some(0.7), None]),
        (Metric::MachineCpu, [0.97, 1.05], [Some(0.9), None]),
        (Metric::P99, [1.0, 1.0], [Some(0.5), None]),
    ];
    let mut outcomes = Vec::new();
    for (metric, required, desired) in bounds {
        let measured = measured.iter().filter(is_object);
        let ratios = measured.filter_map(|measured| Some(to_best_peer(measured, contestants, metric)?.1.of_medians));
        let ratios: Vec<f64> = ratios.collect();
        let worst = ratios.iter().copied().reduce(f64::max);
        for (at, value) in [median(&ratios), worst].into_iter().enumerate() {
            let Some(value) = value else { continue };
            let target = Target {
                work: DRAWN_NAME,
                contestant: "tproxy",
                metric,
                reference: Reference::BestPeer,
                required: Some(required[at]).filter(|_| metric != Metric::P99 || at == 0),
                desired: desired[at],
            };
            outcomes.push(Outcome {
                work: format!("{} drawn sizes of 20 KiB to 2 MiB, {}", ratios.len(), ["the median", "the worst"][at]),
                figure: heading(metric, crate::works::Unit::Request),
                ours: String::new(),
                reference: "best peer of each".to_owned(),
                ratio: format!("{value:.2}"),
                range: String::new(),
                required: bound(target.required),
                desired: bound(target.desired),
                verdict: verdict(&target, value),
            });
        }
    }
    outcomes
}

/// The ratio of tproxy's figure to the lowest of all peers, with the name of that peer.
pub fn to_best_peer<'a>(
    measured: &'a Measured,
    contestants: &'a [Contestant],
    metric: Metric,
) -> Option<(&'a str, Ratio)> {
    let ours = measured.of("tproxy")?;
    let (name, best) = best_peer(measured, contestants, metric)?;
    Some((name, ours.ratio(best, metric)?))
}

/// The peer with the lowest figure, by its title.
fn best_peer<'a>(
    measured: &'a Measured,
    contestants: &'a [Contestant],
    metric: Metric,
) -> Option<(&'a str, &'a Record)> {
    let peer = |name: &str| contestants.iter().find(|one| one.name == name && one.role == Role::Peer);
    let entries = measured.work.entries.iter().zip(&measured.records);
    let figures = entries.filter_map(|(entry, record)| {
        let title = peer(&entry.contestant)?.title.as_str();
        Some((title, record, record.median(metric)?))
    });
    figures.min_by(|a, b| a.2.total_cmp(&b.2)).map(|(title, record, _)| (title, record))
}

fn outcome(target: &Target, measured: &[Measured], contestants: &[Contestant]) -> Option<Outcome> {
    let measured = measured.iter().find(|measured| measured.work.name == target.work)?;
    let (ours, other) = records(target, measured, contestants)?;
    let unit = measured.work.unit;
    let figure = ours.median(target.metric)?;
    let ratio = match other {
        Some((_, record)) => Some(ours.ratio(record, target.metric)?),
        None => None,
    };
    let value = ratio.map_or(figure, |ratio| ratio.of_medians);
    let reference = other.map(|(name, record)| {
        let figure = record.median(target.metric).map_or_else(String::new, |value| text(target.metric, unit, value));
        format!("{figure} {name}")
    });
    Some(Outcome {
        work: measured.work.title.clone(),
        figure: heading(target.metric, unit),
        ours: text(target.metric, unit, figure),
        reference: reference.unwrap_or_default(),
        ratio: ratio.map_or(String::new(), |ratio| format!("{:.2}", ratio.of_medians)),
        range: ratio.map_or(String::new(), Ratio::range),
        required: bound(target.required),
        desired: bound(target.desired),
        verdict: verdict(target, value),
    })
}

/// The two records to compare, the second one with the name of its contestant.
fn records<'a>(
    target: &Target,
    measured: &'a Measured,
    contestants: &'a [Contestant],
) -> Option<(&'a Record, Option<(&'a str, &'a Record)>)> {
    let title = |name: &str| contestants.iter().find(|one| one.name == name).map_or("", |one| one.title.as_str());
    let ours = measured.of(target.contestant)?;
    let entries = || measured.work.entries.iter().zip(&measured.records);
    let own = || entries().filter(|(entry, _)| entry.contestant == target.contestant);
    let by_figure = |a: &Record, b: &Record| {
        let figure = |record: &Record| record.median(target.metric).unwrap_or(f64::INFINITY);
        figure(a).total_cmp(&figure(b))
    };
    Some(match target.reference {
        Reference::None => (ours, None),
        Reference::One(name) => (ours, Some((title(name), measured.of(name)?))),
        Reference::Alone => (own().nth(1)?.1, Some(("alone", ours))),
        Reference::OwnLowest => {
            let highest = own().max_by(|(_, a), (_, b)| by_figure(a, b))?;
            let lowest = own().min_by(|(_, a), (_, b)| by_figure(a, b))?;
            (highest.1, Some(("at its lowest", lowest.1)))
        }
        Reference::BestPeer => (ours, Some(best_peer(measured, contestants, target.metric)?)),
    })
}

/// A bound in a cell of the table.
fn bound(number: Option<f64>) -> String {
    number.map_or(String::new(), |number| format!("{number}"))
}

fn verdict(target: &Target, value: f64) -> &'static str {
    // The table shows two digits; what it shows as equal counts as equal.
    let value = (value * 100.0).round() / 100.0;
    let reached = |bound: f64| if target.metric == Metric::Throughput { value >= bound } else { value <= bound };
    match (target.required, target.desired) {
        (_, Some(desired)) if reached(desired) => "desired reached",
        (Some(required), _) if reached(required) => "required reached",
        (Some(_), _) => "**required missed**",
        (None, Some(_)) => "desired missed",
        (None, None) => "no target",
    }
}
