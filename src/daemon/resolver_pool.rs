//! The worker's side of `--host-check`: resolver processes that look up the names in clients' requests. They are not the
//! guardian's resolver: a client that asks for slow names must not keep it from following the upstreams.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::daemon::message::{Answer, AnswerParts, Question, SIZE};
use crate::sys::channel::{Channel, Received};
use crate::sys::clock::{Tick, ticks};
use crate::traffic::token::EventToken;

/// Resolvers of one worker. So many slow names can be looked up before others wait.
pub(crate) const POOL_SIZE: usize = 4;

/// A resolver that has not answered after this time is replaced. No answer of the C library takes longer, unless
/// resolv.conf(5) asks many name servers for long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The resolvers of a worker.
#[derive(Debug, Default)]
pub(crate) struct ResolverPool {
    all: Vec<Option<PooledResolver>>,
}

#[derive(Debug)]
struct PooledResolver {
    pid: u32,
    line: Channel,
    asked: Option<Box<str>>,
    /// Since when.
    since: Tick,
    parts: AnswerParts,
}

impl ResolverPool {
    /// Adds a resolver that the guardian has started.
    pub(crate) fn add(&mut self, pid: u32, line: Channel, registry: &Registry) -> io::Result<()> {
        let place = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        let token = Token::from(EventToken::Channel(place as u32 + 1));
        registry.register(&mut SourceFd(&line.as_raw_fd()), token, Interest::READABLE)?;
        let resolver = Some(PooledResolver { pid, line, asked: None, since: 0, parts: AnswerParts::default() });
        match self.all.get_mut(place) {
            Some(free) => *free = resolver,
            None => self.all.push(resolver),
        }
        Ok(())
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.all.iter().flatten().any(|resolver| resolver.asked.is_none())
    }

    /// Asks for the addresses of `name`. Without a resolver there will be no answer; the request that waits times out.
    pub(crate) fn ask(&mut self, name: Box<str>, now: Tick) {
        let question = Question { name: name.to_string() }.encode();
        for place in &mut self.all {
            let Some(resolver) = place.as_mut().filter(|resolver| resolver.asked.is_none()) else { continue };
            if resolver.line.send(&question, None).is_ok() {
                (resolver.asked, resolver.since) = (Some(name), now);
                return;
            }
            // The resolver is gone. Its last event may have come already, with its last answer.
            *place = None;
        }
    }

    /// When to call [`ResolverPool::give_up`].
    pub(crate) fn due(&self) -> Option<Tick> {
        let asked = self.all.iter().flatten().filter(|resolver| resolver.asked.is_some());
        asked.map(|resolver| resolver.since.saturating_add(ticks(PATIENCE))).min()
    }

    /// A resolver that has not answered for too long, and the name that it was asked for. It is asked no more.
    pub(crate) fn give_up(&mut self, now: Tick) -> Option<(u32, Box<str>)> {
        self.due().filter(|due| *due <= now)?;
        let late = |resolver: &&mut Option<PooledResolver>| {
            let asked = resolver.as_ref().filter(|resolver| resolver.asked.is_some());
            asked.is_some_and(|resolver| resolver.since.saturating_add(ticks(PATIENCE)) <= now)
        };
        let resolver = self.all.iter_mut().find(late)?.take()?;
        Some((resolver.pid, resolver.asked?))
    }

    /// Takes the answer that has come over the channel of this number.
    pub(crate) fn hear(&mut self, line: u32) -> Option<(Box<str>, Vec<IpAddr>)> {
        let place = self.all.get_mut((line as usize).checked_sub(1)?)?;
        let resolver = place.as_mut()?;
        let mut buffer = [0; SIZE];
        // Its events are edge-triggered: all messages of an answer are taken at once.
        loop {
            let message = match resolver.line.receive(&mut buffer) {
                Ok(Received::Message(count)) => Answer::decode(&buffer[..count]),
                Ok(Received::Nothing) => return None,
                Ok(Received::Closed) | Err(_) => {
                    let asked = resolver.asked.take();
                    *place = None;
                    return Some((asked?, Vec::new()));
                }
            };
            if resolver.asked.is_none() {
                // An answer without a question: the resolver was taken over, and could send without end.
                *place = None;
                return None;
            }
            let message = message.unwrap_or_else(|| Answer::Failed(String::new()));
            if let Some(whole) = resolver.parts.add(message) {
                return Some((resolver.asked.take()?, whole.unwrap_or_default()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_is_gone_is_passed_over() {
        let registry = mio::Poll::new().unwrap().registry().try_clone().unwrap();
        let mut resolvers = ResolverPool::default();
        let (ours, gone) = Channel::pair().unwrap();
        resolvers.add(1, ours, &registry).unwrap();
        let (ours, theirs) = Channel::pair().unwrap();
        resolvers.add(2, ours, &registry).unwrap();
        drop(gone);
        resolvers.ask("moose".into(), 100);
        let mut buffer = [0; SIZE];
        assert!(matches!(theirs.receive(&mut buffer), Ok(Received::Message(..))));
        assert_eq!(Question::decode(&buffer), Some(Question { name: "moose".into() }));
        assert!(!resolvers.is_idle());
        let (ours, _theirs) = Channel::pair().unwrap();
        resolvers.add(3, ours, &registry).unwrap();
        assert_eq!((resolvers.all.len(), resolvers.is_idle()), (2, true));
        theirs.send(&Answer::Failed("no such name".into()).encode(), None).unwrap();
        assert_eq!(resolvers.hear(2), Some(("moose".into(), Vec::new())));
    }

    #[test]
    fn a_resolver_that_says_what_nobody_has_asked_is_heard_no_more() {
        let registry = mio::Poll::new().unwrap().registry().try_clone().unwrap();
        let mut resolvers = ResolverPool::default();
        let (ours, theirs) = Channel::pair().unwrap();
        resolvers.add(4, ours, &registry).unwrap();
        let answer = Answer::Addresses(vec![IpAddr::from([10, 0, 0, 1])]).encode();
        theirs.send(&answer, None).unwrap();
        assert_eq!(resolvers.hear(1), None);
        assert!(!resolvers.is_idle());
        assert!(theirs.send(&answer, None).is_err(), "its line is closed");
    }

    #[test]
    fn a_resolver_that_does_not_answer_is_given_up() {
        let registry = mio::Poll::new().unwrap().registry().try_clone().unwrap();
        let mut resolvers = ResolverPool::default();
        let (ours, theirs) = Channel::pair().unwrap();
        resolvers.add(7, ours, &registry).unwrap();
        assert_eq!(resolvers.due(), None);
        resolvers.ask("moose".into(), 100);
        assert_eq!((resolvers.due(), resolvers.give_up(699)), (Some(700), None));
        assert_eq!(resolvers.give_up(700), Some((7, "moose".into())));
        assert_eq!((resolvers.due(), resolvers.give_up(700)), (None, None));
        assert!(theirs.send(&Answer::Failed(String::new()).encode(), None).is_err(), "its line is closed");
    }
}
