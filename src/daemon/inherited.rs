//! Sockets that were open when this process began: from inetd(8) on descriptor 0, from a service manager as
//! sd_listen_fds(3) says, or from a former guardian that this one replaces.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use crate::cli::CommandLine;
use crate::daemon::instance_lock::InstanceLock;
use crate::error::Error;
use crate::sys::inherited;

/// The variable in which a guardian tells the one that replaces it what it hands over:
/// `REPORT [guardian=PID] [worker=PID]... [claim=CLAIM] [workers=COUNT] LISTENER[=[NAME]]...`, numbers of descriptors
/// where not said otherwise. Those of listeners that were passed to it have a `=`, and behind it their name if they have
/// one.
const HANDOVER: &str = "TPROXY_HANDOVER";

/// The variable in which it names the directory that the command line was typed in.
const DIRECTORY: &str = "TPROXY_DIRECTORY";

/// The directory that the command line was typed in, if a former guardian has passed it on.
pub(crate) fn directory() -> Option<PathBuf> {
    std::env::var_os(HANDOVER).and_then(|_| std::env::var_os(DIRECTORY)).map(PathBuf::from)
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Those that a guardian had opened itself.
    opened: Vec<(SocketAddr, TcpListener)>,
    /// Those that whoever started the first guardian had opened.
    listeners: Vec<(Option<String>, SocketAddr, TcpListener)>,
    /// The right of the former guardian to the name of its rules.
    pub lock: Option<InstanceLock>,
    /// How many workers former guardians have started.
    pub workers: u32,
    /// The former guardian.
    pub former: Option<Former>,
    /// A connection that waits on descriptor 0.
    pub connection: Option<TcpStream>,
    /// Whether inetd has started this process, which must not go into the background then.
    pub from_inetd: bool,
    /// Where a former guardian waits for the report that this one serves.
    pub report: Option<OwnedFd>,
}

/// A guardian that has started this one to replace it.
#[derive(Debug, Default)]
pub(crate) struct Former {
    /// Its process.
    pub pid: u32,
    /// Those of its workers.
    pub workers: Vec<Pid>,
}

impl Inherited {
    /// Looks for sockets, once, at the beginning. Descriptor 0 counts only when `stdin` is asked for.
    pub(crate) fn find(stdin: bool) -> Result<Inherited, Error> {
        let mut passed = Inherited::default();
        let failed = |error| Error::sys("taking over the sockets that were passed", error);
        if let Ok(text) = std::env::var(HANDOVER) {
            passed.take_handover(&text).map_err(failed)?;
        } else if let Some(count) = manager_passes() {
            let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
            let mut names = names.split(':').filter(|name| !name.is_empty()).map(str::to_owned);
            for number in 0..count {
                passed.take(FIRST + number, names.next()).map_err(failed)?;
            }
        } else if stdin {
            // Not a socket: then there is none, which is told where one is needed.
            passed.from_inetd = passed.take(0, None).is_ok();
        }
        Ok(passed)
    }

