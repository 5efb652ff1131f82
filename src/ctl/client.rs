//! The client's side of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::ctl::failure::CtlFailure;
use crate::ctl::json;

/// Bytes of an answer that are looked at for an error before they are shown.
const FIRST_LINE: u64 = 4096;

/// Longest answer that is kept as a whole. One with 100,000 connections has half of it.
const LONGEST: u64 = 64 << 20;

/// A connection to a control socket.
#[derive(Debug)]
pub(super) struct Client {
    reader: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Waits for the connection, and later for each part of an answer, as long as `patience`; for ever without.
    pub(super) fn connect(path: &Path, patience: Option<Duration>) -> Result<Client, CtlFailure> {
        let stream = open(path, patience).map_err(|error| CtlFailure::NoAnswer(unreachable(path, error)))?;
        Ok(Client { reader: BufReader::with_capacity(64 * 1024, stream), path: path.to_owned() })
    }

    /// Sends a line.
    pub(super) fn ask(&mut self, line: &str) -> Result<(), CtlFailure> {
        match self.reader.get_mut().write_all(line.as_bytes()) {
            // A daemon that has closed the connection has said why before.
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(self.broken(&error))
            }
            _ => Ok(()),
        }
    }

    /// The first line of an answer, or as much as there is room for. It is not empty.
    pub(super) fn first_line(&mut self) -> Result<Vec<u8>, CtlFailure> {
        let mut line = Vec::new();
        let result = self.reader.by_ref().take(FIRST_LINE).read_until(b'\n', &mut line);
        result.map_err(|error| self.broken(&error))?;
        match refusal(&line) {
            Some(sentence) => Err(CtlFailure::Refused(sentence)),
            None if line.is_empty() => Err(self.no_answer("the connection was closed without an answer")),
            None => Ok(line),
        }
    }

    /// Copies the answer to the only command of a connection.
    pub(super) fn copy_answer(&mut self, to: &mut dyn Write) -> Result<(), CtlFailure> {
        let mut part = self.first_line()?;
        let mut is_whole = false;
        while !part.is_empty() {
            is_whole = part.ends_with(b"\n");
            make_printable(&mut part);
            if !write(to, &part)? {
                return Ok(());
            }
            part = match self.reader.fill_buf() {
                Ok(bytes) => bytes.to_vec(),
                Err(error) => return Err(self.broken(&error)),
            };
            self.reader.consume(part.len());
        }
        if is_whole { Ok(()) } else { Err(self.no_answer("the answer breaks off")) }
    }

    /// Asks for events and copies them as they come, until the daemon ends, or nobody reads them any more. The first one is
    /// there at once.
    pub(super) fn follow(
        mut self,
        line: &str,
        patience: Option<Duration>,
        to: &mut (impl Write + AsFd),
    ) -> Result<(), CtlFailure> {
        self.ask(line)?;
        let mut first = self.first_line()?;
        while self.copy_lines(first, to)? {
            // After an upgrade another process answers, at the same place.
            let ended = self.no_answer("the instance has ended");
            let Ok(mut next) = Client::connect(&self.path, patience) else { return Err(ended) };
            next.ask(line)?;
            first = match next.first_line() {
                Err(CtlFailure::NoAnswer(_)) => return Err(ended),
                result => result?,
            };
            self = next;
        }
        Ok(())
    }

    /// Copies lines until there are no more. Returns `false` if nobody reads them any more.
    fn copy_lines(&mut self, mut line: Vec<u8>, to: &mut (impl Write + AsFd)) -> Result<bool, CtlFailure> {
        self.reader.get_ref().set_read_timeout(None).map_err(|error| self.broken(&error))?;
        loop {
            make_printable(&mut line);
            if !write(to, &line)? || !self.is_followed(to.as_fd()) {
                return Ok(false);
            }
            line.clear();
            if !matches!(self.reader.by_ref().take(FIRST_LINE).read_until(b'\n', &mut line), Ok(1..)) {
                return Ok(true);
            }
        }
    }

    /// Waits for more of the answer. Returns `false` if the reader of what is printed has gone first: `grep -m 1` does not
    /// wait for a line that it does not want.
    fn is_followed(&self, output: BorrowedFd) -> bool {
        while self.reader.buffer().is_empty() {
            // The end of a pipe that is read by nobody has an error without being asked for it (poll(2)).
            let mut both = [
                PollFd::new(self.reader.get_ref().as_fd(), PollFlags::POLLIN),
                PollFd::new(output, PollFlags::empty()),
            ];
            match poll(&mut both, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                _ => return !both[1].any().unwrap_or(false),
            }
        }
        true
    }

    /// Reads one answer of many after `prompt`: up to an empty line.
    pub(super) fn one_of_many(&mut self) -> Result<String, CtlFailure> {
        let mut text = String::new();
        let mut limited = self.reader.by_ref().take(LONGEST);
        loop {
            let before = text.len();
            match limited.read_line(&mut text) {
                Ok(0) => return Err(self.no_answer("the instance has ended")),
                Ok(_) if text.get(before..) == Some("\n") => break,
                Ok(_) => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
        match refusal(text.as_bytes()) {
            Some(sentence) => Err(CtlFailure::Refused(sentence)),
            None => Ok(text),
        }
    }

    fn broken(&self, error: &io::Error) -> CtlFailure {
        match error.kind() {
            ErrorKind::WouldBlock => self.no_answer("no answer in time"),
            _ => self.no_answer(&error.to_string()),
        }
    }

    fn no_answer(&self, why: &str) -> CtlFailure {
        CtlFailure::NoAnswer(format!("{}: {why}", self.path.display()))
    }
}

/// Writes to standard output. Returns `false` if the reader has gone: it has seen enough.
pub(super) fn write(to: &mut dyn Write, bytes: &[u8]) -> Result<bool, CtlFailure> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).map_err(|error| CtlFailure::Refused(format!("standard output: {error}"))),
    }
}

