//! A change under way: the next configuration, or the next program, coming up beside what serves.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::children::Child;
use crate::daemon::generation::Generation;
use crate::rules::ruleset::RuleSet;

/// A reload under way.
#[derive(Debug)]
pub(crate) struct Reload {
    /// When it has taken too long.
    pub limit: Instant,
    /// How far it has come.
    pub step: Step,
}

/// The steps of a reload.
#[derive(Debug)]
pub(crate) enum Step {
    /// The names of the new configuration are being resolved.
    Resolving(Box<Config>),
    /// Its workers are starting.
    Starting(Box<Generation>),
    /// Its rules are being installed; the former ones, to go back to.
    Ruling(Box<Generation>, Option<RuleSet>),
}

impl Reload {
    /// When it has taken too long.
    pub(crate) fn due(&self) -> Instant {
        self.limit
    }

    fn generation(&mut self) -> Option<&mut Generation> {
        match &mut self.step {
            Step::Resolving(_) => None,
            Step::Starting(generation) | Step::Ruling(generation, _) => Some(generation),
        }
    }

    /// The new workers.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Child> {
        let generation = match &self.step {
            Step::Resolving(_) => None,
            Step::Starting(generation) | Step::Ruling(generation, _) => Some(generation),
        };
        generation.into_iter().flat_map(|generation| generation.children())
    }

    /// One of the new workers takes connections.
    pub(crate) fn ready(&mut self, pid: u32) {
        let Some(generation) = self.generation() else { return };
        for slot in generation.slots.iter_mut().filter(|slot| slot.child.as_ref().is_some_and(|child| child.is(pid))) {
            slot.ready = true;
        }
    }

    /// A child has died. Whether it was one of the new workers.
    pub(crate) fn lost(&mut self, pid: Pid) -> bool {
        let Some(generation) = self.generation() else { return false };
        let Some(slot) =
            generation.slots.iter_mut().find(|slot| slot.child.as_ref().is_some_and(|child| child.pid == pid))
        else {
            return false;
        };
        slot.child = None;
        true
    }
}

/// A guardian that is to replace this one.
#[derive(Debug)]
pub(crate) struct Successor {
    /// Its process.
    pub process: std::process::Child,
    /// Where it reports.
    pub report: OwnedFd,
    /// When it has taken too long.
    pub limit: Instant,
    /// Whether it has been told to end for that.
    pub dismissed: bool,
}

impl Successor {
    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }
}
