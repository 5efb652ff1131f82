//! The errors of the whole process: a sentence for the user, and an exit status for scripts.
//!
//! The errors of a single connection are in [`crate::relay::close::CloseReason`].

use std::fmt;
use std::io;

/// What the tools of both variants say to a root without `CAP_NET_ADMIN` (iptables, `strerror` of its libraries).
const NOT_PERMITTED: &str = "you must be root";

/// An error of the whole process. `Display` gives the sentence for the user.
#[derive(Debug)]
pub enum Error {
    /// The command line cannot be used.
    Usage(String),
    /// One option has a value that cannot be used.
    Value {
        /// With its dashes, for example `--connect-timeout`.
        option: String,
        given: String,
        expected: String,
    },
    /// Only root may do this.
    Privilege(String),
    /// A firewall command failed.
    Firewall {
        /// The command with its arguments.
        command: String,
        /// How it ended, for example `exit status: 2`.
        status: String,
        /// What it wrote to its standard error.
        said: String,
    },
    /// A system call failed.
    Sys {
        /// What was being done, for example `listening on 0.0.0.0:80`.
        doing: String,
        source: io::Error,
    },
    /// A file could not be created or written.
    File { path: String, source: io::Error },
    /// A line of a configuration file cannot be used.
    InFile {
        file: String,
        /// Counted from 1.
        line: usize,
        error: Box<Error>,
    },
    /// A name has no address.
    NoHost(String),
    /// Another process has what is needed, for example the port.
    Taken(String),
    /// A part of tproxy itself failed.
    Failed(String),
    /// Another process of tproxy failed and said this.
    Reported {
        /// Its exit status.
        status: u8,
        /// Its sentence.
        sentence: String,
    },
}

impl Error {
    /// A bad value of an option, in the order of the sentence.
    pub fn value(option: impl Into<String>, given: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Value { option: option.into(), given: given.into(), expected: expected.into() }
    }

    /// A failed system call, with what it was for.
    pub fn sys(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Sys { doing: doing.into(), source: source.into() }
    }

    /// A file that could not be created or written.
    pub fn file(path: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::File { path: path.into(), source: source.into() }
    }

    /// The same, found in a line of a file.
    pub fn in_file(self, file: &str, line: usize) -> Error {
        Error::InFile { file: file.to_owned(), line, error: Box::new(self) }
    }

    /// The exit status, after sysexits(3).
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Value { .. } => 64,
            Error::NoHost(_) => 68,
            Error::Taken(_) => 69,
            Error::Failed(_) => 70,
            Error::Sys { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Error::Firewall { said, .. } if said.contains(NOT_PERMITTED) => 77,
            Error::Sys { .. } | Error::Firewall { .. } => 71,
            Error::File { .. } => 73,
            Error::InFile { error, .. } => error.exit_status(),
            Error::Privilege(_) => 77,
            Error::Reported { status, .. } => *status,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(sentence)
            | Error::Privilege(sentence)
            | Error::NoHost(sentence)
            | Error::Taken(sentence)
            | Error::Failed(sentence) => f.write_str(sentence),
            Error::Value { option, given, expected } => {
                write!(f, "{option}: invalid value '{given}': expected {expected}")
            }
            Error::InFile { file, line, error } => write!(f, "{file}:{line}: {error}"),
            Error::Firewall { command, status, said } => {
                let said = said.trim().replace('\n', "; ");
                let colon = if said.is_empty() { "" } else { ": " };
                write!(f, "`{command}` failed ({status}){colon}{said}")?;
                if said.contains(NOT_PERMITTED) {
                    f.write_str("; CAP_NET_ADMIN is missing here, or CAP_NET_RAW for the legacy variant")?;
                }
                Ok(())
            }
            Error::Sys { doing, source } => write!(f, "{doing}: {source}"),
            Error::File { path, source } => write!(f, "{path}: {source}"),
            Error::Reported { sentence, .. } => f.write_str(sentence),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Sys { source, .. } | Error::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_names_the_option_what_was_given_and_what_is_expected() {
        let error = Error::value("--drain", "soon", "a number of seconds");
        assert_eq!(error.to_string(), "--drain: invalid value 'soon': expected a number of seconds");
        assert_eq!(error.exit_status(), 64);
    }

    #[test]
    fn a_failed_firewall_command_keeps_its_words_on_one_line() {
        let error = Error::Firewall {
            command: "iptables-restore".into(),
            status: "exit status: 2".into(),
            said: "a\nb\n".into(),
        };
        assert_eq!(error.to_string(), "`iptables-restore` failed (exit status: 2): a; b");
    }
}
