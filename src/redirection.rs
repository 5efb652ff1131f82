//! The number of a redirection, the same in the configuration, the rules, the processes and the log.

use std::fmt;

/// Which redirection of a configuration: its place there, from 0. Shown from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedirectionId(pub u16);

impl RedirectionId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl From<usize> for RedirectionId {
    /// A configuration has at most 65,536 redirections: `config` refuses more.
    fn from(index: usize) -> RedirectionId {
        RedirectionId(index as u16)
    }
}

impl fmt::Display for RedirectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u32::from(self.0) + 1)
    }
}
