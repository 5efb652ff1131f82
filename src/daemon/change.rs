//! What the guardian changes at the moment, and what it changes next.

use std::time::Instant;

use crate::config::Config;
use crate::daemon::instance::Instance;
use crate::daemon::transition::{Kind, Transition};
use crate::daemon::upgrade::Rehearsal;
use crate::error::Error;

/// The change that is under way.
#[derive(Debug)]
pub(crate) enum Change {
    Nothing,
    /// Another generation comes up.
    Transition(Transition),
    /// The next program tries whether it could take over.
    Rehearsal(Rehearsal),
    /// The next program can take over, and is executed when no work on the rules is under way.
    Execution,
}

impl Change {
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Change::Nothing)
    }

    /// A request that is to be met again after this change: the next generation may have opened its files before.
    pub(crate) fn also(&self, request: Request) -> Option<Request> {
        (!self.is_nothing()).then_some(request)
    }

    /// The names of a configuration are being resolved.
    pub(crate) fn resolves(&self) -> bool {
        matches!(self, Change::Transition(transition) if transition.resolves())
    }

    /// The configuration of a start that can begin again with another one.
    pub(crate) fn start_from(&self) -> Option<&Config> {
        match self {
            Change::Transition(transition) => transition.start_from(),
            Change::Nothing | Change::Rehearsal(_) | Change::Execution => None,
        }
    }

    /// The rules of the next generation are being installed.
    pub(crate) fn installs_rules(&self) -> bool {
        matches!(self, Change::Transition(transition) if transition.installs_rules())
    }

    /// Ends it because of something else. Returns what a transition was for, and its error.
    pub(crate) fn cancel(&mut self, why: Error, instance: &mut Instance) -> Option<(Kind, Error)> {
        match std::mem::replace(self, Change::Nothing) {
            Change::Transition(transition) => Some((transition.kind(), transition.cancel(why, instance))),
            Change::Rehearsal(rehearsal) => {
                instance.children.kill(rehearsal.pid);
                None
            }
            Change::Nothing | Change::Execution => None,
        }
    }

    /// When it has to go on at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self {
            Change::Transition(transition) => transition.due(),
            Change::Rehearsal(rehearsal) => rehearsal.limit,
            Change::Nothing | Change::Execution => None,
        }
    }
}

/// A change that was asked for while another one was under way. The greater one includes the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    /// Opens the log files again, as the other two do as well.
    ReopenLogs,
    Reload,
    /// Reads the configuration as well.
    Upgrade,
}