/// Connects. `SO_SNDTIMEO` also bounds connect(2), which waits while the queue of the socket is full (unix(7)).
fn open(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(patience) = patience {
        let limit = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    }
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn unreachable(path: &Path, error: io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{path}: there is no such socket: tproxy does not run, or has another --control")
        }
        ErrorKind::ConnectionRefused => format!("{path}: nobody listens on it: tproxy does not run any more"),
        ErrorKind::PermissionDenied => {
            format!("{path}: permission denied: only root and the group of --control-group may connect")
        }
        ErrorKind::WouldBlock => format!("{path}: no answer in time"),
        _ => format!("{path}: {error}"),
    }
}

/// The sentence of an answer that is an error.
fn refusal(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    if let Some(sentence) = text.strip_prefix("error: ") {
        return Some(sentence.trim_end().to_owned());
    }
    if !text.starts_with("{\"error\":") {
        return None;
    }
    json::parse(&text).and_then(|document| Some(document.text("error")?.to_owned()))
}

/// The process that answers faces clients. What it says must not reach the terminal as anything but text.
fn make_printable(bytes: &mut [u8]) {
    let is_control = |byte: u8| byte.is_ascii_control() && byte != b'\n' && byte != b'\t';
    bytes.iter_mut().filter(|byte| is_control(**byte)).for_each(|byte| *byte = b'?');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_answers() {
        assert_eq!(refusal(b"error: permission denied\n").as_deref(), Some("permission denied"));
        assert_eq!(refusal(b"{\"error\":\"a \\\"b\\\"\"}\n").as_deref(), Some("a \"b\""));
        assert_eq!(refusal(b"errors 5\n"), None);
        assert_eq!(refusal(b"{\"errors\":[]}\n"), None);
    }

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        let mut text = *b"a\x1b[2J\r\tb\n";
        make_printable(&mut text);
        assert_eq!(&text, b"a?[2J?\tb\n");
    }
}
