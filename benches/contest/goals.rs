//! What tproxy wants to reach, beside its peers in the same run.

use crate::contestant::{Contestant, Role};
use crate::figures::{Metric, Ratio, Record, heading, shown};
use crate::plan::{SCALE_NAME, Section, Unit};

/// A section with everything that was measured in it.
#[derive(Debug)]
pub struct Played {
    pub section: Section,
    pub records: Vec<Record>,
}

impl Played {
    /// The first record of a contestant.
    pub fn of(&self, who: &str) -> Option<&Record> {
        let at = self.section.entries.iter().position(|entry| entry.who == who)?;
        self.records.get(at)
    }
}

/// With what a figure of tproxy is compared.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// The least figure of all rivals.
    BestRival,
    /// That of one contestant.
    One(&'static str),
    /// The same contestant with less to carry.
    Alone,
    /// Nobody's: it is the figure itself that counts.
    Nobody,
    /// The least of its own figures under different loads.
    Least,
}

/// A ratio, or a figure, that is not to be exceeded; or, for a rate, that is to be reached.
struct Goal {
    section: &'static str,
    who: &'static str,
    metric: Metric,
    against: Against,
    must: Option<f64>,
    aim: Option<f64>,
}

/// One line about a goal.
#[derive(Debug)]
pub struct Outcome {
    pub work: String,
    pub figure: String,
    pub ours: String,
    pub theirs: String,
    pub ratio: String,
    pub spread: String,
    pub must: String,
    pub aim: String,
    pub verdict: &'static str,
}

fn goals() -> Vec<Goal> {
    use Against::{Alone, BestRival, Least, Nobody, One};
    let goal = |section, metric, against, must, aim| Goal { section, who: "tproxy", metric, against, must, aim };
    let mut goals = Vec::new();
    // Section; must and aim for the proxy's CPU; must and aim for the machine's.
    let costs = [
        ("stream", 0.85, 0.7, 0.95, 0.85),
        ("streams", 0.85, 0.7, 0.95, 0.85),
        ("both", 0.85, 0.7, 0.95, 0.85),
        ("objects", 0.85, 0.7, 0.97, 0.9),
        ("large", 0.9, 0.75, 0.97, 0.9),
        ("small", 0.9, 0.8, 0.97, 0.9),
        ("churn", 0.88, 0.75, 0.95, 0.85),
    ];
    for (section, must_proxy, aim_proxy, must_machine, aim_machine) in costs {
        goals.push(goal(section, Metric::Proxy, BestRival, Some(must_proxy), Some(aim_proxy)));
        goals.push(goal(section, Metric::Machine, BestRival, Some(must_machine), Some(aim_machine)));
        goals.push(goal(section, Metric::Slowest, BestRival, Some(1.0), Some(0.5)));
    }
    goals.push(goal("stream", Metric::Machine, One("dnat"), None, Some(1.3)));
    goals.push(goal("streams", Metric::Machine, One("dnat"), None, Some(1.8)));
    goals.push(goal("both", Metric::Machine, One("dnat"), None, None));
    goals.push(goal("idle", Metric::Memory, Nobody, Some(300.0), Some(200.0)));
    goals.push(goal("idle", Metric::Descriptors, Nobody, Some(2.0), Some(2.0)));
    for section in ["stream-beside", "objects-beside", "small-beside", "churn-beside"] {
        goals.push(goal(section, Metric::Proxy, Alone, Some(1.05), Some(1.0)));
    }
    goals.push(goal("mixed", Metric::Slowest, Alone, None, Some(1.0)));
    for against in ["haproxy", "haproxy-splice"] {
        goals.push(goal("slow", Metric::Memory, One(against), Some(1.0), None));
        goals.push(goal("slow", Metric::AllMemory, One(against), Some(1.0), None));
    }
    goals.push(goal("slow", Metric::Pipes, Nobody, None, None));
    goals.push(Goal { who: "tproxy-w2", ..goal("workers", Metric::Streamed, One("tproxy"), None, Some(1.3)) });
    for section in ["kernel", "kernel-churn"] {
        goals.push(Goal { who: "tproxy-kernel", ..goal(section, Metric::Machine, One("dnat"), None, Some(1.0)) });
    }
    goals.push(goal(SCALE_NAME, Metric::Proxy, Least, Some(1.3), None));
    goals
}

