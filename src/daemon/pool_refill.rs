//! When resolvers of a worker (`--host-check`) that are missing are replaced.

use std::time::{Duration, Instant};

use crate::daemon::children::Children;
use crate::daemon::generation::Generation;

/// They are replaced once in this time: a worker that was taken over could make them end at once.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct PoolRefill(Option<Instant>);

impl PoolRefill {
    /// Has missing pool resolvers started soon.
    pub(crate) fn soon(&mut self, serving: Option<&Generation>) {
        if serving.is_some_and(|serving| serving.config.checks_hosts()) {
            self.0.get_or_insert_with(|| Instant::now() + PAUSE);
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.0
    }

    /// Starts them, if it is time to.
    pub(crate) fn work(&mut self, serving: Option<&mut Generation>, children: &mut Children, now: Instant) {
        let Some(serving) = serving.filter(|_| self.0.take_if(|due| *due <= now).is_some()) else { return };
        let filled = (0..serving.slots.len()).try_for_each(|slot| serving.fill_pool(slot, children));
        if let Err(error) = filled {
            log::error!("a resolver cannot be started: {error}");
            self.0 = Some(now + PAUSE);
        }
    }
}
