//! One line per connection when it is closed: in the file of `-l`, else in the log.

use std::fmt::{self, Write as _};
use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;
use crate::logging::{self, Limiter, Timestamp};
use crate::sys::files;
use crate::traffic::session::{ConnectionId, Route, Session};

/// Bytes gathered before they are written; a turn of the loop writes what there is anyway.
const GATHER: usize = 16 * 1024;

/// The access log of a worker.
#[derive(Debug)]
pub(crate) struct AccessLog {
    worker: u32,
    file: Option<File>,
    lines: String,
    /// The last line in the file is a torn one.
    torn: bool,
    /// Lines that could not be written, until that has been told.
    lost: usize,
    limiter: Limiter,
}

/// A line of the log. Its `Display` has the fields in the order that the man page gives.
#[derive(Clone, Copy)]
pub(crate) struct LogRecord<'a> {
    pub session: &'a Session,
    /// Bytes delivered to the upstream and to the client.
    pub moved: (u64, u64),
    /// Milliseconds from accept to close.
    pub lasted: u64,
    pub reason: &'a dyn fmt::Display,
}

impl fmt::Display for LogRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogRecord { session: Session { id, route, .. }, moved: (up, down), lasted, reason } = self;
        let Route { client, original, local, upstream } = route;
        let (seconds, thousandths) = (lasted / 1000, lasted % 1000);
        write!(f, "{id} {client} {original} {local} {upstream} {up} {down} {seconds}.{thousandths:03} {reason}")
    }
}

/// Opens the file of `-l` for appending, readable by its owner's group only. Neither this nor writing to it ever waits.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    // A second name of the file could be that of any file of root, given by whoever may write to the directory.
    let accepts = |about: &Metadata| about.is_file() && about.nlink() <= 1 || files::is_null(about);
    let file = files::open(path, File::options().append(true).create(true).mode(0o640), accepts);
    let file = file.map_err(|error| Error::file(path.display().to_string(), error))?;
    let expected = "a regular file with one name (no link, FIFO, terminal or other device), or /dev/null";
    file.ok_or_else(|| Error::value("-l", path.display().to_string(), expected))
}

impl AccessLog {
    /// That of the worker with this number. Writes to `file`, or to the log when there is none.
    pub(crate) fn new(worker: u32, file: Option<File>) -> AccessLog {
        let lines = String::with_capacity(GATHER + 512);
        AccessLog { worker, file, lines, torn: false, lost: 0, limiter: Limiter::new() }
    }

    /// The number of the worker's first connection.
    pub(crate) fn first_id(&self) -> ConnectionId {
        ConnectionId::first(self.worker)
    }

    /// Goes on in another file.
    pub(crate) fn reopen(&mut self, file: File) {
        self.flush();
        self.file = Some(file);
        self.torn = false;
    }

    pub(crate) fn write(&mut self, entry: &LogRecord<'_>) {
        if self.file.is_none() {
            log::info!("{entry}");
            return;
        }
        let start = self.lines.len();
        // Writing to a String cannot fail.
        let _ = write!(self.lines, "{} {entry}", Timestamp::now());
        logging::escape_from(&mut self.lines, start);
        self.lines.push('\n');
        if self.lines.len() >= GATHER {
            self.flush();
        }
    }

    /// Hands the gathered lines to the kernel.
    pub(crate) fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        if self.lines.is_empty() {
            return;
        }
        if self.torn {
            self.lines.insert(0, '\n');
        }
        let (written, result) = write_all(file, self.lines.as_bytes());
        let (done, left) = self.lines.as_bytes().split_at(written);
        if let Some(last) = done.last() {
            self.torn = *last != b'\n';
        }
        self.lost += left.iter().filter(|byte| **byte == b'\n').count();
        self.lines.clear();
        self.tell_losses(result.err());
    }

    /// Tells how many lines were lost: once in a while as long as writing fails, and when it works again.
    fn tell_losses(&mut self, error: Option<io::Error>) {
        let lost = match self.lost {
            0 => return,
            1 => "1 line was lost".to_owned(),
            count => format!("{count} lines were lost"),
        };
        match error {
            Some(_) if self.limiter.pass().is_none() => return,
            Some(error) => log::warn!("access log: {error}: {lost}"),
            None => log::warn!("access log: {lost}; it can be written again"),
        }
        self.lost = 0;
    }
}

/// Writes as much as can be written, and tells how much that was.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirection::RedirectionId;
    use crate::traffic::compact_addr::CompactAddr;
    use std::net::SocketAddr;

    #[test]
    fn the_fields_stand_in_their_documented_order() {
        let endpoint = |text: &str| CompactAddr::from(text.parse::<SocketAddr>().unwrap());
        let route = Route {
            client: endpoint("10.1.0.2:51234"),
            original: CompactAddr::UNKNOWN,
            local: endpoint("10.3.0.1:40000"),
            upstream: endpoint("[fd00::3]:80"),
        };
        let mut id = AccessLog::new(3, None).first_id();
        (0..41).for_each(|_| _ = id.take());
        let session = Session {
            id,
            started: 0,
            redirection: RedirectionId(0),
            counted: false,
            from_elsewhere: false,
            as_client: false,
            route,
        };
        let entry = LogRecord { session: &session, moved: (78, 1024), lasted: 1_012, reason: &"finished" };
        assert_eq!(entry.to_string(), "#3-42 10.1.0.2:51234 - 10.3.0.1:40000 [fd00::3]:80 78 1024 1.012 finished");
    }
}
