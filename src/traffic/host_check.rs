//! Whether the host names of requests lead to their original destinations (`--host-check`): what is known of names, which
//! are being looked up by the resolvers, and which connections wait.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::sys::clock::Tick;
use crate::traffic::destinations::{self, Forbidden};
use crate::traffic::token::Key;

/// Ticks for which the addresses of a name are kept, and for which it is remembered that it has none, or not the one that
/// a client was going to.
const BELIEVED: Tick = 600;
const DOUBTED: Tick = 50;

/// Ticks for which an address that is not in the answer any more still counts. Name servers with many addresses give some
/// of them in turn, and clients keep theirs for a while.
const FORMER: Tick = 6000;

/// The most of these.
const MOST_FORMER: usize = 64;

/// Ticks after which a name without an answer counts as one without addresses.
const TIMEOUT: Tick = 30;

/// The most names that are remembered, their addresses together, and the most that are looked up at once. Clients choose
/// the names.
const REMEMBERED: usize = 4096;
const ADDRESSES: usize = 65_536;
const ASKED: usize = 64;

/// What is known of names.
#[derive(Debug, Default)]
pub(crate) struct HostCheck {
    known: HashMap<Box<str>, KnownName>,
    /// The addresses of all known names.
    addresses: usize,
    asked: Vec<Asked>,
    questions: VecDeque<Box<str>>,
}

/// The addresses of a name.
#[derive(Debug)]
pub(crate) struct KnownName {
    /// Each with the time of the last answer that had it.
    addresses: Vec<(IpAddr, Tick)>,
    /// What of them is forbidden to whom.
    forbidden: Forbidden,
    /// When it was looked up.
    at: Tick,
}

impl KnownName {
    /// Whether it has an address of these networks, so that a proxy may go there.
    pub(crate) fn is_denied(&self, deny: &[IpNet]) -> bool {
        !deny.is_empty() && self.addresses.iter().any(|(ip, _)| destinations::is_denied(*ip, deny))
    }

    pub(crate) fn forbidden(&self) -> Forbidden {
        self.forbidden
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(known, _)| known.to_canonical() == ip.to_canonical())
    }
}

/// Where a name leads.
#[derive(Debug)]
pub(crate) enum Lead<'a> {
    /// The name has to be looked up.
    Unknown,
    Elsewhere,
    /// To the original destination, and perhaps to others: a proxy may choose any of its addresses.
    There(&'a KnownName),
}

#[derive(Debug)]
struct Asked {
    name: Box<str>,
    waiting: Vec<Key>,
    until: Tick,
}

impl HostCheck {
    /// Whether `name` leads to this address.
    pub(crate) fn lead(&self, name: &str, ip: IpAddr, now: Tick) -> Lead<'_> {
        match self.known.get(name) {
            Some(known) if known.has(ip) && now < known.at.saturating_add(BELIEVED) => Lead::There(known),
            // Another answer may have the address.
            Some(known) if now < known.at.saturating_add(DOUBTED) => Lead::Elsewhere,
            _ => Lead::Unknown,
        }
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

    /// A name has these addresses, or none; `judge` says what of them is forbidden. Returns the connections that waited
    /// for it.
    pub(crate) fn resolved(
        &mut self,
        name: &str,
        addresses: &[IpAddr],
        now: Tick,
        judge: impl FnOnce(&mut dyn Iterator<Item = IpAddr>) -> Forbidden,
    ) -> Vec<Key> {
        let former = self.forget(name).filter(|_| !addresses.is_empty());
        let former = former.map(|known| known.addresses).unwrap_or_default().into_iter();
        let kept = former.filter(|(ip, seen)| now < seen.saturating_add(FORMER) && !addresses.contains(ip));
        let mut all: Vec<(IpAddr, Tick)> = addresses.iter().map(|ip| (*ip, now)).collect();
        all.extend(kept.take(MOST_FORMER));
        self.make_room(all.len(), now);
        self.addresses += all.len();
        let forbidden = judge(&mut all.iter().map(|(ip, _)| *ip));
        self.known.insert(name.into(), KnownName { addresses: all, forbidden, at: now });
        let place = self.asked.iter().position(|asked| &*asked.name == name);
        place.map(|place| self.asked.swap_remove(place).waiting).unwrap_or_default()
    }

    fn forget(&mut self, name: &str) -> Option<KnownName> {
        let known = self.known.remove(name)?;
        self.addresses -= known.addresses.len();
        Some(known)
    }

    /// Makes room for another name with so many addresses: without the names that are out of date, or without all.
    fn make_room(&mut self, more: usize, now: Tick) {
        let fits = |check: &HostCheck| check.known.len() < REMEMBERED && check.addresses + more <= ADDRESSES;
        if !fits(self) {
            self.known.retain(|_, known| now < known.at.saturating_add(BELIEVED));
            self.addresses = self.known.values().map(|known| known.addresses.len()).sum();
        }
        if !fits(self) {
            self.known.clear();
            self.addresses = 0;
        }
    }

