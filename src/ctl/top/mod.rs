//! `tproxyctl top`: a live view.

mod keys;
mod lists;
mod model;
mod numbers;
mod screen;
mod state;
mod terminal;
mod view;

use std::time::{Duration, Instant};

use crate::ctl::client::Client;
use crate::ctl::failure::CtlFailure;
use crate::ctl::json::{self, Json};
use crate::ctl::top::model::Model;
use crate::ctl::top::state::{State, Wish};
use crate::ctl::top::terminal::{FullScreen, Happened};

/// Time from one sample to the next.
const EVERY: Duration = Duration::from_secs(1);

/// A list of connections that takes long is asked for less often: at most a fifth of the time.
const LIST_SHARE: u32 = 5;

/// How the instance is found.
pub(super) type Connect<'a> = &'a dyn Fn() -> Result<Client, CtlFailure>;

/// Shows the view until the user has seen enough. Fails at once if there is no answer at the beginning.
pub(super) fn run(connect: Connect<'_>) -> Result<(), CtlFailure> {
    let mut source = Source::new(connect)?;
    let mut terminal = FullScreen::enter()?;
    let (mut model, mut state) = (Model::new(Instant::now()), State::new());
    let look = Surroundings::new();
    let (mut shown, mut next) = (None, Instant::now());
    loop {
        if Instant::now() >= next {
            if let Err(failure) = source.sample(&mut model) {
                state.message = failure.to_string();
            }
            next = Instant::now() + EVERY;
        }
        let canvas = view::draw(&model, &state, terminal.size(), look.unicode);
        terminal::show(&canvas.changes(shown.as_ref(), look.colour));
        shown = Some(canvas);
        match terminal.wait(next.saturating_duration_since(Instant::now())) {
            Happened::Ended => return Ok(()),
            // The terminal may have cut off or wrapped what it had.
            Happened::Resized => shown = None,
            Happened::Nothing => {}
            Happened::Keys(keys) => {
                for key in keys {
                    match state.key(key, &model) {
                        Wish::Nothing => {}
                        Wish::Quit => return Ok(()),
                        Wish::Send(command) => {
                            state.message = source.send(&command);
                            next = Instant::now();
                        }
                    }
                }
            }
        }
    }
}

/// What the terminal can show.
struct Surroundings {
    colour: bool,
    unicode: bool,
}

impl Surroundings {
    fn new() -> Surroundings {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        // https://no-color.org: whatever it says, if it says something.
        let colour = variable("NO_COLOR").is_none() && variable("TERM").is_some_and(|term| term != "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default();
        let locale = locale.to_lowercase();
        Surroundings { colour, unicode: locale.contains("utf-8") || locale.contains("utf8") }
    }
}

/// Where the numbers come from.
struct Source<'a> {
    connect: Connect<'a>,
    /// None after a failure, until it can be reached again.
    client: Option<Client>,
    next_list: Instant,
}

impl Source<'_> {
    fn new(connect: Connect<'_>) -> Result<Source<'_>, CtlFailure> {
        let mut source = Source { connect, client: None, next_list: Instant::now() };
        source.reach()?;
        Ok(source)
    }

    fn reach(&mut self) -> Result<&mut Client, CtlFailure> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let mut client = (self.connect)()?;
                client.ask("prompt\n")?;
                client.one_of_many()?;
                client
            }
        };
        Ok(self.client.insert(client))
    }

    /// One command and its answer. After a failure of the connection the next one begins with a new one.
    fn ask(&mut self, command: &str) -> Result<String, CtlFailure> {
        let client = self.reach()?;
        let result = client.ask(&format!("{command}\n")).and_then(|()| client.one_of_many());
        if matches!(result, Err(CtlFailure::NoAnswer(_))) {
            self.client = None;
        }
        result
    }

    fn document(&mut self, command: &str) -> Result<Json, CtlFailure> {
        let text = self.ask(&format!("json {command}"))?;
        json::parse(&text).ok_or_else(|| CtlFailure::NoAnswer(format!("the answer to '{command}' is not understood")))
    }

    fn sample(&mut self, model: &mut Model) -> Result<(), CtlFailure> {
        let (summary, upstreams) = (self.document("show summary")?, self.document("show upstreams")?);
        model.sample(Instant::now(), &summary, &upstreams);
        let begun = Instant::now();
        if begun >= self.next_list {
            let connections = self.document("show connections")?;
            model.list(Instant::now(), &connections);
            self.next_list = begun + begun.elapsed() * LIST_SHARE;
        }
        Ok(())
    }

    /// Sends a command. Returns what is to be shown.
    fn send(&mut self, command: &str) -> String {
        match self.ask(command) {
            Ok(text) => format!("{command}: {}", text.lines().next().unwrap_or_default()),
            Err(failure) => format!("{command}: {failure}"),
        }
    }
}
