//! What clients ask for, and what they are answered.

use std::time::Instant;

use super::Control;
use crate::control::command::{self, ControlCommand, HELP, ParsedLine, Victims, View};
use crate::control::document::{self, Field, Row};
use crate::control::http::{self, ScrapeRequest};
use crate::control::{metrics, show};
use crate::daemon::control::client::{
    AwaitedChange, ClientKind, ClientTask, ControlClient, Input, Listing, Walk, WalkFound,
};
use crate::daemon::control::desks::{AskOutcome, PATIENCE};
use crate::daemon::control::event::ControlEvent;
use crate::daemon::control_message::FromControl;
use crate::traffic::listing::{Condemned, FromDesk};
use crate::traffic::session;

/// An answer that is given at once, or the task that gives it.
enum Reply {
    Text(String),
    /// In either form: for people and for programs.
    Row(Row, String),
    Rows(&'static str, Vec<Row>, &'static [&'static str]),
    Task(ClientTask),
    Error(String),
}

impl Control {
    /// Goes on with a client until it has to wait for something.
    pub(super) fn advance(&mut self, place: usize) {
        while let Some(mut client) = self.clients.get_mut(place).and_then(Option::take) {
            let goes_on = match client.kind {
                ClientKind::Control => self.step(&mut client),
                ClientKind::Scrape => self.step_scrape(&mut client),
            };
            match goes_on {
                Ok(true) => self.clients[place] = Some(client),
                Ok(false) => {
                    self.clients[place] = Some(client);
                    return;
                }
                Err(()) => return,
            }
        }
    }

    /// One step. `false`: the client waits. An error: it is done.
    fn step(&mut self, client: &mut ControlClient) -> Result<bool, ()> {
        let emptied = client.flush()?;
        if matches!(client.task, ClientTask::Nothing) {
            if !emptied {
                return Ok(false);
            }
            if client.closing {
                client.drop_input();
                return Err(());
            }
            return self.next_command(client);
        }
        match client.task {
            ClientTask::List(_) if client.is_full() => Ok(false),
            ClientTask::List(_) => Ok(self.walk_on(client)),
            ClientTask::Kill { .. } => Ok(self.walk_on(client)),
            ClientTask::Monitor { .. } => {
                client.drop_input();
                Ok(false)
            }
            ClientTask::Guardian { .. } | ClientTask::Nothing => Ok(false),
        }
    }

    fn next_command(&mut self, client: &mut ControlClient) -> Result<bool, ()> {
        let parsed = match client.line() {
            Input::Nothing => return Ok(false),
            Input::End => return Err(()),
            Input::TooLong => {
                client.prompt = false;
                let command = Err("line too long".to_owned());
                ParsedLine { json: false, command }
            }
            Input::Line(line) => match command::parse(&line) {
                Some(parsed) => parsed,
                // An empty line is none, and a connection takes one command.
                None => return Ok(true),
            },
        };
        client.json = parsed.json;
        let reply = match parsed.command {
            Ok(command) if command.needs_administrator() && !client.is_administrator => {
                Reply::Error("permission denied".into())
            }
            Ok(ControlCommand::Quit) => return Err(()),
            Ok(ControlCommand::Prompt) => {
                client.prompt = true;
                client.end_answer();
                return Ok(true);
            }
            Ok(command) => self.execute(client, command),
            Err(why) => Reply::Error(why),
        };
        reply_to(client, reply);
        Ok(true)
    }

    fn execute(&mut self, client: &mut ControlClient, command: ControlCommand) -> Reply {
        match command {
            ControlCommand::Show(view) => self.show(client, view),
            ControlCommand::Health => {
                let row = show::health(&self.picture);
                let line = match row.get("reason") {
                    Field::Text(reason) => format!("{}: {reason}\n", row.get("health").cell()),
                    _ => format!("{}\n", row.get("health").cell()),
                };
                Reply::Row(row, line)
            }
            ControlCommand::Monitor => {
                let event = ControlEvent::beginning(self.picture.status.health);
                client.push(event.line(client.json).as_bytes());
                Reply::Task(ClientTask::Monitor { missed: 0 })
            }
            ControlCommand::Help => {
                let row = Row(vec![("help", Field::text(HELP))]);
                Reply::Row(row, HELP.to_owned())
            }
            ControlCommand::Kill(victims) => {
                let (which, workers) = match victims {
                    Victims::Connection(worker, number) => {
                        (Condemned::Connection(session::join_id(worker, number)), vec![worker])
                    }
                    Victims::Source(net) => (Condemned::Source(net), self.picture.workers.keys().copied().collect()),
                };
                Reply::Task(ClientTask::Kill { which, walk: Walk { workers, ..Walk::default() }, count: 0 })
            }
            other => self.ask_guardian(client, other),
        }
    }

    fn ask_guardian(&mut self, client: &mut ControlClient, command: ControlCommand) -> Reply {
        self.last_asked = self.last_asked.wrapping_add(1);
        let number = self.last_asked;
        let (message, change) = match command {
            ControlCommand::Reload => (FromControl::Reload(number), Some(AwaitedChange::Reload)),
            ControlCommand::Upgrade => (FromControl::Upgrade(number), Some(AwaitedChange::Upgrade)),
            ControlCommand::Reopen => (FromControl::Reopen(number), None),
            ControlCommand::Stop(drain) => (FromControl::Stop { number, drain }, None),
            ControlCommand::Verbose(on) => (FromControl::Verbose { number, on }, None),
            ControlCommand::Upstream(order, name) => (FromControl::Upstream { number, order, name }, None),
            ControlCommand::Redirection(id, enable) => (FromControl::Redirection { number, id, enable }, None),
            _ => return Reply::Error("no such command".into()),
        };
        if !self.tell(&message) {
            return Reply::Error("the guardian cannot be reached".into());
        }
        client.await_guardian(number, change);
        Reply::Task(ClientTask::Guardian { number, change })
    }

    fn show(&self, client: &mut ControlClient, view: View) -> Reply {
        let picture = &self.picture;
        match view {
            View::Summary => {
                let row = show::summary(picture);
                let lines = row.lines();
                Reply::Row(row, lines)
            }
            View::Redirections => Reply::Rows("redirections", show::redirections(picture), show::REDIRECTIONS),
            View::Upstreams => Reply::Rows("upstreams", show::upstreams(picture), show::UPSTREAMS),
            View::Workers => Reply::Rows("workers", show::workers(picture), show::WORKERS),
            View::Rules => {
                let row = show::rules(picture);
                let text = format!("state: {}\n{}", row.get("state").cell(), picture.status.rules_text);
                Reply::Row(row, text)
            }
            View::Config => Reply::Row(show::config(picture), show::config_text(picture)),
            View::Connections(filter) => {
                let head = if client.json { "{\"connections\":[\n".to_owned() } else { connection_head() };
                client.push(head.as_bytes());
                let all = picture.workers.keys().rev().copied();
                let workers = all.filter(|worker| filter.permits_worker(*worker)).collect();
                let walk = Walk { workers, ..Walk::default() };
                Reply::Task(ClientTask::List(Listing { filter, walk, begun: false }))
            }
        }
    }

    /// Asks the next worker. Returns whether the client can go on.
    fn walk_on(&mut self, client: &mut ControlClient) -> bool {
        let tag = client.number;
        let (walk, which) = match &mut client.task {
            ClientTask::List(listing) => (&mut listing.walk, None),
            ClientTask::Kill { which, walk, .. } => (walk, Some(*which)),
            _ => return true,
        };
        loop {
            let Some(worker) = walk.workers.last().copied() else {
                end_walk(client);
                return true;
            };
            let first = walk.next;
            let question = match which {
                None => FromDesk::List { tag, first },
                Some(which) => FromDesk::Kill { tag, first, which },
            };
            match walk.asked {
                Some(asked) if asked.elapsed() < PATIENCE => return false,
                // It hangs.
                Some(_) => {}
                None => match self.desks.ask(worker, tag, &question) {
                    AskOutcome::Sent => {
                        walk.asked = Some(Instant::now());
                        return false;
                    }
                    AskOutcome::Later => return false,
                    AskOutcome::Gone => {}
                },
            }
            walk.workers.pop();
            (walk.next, walk.asked) = (0, None);
        }
    }

    /// A worker has answered.
    pub(super) fn walked(&mut self, tag: u32, worker: u32, next: Option<u32>, found: WalkFound) {
        self.desks.answered(worker, tag);
        self.take_walked(tag, worker, next, found);
        for place in 0..self.clients.len() {
            if self.clients[place].as_ref().is_some_and(ControlClient::waits_to_ask) {
                self.advance(place);
            }
        }
    }

    fn take_walked(&mut self, tag: u32, worker: u32, next: Option<u32>, found: WalkFound) {
        let is_it = |client: &Option<ControlClient>| client.as_ref().is_some_and(|client| client.number == tag);
        let Some(place) = self.clients.iter().position(is_it) else { return };
        let Some(client) = &mut self.clients[place] else { return };
        let walk = match &mut client.task {
            ClientTask::List(listing) => &mut listing.walk,
            ClientTask::Kill { walk, .. } => walk,
            _ => return,
        };
        if walk.workers.last() != Some(&worker) || walk.asked.take().is_none() {
            return;
        }
        match next {
            Some(next) if next > walk.next => walk.next = next,
            _ => {
                walk.workers.pop();
                walk.next = 0;
            }
        }
        take_found(client, found);
        self.advance(place);
    }

    /// The guardian has answered.
    pub(super) fn answered(
        &mut self,
        is_it: impl Fn(u32, Option<AwaitedChange>) -> bool,
        result: &Result<String, String>,
    ) {
        for place in 0..self.clients.len() {
            let Some(client) = &mut self.clients[place] else { continue };
            if let ClientTask::Guardian { number, change } = client.task
                && is_it(number, change)
            {
                reply_to(client, result.clone().map_or_else(Reply::Error, Reply::Text));
                self.advance(place);
            }
        }
    }

    fn step_scrape(&mut self, client: &mut ControlClient) -> Result<bool, ()> {
        let emptied = client.flush()?;
        if client.closing {
            return if emptied { Err(()) } else { Ok(false) };
        }
        let request = http::read(client.head().ok_or(())?);
        let answer = match request {
            ScrapeRequest::Partial => return Ok(false),
            ScrapeRequest::Refused(status) => http::refusal(status),
            ScrapeRequest::Metrics { format, with_body } => {
                http::answer(format, &metrics::text(&self.picture, format), with_body)
            }
        };
        client.push(&answer);
        client.closing = true;
        Ok(true)
    }
}

fn take_found(client: &mut ControlClient, found: WalkFound) {
    let json = client.json;
    let mut out = String::new();
    match (&mut client.task, found) {
        (ClientTask::List(listing), WalkFound::Connections(list)) => {
            for row in show::connections(&list, &listing.filter) {
                if json {
                    out.push_str(if listing.begun { ",\n" } else { "" });
                    row.json(&mut out);
                } else {
                    row.push_line(show::CONNECTIONS, &mut out);
                }
                listing.begun = true;
            }
        }
        (ClientTask::Kill { count, .. }, WalkFound::Killed(more)) => *count += u64::from(more),
        _ => {}
    }
    client.push(out.as_bytes());
}

fn connection_head() -> String {
    let mut out = String::new();
    document::push_head(show::CONNECTIONS, &mut out);
    out
}

fn end_walk(client: &mut ControlClient) {
    match std::mem::replace(&mut client.task, ClientTask::Nothing) {
        ClientTask::List(listing) if client.json => {
            client.push(if listing.begun { b"\n]}\n" } else { b"]}\n" });
            client.end_answer();
        }
        ClientTask::Kill { which, count, .. } => {
            let reply = match (which, count) {
                (_, 0) => Reply::Error("no such connection".into()),
                (_, 1) => Reply::Text("ok: 1 connection is reset".into()),
                (_, count) => Reply::Text(format!("ok: {count} connections are reset")),
            };
            reply_to(client, reply);
        }
        _ => client.end_answer(),
    }
}

/// Gives an answer, or begins what gives one.
fn reply_to(client: &mut ControlClient, reply: Reply) {
    let json = client.json;
    let sentence = |name: &'static str, text: &str| Row(vec![(name, Field::text(text))]).document();
    let text = match reply {
        Reply::Task(task) => {
            client.task = task;
            return;
        }
        Reply::Error(why) if json => sentence("error", &why),
        Reply::Error(why) => format!("error: {why}\n"),
        Reply::Text(text) if json => sentence("ok", text.strip_prefix("ok: ").unwrap_or(&text)),
        Reply::Text(text) => format!("{text}\n"),
        Reply::Row(row, _) if json => row.document(),
        Reply::Row(_, text) if client.prompt => without_empty_lines(&text),
        Reply::Row(_, text) => text,
        Reply::Rows(name, rows, _) if json => document::json_list(name, &rows),
        Reply::Rows(_, rows, columns) => document::table(&rows, columns),
    };
    client.push(text.as_bytes());
    client.end_answer();
}

/// An empty line ends an answer after `prompt`.
fn without_empty_lines(text: &str) -> String {
    text.lines().filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}
