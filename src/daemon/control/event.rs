//! What `monitor` follows.

use crate::control::command::UpstreamOrder;
use crate::control::description::{Health, Status};
use crate::control::document::{Field, Row};
use crate::control::picture::Picture;
use crate::logging::Timestamp;
use crate::redirection::RedirectionId;
use crate::traffic::shared_counters::UpstreamWord;

/// Something that has happened.
#[derive(Debug, Clone)]
pub(super) struct ControlEvent {
    name: &'static str,
    text: String,
    fields: Row,
}

impl ControlEvent {
    pub(super) fn new(name: &'static str, text: impl Into<String>, fields: Vec<(&'static str, Field)>) -> ControlEvent {
        ControlEvent { name, text: text.into(), fields: Row(fields) }
    }

    /// The first one that a client gets.
    pub(super) fn beginning(health: Health) -> ControlEvent {
        ControlEvent::new("monitor", health.name(), vec![("health", Field::Word(health.name()))])
    }

    /// As a line with its end.
    pub(super) fn line(&self, json: bool) -> String {
        let time = Timestamp::now();
        if json {
            let head = [
                ("time", Field::Text(time.to_string())),
                ("event", Field::text(self.name)),
                ("text", Field::text(self.text.as_str())),
            ];
            return Row(head.into_iter().chain(self.fields.0.iter().cloned()).collect()).document();
        }
        let text = Field::text(self.text.as_str()).cell();
        if self.text.is_empty() { format!("{time} {}\n", self.name) } else { format!("{time} {}: {text}\n", self.name) }
    }
}

/// What tells a client that it has missed events.
pub(super) fn missed(count: u64, json: bool) -> String {
    ControlEvent::new("missed", format!("{count} events"), vec![("count", Field::Number(count))]).line(json)
}

pub(super) fn drained(picture: &Picture) -> Vec<String> {
    let draining = || picture.status.orders.iter().filter(|(_, order)| **order == UpstreamOrder::Drain);
    if draining().next().is_none() {
        return Vec::new();
    }
    let totals = picture.totals();
    let open = |name: &str| {
        let same = totals.upstreams.iter().filter(|((_, other), _)| other == name);
        same.map(|(_, words)| words[UpstreamWord::Open as usize]).sum::<u64>()
    };
    draining().map(|(name, _)| name.clone()).filter(|name| open(name) == 0).collect()
}

pub(super) fn differences(before: &Status, now: &Status) -> Vec<ControlEvent> {
    let mut events = Vec::new();
    let of_redirection = |name, id: &RedirectionId| {
        let field = ("redirection", Field::Number(id.index() as u64 + 1));
        ControlEvent::new(name, format!("redirection {id}"), vec![field])
    };
    for (id, state) in now.gates.iter().filter(|(id, state)| before.gates.get(id) != Some(state)) {
        let name = if state == "disabled" { "redirection disabled" } else { "redirection withdrawn" };
        events.push(of_redirection(name, id));
    }
    for (id, state) in before.gates.iter().filter(|(id, _)| !now.gates.contains_key(id)) {
        let name = if state == "disabled" { "redirection enabled" } else { "redirection restored" };
        events.push(of_redirection(name, id));
    }
    let of_upstream = |name, upstream: &String| {
        ControlEvent::new(name, upstream.as_str(), vec![("upstream", Field::text(upstream.as_str()))])
    };
    for (upstream, order) in now.orders.iter().filter(|(name, order)| before.orders.get(*name) != Some(order)) {
        let name = if *order == UpstreamOrder::Drain { "upstream draining" } else { "upstream disabled" };
        events.push(of_upstream(name, upstream));
    }
    for upstream in before.orders.keys().filter(|name| !now.orders.contains_key(*name)) {
        events.push(of_upstream("upstream enabled", upstream));
    }
    if now.restored > before.restored {
        events.push(ControlEvent::new("rules restored", "rules that others had changed were put back", vec![]));
    }
    if now.health != before.health {
        if now.health == Health::Draining {
            events.push(ControlEvent::new("stopping", "", vec![]));
        }
        let text = if now.reason.is_empty() {
            now.health.name().to_owned()
        } else {
            format!("{}: {}", now.health.name(), now.reason)
        };
        events.push(ControlEvent::new("health", text, vec![("health", Field::Word(now.health.name()))]));
    }
    events
}
