//! Standard error: a terminal, a file, or the journal of systemd.
//!
//! The journal adds a process's name and id to each line, and takes its severity from a prefix (sd-daemon(3)). Only
//! the journal gets lines of that form.

use std::env;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use log::Level;

use crate::error::Error;
use crate::logging::escape::{Escaping, escaped};
use crate::logging::syslog::severity;

/// Names the stream to the journal as `DEVICE:INODE` (systemd.exec(5)). A service may redirect standard error and leave
/// the variable alone, so its mere presence means nothing.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stderr {
    Journal,
    Other,
}

impl Stderr {
    pub(super) fn find() -> Stderr {
        let name = env::var_os(JOURNAL_STREAM);
        if name.is_some_and(|name| is_named(&name, io::stderr())) { Stderr::Journal } else { Stderr::Other }
    }

    /// Writes a message. `buffer` is overwritten.
    pub(super) fn write(self, buffer: &mut String, identity: Identity, level: Level, text: fmt::Arguments<'_>) {
        self.format(buffer, identity, level, text);
        // Nothing can be done about a standard error that is closed.
        let _ = io::stderr().write_all(buffer.as_bytes());
    }

    fn format(self, buffer: &mut String, Identity { name, pid }: Identity, level: Level, text: fmt::Arguments<'_>) {
        buffer.clear();
        // Writing to a String cannot fail.
        let _ = match self {
            Stderr::Journal => write!(buffer, "<{}>", severity(level) as u8),
            Stderr::Other => write!(buffer, "{name}[{pid}]: "),
        };
        let _ = Escaping(buffer).write_fmt(text);
        buffer.push('\n');
    }
}

/// The name of a process in lines that do not go to the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub name: &'static str,
    pub pid: u32,
}

/// Reports the error that ends the program. Logging may not have started yet.
pub(crate) fn report(error: &Error) {
    let prefix = match Stderr::find() {
        Stderr::Journal => format!("<{}>", severity(Level::Error) as u8),
        Stderr::Other => "tproxy: ".to_owned(),
    };
    let _ = writeln!(io::stderr(), "{prefix}{}", escaped(error));
}

fn is_named(name: &OsStr, stream: impl AsFd) -> bool {
    let Ok(file) = nix::sys::stat::fstat(stream) else { return false };
    *name == *format!("{}:{}", file.st_dev, file.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_journal_only_if_device_and_inode_are_those_of_the_variable() {
        let ((pipe, _a), (other, _b)) = (nix::unistd::pipe().unwrap(), nix::unistd::pipe().unwrap());
        let file = nix::sys::stat::fstat(&pipe).unwrap();
        let named = |name: String| is_named(OsStr::new(&name), &pipe);
        assert!(named(format!("{}:{}", file.st_dev, file.st_ino)));
        assert!(!named(format!("{}:{}", file.st_dev + 1, file.st_ino)));
        assert!(!named(format!("{}:{}", file.st_dev, file.st_ino + 1)));
        for name in ["", ":", "0:0", "journal", "1:2:3"] {
            assert!(!named(name.to_owned()), "{name}");
        }
        assert!(!is_named(OsStr::new(&format!("{}:{}", file.st_dev, file.st_ino)), &other));
    }

    #[test]
    fn the_journal_gets_a_severity_and_all_others_a_name() {
        let line = |stderr: Stderr, level, text: &str| {
            let mut buffer = String::from("before");
            let identity = Identity { name: "tproxy-worker", pid: 70 };
            stderr.format(&mut buffer, identity, level, format_args!("{text}"));
            buffer
        };
        assert_eq!(line(Stderr::Other, Level::Warn, "moose is down"), "tproxy-worker[70]: moose is down\n");
        assert_eq!(line(Stderr::Journal, Level::Error, "moose is down"), "<3>moose is down\n");
        assert_eq!(line(Stderr::Journal, Level::Warn, "moose is down"), "<4>moose is down\n");
        assert_eq!(line(Stderr::Journal, Level::Info, "ready"), "<6>ready\n");
        assert_eq!(line(Stderr::Journal, Level::Debug, "a\nb"), "<7>a\\x0ab\n");
        assert_eq!(line(Stderr::Other, Level::Error, "a\x1b"), "tproxy-worker[70]: a\\x1b\n");
    }
}
