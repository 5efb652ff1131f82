//! A standard error for the daemon that a test reads when it likes, or not at all.

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

/// Both ends of a standard error.
pub struct Sink {
    writer: OwnedFd,
    /// The end at which the test reads.
    pub reader: File,
    /// What was read and is no whole line yet.
    begun: Vec<u8>,
}

impl Sink {
    /// From two ends that the test has made.
    pub fn new(writer: impl Into<OwnedFd>, reader: impl Into<OwnedFd>) -> Sink {
        let reader = File::from(reader.into());
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("F_SETFL");
        Sink { writer: writer.into(), reader, begun: Vec::new() }
    }

    /// A pipe that holds one page.
    pub fn pipe() -> Sink {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("F_SETPIPE_SZ");
        Sink::new(writer, reader)
    }

    /// A terminal.
    pub fn terminal() -> Sink {
        let terminal = nix::pty::openpty(None, None).expect("openpty");
        for end in [&terminal.master, &terminal.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("F_SETFD");
        }
        Sink::new(terminal.slave, terminal.master)
    }

    /// The end for the daemon.
    pub fn stdio(&self) -> Stdio {
        self.writer.try_clone().expect("dup").into()
    }

    /// Whether the description that the daemon shares with the test is as it was: blocking.
    pub fn is_blocking(&self) -> bool {
        let flags = fcntl(self.writer.as_fd(), FcntlArg::F_GETFL).expect("F_GETFL");
        !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
    }

    /// The whole lines that have come since the last look.
    pub fn lines(&mut self) -> Vec<String> {
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = self.reader.read(&mut buffer) {
            self.begun.extend_from_slice(&buffer[..count]);
        }
        let end = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.begun.drain(..end).collect();
        String::from_utf8(whole).expect("UTF-8").lines().map(str::to_owned).collect()
    }
}

/// The number in a line that tells a loss.
pub fn lost(line: &str) -> Option<usize> {
    let told = line.split_once("]: ")?.1.split_once(" log line")?;
    told.1.contains("lost: standard error did not take them").then(|| told.0.parse().expect("a number"))
}