    fn take_handover(&mut self, text: &str) -> io::Result<()> {
        let mut words = text.split(' ');
        if let Some(report) = words.next().and_then(|word| word.parse().ok()) {
            self.report = Some(inherited::take(report)?);
        }
        for word in words {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            match (key, value.unwrap_or(word).parse(), key.parse(), value) {
                ("claim", Ok(number), ..) => self.lock = Some(InstanceLock::handed_over(inherited::take(number)?)),
                ("guardian", Ok(pid), ..) => self.former.get_or_insert_default().pid = pid as u32,
                ("worker", Ok(pid), ..) => self.former.get_or_insert_default().workers.push(Pid::from_raw(pid)),
                ("workers", Ok(count), ..) => self.workers = u32::try_from(count).unwrap_or(0),
                (_, _, Ok(number), Some("")) => self.take(number, None)?,
                (_, _, Ok(number), Some(name)) => self.take(number, Some(name.to_owned()))?,
                (_, _, Ok(number), None) => {
                    let listener = TcpListener::from(inherited::take(number)?);
                    self.opened.push((listener.local_addr()?, listener));
                }
                // Of a version that knows more.
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, number: RawFd, name: Option<String>) -> io::Result<()> {
        if number == 0
            && std::fs::read_link("/proc/self/fd/0").is_ok_and(|to| !to.to_string_lossy().starts_with("socket:"))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut socket = inherited::take(number)?;
        if number == 0 {
            // Standard input is about to become /dev/null; until then its number must not be given to anything else.
            let copy = socket.try_clone()?;
            let original = std::mem::replace(&mut socket, copy);
            let _ = original.into_raw_fd();
        }
        if inherited::listens(&socket)? {
            let listener = TcpListener::from(socket);
            self.listeners.push((name, listener.local_addr()?, listener));
        } else {
            self.connection = Some(TcpStream::from(socket));
        }
        Ok(())
    }

    /// The listening sockets of this address.
    pub(crate) fn take_address(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let opened = self.opened.extract_if(.., |(other, _)| *other == address).map(|(_, listener)| listener);
        let passed = self.listeners.extract_if(.., |(_, other, _)| *other == address).map(|(.., listener)| listener);
        opened.chain(passed).collect()
    }

    /// Whether a former guardian listens on the port of this address, be it at another one.
    pub(crate) fn has_port(&self, address: SocketAddr) -> bool {
        self.opened.iter().any(|(other, _)| other.port() == address.port())
    }

    /// The listening sockets of this name, or all.
    pub(crate) fn take_named(&mut self, name: Option<&str>) -> Vec<(SocketAddr, TcpListener)> {
        let taken = self.listeners.extract_if(.., |(other, ..)| name.is_none() || other.as_deref() == name);
        taken.map(|(_, address, listener)| (address, listener)).collect()
    }
}

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// How many sockets a service manager passes to this very process.
fn manager_passes() -> Option<RawFd> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count = std::env::var("LISTEN_FDS").ok()?.parse().ok()?;
    ours.then_some(count).filter(|count| (1..=1024).contains(count))
}

/// What a guardian hands over to the one that replaces it.
#[derive(Debug)]
pub(crate) struct Handover<'a> {
    /// Where the other one is to report.
    pub report: OwnedFd,
    /// The right to the name of the rules.
    pub lock: Option<&'a InstanceLock>,
    /// How many workers were started so far.
    pub workers: u32,
    /// Those that serve.
    pub serving: Vec<Pid>,
    /// The listening sockets, and behind those that were passed to this process their name, which may be empty.
    pub listeners: Vec<(&'a TcpListener, Option<&'a str>)>,
}

impl Handover<'_> {
    /// Starts `program` as the next guardian.
    pub(crate) fn start(self, program: &Path, command_line: &CommandLine) -> io::Result<Child> {
        let report = inherited::survivor(self.report)?;
        let lock = self.lock.map(inherited::survivor).transpose()?;
        let copies = self.listeners.iter().map(|(listener, _)| inherited::survivor(listener));
        let copies = copies.collect::<io::Result<Vec<_>>>()?;
        let mut handover = format!("{} guardian={} workers={}", report.as_raw_fd(), std::process::id(), self.workers);
        self.serving.iter().for_each(|pid| handover += &format!(" worker={pid}"));
        if let Some(lock) = &lock {
            handover += &format!(" claim={}", lock.as_raw_fd());
        }
        for (copy, (_, name)) in copies.iter().zip(&self.listeners) {
            let name = name.map(|name| format!("={name}")).unwrap_or_default();
            handover += &format!(" {}{name}", copy.as_raw_fd());
        }
        let CommandLine { arguments, directory } = command_line;
        let mut next = Command::new(program);
        next.args(arguments).env(HANDOVER, handover).env(DIRECTORY, directory).stdin(Stdio::null()).spawn()
    }
}
