//! The metrics as text: that of Prometheus, version 0.0.4, and that of OpenMetrics 1.0.

use std::fmt::Write as _;

use crate::control::command::UpstreamOrder;
use crate::control::description::Health;
use crate::control::http::Format;
use crate::control::picture::{Picture, SeenState};
use crate::control::show;
use crate::redirection::RedirectionId;
use crate::traffic::shared_counters::{self, BOUNDS, RedirectionWord, UPSTREAM_WORDS, UpstreamWord, WorkerWord};
use crate::traffic::totals::Totals;

/// The states of an upstream.
const STATES: [&str; 5] = ["up", "down", "disabled", "draining", "unresolved"];

/// A text under construction.
struct Exposition {
    text: String,
    format: Format,
}

/// Everything that is measured.
pub(crate) fn text(picture: &Picture, format: Format) -> String {
    let mut out = Exposition { text: String::with_capacity(16 * 1024), format };
    let totals = picture.totals();
    of_connections(&mut out, picture, &totals);
    of_upstreams(&mut out, picture, &totals);
    of_rules(&mut out, picture);
    of_processes(&mut out, picture, &totals);
    if format == Format::OpenMetrics {
        out.text.push_str("# EOF\n");
    }
    out.text
}

impl Exposition {
    /// Begins a metric. The samples of a counter of OpenMetrics have a name of their own, and Prometheus uses the same.
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let family = if kind == "counter" && self.format == Format::Prometheus {
            format!("tproxy_{name}_total")
        } else {
            format!("tproxy_{name}")
        };
        // Writing to a String cannot fail.
        _ = write!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        _ = write!(self.text, "tproxy_{name}");
        for (number, (label, text)) in labels.iter().enumerate() {
            _ = write!(self.text, "{}{label}=\"", if number == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.begin(name, "counter", help);
        self.sample(&format!("{name}_total"), &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.begin(name, "gauge", help);
        self.sample(name, &[], value);
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn of_connections(out: &mut Exposition, picture: &Picture, totals: &Totals) {
    let sum = totals.sum();
    let numbered = || totals.redirections.iter().enumerate().map(|(index, one)| ((index + 1).to_string(), one));
    out.begin("accepted", "counter", "Connections that were accepted.");
    for (number, one) in numbered() {
        out.sample("accepted_total", &[("redirection", &number)], one.get(RedirectionWord::Accepted));
    }
    out.begin("connections", "counter", "Connections that have ended, by close reason.");
    for (number, one) in numbered() {
        for (reason, count) in show::reasons(one) {
            out.sample("connections_total", &[("redirection", &number), ("reason", reason)], count);
        }
    }
    out.begin("open_connections", "gauge", "Connections that are open now.");
    for (number, one) in numbered() {
        out.sample("open_connections", &[("redirection", &number)], one.open());
    }
    out.begin("bytes", "counter", "Bytes that reached upstreams (up) and clients (down).");
    for (direction, word) in [("up", RedirectionWord::Up), ("down", RedirectionWord::Down)] {
        out.sample("bytes_total", &[("direction", direction)], sum.get(word));
    }
    out.begin("lost_bytes", "counter", "Bytes of connections whose worker was killed; the log has no line of them.");
    for (direction, count) in [("up", sum.lost[1]), ("down", sum.lost[2])] {
        out.sample("lost_bytes_total", &[("direction", direction)], count);
    }
    out.counter(
        "spliced_bytes",
        "Bytes that were spliced and have reached the other side.",
        totals.worker(WorkerWord::Spliced),
    );
    out.counter("accept_pauses", "How often accepting had to pause.", totals.worker(WorkerWord::Pauses));
    out.gauge("pipes", "Pipes that hold bytes now.", totals.worker(WorkerWord::Pipes));
    out.gauge("connections_limit", "The most connections at once.", picture.description.limit);
}

fn of_upstreams(out: &mut Exposition, picture: &Picture, totals: &Totals) {
    let all: Vec<_> = picture
        .upstreams()
        .map(|(id, upstream)| {
            let words = totals.upstreams.get(&(id, upstream.name.clone())).copied().unwrap_or([0; UPSTREAM_WORDS]);
            (id, (id.index() + 1).to_string(), upstream, words)
        })
        .collect();
    out.begin("upstream_connect_seconds", "histogram", "How long connecting to an upstream took.");
    for (_, number, upstream, words) in &all {
        histogram(out, &[("redirection", number), ("upstream", &upstream.name)], words);
    }
    let simple = [
        ("upstream_connect_failures", "counter", "Attempts to reach an upstream that failed.", UpstreamWord::Failed),
        ("upstream_connections", "gauge", "Connections to an upstream now.", UpstreamWord::Open),
    ];
    for (name, kind, help, word) in simple {
        out.begin(name, kind, help);
        let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for (_, number, upstream, words) in &all {
            out.sample(&sample, &[("redirection", number), ("upstream", &upstream.name)], words[word as usize]);
        }
    }
    let state = |id: &RedirectionId, upstream| {
        let upstream: &crate::control::description::DescribedUpstream = upstream;
        picture.upstream_state(*id, upstream, picture.is_down(*id, &upstream.name))
    };
    out.begin("upstream_up", "gauge", "Whether an upstream is used.");
    for (id, number, upstream, _) in &all {
        let is_up = u8::from(state(id, upstream) == "up");
        out.sample("upstream_up", &[("redirection", number), ("upstream", &upstream.name)], is_up);
    }
    out.begin("upstream_state", "gauge", "1 for the state that an upstream has.");
    for (id, number, upstream, _) in &all {
        let now = state(id, upstream);
        for one in STATES {
            let labels = [("redirection", number.as_str()), ("upstream", &upstream.name), ("state", one)];
            out.sample("upstream_state", &labels, u8::from(one == now));
        }
    }
    out.begin("upstream_check_up", "gauge", "Whether the last checks of an upstream were good.");
    for (id, number, upstream, _) in &all {
        let check = picture.check_state(*id, upstream);
        if ["passing", "failing"].contains(&check) && picture.order(&upstream.name) != Some(UpstreamOrder::Disable) {
            let labels = [("redirection", number.as_str()), ("upstream", &upstream.name)];
            out.sample("upstream_check_up", &labels, u8::from(check == "passing"));
        }
    }
}

fn histogram(out: &mut Exposition, labels: &[(&str, &str); 2], words: &[u64; UPSTREAM_WORDS]) {
    let [redirection, upstream] = *labels;
    let mut count: u64 = 0;
    for (place, bucket) in shared_counters::buckets(words).iter().enumerate() {
        count = count.saturating_add(*bucket);
        let bound = BOUNDS.get(place).map_or("+Inf".to_owned(), |bound| format!("{:?}", *bound as f64 / 1e6));
        out.sample("upstream_connect_seconds_bucket", &[redirection, upstream, ("le", &bound)], count);
    }
    let sum = words[UpstreamWord::ConnectTime as usize] as f64 / 1e6;
    out.sample("upstream_connect_seconds_sum", labels, sum);
    out.sample("upstream_connect_seconds_count", labels, count);
}

fn of_rules(out: &mut Exposition, picture: &Picture) {
    out.begin("redirection_in_place", "gauge", "Whether the rules of a redirection are in place.");
    for (index, one) in picture.description.redirections.iter().enumerate() {
        if one.has_rules {
            let in_place = u8::from(picture.gate(RedirectionId::from(index)) == "in place");
            out.sample("redirection_in_place", &[("redirection", &(index + 1).to_string())], in_place);
        }
    }
    let status = &picture.status;
    out.counter("rules_restored", "How often rules were put back that others had changed.", status.restored);
}

fn of_processes(out: &mut Exposition, picture: &Picture, totals: &Totals) {
    let status = &picture.status;
    let dropped = show::log_lines_dropped(picture, totals);
    out.counter("log_lines_dropped", "Lines that the reader of the log did not take.", dropped);
    out.counter("reloads", "Reloads and upgrades that have succeeded.", status.reloads);
    out.counter("worker_deaths", "Workers that were killed or have crashed.", status.deaths);
    out.begin("workers", "gauge", "Worker processes.");
    for (name, state) in [("serving", SeenState::Serving), ("draining", SeenState::Draining)] {
        out.sample("workers", &[("state", name)], picture.count(state));
    }
    out.begin("worker_cpu_seconds", "counter", "Processor time of the workers of a slot.");
    for (slot, time) in &totals.cpu {
        out.sample("worker_cpu_seconds_total", &[("slot", &(slot + 1).to_string())], seconds(*time));
    }
    out.gauge("healthy", "Whether new clients are served and all rules are in place.", {
        u8::from(status.health == Health::Serving)
    });
    out.gauge("start_time_seconds", "When the instance was started, in seconds since 1970.", {
        picture.description.started
    });
    out.begin("build_info", "gauge", "The version of the program.");
    out.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
}
