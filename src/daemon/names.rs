//! The guardian's side of the resolver: asking, waiting, asking again.

use std::time::{Duration, Instant};

use mio::Registry;

use crate::config::Config;
use crate::daemon::message::{Answer, Question, SIZE};
use crate::daemon::spawn::{self, Child};
use crate::error::Error;
use crate::logging::Limiter;
use crate::sys::channel::Received;

/// A name is looked up again after this time. getaddrinfo(3) does not tell how long an answer holds.
const INTERVAL: Duration = Duration::from_secs(30);

/// The first pause after a failed look-up; it doubles up to [`INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// An answer is waited for this long before a resolver that hangs is replaced.
const PATIENCE: Duration = Duration::from_secs(60);

/// One name at a time, followed over time.
#[derive(Debug)]
pub struct Names {
    resolver: Option<Child>,
    asked: Option<Instant>,
    next: Instant,
    pause: Duration,
    limiter: Limiter,
}

impl Names {
    /// Starts no process yet: the first question does.
    pub fn new() -> Names {
        Names { resolver: None, asked: None, next: Instant::now(), pause: FIRST_PAUSE, limiter: Limiter::new() }
    }

    /// The resolver process, if one is running.
    pub fn resolver(&self) -> Option<&Child> {
        self.resolver.as_ref()
    }

    /// Ends the resolver: it goes when its line is closed.
    pub fn dismiss(&mut self) -> Option<Child> {
        self.asked = None;
        self.resolver.take()
    }

    /// When to call [`Names::ask`] again.
    pub fn due(&self) -> Instant {
        self.asked.map_or(self.next, |asked| asked + PATIENCE)
    }

    /// The next question is about another name, and not late because of a former one.
    pub fn forget(&mut self) {
        (self.next, self.pause) = (Instant::now(), FIRST_PAUSE);
    }

    /// Wants an answer sooner than planned: the addresses that are known do not answer.
    pub fn hurry(&mut self) {
        self.next = self.next.min(Instant::now() + FIRST_PAUSE);
    }

    /// Asks for `name` if it is time to and no question is open. A new resolver is started when there is none, or when
    /// the old one has not answered for too long; the old one comes back then.
    pub fn ask(&mut self, config: &Config, name: &str, registry: &Registry) -> Result<Option<Child>, Error> {
        if Instant::now() < self.due() {
            return Ok(None);
        }
        let hung = if self.asked.take().is_some() { self.resolver.take() } else { None };
        if hung.is_some() {
            log::warn!("the resolver has not answered for {} seconds and is replaced", PATIENCE.as_secs());
        }
        if self.resolver.is_none() {
            let resolver = spawn::resolver(config)?;
            resolver.watch(registry)?;
            self.resolver = Some(resolver);
        }
        if let Some(resolver) = &self.resolver {
            let question = Question { name: name.to_owned() };
            match resolver.line.send(&question.encode(), None) {
                Ok(()) => self.asked = Some(Instant::now()),
                Err(error) => self.failed(name, &error.to_string()),
            }
        }
        Ok(hung)
    }

    /// The resolver has died; the next question starts another.
    pub fn lost(&mut self) {
        self.resolver = None;
        self.asked = None;
        self.next = Instant::now() + FIRST_PAUSE;
    }

    /// Takes an answer, if there is one.
    pub fn answer(&mut self, name: &str) -> Option<Vec<std::net::IpAddr>> {
        let mut buffer = [0; SIZE];
        let line = &self.resolver.as_ref()?.line;
        match line.receive(&mut buffer) {
            Ok(Received::Message(count, _)) => {
                self.asked = None;
                match Answer::decode(&buffer[..count]) {
                    Some(Answer::Addresses(addresses)) => {
                        (self.next, self.pause) = (Instant::now() + INTERVAL, FIRST_PAUSE);
                        return Some(addresses);
                    }
                    Some(Answer::Failed(why)) => self.failed(name, &why),
                    None => self.failed(name, "the resolver's answer means nothing"),
                }
            }
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => self.lost(),
        }
        None
    }

    fn failed(&mut self, name: &str, why: &str) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(INTERVAL);
        if let Some(more) = self.limiter.pass() {
            log::warn!("cannot resolve '{name}': {why}; trying again{more}");
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}