    /// A name whose look-up has timed out, and the connections that waited for it.
    pub(crate) fn expire(&mut self, now: Tick) -> Option<(Box<str>, Vec<Key>)> {
        let name = self.asked.iter().find(|asked| asked.until <= now)?.name.clone();
        self.questions.retain(|question| *question != name);
        let waiting = self.resolved(&name, &[], now, |_| Forbidden::default());
        Some((name, waiting))
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

    fn resolved(check: &mut HostCheck, name: &str, addresses: &[IpAddr], now: Tick) -> Vec<Key> {
        check.resolved(name, addresses, now, |_| Forbidden::default())
    }

    /// Whether the name leads there, if that is known.
    fn leads(check: &HostCheck, name: &str, ip: IpAddr, now: Tick) -> Option<bool> {
        match check.lead(name, ip, now) {
            Lead::Unknown => None,
            Lead::Elsewhere => Some(false),
            Lead::There(_) => Some(true),
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_name_is_asked_for_once_and_all_who_wait_are_told() {
        let mut check = HostCheck::default();
        assert!(check.ask("moose".into(), key(1), 0));
        assert!(check.ask("moose".into(), key(2), 0));
        assert_eq!(check.next_question().as_deref(), Some("moose"));
        assert_eq!(check.next_question(), None);
        assert_eq!(resolved(&mut check, "moose", &[IP], 1), [key(1), key(2)]);
        assert_eq!(leads(&check, "moose", IP, 2), Some(true));
        assert_eq!(leads(&check, "moose", "::ffff:10.0.0.1".parse().unwrap(), 2), Some(true));
        assert_eq!(leads(&check, "moose", ip(2), 2), Some(false));
        assert_eq!(leads(&check, "moose", IP, 1 + BELIEVED), None);
    }

    #[test]
    fn without_an_answer_the_name_leads_nowhere_for_a_while() {
        let mut check = HostCheck::default();
        check.ask("moose".into(), key(1), 0);
        assert_eq!(check.due(), Some(TIMEOUT));
        assert_eq!(check.expire(TIMEOUT - 1), None);
        assert_eq!(check.expire(TIMEOUT), Some(("moose".into(), vec![key(1)])));
        assert_eq!(check.next_question(), None);
        assert_eq!(leads(&check, "moose", IP, TIMEOUT), Some(false));
        assert_eq!(leads(&check, "moose", IP, TIMEOUT + DOUBTED), None);
    }

    #[test]
    fn a_name_whose_addresses_take_turns_leads_to_each_of_them() {
        let mut check = HostCheck::default();
        resolved(&mut check, "moose", &[ip(1)], 0);
        assert_eq!(leads(&check, "moose", ip(2), DOUBTED - 1), Some(false));
        assert_eq!(leads(&check, "moose", ip(2), DOUBTED), None, "the next answer may have it");
        resolved(&mut check, "moose", &[ip(2)], DOUBTED);
        for last in [1, 2] {
            assert_eq!(leads(&check, "moose", ip(last), DOUBTED), Some(true));
        }
        resolved(&mut check, "moose", &[ip(2)], FORMER);
        assert_eq!(leads(&check, "moose", ip(1), FORMER), Some(false), "it has not had that one for long");
        assert_eq!(leads(&check, "moose", ip(2), FORMER), Some(true));
        resolved(&mut check, "moose", &[], FORMER + 1);
        assert_eq!(leads(&check, "moose", ip(2), FORMER + 1), Some(false));
    }

    #[test]
    fn all_addresses_are_judged_those_of_former_answers_too() {
        let mut check = HostCheck::default();
        resolved(&mut check, "moose", &[ip(1)], 0);
        let mut seen = Vec::new();
        check.resolved("moose", &[ip(2), ip(3)], 1, |all| {
            seen.extend(all);
            Forbidden { to_others: true, ..Forbidden::default() }
        });
        assert_eq!(seen, [ip(2), ip(3), ip(1)]);
        let Lead::There(known) = check.lead("moose", ip(1), 1) else { panic!("unknown") };
        assert!(known.forbidden().to_others && !known.forbidden().to_all);
        let net = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        assert!(known.is_denied(&net("10.0.0.3/32")) && !known.is_denied(&net("10.0.0.4/30")));
    }

    #[test]
    fn neither_questions_nor_answers_grow_without_bound() {
        let mut check = HostCheck::default();
        for number in 0..ASKED {
            assert!(check.ask(format!("host{number}").into(), key(1), 0));
        }
        assert!(!check.ask("one-too-many".into(), key(1), 0));
        for number in 0..2 * REMEMBERED {
            resolved(&mut check, &format!("name{number}"), &[IP], 0);
            assert!(check.known.len() <= REMEMBERED);
        }
        let many: Vec<IpAddr> = (0..1024_u32).map(|number| IpAddr::from(number.to_be_bytes())).collect();
        for number in 0..100 {
            resolved(&mut check, &format!("crowd{}", number % 70), &many, number);
            let held: usize = check.known.values().map(|known| known.addresses.len()).sum();
            assert!(held == check.addresses && held <= ADDRESSES, "{held} {}", check.addresses);
        }
        for number in 0..100 {
            let turn: Vec<IpAddr> = (0..8).map(|last| IpAddr::from([10, 1, number, last])).collect();
            resolved(&mut check, "turns", &turn, 0);
            assert!(check.known["turns"].addresses.len() <= 8 + MOST_FORMER);
        }
    }
}
