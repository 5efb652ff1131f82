//! The guardian's side of the resolver: asking, waiting, asking again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mio::Registry;

use crate::config::Config;
use crate::daemon::children::{self, Child};
use crate::daemon::message::{Answer, Question, SIZE};
use crate::error::Error;
use crate::logging::Limiter;
use crate::sys::channel::Received;

/// A name is looked up again after this time. getaddrinfo(3) does not tell how long an answer holds.
const INTERVAL: Duration = Duration::from_secs(30);

/// The first pause after a failed look-up; it doubles up to [`INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// An answer is waited for this long before a resolver that hangs is replaced.
const PATIENCE: Duration = Duration::from_secs(60);

/// The names that are known, and the process that looks them up, one at a time.
#[derive(Debug)]
pub(crate) struct Names {
    resolver: Option<Child>,
    asked: Option<(String, Instant)>,
    entries: BTreeMap<String, Entry>,
    limiter: Limiter,
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<IpAddr>,
    /// When to ask again; `None` when one answer is enough.
    next: Option<Instant>,
    pause: Duration,
    follow: bool,
}

impl Names {
    /// Starts no process yet: the first question does.
    pub(crate) fn new() -> Names {
        Names { resolver: None, asked: None, entries: BTreeMap::new(), limiter: Limiter::new() }
    }

    /// Wants the addresses of `wanted`, once; those of `followed` among them, again and again. What is known stays
    /// known, what is not wanted any more is forgotten.
    pub(crate) fn want(&mut self, wanted: &[String], followed: &[String]) {
        let now = Instant::now();
        self.entries.retain(|name, _| wanted.contains(name));
        for name in wanted {
            let follow = followed.contains(name);
            let new = Entry { addresses: Vec::new(), next: Some(now), pause: FIRST_PAUSE, follow };
            self.entries.entry(name.clone()).or_insert(new).follow = follow;
        }
    }

    /// Wants one answer for each name as if nothing were known: a reload.
    pub(crate) fn refresh(&mut self) {
        let now = Instant::now();
        self.entries.values_mut().for_each(|entry| entry.next = Some(now));
    }

    /// The addresses of a name, as they were last resolved.
    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.entries.get(name).map_or(&[], |entry| &entry.addresses)
    }

    /// A name that has no address yet.
    pub(crate) fn unknown(&self) -> Option<&str> {
        self.entries.iter().find(|(_, entry)| entry.addresses.is_empty()).map(|(name, _)| name.as_str())
    }

    /// The resolver process, if one is running.
    pub(crate) fn resolver(&self) -> Option<&Child> {
        self.resolver.as_ref()
    }

    /// AddrPair the resolver: it goes when its line is closed.
    pub(crate) fn dismiss(&mut self) -> Option<Child> {
        self.asked = None;
        self.resolver.take()
    }

    /// When to call [`Names::ask`] again.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.asked {
            Some((_, asked)) => Some(*asked + PATIENCE),
            None => self.entries.values().filter_map(|entry| entry.next).min(),
        }
    }

    /// Wants an answer sooner than planned: the addresses that are known do not answer.
    pub(crate) fn hurry(&mut self, name: &str) {
        let soon = Instant::now() + FIRST_PAUSE;
        if let Some(entry) = self.entries.get_mut(name) {
            entry.next = entry.next.map(|next| next.min(soon));
        }
    }

    /// Asks for the name that has waited longest, if it is time to and no question is open. A new resolver is started
    /// when there is none, or when the old one has not answered for too long; the old one comes back then.
    pub(crate) fn ask(&mut self, config: &Config, registry: &Registry) -> Result<Option<Child>, Error> {
        let now = Instant::now();
        if self.due().is_none_or(|due| now < due) {
            return Ok(None);
        }
        let mut hung = None;
        if let Some((name, _)) = self.asked.take() {
            hung = self.resolver.take();
            self.failed(&name, "the resolver has not answered and is replaced");
        }
        let next = self.entries.iter().filter_map(|(name, entry)| Some((entry.next?, name))).min();
        let Some((_, name)) = next.filter(|(next, _)| *next <= now) else { return Ok(hung) };
        let name = name.clone();
        if self.resolver.is_none() {
            let resolver = children::resolver(config)?;
            resolver.watch(registry)?;
            self.resolver = Some(resolver);
        }
        if let Some(resolver) = &self.resolver {
            match resolver.line.send(&Question { name: name.clone() }.encode(), None) {
                Ok(()) => self.asked = Some((name, now)),
                Err(error) => self.failed(&name, &error.to_string()),
            }
        }
        Ok(hung)
    }

    /// The resolver has died; the next question, which comes soon, starts another.
    pub(crate) fn lost(&mut self) {
        self.resolver = None;
        let soon = Instant::now() + FIRST_PAUSE;
        for entry in self.entries.values_mut() {
            entry.next = entry.next.map(|next| next.min(soon));
        }
        if let Some((name, _)) = self.asked.take() {
            self.failed(&name, "the resolver died");
        }
    }

    /// Takes an answer, if there is one. Returns the name whose addresses have changed.
    pub(crate) fn answer(&mut self) -> Option<String> {
        let mut buffer = [0; SIZE];
        let line = &self.resolver.as_ref()?.line;
        let count = match line.receive(&mut buffer) {
            Ok(Received::Message(count)) => count,
            Ok(Received::Nothing) => return None,
            Ok(Received::Closed) | Err(_) => {
                self.lost();
                return None;
            }
        };
        let Some((name, _)) = self.asked.take() else {
            // It is not what was started any more.
            log::error!("the resolver says what nobody has asked, and is replaced");
            self.lost();
            return None;
        };
        match Answer::decode(&buffer[..count]) {
            Some(Answer::Addresses(addresses)) => return self.learn(name, addresses),
            Some(Answer::Failed(why)) => self.failed(&name, &why),
            None => self.failed(&name, "the resolver's answer means nothing"),
        }
        None
    }

    fn learn(&mut self, name: String, mut addresses: Vec<IpAddr>) -> Option<String> {
        let entry = self.entries.get_mut(&name)?;
        entry.next = entry.follow.then(|| Instant::now() + INTERVAL);
        entry.pause = FIRST_PAUSE;
        // The order of an answer may change from one to the next (RFC 1794) and means nothing then.
        let same = addresses.len() == entry.addresses.len() && addresses.iter().all(|ip| entry.addresses.contains(ip));
        if same {
            return None;
        }
        // The address in use stays in use for as long as the name has it: a rule that holds it need not move.
        if let Some(at) = entry.addresses.first().and_then(|first| addresses.iter().position(|ip| ip == first)) {
            addresses[..=at].rotate_right(1);
        }
        entry.addresses = addresses;
        Some(name)
    }

    fn failed(&mut self, name: &str, why: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.next = Some(Instant::now() + entry.pause);
        entry.pause = (entry.pause * 2).min(INTERVAL);
        if let Some(more) = self.limiter.pass() {
            let still = if entry.addresses.is_empty() { "" } else { "; its last addresses are used" };
            log::warn!("cannot resolve '{name}': {why}{still}; trying again{more}");
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}
