//! Errors of tproxyctl.

use std::fmt;

/// Why tproxyctl failed, with a sentence for the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CtlFailure {
    /// The command line cannot be used.
    Usage(String),
    /// The daemon has answered that it does not do this.
    Refused(String),
    /// There is no answer.
    NoAnswer(String),
}

impl CtlFailure {
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            CtlFailure::Usage(_) => 64,
            CtlFailure::Refused(_) => 1,
            CtlFailure::NoAnswer(_) => 2,
        }
    }
}

impl fmt::Display for CtlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (CtlFailure::Usage(sentence) | CtlFailure::Refused(sentence) | CtlFailure::NoAnswer(sentence)) = self;
        f.write_str(sentence)
    }
}