/// What became of every goal whose section was played.
pub fn outcomes(played: &[Played], contestants: &[Contestant]) -> Vec<Outcome> {
    goals().iter().filter_map(|goal| outcome(goal, played, contestants)).collect()
}

fn outcome(goal: &Goal, played: &[Played], contestants: &[Contestant]) -> Option<Outcome> {
    let played = played.iter().find(|played| played.section.name == goal.section)?;
    let (ours, other) = sides(goal, played, contestants)?;
    let unit = played.section.unit;
    let figure = ours.median(goal.metric)?;
    let ratio = match other {
        Some((_, record)) => Some(ours.ratio(record, goal.metric)?),
        None => None,
    };
    let value = ratio.map_or(figure, |ratio| ratio.of_medians);
    let number = |number: Option<f64>| number.map_or(String::new(), |number| format!("{number}"));
    Some(Outcome {
        work: played.section.title.clone(),
        figure: heading(goal.metric, unit),
        ours: shown(goal.metric, unit, figure),
        theirs: other.map_or(String::new(), |(name, record)| theirs(goal, unit, name, record)),
        ratio: ratio.map_or(String::new(), |ratio| format!("{:.2}", ratio.of_medians)),
        spread: ratio.map_or(String::new(), spread),
        must: number(goal.must),
        aim: number(goal.aim),
        verdict: verdict(goal, value),
    })
}

fn theirs(goal: &Goal, unit: Unit, name: &str, record: &Record) -> String {
    let figure = record.median(goal.metric).map_or_else(String::new, |value| shown(goal.metric, unit, value));
    format!("{figure} {name}")
}

fn spread(ratio: Ratio) -> String {
    format!("{:.2} to {:.2}", ratio.least, ratio.greatest)
}

/// The two records to compare, the second with the name of whose it is.
fn sides<'a>(
    goal: &Goal,
    played: &'a Played,
    contestants: &'a [Contestant],
) -> Option<(&'a Record, Option<(&'a str, &'a Record)>)> {
    let title = |who: &str| contestants.iter().find(|one| one.name == who).map_or("", |one| one.title);
    let ours = played.of(goal.who)?;
    let entries = || played.section.entries.iter().zip(&played.records);
    let own = || entries().filter(|(entry, _)| entry.who == goal.who);
    let by = |a: &Record, b: &Record| {
        let figure = |record: &Record| record.median(goal.metric).unwrap_or(f64::INFINITY);
        figure(a).total_cmp(&figure(b))
    };
    Some(match goal.against {
        Against::Nobody => (ours, None),
        Against::One(who) => (ours, Some((title(who), played.of(who)?))),
        Against::Alone => (own().nth(1)?.1, Some(("alone", ours))),
        Against::Least => {
            let most = own().max_by(|(_, a), (_, b)| by(a, b))?;
            let least = own().min_by(|(_, a), (_, b)| by(a, b))?;
            (most.1, Some(("at its least", least.1)))
        }
        Against::BestRival => {
            let is_rival = |who: &str| contestants.iter().any(|one| one.name == who && one.role == Role::Rival);
            let rivals =
                entries().filter(|(entry, record)| is_rival(entry.who) && record.median(goal.metric).is_some());
            let (entry, record) = rivals.min_by(|(_, a), (_, b)| by(a, b))?;
            (ours, Some((title(entry.who), record)))
        }
    })
}

fn verdict(goal: &Goal, value: f64) -> &'static str {
    // What is shown as equal counts as equal.
    let value = (value * 100.0).round() / 100.0;
    let reached = |bound: f64| if goal.metric == Metric::Streamed { value >= bound } else { value <= bound };
    match (goal.must, goal.aim) {
        (_, Some(aim)) if reached(aim) => "aim reached",
        (Some(must), _) if reached(must) => "reached",
        (Some(_), _) => "**missed**",
        (None, Some(_)) => "aim missed",
        (None, None) => "reported",
    }
}
