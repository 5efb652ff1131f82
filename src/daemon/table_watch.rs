//! Notices at once when others change an nft table that belongs to nobody: that of `--fail closed`, or any where the kernel
//! knows no owners. The comparison that follows says what has changed; without this it comes every `--verify` seconds.

use std::time::{Duration, Instant};

use crate::daemon::children::Children;
use crate::rules::snapshot::Snapshot;
use crate::sys::nft_events::NftEvents;

/// The least time between two comparisons because of events: another program may change its rules all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// The tables that are watched, and the socket that tells of changes.
#[derive(Debug, Default)]
pub(crate) struct TableWatch {
    tables: Vec<String>,
    events: Option<NftEvents>,
    /// When the last comparison because of an event was due.
    last: Option<Instant>,
}

impl TableWatch {
    /// Watches the tables of this snapshot that others can change; none if rules are never compared.
    pub(crate) fn follow(&mut self, snapshot: &str, compares: bool, children: &Children) {
        let found = Snapshot::from_text(snapshot).filter(|_| compares).unwrap_or_default();
        let open = found.nft.into_iter().filter(|table| !table.is_owned);
        self.tables = open.map(|table| table.name).collect();
        if self.tables.is_empty() {
            self.events = None;
        } else if self.events.is_none() {
            let opened = NftEvents::open().and_then(|events| children.listen_for_rules(&events).map(|()| events));
            // They are compared from time to time all the same.
            self.events = opened.inspect_err(|error| log::debug!("events of nft: {error}")).ok();
        }
    }

    /// Something has come. Returns when to compare the rules because of it.
    pub(crate) fn heard(&mut self) -> Option<Instant> {
        self.events.as_ref().filter(|events| events.name_any(&self.tables))?;
        let now = Instant::now();
        let due = self.last.map_or(now, |last| now.max(last + PAUSE));
        self.last = Some(due);
        self.last
    }
}
