//! The host names of requests (`--host-check`): looked up by the resolvers, while the connections wait.

use std::net::IpAddr;

use super::Connections;
use crate::traffic::connection::{Connection, Relayed};
use crate::traffic::token::Key;

impl Connections {
    /// Answers the question of a relay, unless the name has to be looked up.
    pub(super) fn is_answered(&mut self, key: Key, name: Box<str>) -> bool {
        let now = self.time();
        let Some(Connection::Relayed(Relayed { session, relay, .. })) = self.table.get_mut(key) else { return false };
        let genuine = match self.host_check.leads_to(&name, session.route.original.ip(), now) {
            Some(genuine) => genuine,
            None if self.host_check.ask(name, key, now) => return false,
            None => false,
        };
        relay.answer(genuine);
        true
    }

    /// The next name that has to be looked up.
    pub(crate) fn next_question(&mut self) -> Option<Box<str>> {
        self.host_check.next_question()
    }

    /// A name has these addresses; none if it could not be resolved.
    pub(crate) fn resolved(&mut self, name: &str, addresses: Vec<IpAddr>) {
        let now = self.time();
        let waiting = self.host_check.resolved(name, addresses.clone(), now);
        self.answer(&waiting, &addresses);
    }

    pub(super) fn answer(&mut self, waiting: &[Key], addresses: &[IpAddr]) {
        for key in waiting {
            if let Some(Relayed { session, relay, .. }) = self.relayed(*key) {
                relay.answer(addresses.contains(&session.route.original.ip()));
                self.advance(*key);
            }
        }
    }
}
