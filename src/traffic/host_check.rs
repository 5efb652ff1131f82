//! Whether the host names of requests lead to their original destinations (`--host-check`): what is known of names, which
//! are being looked up by the resolvers, and which connections wait.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::sys::clock::Tick;
use crate::traffic::token::Key;

/// Ticks for which the addresses of a name are kept, and for which it is remembered that it has none.
const BELIEVED: Tick = 600;
const DOUBTED: Tick = 50;

/// Ticks after which a name without an answer counts as one without addresses.
const TIMEOUT: Tick = 30;

/// The most names that are remembered, and the most that are looked up at once. Clients choose the names.
const REMEMBERED: usize = 4096;
const ASKED: usize = 64;

/// What is known of names.
#[derive(Debug, Default)]
pub(crate) struct HostCheck {
    known: HashMap<Box<str>, Known>,
    asked: Vec<Asked>,
    questions: VecDeque<Box<str>>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    until: Tick,
}

#[derive(Debug)]
struct Asked {
    name: Box<str>,
    waiting: Vec<Key>,
    until: Tick,
}

impl HostCheck {
    /// Whether `name` has this address; `None` when that is not known.
    pub(crate) fn leads_to(&self, name: &str, ip: IpAddr, now: Tick) -> Option<bool> {
        let known = self.known.get(name).filter(|known| now < known.until)?;
        Some(known.addresses.contains(&ip))
    }

    /// Has `name` looked up for a connection. Returns whether that waits for the answer; with too many look-ups under way
    /// there will be none.
    pub(crate) fn ask(&mut self, name: Box<str>, who: Key, now: Tick) -> bool {
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.name == name) {
            asked.waiting.push(who);
            return true;
        }
        if self.asked.len() >= ASKED {
            return false;
        }
        self.questions.push_back(name.clone());
        self.asked.push(Asked { name, waiting: vec![who], until: now.saturating_add(TIMEOUT) });
        true
    }

    /// The next name to look up.
    pub(crate) fn next_question(&mut self) -> Option<Box<str>> {
        self.questions.pop_front()
    }

    /// A name has these addresses, or none. Returns the connections that waited for it.
    pub(crate) fn resolved(&mut self, name: &str, addresses: Vec<IpAddr>, now: Tick) -> Vec<Key> {
        if self.known.len() >= REMEMBERED {
            self.known.retain(|_, known| now < known.until);
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let until = now.saturating_add(if addresses.is_empty() { DOUBTED } else { BELIEVED });
        self.known.insert(name.into(), Known { addresses, until });
        let place = self.asked.iter().position(|asked| &*asked.name == name);
        place.map(|place| self.asked.swap_remove(place).waiting).unwrap_or_default()
    }

    /// The connections whose look-up has timed out.
    pub(crate) fn expire(&mut self, now: Tick) -> Vec<Key> {
        let Some(late) = self.asked.iter().find(|asked| asked.until <= now) else { return Vec::new() };
        let name = late.name.clone();
        self.questions.retain(|question| *question != name);
        self.resolved(&name, Vec::new(), now)
    }

    /// When [`HostCheck::expire`] has something to do.
    pub(crate) fn due(&self) -> Option<Tick> {
        self.asked.iter().map(|asked| asked.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn key(slot: u32) -> Key {
        Key { slot, generation: 0 }
    }

    #[test]
    fn a_name_is_asked_for_once_and_all_who_wait_are_told() {
        let mut check = HostCheck::default();
        assert!(check.ask("moose".into(), key(1), 0));
        assert!(check.ask("moose".into(), key(2), 0));
        assert_eq!(check.next_question().as_deref(), Some("moose"));
        assert_eq!(check.next_question(), None);
        assert_eq!(check.resolved("moose", vec![IP], 1), [key(1), key(2)]);
        assert_eq!(check.leads_to("moose", IP, 2), Some(true));
        assert_eq!(check.leads_to("moose", "10.0.0.2".parse().unwrap(), 2), Some(false));
        assert_eq!(check.leads_to("moose", IP, 1 + BELIEVED), None);
    }

    #[test]
    fn without_an_answer_the_name_leads_nowhere_for_a_while() {
        let mut check = HostCheck::default();
        check.ask("moose".into(), key(1), 0);
        assert_eq!(check.due(), Some(TIMEOUT));
        assert!(check.expire(TIMEOUT - 1).is_empty());
        assert_eq!(check.expire(TIMEOUT), [key(1)]);
        assert_eq!(check.next_question(), None);
        assert_eq!(check.leads_to("moose", IP, TIMEOUT), Some(false));
        assert_eq!(check.leads_to("moose", IP, TIMEOUT + DOUBTED), None);
    }

    #[test]
    fn neither_questions_nor_answers_grow_without_bound() {
        let mut check = HostCheck::default();
        for number in 0..ASKED {
            assert!(check.ask(format!("host{number}").into(), key(1), 0));
        }
        assert!(!check.ask("one-too-many".into(), key(1), 0));
        for number in 0..2 * REMEMBERED {
            check.resolved(&format!("name{number}"), vec![IP], 0);
            assert!(check.known.len() <= REMEMBERED);
        }
    }
}
