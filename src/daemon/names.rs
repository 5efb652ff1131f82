//! The names of the configuration and their addresses, which the resolver process looks up again and again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::children::{Children, Role};
use crate::daemon::message::{AnswerParts, Question};
use crate::daemon::resolver;
use crate::error::Error;
use crate::logging::Limiter;

/// A name is looked up again after this time: getaddrinfo(3) does not return the TTL.
const INTERVAL: Duration = Duration::from_secs(30);

/// The first pause after a failed look-up; it doubles up to [`INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A resolver that has not answered after this time is replaced.
const PATIENCE: Duration = Duration::from_secs(60);

/// The names, and the process that looks them up one at a time.
#[derive(Debug)]
pub(crate) struct Names {
    resolver: Option<Pid>,
    asked: Option<(String, Instant)>,
    parts: AnswerParts,
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
    /// It has been looked up at least once.
    answered: bool,
}

impl Names {
    /// No names yet. The first question starts the resolver.
    pub(crate) fn new() -> Names {
        Names {
            resolver: None,
            asked: None,
            parts: AnswerParts::default(),
            entries: BTreeMap::new(),
            limiter: Limiter::new(),
        }
    }

    /// Looks up the names in `wanted` once, and those that are in `followed` as well again and again. Known addresses are
    /// kept; names that are not in `wanted` are forgotten.
    pub(crate) fn want(&mut self, wanted: &[String], followed: &[String]) {
        let now = Instant::now();
        self.entries.retain(|name, _| wanted.contains(name));
        for name in wanted {
            let follow = followed.contains(name);
            let new = Entry { addresses: Vec::new(), next: Some(now), pause: FIRST_PAUSE, follow, answered: false };
            self.entries.entry(name.clone()).or_insert(new).follow = follow;
        }
    }

    /// Looks up all names again: a reload.
    pub(crate) fn refresh(&mut self) {
        let now = Instant::now();
        self.entries.values_mut().for_each(|entry| entry.next = Some(now));
    }

    /// The addresses of a name, as they were last resolved.
    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.entries.get(name).map_or(&[], |entry| &entry.addresses)
    }

    /// A name that has no address yet, and is not one of `but`.
    pub(crate) fn unknown(&self, but: &[String]) -> Option<&str> {
        let mut unknown = self.entries.iter().filter(|(_, entry)| entry.addresses.is_empty());
        unknown.find(|(name, _)| !but.contains(name)).map(|(name, _)| name.as_str())
    }

    /// Whether a name has not been looked up yet.
    pub(crate) fn has_unanswered(&self) -> bool {
        self.entries.values().any(|entry| !entry.answered)
    }

    /// The resolver process, if one is running.
    pub(crate) fn resolver(&self) -> Option<Pid> {
        self.resolver
    }

    /// Ends the resolver: it goes when its channel is closed.
    pub(crate) fn dismiss(&mut self, children: &mut Children) {
        self.asked = None;
        if let Some(resolver) = self.resolver.take() {
            children.hang_up(resolver);
        }
    }

    /// When to call [`Names::ask`] again.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.asked {
            Some((_, asked)) => Some(*asked + PATIENCE),
            None => self.entries.values().filter_map(|entry| entry.next).min(),
        }
    }

    /// Looks a name up sooner than planned: its addresses do not answer.
    pub(crate) fn hurry(&mut self, name: &str) {
        let soon = Instant::now() + FIRST_PAUSE;
        if let Some(entry) = self.entries.get_mut(name) {
            entry.next = entry.next.map(|next| next.min(soon));
        }
    }

    /// Asks for the name that has waited longest, if it is time to and no question is open. A resolver is started when
    /// there is none, and one that has not answered for too long is killed.
    pub(crate) fn ask(&mut self, children: &mut Children, config: &Config) {
        let now = Instant::now();
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        if let Some((name, _)) = self.asked.take() {
            self.resolver.take().iter().for_each(|hung| children.kill(*hung));
            self.failed(&name, "the resolver has not answered and is replaced");
        }
        let next = self.entries.iter().filter_map(|(name, entry)| Some((entry.next?, name))).min();
        let Some((_, name)) = next.filter(|(next, _)| *next <= now) else { return };
        let name = name.clone();
        if let Err(error) = self.send(&name, children, config) {
            self.failed(&name, &error.to_string());
        } else {
            self.asked = Some((name, now));
        }
    }

    fn send(&mut self, name: &str, children: &mut Children, config: &Config) -> Result<(), Error> {
        let resolver = match self.resolver {
            Some(resolver) => resolver,
            None => resolver::start(Role::Resolver, &config.process, children)?,
        };
        self.resolver = Some(resolver);
        self.parts = AnswerParts::default();
        let question = Question { name: name.to_owned() }.encode();
        let sent = children.channel(resolver).map_or(Ok(()), |channel| channel.send(&question, None));
        sent.map_err(|error| Error::sys("asking the resolver", error))
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
    pub(crate) fn answer(&mut self, children: &mut Children) -> Option<String> {
        let resolver = self.resolver?;
        // Its events are edge-triggered: all messages of an answer are taken at once.
        let whole = loop {
            // Closed: how the resolver ended is told when it is reaped, and then it is lost.
            let answer = children.answer(resolver).ok()?;
            let message = answer?;
            if self.asked.is_none() {
                log::error!("the resolver has sent an answer without a question, and is replaced");
                children.kill(resolver);
                self.lost();
                return None;
            }
            if let Some(whole) = self.parts.add(message) {
                break whole;
            }
        };
        let (name, _) = self.asked.take()?;
        match whole {
            Ok(addresses) => self.learn(name, addresses),
            Err(why) => {
                self.failed(&name, &why);
                None
            }
        }
    }

    /// All names that have addresses.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        let known = self.entries.iter().filter(|(_, entry)| !entry.addresses.is_empty());
        known.map(|(name, entry)| (name.as_str(), entry.addresses.as_slice()))
    }

    /// Sets the addresses of a name that the former program of this process had looked up.
    pub(crate) fn adopt(&mut self, name: &str, addresses: Vec<IpAddr>) {
        if let Some(entry) = self.entries.get_mut(name) {
            (entry.addresses, entry.answered) = (addresses, true);
        }
    }

    fn learn(&mut self, name: String, mut addresses: Vec<IpAddr>) -> Option<String> {
        let entry = self.entries.get_mut(&name)?;
        entry.next = entry.follow.then(|| Instant::now() + INTERVAL);
        (entry.pause, entry.answered) = (FIRST_PAUSE, true);
        // The order of the addresses changes from answer to answer (RFC 1794) and means nothing.
        let same = addresses.len() == entry.addresses.len() && addresses.iter().all(|ip| entry.addresses.contains(ip));
        if same {
            return None;
        }
        // The first address stays first for as long as the name has it, so a rule with it need not change.
        if let Some(at) = entry.addresses.first().and_then(|first| addresses.iter().position(|ip| ip == first)) {
            addresses[..=at].rotate_right(1);
        }
        entry.addresses = addresses;
        Some(name)
    }

    fn failed(&mut self, name: &str, why: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.next = Some(Instant::now() + entry.pause);
        (entry.pause, entry.answered) = ((entry.pause * 2).min(INTERVAL), true);
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
