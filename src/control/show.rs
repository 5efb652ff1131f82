//! The answers to `show` and `health`.

use std::time::Duration;

use crate::control::document::{Field, Row};
use crate::control::filter::ConnectionFilter;
use crate::control::picture::{Picture, SeenState, SeenWorker};
use crate::redirection::RedirectionId;
use crate::relay::close::CloseKind;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::listing::ListedConnection;
use crate::traffic::session;
use crate::traffic::shared_counters::{CounterReading, RedirectionWord, UPSTREAM_WORDS, UpstreamWord, WorkerWord};
use crate::traffic::totals::{RedirectionTotals, Totals};

/// The name of the reason that the log does not have.
pub(crate) const LOST: &str = "lost";

/// How connections ended.
pub(crate) fn reasons(totals: &RedirectionTotals) -> Vec<(&'static str, u64)> {
    let named = CloseKind::NAMES.iter().map(|(kind, name)| (*name, totals.reason(*kind)));
    named.chain([(LOST, totals.lost[0])]).collect()
}

pub(crate) fn summary(picture: &Picture) -> Row {
    let (totals, status) = (picture.totals(), &picture.status);
    let sum = totals.sum();
    let down = picture
        .upstreams()
        .filter(|(id, upstream)| picture.upstream_state(*id, upstream, picture.is_down(*id, &upstream.name)) != "up");
    Row(vec![
        ("instance", Field::text(picture.description.instance.as_str())),
        ("version", Field::text(env!("CARGO_PKG_VERSION"))),
        ("pid", Field::Number(picture.description.pid.into())),
        ("started", Field::Number(picture.description.started)),
        ("uptime", Field::Time(picture.uptime())),
        ("health", Field::Word(status.health.name())),
        ("health_reason", Field::maybe(Some(status.reason.as_str()).filter(|reason| !reason.is_empty()))),
        ("reloads", Field::Number(status.reloads)),
        ("redirections", Field::Number(picture.description.redirections.len() as u64)),
        ("workers", Field::Number(picture.count(SeenState::Serving))),
        ("draining", Field::Number(picture.count(SeenState::Draining))),
        ("worker_deaths", Field::Number(status.deaths)),
        ("accepted", Field::Number(sum.get(RedirectionWord::Accepted))),
        ("open", Field::Number(sum.open())),
        ("limit", Field::Number(picture.description.limit)),
        ("reasons", Field::Counts(reasons(&sum))),
        ("bytes_up", Field::Number(sum.get(RedirectionWord::Up))),
        ("bytes_down", Field::Number(sum.get(RedirectionWord::Down))),
        ("bytes_spliced", Field::Number(totals.worker(WorkerWord::Spliced))),
        ("lost_bytes_up", Field::Number(sum.lost[1])),
        ("lost_bytes_down", Field::Number(sum.lost[2])),
        ("pipes", Field::Number(totals.worker(WorkerWord::Pipes))),
        ("accept_pauses", Field::Number(totals.worker(WorkerWord::Pauses))),
        ("upstreams", Field::Number(picture.upstreams().count() as u64)),
        ("upstreams_down", Field::Number(down.count() as u64)),
        ("rules", Field::text(status.rules.as_str())),
        ("rules_restored", Field::Number(status.restored)),
        ("log_lines_dropped", Field::Number(log_lines_dropped(picture, &totals))),
    ])
}

/// Lines that the readers of the log did not take, of the guardian and of all workers.
pub(crate) fn log_lines_dropped(picture: &Picture, totals: &Totals) -> u64 {
    totals.worker(WorkerWord::LostLines).saturating_add(picture.status.lost)
}

pub(crate) const REDIRECTIONS: &[&str] =
    &["redirection", "kind", "listen", "target", "state", "accepted", "open", "bytes_up", "bytes_down"];

pub(crate) fn redirections(picture: &Picture) -> Vec<Row> {
    let totals = picture.totals();
    let row = |(index, one): (usize, &crate::control::description::DescribedRedirection)| {
        let id = RedirectionId::from(index);
        let own = totals.redirections.get(index).copied().unwrap_or_default();
        Row(vec![
            ("redirection", Field::Number(index as u64 + 1)),
            ("kind", Field::text(one.kind.as_str())),
            ("listen", Field::List(one.listen.clone())),
            ("target", Field::text(one.target.as_str())),
            ("state", Field::text(picture.gate(id))),
            ("accepted", Field::Number(own.get(RedirectionWord::Accepted))),
            ("open", Field::Number(own.open())),
            ("reasons", Field::Counts(reasons(&own))),
            ("bytes_up", Field::Number(own.get(RedirectionWord::Up))),
            ("bytes_down", Field::Number(own.get(RedirectionWord::Down))),
        ])
    };
    picture.description.redirections.iter().enumerate().map(row).collect()
}

