//! The process to which the nft table of an instance belongs (`tproxy-nft`). It keeps an nft(8) that stays, feeds it what
//! the guardian's rules processes send, and ends with the last process that serves: then the kernel removes the table.
//!
//! The guardian and its workers hold a lifeline and nothing else. So a worker that was taken over cannot send a command.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::config::Process;
use crate::daemon::children::{Children, Role};
use crate::daemon::instructions::Instructions;
use crate::error::Error;
use crate::rules::nft::firewall::TableOwner;
use crate::rules::nft::session::NftSession;
use crate::rules::tools::DIRECTORIES;
use crate::sys::channel::{Channel, Received};
use crate::sys::{inherited, lifeline, process, wait};

/// How long a transaction may take. nft has less time.
const LIMIT: Duration = Duration::from_secs(40);

/// A message: a number that the answer repeats, and then the answer.
const NUMBER: usize = 8;
const ANSWER: usize = 4096;

/// Starts the process.
pub(crate) fn start(instance: &str, process: &Process, children: &mut Children) -> Result<Pid, Error> {
    let lifeline = children.lifeline.clone();
    let mut instructions = Instructions::for_table_owner(instance, process);
    instructions.descriptor("lifeline", lifeline.watched.as_fd(), []);
    children.spawn(Role::TableOwner, instructions)
}

/// The way to the process, for one that works on the rules.
#[derive(Debug)]
pub(crate) struct OwnerLink {
    channel: Channel,
    pid: Pid,
}

impl OwnerLink {
    /// To the process of this id; `None` if there is no such child.
    pub(crate) fn to(pid: Pid, children: &Children) -> Option<OwnerLink> {
        let channel = children.channel(pid)?.as_fd().try_clone_to_owned().ok()?;
        Some(OwnerLink { channel: channel.into(), pid })
    }

    /// Has it end, and the table with it.
    pub(crate) fn end(&self) {
        // If it cannot be told, it is ending already.
        let _ = self.channel.send(&[0; NUMBER], None);
    }

    fn answer(&self, number: u64) -> Result<(), Error> {
        let until = Instant::now() + LIMIT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let mut buffer = [0; NUMBER + ANSWER];
            match self.channel.receive(&mut buffer).map_err(|error| Error::sys("the owner of the table", error))? {
                Received::Message(count) => {
                    let (answered, said) = split(&buffer[..count]);
                    match str::from_utf8(said).unwrap_or("?") {
                        // Another process has been killed before it took its answer.
                        _ if answered != number => {}
                        "" => return Ok(()),
                        said => {
                            let (command, status) = ("nft -i".into(), "an error".into());
                            return Err(Error::Firewall { command, status, said: said.into() });
                        }
                    }
                }
                Received::Nothing => {
                    let waited = wait::for_either(self.channel.as_fd(), None, Some(left));
                    waited.map_err(|error| Error::sys("waiting for the owner of the table", error))?;
                }
                Received::Closed => return Err(Error::Failed("the owner of the nft table has ended".into())),
            }
        }
        Err(Error::Failed("the owner of the nft table does not answer".into()))
    }
}

impl TableOwner for OwnerLink {
    fn feed(&self, text: &str) -> Result<(), Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Unlike that of any other process, and never 0.
        let number = u64::from(std::process::id()) << 32 | (COUNT.fetch_add(1, Ordering::Relaxed) + 1);
        let failed = |error| Error::sys("telling the owner of the nft table", error);
        let file = inherited::filled_memory_file(text.as_bytes()).map_err(failed)?;
        self.channel.send(&number.to_ne_bytes(), Some(file.as_fd())).map_err(failed)?;
        self.answer(number)
    }

    fn pid(&self) -> Pid {
        self.pid
    }
}

/// Runs the process.
pub(crate) fn run(channel: Channel, lifeline: &OwnedFd) -> Result<(), Error> {
    process::ignore_signals().map_err(|error| Error::sys("ignoring signals", error))?;
    let (mut channel, mut session) = (Some(channel), None::<NftSession>);
    loop {
        let nft = session.as_ref().map(NftSession::end);
        let found = lifeline::wait(lifeline.as_fd(), channel.as_ref().map(AsFd::as_fd), nft);
        let found = found.map_err(|error| Error::sys("waiting", error))?;
        if found.is_cut {
            return Ok(());
        }
        if let [_, true] = found.readable {
            return Err(Error::Failed("nft has ended, and the table that belonged to it is gone".into()));
        }
        if let ([true, _], Some(open)) = (found.readable, &channel)
            && !serve(open, &mut session)?
        {
            // The guardian was killed. As long as workers serve, the table stays.
            channel = None;
        }
    }
}

/// Answers one message. Returns `false` when there will be no more.
fn serve(channel: &Channel, session: &mut Option<NftSession>) -> Result<bool, Error> {
    let mut buffer = [0; NUMBER];
    let received = channel.receive_with_descriptors(&mut buffer);
    let (received, mut files) = received.map_err(|error| Error::sys("the guardian", error))?;
    match (received, files.pop()) {
        (Received::Nothing, _) => Ok(true),
        (Received::Closed, _) => Ok(false),
        (Received::Message(_), None) => process::leave(0),
        (Received::Message(_), Some(text)) => {
            let said = match feed(File::from(text), session) {
                Ok(()) => String::new(),
                Err(Error::Firewall { said, .. }) => said,
                Err(error) => error.to_string(),
            };
            let said = said.as_bytes();
            let answer = [&buffer[..], &said[..said.len().min(ANSWER)]].concat();
            if let Err(error) = channel.send(&answer, None) {
                log::debug!("answering: {error}");
            }
            Ok(true)
        }
    }
}

fn feed(mut file: File, session: &mut Option<NftSession>) -> Result<(), Error> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|error| Error::sys("a transaction", error))?;
    if session.is_none() {
        let mut paths = DIRECTORIES.iter().map(|directory| Path::new(directory).join("nft"));
        let program: PathBuf =
            paths.find(|path| path.exists()).ok_or_else(|| Error::Failed("nft is not installed".into()))?;
        *session = Some(NftSession::start(&program)?);
    }
    session.as_mut().map_or(Ok(()), |session| session.feed(&text))
}

fn split(message: &[u8]) -> (u64, &[u8]) {
    match message.split_first_chunk::<NUMBER>() {
        Some((number, rest)) => (u64::from_ne_bytes(*number), rest),
        None => (0, &[]),
    }
}
