//! The command line as typed: the table of options and what is made from it.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) mod options;

/// A command line with all it takes to read it again: a reload and an upgrade do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// The words as they were typed, without the name of the program.
    pub arguments: Vec<OsString>,
    /// The directory in which they were typed; relative paths start there.
    pub directory: PathBuf,
}