pub(crate) const UPSTREAMS: &[&str] = &[
    "redirection",
    "upstream",
    "state",
    "check",
    "open",
    "connected",
    "failed",
    "connect_time",
    "addresses",
    "check_result",
];

pub(crate) fn upstreams(picture: &Picture) -> Vec<Row> {
    let totals = picture.totals();
    let mut rows = Vec::new();
    for (id, upstream) in picture.upstreams() {
        let words = totals.upstreams.get(&(id, upstream.name.clone())).copied().unwrap_or([0; UPSTREAM_WORDS]);
        let word = |word: UpstreamWord| words[word as usize];
        let (connected, time) = (word(UpstreamWord::Connected), word(UpstreamWord::ConnectTime));
        let mean = time.checked_div(connected).map(Duration::from_micros);
        let state = picture.upstream_state(id, upstream, picture.is_down(id, &upstream.name));
        let check = picture.check_state(id, upstream);
        // Of several addresses one of those that are as the upstream is.
        let mut results = upstream.addresses.iter().filter_map(|address| picture.checks.get(&(id, *address)));
        let result = results.find(|result| result.is_failing == (check == "failing"));
        rows.push(Row(vec![
            ("redirection", Field::Number(id.index() as u64 + 1)),
            ("upstream", Field::text(upstream.name.as_str())),
            ("addresses", Field::List(upstream.addresses.iter().map(crate::traffic::service::shown).collect())),
            ("state", Field::text(state)),
            ("check", Field::text(check)),
            ("check_result", Field::maybe(result.map(|result| result.result.as_str()))),
            ("check_time", Field::time(result.map(|result| result.time))),
            ("open", Field::Number(word(UpstreamWord::Open))),
            ("connected", Field::Number(connected)),
            ("failed", Field::Number(word(UpstreamWord::Failed))),
            ("connect_time", Field::time(mean)),
        ]));
    }
    rows
}

pub(crate) const WORKERS: &[&str] = &[
    "worker",
    "pid",
    "slot",
    "state",
    "accepted",
    "open",
    "limit",
    "bytes_up",
    "bytes_down",
    "pipes",
    "accept_pauses",
    "cpu",
];

pub(crate) fn workers(picture: &Picture) -> Vec<Row> {
    picture.workers.iter().map(|(number, worker)| worker_row(*number, worker)).collect()
}

fn worker_row(number: u32, worker: &SeenWorker) -> Row {
    let mut totals = Totals::default();
    if let Some(reading) = worker.counters.as_ref().map(|counters| counters.read()) {
        let reading: CounterReading<'_> = reading;
        totals.add_living(worker.slot, &reading);
    }
    let sum = totals.sum();
    let slot = (worker.state != SeenState::Draining).then_some(worker.slot as u64 + 1);
    Row(vec![
        ("worker", Field::Number(number.into())),
        ("pid", Field::Number(worker.pid.into())),
        ("slot", slot.map_or(Field::Absent, Field::Number)),
        ("state", Field::Word(worker.state.name())),
        ("started", Field::Number(worker.started)),
        ("accepted", Field::Number(sum.get(RedirectionWord::Accepted))),
        ("open", Field::Number(sum.open())),
        ("limit", Field::Number(worker.limit)),
        ("bytes_up", Field::Number(sum.get(RedirectionWord::Up))),
        ("bytes_down", Field::Number(sum.get(RedirectionWord::Down))),
        ("pipes", Field::Number(totals.worker(WorkerWord::Pipes))),
        ("accept_pauses", Field::Number(totals.worker(WorkerWord::Pauses))),
        ("cpu", Field::Time(Duration::from_nanos(totals.worker(WorkerWord::Cpu)))),
    ])
}

pub(crate) fn rules(picture: &Picture) -> Row {
    Row(vec![
        ("state", Field::text(picture.status.rules.as_str())),
        ("text", Field::text(picture.status.rules_text.as_str())),
    ])
}

