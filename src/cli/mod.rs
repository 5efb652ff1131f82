//! The command line as typed: the table of options and what is made from it.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) mod completions;
pub(crate) mod document;
pub(crate) mod option;
pub(crate) mod options;
pub(crate) mod parse;
pub(crate) mod quoting;
pub(crate) mod relations;

/// A command line with all it takes to read it again: a reload and an upgrade do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// The words as they were typed, without the name of the program.
    pub arguments: Vec<OsString>,
    /// The directory in which they were typed; relative paths start there.
    pub directory: PathBuf,
}

/// The files that are made from the table of options, with their text. Where a file has parts written by hand, the text
/// is what stands between the two lines of [`MARKS`].
pub fn generated() -> Vec<(&'static str, String)> {
    vec![
        ("man/tproxy.8", document::manual_options()),
        ("man/tproxy.conf.5", document::manual_scopes()),
        ("scripts/completions/tproxy.bash", completions::bash()),
        ("scripts/completions/_tproxy", completions::zsh()),
        ("scripts/completions/tproxy.fish", completions::fish()),
    ]
}

/// What stands around generated text in a page that is written by hand.
pub const MARKS: (&str, &str) =
    (".\\\" OPTIONS: made from src/cli/options.rs by `make man`, do not edit\n", ".\\\" END OPTIONS\n");
