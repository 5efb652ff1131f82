//! An nft(8) that stays, and to which the tables belong that it has made with `flags owner`: the kernel lets nobody else
//! change them, and removes them when it ends (`nf_tables_newtable` and `nft_rcv_nl_event`,
//! net/netfilter/nf_tables_api.c).

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::sys::{inherited, process, reset};

/// How long one transaction may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A running nft that reads commands from its standard input.
#[derive(Debug)]
pub(crate) struct NftSession {
    child: Child,
    commands: ChildStdin,
    said: ChildStderr,
    /// The transaction. nft reads it by this descriptor: a line that is typed would be limited in length.
    file: File,
    descriptor: OwnedFd,
    count: u64,
}

impl NftSession {
    pub(crate) fn start(program: &Path) -> Result<NftSession, Error> {
        let failed = |error| Error::sys(format!("starting {}", program.display()), error);
        process::keep_descriptors().map_err(failed)?;
        let file = inherited::memory_file().map_err(failed)?;
        let descriptor = inherited::survivor(file.as_fd()).map_err(failed)?;
        let mut child = Command::new(program)
            .arg("-i")
            .env_clear()
            // Its history of commands would be written to this directory, which is none. Times in a match are in UTC.
            .envs([("HOME", "/dev/null"), ("TERM", "dumb"), ("TZ", "UTC"), ("LC_ALL", "C")])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let ends = child.stdin.take().zip(child.stderr.take());
        let (commands, said) = ends.ok_or_else(|| Error::Failed("nft has no standard streams".into()))?;
        Ok(NftSession { child, commands, said, file, descriptor, count: 0 })
    }

    /// Runs commands in one transaction.
    ///
    /// Errors: what nft says. Then nothing has changed.
    pub(crate) fn feed(&mut self, text: &str) -> Result<(), Error> {
        self.count += 1;
        let mark = format!("tproxy-{}", self.count);
        let failed = |error| Error::sys("talking to nft", error);
        let file = &mut self.file;
        let write = || file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        reset::without_size_limit(write).map_err(failed)?;
        // What is no command makes nft complain, and so tells that it is done with what came before: its standard output
        // may be buffered, its complaints are not.
        let lines = format!("include \"/proc/self/fd/{}\"\n{mark}\n", self.descriptor.as_raw_fd());
        self.commands.write_all(lines.as_bytes()).map_err(failed)?;
        let said = self.read_to(&mark)?;
        if said.is_empty() {
            return Ok(());
        }
        Err(Error::Firewall { command: "nft -i".into(), status: "an error".into(), said })
    }

    /// Reads to the complaint about the mark, and returns what was said before.
    fn read_to(&mut self, mark: &str) -> Result<String, Error> {
        let until = Instant::now() + LIMIT;
        let mut text = String::new();
        loop {
            let mut lines: Vec<&str> = text.lines().collect();
            if let Some(at) = lines.iter().position(|line| *line == mark)
                && lines.get(at + 1).is_some_and(|line| line.trim_start().starts_with('^'))
                && text.ends_with('\n')
            {
                // The line before the mark says what is wrong with it.
                lines.truncate(at.saturating_sub(1));
                return Ok(lines.join("\n"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let sentence = format!("nft has not answered after {} seconds", LIMIT.as_secs());
                return Err(Error::Failed(sentence));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.said.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::sys("waiting for nft", error)),
            }
            let mut buffer = [0; 4096];
            let count = self.said.read(&mut buffer).map_err(|error| Error::sys("reading from nft", error))?;
            if count == 0 {
                let said = text.trim().to_owned();
                return Err(Error::Firewall { command: "nft -i".into(), status: "it has ended".into(), said });
            }
            text.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
        }
    }

    /// Becomes readable, outside of a transaction, when nft has ended.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.said.as_fd()
    }
}

impl Drop for NftSession {
    /// The tables go when the process does.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