pub(crate) fn config(picture: &Picture) -> Row {
    let description = &picture.description;
    let arguments = description.arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let file = description.file.as_ref();
    Row(vec![
        ("arguments", Field::List(arguments)),
        ("file", Field::maybe(file.map(|(path, _)| path.to_string_lossy()))),
        ("text", Field::maybe(file.map(|(_, text)| text.to_string_lossy()))),
    ])
}

/// The same for people: the command line as a comment, as a shell would take it, and the file.
pub(crate) fn config_text(picture: &Picture) -> String {
    let description = &picture.description;
    let arguments = description.arguments.iter().map(|argument| argument.to_string_lossy());
    let words = std::iter::once("tproxy".into()).chain(arguments);
    let line = words.map(|word| shell_words::quote(&word).into_owned()).collect::<Vec<_>>().join(" ");
    let text = description.file.as_ref().map(|(_, text)| text.to_string_lossy());
    // A word may have a line break in it.
    format!("# {}\n{}", line.replace('\n', " "), text.unwrap_or_default())
}

pub(crate) fn health(picture: &Picture) -> Row {
    let reason = Some(picture.status.reason.as_str()).filter(|reason| !reason.is_empty());
    Row(vec![("health", Field::Word(picture.status.health.name())), ("reason", Field::maybe(reason))])
}

/// The columns of connections, with their widths: they come in pieces, so nobody knows the longest cell.
pub(crate) const CONNECTIONS: &[(&str, usize)] = &[
    ("id", 10),
    ("redirection", 11),
    ("state", 10),
    ("client", 21),
    ("original", 21),
    ("upstream", 21),
    ("bytes_up", 10),
    ("bytes_down", 11),
    ("age", 9),
];

/// Those of these connections that the filter permits.
pub(crate) fn connections<'a>(
    list: &'a [ListedConnection],
    filter: &'a ConnectionFilter,
) -> impl Iterator<Item = Row> + 'a {
    list.iter().filter(|one| filter.permits(one)).map(connection_row)
}

fn connection_row(one: &ListedConnection) -> Row {
    let address = |address: CompactAddr| if address.is_known() { Field::Address(address) } else { Field::Absent };
    let (worker, number) = session::split_id(one.id);
    Row(vec![
        ("id", Field::Pair(worker, number)),
        ("redirection", Field::Number(one.redirection.index() as u64 + 1)),
        ("worker", Field::Number(worker)),
        ("state", Field::Word(one.state.name())),
        ("client", address(one.route.client)),
        ("original", address(one.route.original)),
        ("local", address(one.route.local)),
        ("upstream", address(one.route.upstream)),
        ("bytes_up", Field::Number(one.moved.0)),
        ("bytes_down", Field::Number(one.moved.1)),
        ("age", Field::Time(Duration::from_millis(one.age))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::description::{DescribedRedirection, DescribedUpstream};
    use crate::control::picture::CheckedAddress;
    use crate::traffic::service::{CheckKind, UpstreamCheck};

    #[test]
    fn the_result_of_a_check_is_of_an_address_that_is_as_the_upstream_is() {
        let (id, addresses) = (RedirectionId(0), ["10.0.0.1:80", "10.0.0.2:80"].map(|text| text.parse().unwrap()));
        let how = UpstreamCheck { interval: Duration::from_secs(1), kind: CheckKind::Connect, rise: 1, fall: 1 };
        let mut picture = Picture::default();
        picture.description.redirections = vec![DescribedRedirection {
            kind: "relay".into(),
            has_rules: true,
            target: String::new(),
            listen: Vec::new(),
            check: Some((how, Duration::from_secs(1))),
            leaves_from: Vec::new(),
            upstreams: vec![DescribedUpstream { name: "herd:80".into(), addresses: addresses.to_vec() }],
        }];
        let mut shown = |failing: [bool; 2]| {
            for (address, is_failing) in addresses.into_iter().zip(failing) {
                let result = if is_failing { "status 503" } else { "status 200" }.to_owned();
                picture.checks.insert((id, address), CheckedAddress { is_failing, result, time: Duration::ZERO });
            }
            let row = upstreams(&picture).remove(0);
            (row.get("check").cell(), row.get("check_result").cell())
        };
        assert_eq!(shown([true, false]), ("passing".into(), "status 200".into()));
        assert_eq!(shown([false, true]), ("passing".into(), "status 200".into()));
        assert_eq!(shown([true, true]), ("failing".into(), "status 503".into()));
    }
}
