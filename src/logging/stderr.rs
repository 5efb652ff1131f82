//! Standard error: a terminal, a file, a pipe, or the journal of systemd. Whoever reads it cannot hold the writer up: lines
//! that it does not take are counted, and the count is written as soon as it takes lines again.
//!
//! The journal adds a process's name and id to each line, and takes its severity from a prefix (sd-daemon(3)). Only
//! the journal gets lines of that form.

use std::env;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use log::Level;

use crate::error::Error;
use crate::logging::escape::{Escaping, escaped};
use crate::logging::losses::{Losses, is_full};
use crate::logging::syslog::severity;
use crate::sys::stderr::{self, Way};

/// Names the stream to the journal as `DEVICE:INODE` (systemd.exec(5)). A service may redirect standard error and leave
/// the variable alone, so its mere presence means nothing.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// The name of the process that copies to a standard error which cannot be written without waiting.
const COPIER: &str = "tproxy-log";

/// How long the error that ends the program waits for a reader.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Stderr {
    form: Form,
    way: Way,
    /// The end of a line of which only the beginning was taken. It comes before everything else.
    rest: Vec<u8>,
    losses: Losses,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Journal,
    Other,
}

impl Stderr {
    pub(super) fn find() -> Stderr {
        Stderr { form: Form::find(), way: stderr::prepare(COPIER), rest: Vec::new(), losses: Losses::default() }
    }

    /// That of a parent which has found and prepared it.
    pub(super) fn prepared() -> Stderr {
        Stderr { form: Form::find(), way: stderr::way(), rest: Vec::new(), losses: Losses::default() }
    }

    /// Writes a message, and before it how many were lost. `buffer` is overwritten.
    pub(super) fn write(&mut self, buffer: &mut String, identity: Identity, level: Level, text: fmt::Arguments<'_>) {
        let told = if self.losses.any() { self.catch_up(buffer, identity) } else { Ok(()) };
        let written = told.and_then(|()| {
            self.form.line(buffer, identity, level, text);
            self.send(buffer.as_bytes())
        });
        if let Err(error) = written {
            self.losses.add(is_full(&error));
        }
    }

    /// Tells how many messages were lost.
    pub(super) fn catch_up(&mut self, buffer: &mut String, identity: Identity) -> io::Result<()> {
        let text = format_args!("{}: standard error did not take them", self.losses);
        self.form.line(buffer, identity, Level::Warn, text);
        self.send(buffer.as_bytes())?;
        self.losses.told();
        Ok(())
    }

    /// Leaves it to the parent to tell what the parent has lost.
    pub(super) fn begin_child(&mut self) {
        self.rest.clear();
        self.losses.told();
    }

    pub(super) fn losses(&mut self) -> &mut Losses {
        &mut self.losses
    }

    /// There is something to tell, and it may work before the next message.
    pub(super) fn is_behind(&self) -> bool {
        self.losses.can_be_told_soon()
    }

    /// Writes a line, or none of it. What the kernel takes only in part is completed before the next one.
    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.rest.is_empty() {
            let taken = stderr::write(self.way, &self.rest)?;
            self.rest.drain(..taken);
            if !self.rest.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let taken = stderr::write(self.way, line)?;
        self.rest.extend_from_slice(line.get(taken..).unwrap_or_default());
        Ok(())
    }
}

impl Form {
    fn find() -> Form {
        let name = env::var_os(JOURNAL_STREAM);
        if name.is_some_and(|name| is_named(&name, io::stderr())) { Form::Journal } else { Form::Other }
    }

    /// Makes a line of a message.
    fn line(self, buffer: &mut String, Identity { name, pid }: Identity, level: Level, text: fmt::Arguments<'_>) {
        buffer.clear();
        // Writing to a String cannot fail.
        let _ = match self {
            Form::Journal => write!(buffer, "<{}>", severity(level) as u8),
            Form::Other => write!(buffer, "{name}[{pid}]: "),
        };
        let _ = Escaping(buffer).write_fmt(text);
        cut(buffer);
        buffer.push('\n');
    }
}

/// Shortens a line to what a pipe takes as one piece: the lines of several processes would mix otherwise.
fn cut(line: &mut String) {
    const MARK: &str = " (cut)";
    if line.len() < stderr::PIECE {
        return;
    }
    let mut end = stderr::PIECE - MARK.len() - 1;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push_str(MARK);
}

/// The name of a process in lines that do not go to the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub name: &'static str,
    pub pid: u32,
}

/// Reports the error that ends the program. Logging may not have started yet.
pub(super) fn report(error: &Error) {
    let prefix = match Form::find() {
        Form::Journal => format!("<{}>", severity(Level::Error) as u8),
        Form::Other => "tproxy: ".to_owned(),
    };
    // Nothing can be done about a standard error that is closed.
    let _ = stderr::write_within(format!("{prefix}{}\n", escaped(error)).as_bytes(), LAST_WORDS);
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
        let line = |form: Form, level, text: &str| {
            let mut buffer = String::from("before");
            let identity = Identity { name: "tproxy-worker", pid: 70 };
            form.line(&mut buffer, identity, level, format_args!("{text}"));
            buffer
        };
        assert_eq!(line(Form::Other, Level::Warn, "moose is down"), "tproxy-worker[70]: moose is down\n");
        assert_eq!(line(Form::Journal, Level::Error, "moose is down"), "<3>moose is down\n");
        assert_eq!(line(Form::Journal, Level::Warn, "moose is down"), "<4>moose is down\n");
        assert_eq!(line(Form::Journal, Level::Info, "ready"), "<6>ready\n");
        assert_eq!(line(Form::Journal, Level::Debug, "a\nb"), "<7>a\\x0ab\n");
        assert_eq!(line(Form::Other, Level::Error, "a\x1b"), "tproxy-worker[70]: a\\x1b\n");
    }

    #[test]
    fn a_line_that_no_pipe_takes_as_one_piece_is_cut_between_characters() {
        let identity = Identity { name: "tproxy", pid: 1 };
        for length in [10, 4083, 4084, 4085, 9000] {
            for character in ["a", "\u{20ac}"] {
                let (mut line, text) = (String::new(), character.repeat(length));
                Form::Other.line(&mut line, identity, Level::Info, format_args!("{text}"));
                assert!(line.len() <= stderr::PIECE && line.ends_with('\n'), "{} bytes", line.len());
                let whole = format!("tproxy[1]: {text}\n");
                assert_eq!(line == whole, whole.len() <= stderr::PIECE, "{length} of {character}");
                assert_eq!(line != whole, line.ends_with(" (cut)\n"));
            }
        }
    }
}
