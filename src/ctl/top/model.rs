//! What the view shows: samples of a running instance, and what follows from two of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ctl::json::Json;

/// The numbers of `show summary`, with what they grow by in a second.
#[derive(Debug, Default, Clone)]
pub(super) struct Overview {
    pub instance: String,
    pub health: String,
    pub reason: String,
    pub rules: String,
    pub uptime: f64,
    pub open: f64,
    pub limit: f64,
    pub workers: f64,
    pub draining: f64,
    pub pipes: f64,
    pub accept_pauses: f64,
    pub accepted: Grown,
    pub up: Grown,
    pub down: Grown,
    /// Connections that did not end well, by what the log calls it.
    pub failed: Grown,
}

/// A counter, and how fast it grows.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Grown {
    pub total: f64,
    pub rate: f64,
}

impl Grown {
    /// A counter that has begun again, because the daemon has, grows from nothing.
    fn to(self, total: f64, seconds: f64) -> Grown {
        let by = if total >= self.total { total - self.total } else { total };
        Grown { total, rate: if seconds > 0.0 { by / seconds } else { 0.0 } }
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct UpstreamLine {
    pub redirection: f64,
    pub name: String,
    pub state: String,
    pub check: String,
    pub open: f64,
    pub connected: Grown,
    pub failed: f64,
    /// Seconds.
    pub connect_time: Option<f64>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct ConnectionLine {
    pub id: String,
    pub client: String,
    pub original: String,
    pub upstream: String,
    pub state: String,
    pub age: f64,
    pub bytes: Grown,
}

#[derive(Debug, Default, Clone)]
pub(super) struct SourceLine {
    pub address: String,
    pub open: f64,
    pub bytes: Grown,
}

/// Reasons that are no failure: the log's words for an ordinary end.
const ORDINARY: [&str; 2] = ["finished", "retired"];

/// Seconds that one column of a graph stands for, and how many columns are kept.
pub(super) const COLUMN_SECONDS: u64 = 5;
const COLUMNS: usize = 240;

/// The means of a number over some seconds each, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    columns: Vec<f64>,
    /// Which column is the last one, and how many numbers it is the mean of.
    last: u64,
    count: f64,
}

impl History {
    fn push(&mut self, seconds: u64, value: f64) {
        let column = seconds / COLUMN_SECONDS;
        if column == self.last
            && let Some(mean) = self.columns.last_mut()
        {
            self.count += 1.0;
            *mean += (value - *mean) / self.count;
            return;
        }
        (self.last, self.count) = (column, 1.0);
        self.columns.push(value);
        if self.columns.len() > COLUMNS {
            self.columns.remove(0);
        }
    }

    /// The last columns, as many as there are up to `most`.
    pub(super) fn last(&self, most: usize) -> &[f64] {
        self.columns.get(self.columns.len().saturating_sub(most)..).unwrap_or_default()
    }
}

/// All that is known of an instance.
#[derive(Debug)]
pub(super) struct Model {
    begun: Instant,
    sampled: Option<Instant>,
    listed: Option<Instant>,
    pub overview: Overview,
    pub upstreams: Vec<UpstreamLine>,
    pub connections: Vec<ConnectionLine>,
    pub sources: Vec<SourceLine>,
    pub accepted: History,
    pub bytes: History,
}

fn text(json: &Json, name: &str) -> String {
    json.text(name).unwrap_or_default().to_owned()
}

fn number(json: &Json, name: &str) -> f64 {
    json.number(name).unwrap_or_default()
}

/// Seconds since the one before, or 0 if there is none: then nothing has grown.
fn since(before: Option<Instant>, now: Instant) -> f64 {
    before.map_or(Duration::ZERO, |before| now.saturating_duration_since(before)).as_secs_f64()
}

impl Model {
    pub(super) fn new(now: Instant) -> Model {
        Model {
            begun: now,
            sampled: None,
            listed: None,
            overview: Overview::default(),
            upstreams: Vec::new(),
            connections: Vec::new(),
            sources: Vec::new(),
            accepted: History::default(),
            bytes: History::default(),
        }
    }

    /// Takes in `show summary` and `show upstreams`.
    pub(super) fn sample(&mut self, now: Instant, summary: &Json, upstreams: &Json) {
        let seconds = since(self.sampled, now);
        self.overview = overview(&self.overview, summary, seconds);
        let before: HashMap<(String, String), Grown> =
            self.upstreams.drain(..).map(|line| ((line.redirection.to_string(), line.name), line.connected)).collect();
        self.upstreams = upstreams.list("upstreams").iter().map(|json| upstream(json, &before, seconds)).collect();
        if self.sampled.is_some() {
            let column = now.saturating_duration_since(self.begun).as_secs();
            self.accepted.push(column, self.overview.accepted.rate);
            self.bytes.push(column, self.overview.up.rate + self.overview.down.rate);
        }
        self.sampled = Some(now);
    }

    /// Takes in `show connections`.
    pub(super) fn list(&mut self, now: Instant, connections: &Json) {
        let seconds = since(self.listed, now);
        let before: HashMap<String, f64> = self.connections.drain(..).map(|line| (line.id, line.bytes.total)).collect();
        let lines = connections.list("connections").iter();
        self.connections = lines.map(|json| connection(json, &before, seconds)).collect();
        self.sources = sources(&self.connections);
        self.listed = Some(now);
    }
}

fn overview(before: &Overview, json: &Json, seconds: f64) -> Overview {
    let failed = match json.get("reasons") {
        Some(Json::Object(reasons)) => {
            let bad = reasons.iter().filter(|(reason, _)| !ORDINARY.contains(&reason.as_str()));
            bad.map(|(_, count)| if let Json::Number(count) = count { *count } else { 0.0 }).sum()
        }
        _ => 0.0,
    };
    Overview {
        instance: text(json, "instance"),
        health: text(json, "health"),
        reason: text(json, "health_reason"),
        rules: text(json, "rules"),
        uptime: number(json, "uptime"),
        open: number(json, "open"),
        limit: number(json, "limit"),
        workers: number(json, "workers"),
        draining: number(json, "draining"),
        pipes: number(json, "pipes"),
        accept_pauses: number(json, "accept_pauses"),
        accepted: before.accepted.to(number(json, "accepted"), seconds),
        up: before.up.to(number(json, "bytes_up"), seconds),
        down: before.down.to(number(json, "bytes_down"), seconds),
        failed: before.failed.to(failed, seconds),
    }
}

fn upstream(json: &Json, before: &HashMap<(String, String), Grown>, seconds: f64) -> UpstreamLine {
    let (redirection, name) = (number(json, "redirection"), text(json, "upstream"));
    let connected = number(json, "connected");
    let known = before.get(&(redirection.to_string(), name.clone())).copied();
    UpstreamLine {
        redirection,
        name,
        state: text(json, "state"),
        check: text(json, "check"),
        open: number(json, "open"),
        connected: known.map_or(Grown { total: connected, rate: 0.0 }, |known| known.to(connected, seconds)),
        failed: number(json, "failed"),
        connect_time: json.number("connect_time_last_minute").or(json.number("connect_time")),
    }
}

fn connection(json: &Json, before: &HashMap<String, f64>, seconds: f64) -> ConnectionLine {
    let (id, age) = (text(json, "id"), number(json, "age"));
    let total = number(json, "bytes_up") + number(json, "bytes_down");
    // One that was not there before has done all in its own time.
    let bytes = match before.get(&id) {
        Some(known) => Grown { total: *known, rate: 0.0 }.to(total, seconds),
        None => Grown::default().to(total, age),
    };
    ConnectionLine {
        id,
        client: text(json, "client"),
        original: text(json, "original"),
        upstream: text(json, "upstream"),
        state: text(json, "state"),
        age,
        bytes,
    }
}

/// The address of `ADDRESS:PORT`, without the brackets of an IPv6 address.
pub(super) fn address(client: &str) -> &str {
    let address = client.rsplit_once(':').map_or(client, |(address, _)| address);
    address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address)
}

fn sources(connections: &[ConnectionLine]) -> Vec<SourceLine> {
    let mut all: HashMap<&str, SourceLine> = HashMap::new();
    for line in connections.iter().filter(|line| !line.client.is_empty()) {
        let source = all.entry(address(&line.client)).or_default();
        source.open += 1.0;
        source.bytes.total += line.bytes.total;
        source.bytes.rate += line.bytes.rate;
    }
    all.into_iter().map(|(address, line)| SourceLine { address: address.to_owned(), ..line }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::json::parse;

    fn document(text: &str) -> Json {
        parse(text).expect("well formed")
    }

    #[test]
    fn rates_come_from_two_samples() {
        let start = Instant::now();
        let mut model = Model::new(start);
        let none = document("{}");
        let summary = |accepted: u32, up: u32| {
            document(&format!(
                r#"{{"accepted":{accepted},"bytes_up":{up},"reasons":{{"finished":9,"idle":{accepted}}},"health":"serving"}}"#
            ))
        };
        model.sample(start, &summary(100, 5000), &none);
        assert_eq!(model.overview.accepted, Grown { total: 100.0, rate: 0.0 });
        assert!(model.accepted.last(10).is_empty());
        model.sample(start + Duration::from_secs(2), &summary(300, 9000), &none);
        assert_eq!(model.overview.accepted.rate, 100.0);
        assert_eq!((model.overview.up.rate, model.overview.failed.rate), (2000.0, 100.0));
        assert_eq!(model.accepted.last(10), [100.0]);
        // The daemon has started again.
        model.sample(start + Duration::from_secs(3), &summary(50, 0), &none);
        assert_eq!(model.overview.accepted.rate, 50.0);
    }

    #[test]
    fn connections_make_sources() {
        let start = Instant::now();
        let mut model = Model::new(start);
        let list = |bytes: u32| {
            document(&format!(
                r#"{{"connections":[{{"id":"1-1","client":"10.0.0.1:5","bytes_up":{bytes},"age":4}},
                   {{"id":"1-2","client":"10.0.0.1:6","bytes_down":{bytes},"age":4}},
                   {{"id":"1-3","client":"[fd00::1]:6","bytes_up":1,"age":1}},{{"id":"1-4","client":null}}]}}"#
            ))
        };
        model.list(start, &list(400));
        assert_eq!(model.connections[0].bytes, Grown { total: 400.0, rate: 100.0 });
        model.list(start + Duration::from_secs(1), &list(900));
        let source = model.sources.iter().find(|line| line.address == "10.0.0.1").expect("it");
        assert_eq!((source.open, source.bytes), (2.0, Grown { total: 1800.0, rate: 1000.0 }));
        assert!(model.sources.iter().any(|line| line.address == "fd00::1"));
        assert_eq!(model.sources.len(), 2);
    }

    #[test]
    fn a_column_is_the_mean_of_its_seconds() {
        let mut history = History::default();
        for (second, value) in [(0, 2.0), (1, 4.0), (4, 6.0), (5, 10.0), (30, 1.0)] {
            history.push(second, value);
        }
        assert_eq!(history.last(9), [4.0, 10.0, 1.0]);
        assert_eq!(history.last(2), [10.0, 1.0]);
    }
}
