//! The hosts that clients name: addresses are judged as destinations are, and names looked up by the resolvers while the
//! connections wait (`--host-check`).

use std::net::IpAddr;

use super::Connections;
use crate::sys::clock::Tick;
use crate::traffic::connection::{Connection, Relayed};
use crate::traffic::dialer::Dialer;
use crate::traffic::host_check::{HostCheck, Lead};
use crate::traffic::preread::Preread;
use crate::traffic::session::Session;
use crate::traffic::token::Key;

impl Connections {
    /// Answers the question of a relay, unless a name has to be looked up.
    pub(super) fn is_answered(&mut self, key: Key, host: Box<str>) -> bool {
        let now = self.time();
        match self.believes_of(key, &host) {
            Some(believed) => self.answer(key, believed),
            None => !self.host_check.ask(host, key, now) && self.answer(key, false),
        }
    }

    fn answer(&mut self, key: Key, believed: bool) -> bool {
        let relayed = self.relayed(key);
        relayed.map(|Relayed { relay, .. }| relay.answer(believed)).is_some()
    }

    /// Whether the proxy of a connection may be asked for a host; `None` if it has to be looked up.
    fn believes_of(&mut self, key: Key, host: &str) -> Option<bool> {
        let now = self.time();
        let session = match self.table.get_mut(key) {
            Some(Connection::Relayed(Relayed { session, .. }) | Connection::Preread(Preread { session, .. })) => {
                session
            }
            None => return Some(false),
        };
        believes(&mut self.dialer, &self.host_check, session, host, now)
    }

    /// The same for a connection that is not in the table.
    pub(super) fn believes(&mut self, session: &Session, host: &str) -> Option<bool> {
        let now = self.time();
        believes(&mut self.dialer, &self.host_check, session, host, now)
    }

    /// The next name that has to be looked up.
    pub(crate) fn next_question(&mut self) -> Option<Box<str>> {
        self.host_check.next_question()
    }

    /// A name has these addresses; none if it could not be resolved.
    pub(crate) fn resolved(&mut self, name: &str, addresses: &[IpAddr]) {
        let now = self.time();
        let admission = &mut self.dialer.admission;
        let waiting = self.host_check.resolved(name, addresses, now, |all| admission.forbidden(all));
        self.go_on(&waiting, name);
    }

    /// Names have had their time to be looked up.
    pub(super) fn expire_questions(&mut self) {
        let now = self.time();
        while let Some((name, waiting)) = self.host_check.expire(now) {
            self.go_on(&waiting, &name);
        }
    }

    /// The connections that waited for a name go on.
    fn go_on(&mut self, waiting: &[Key], name: &str) {
        for key in waiting {
            let believed = self.believes_of(*key, name).unwrap_or(false);
            if self.answer(*key, believed) {
                self.advance(*key);
            } else {
                self.answer_preread(*key, Some(name).filter(|_| believed));
            }
        }
    }
}

/// Whether the proxy may be asked for a host; `None` if it has to be looked up.
fn believes(dialer: &mut Dialer, host_check: &HostCheck, session: &Session, host: &str, now: Tick) -> Option<bool> {
    let service = dialer.redirections.service(session.redirection);
    let admission = &mut dialer.admission;
    if let Ok(address) = host.parse() {
        return Some(admission.permits_addresses(service, session, &[address]));
    }
    if !service.check_host {
        let addresses = service.local_names.addresses(host).unwrap_or_default();
        return Some(admission.permits_addresses(service, session, addresses));
    }
    match host_check.lead(host, session.route.original.ip(), now) {
        Lead::Unknown => None,
        Lead::Elsewhere => Some(false),
        Lead::There(known) => Some(admission.permits_name(service, session, known)),
    }
}
