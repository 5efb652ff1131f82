//! A change under way: the next configuration, or the next program, coming up beside what serves.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::shift::Shift;
use crate::daemon::spawn::Child;
use crate::rules::rule::RuleSet;

/// A reload under way.
#[derive(Debug)]
pub struct Reload {
    /// When it has taken too long.
    pub limit: Instant,
    /// How far it has come.
    pub step: Step,
}

/// The steps of a reload.
#[derive(Debug)]
pub enum Step {
    /// The names of the new configuration are being resolved.
    Resolving(Box<Config>),
    /// Its workers are starting.
    Starting(Box<Shift>),
    /// Its rules are being installed; the former ones, to go back to.
    Ruling(Box<Shift>, Option<RuleSet>),
}

impl Reload {
    /// When it has taken too long.
    pub fn due(&self) -> Instant {
        self.limit
    }

    fn shift(&mut self) -> Option<&mut Shift> {
        match &mut self.step {
            Step::Resolving(_) => None,
            Step::Starting(shift) | Step::Ruling(shift, _) => Some(shift),
        }
    }

    /// The new workers.
    pub fn children(&self) -> impl Iterator<Item = &Child> {
        let shift = match &self.step {
            Step::Resolving(_) => None,
            Step::Starting(shift) | Step::Ruling(shift, _) => Some(shift),
        };
        shift.into_iter().flat_map(|shift| shift.children())
    }

    /// One of the new workers takes connections.
    pub fn ready(&mut self, pid: u32) {
        let Some(shift) = self.shift() else { return };
        for post in shift.posts.iter_mut().filter(|post| post.child.as_ref().is_some_and(|child| child.is(pid))) {
            post.ready = true;
        }
    }

    /// A child has died. Whether it was one of the new workers.
    pub fn lost(&mut self, pid: Pid) -> bool {
        let Some(shift) = self.shift() else { return false };
        let Some(post) = shift.posts.iter_mut().find(|post| post.child.as_ref().is_some_and(|child| child.pid == pid))
        else {
            return false;
        };
        post.child = None;
        true
    }
}

/// A guardian that is to replace this one.
#[derive(Debug)]
pub struct Successor {
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
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }
}
