//! Connections as they are listed, and reset on demand: piece by piece.

use super::Connections;
use crate::relay::close::CloseReason;
use crate::traffic::connection::{Connection, Relayed};
use crate::traffic::listing::{Condemned, ConnectionState, ListedConnection, PIECE, SEARCH};
use crate::traffic::preread::PrereadStep;
use crate::traffic::session::Session;

impl Connections {
    /// The connections in the slots from `first` on, a bounded number of them, and where to go on.
    pub(crate) fn list(&mut self, first: u32) -> (Vec<ListedConnection>, Option<u32>) {
        let after = first.saturating_add(PIECE).min(self.table.slots());
        let now = self.milliseconds;
        let mut list = Vec::new();
        for slot in first..after {
            let Some(connection) = self.table.key_at(slot).and_then(|key| self.table.get_mut(key)) else { continue };
            let (session, state, moved) = match connection {
                Connection::Preread(preread) => (&preread.session, ConnectionState::Preread, (0, 0)),
                Connection::Relayed(Relayed { session, relay, .. }) => {
                    let state = if relay.is_connecting() {
                        ConnectionState::Connecting
                    } else if relay.is_in_handshake() {
                        ConnectionState::Handshake
                    } else {
                        ConnectionState::Open
                    };
                    (&*session, state, relay.moved())
                }
            };
            let Session { id, started, redirection, route, .. } = session;
            let age = now.saturating_sub(*started);
            list.push(ListedConnection {
                id: id.number(),
                age,
                redirection: *redirection,
                state,
                route: *route,
                moved,
            });
        }
        (list, (after < self.table.slots()).then_some(after))
    }

    /// Resets those in the slots from `first` on that are condemned, and says how many, and where to go on.
    pub(crate) fn kill(&mut self, first: u32, which: &Condemned) -> (u32, Option<u32>) {
        let after = first.saturating_add(SEARCH).min(self.table.slots());
        let mut count = 0;
        for slot in first..after {
            let Some(key) = self.table.key_at(slot) else { continue };
            let is_condemned = |session: &Session| which.includes(session.id.number(), session.route.client);
            match self.table.get_mut(key) {
                Some(Connection::Preread(preread)) if is_condemned(&preread.session) => {
                    self.remove_preread(key, PrereadStep::Close(CloseReason::Killed));
                }
                Some(Connection::Relayed(relayed)) if is_condemned(&relayed.session) => {
                    self.close(key, &CloseReason::Killed);
                }
                _ => continue,
            }
            count += 1;
            if matches!(which, Condemned::Connection(_)) {
                return (count, None);
            }
        }
        (count, (after < self.table.slots()).then_some(after))
    }
}
