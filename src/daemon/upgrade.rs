//! SIGUSR2: the guardian executes the program that is now on the disk in its own process, which keeps its id, its children,
//! its sockets, its rules and its lock.
//!
//! Before that, the new program rehearses: a child runs it with `--check` and the handover. It reads the handover and the
//! configuration, touches nothing, and says that it could take over. Only then is it executed. Any other program fails, or
//! runs as with `--check`, and nothing has changed.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, execve};

use crate::cli::CommandLine;
use crate::config::{self, Config};
use crate::daemon::children::{Children, Role};
use crate::daemon::handover::{self, Handover, HandoverSource, Written};
use crate::error::Error;
use crate::sys::inherited;
use crate::sys::process::Death;

/// The variable that tells a program of a handover: `rehearse` or `resume`, the descriptor of the text, and the directory
/// in which the command line was typed.
const VARIABLE: &str = "TPROXY_UPGRADE";

/// What a program that could take over writes in the rehearsal.
const ACCEPTED: &str = "tproxy: this program can take over";

/// How long a rehearsal may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The program that this process executes at an upgrade: as it was started, so that a link may lead to another one by then.
/// Only an absolute path will do, for the daemon leaves its directory.
pub(crate) fn program() -> io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let started = std::env::args_os().next().map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(started.filter(|path| path.canonicalize().is_ok_and(|path| path == running)).unwrap_or(running))
}

/// A rehearsal under way.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    pub pid: Pid,
    /// What the program writes.
    output: File,
    /// When it is killed; `None` once that was done.
    pub limit: Option<Instant>,
}

impl Rehearsal {
    /// Enters the program that [`start_rehearsal`] has started as a child.
    pub(crate) fn begin((pid, output): (Pid, File), children: &mut Children) -> Result<Rehearsal, Error> {
        children.adopt(pid, Role::Rehearsal, None)?;
        Ok(Rehearsal { pid, output, limit: Some(Instant::now() + LIMIT) })
    }

    /// Kills the program when it has taken too long.
    pub(crate) fn limit(&mut self, children: &Children) {
        if self.limit.take_if(|limit| *limit <= Instant::now()).is_some() {
            log::error!("upgrade: the rehearsal takes too long; the new program is killed");
            children.kill(self.pid);
        }
    }

    /// The program has ended. An error unless it can take over.
    pub(crate) fn ended(mut self, how: Death) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let read = self.output.rewind().and_then(|()| self.output.read_to_end(&mut bytes));
        read.map_err(|error| Error::sys("reading what the new program wrote", error))?;
        let text = String::from_utf8_lossy(&bytes);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        if how.is_well() && last == ACCEPTED {
            return Ok(());
        }
        let said: String = last.trim_start_matches("tproxy: ").chars().take(300).collect();
        Err(Error::Failed(match (how.is_well(), said.is_empty()) {
            (true, _) => "the new program cannot take over".into(),
            (false, true) => format!("the new program {how}"),
            (false, false) => format!("the new program {how}: {said}"),
        }))
    }
}

/// Starts the new program in a child, which writes to the file.
pub(crate) fn start_rehearsal(source: &HandoverSource<'_>, program: &Path) -> Result<(Pid, File), Error> {
    let written = handover::write(source)?;
    let failed = |error| Error::sys("starting it", error);
    let output = inherited::memory_file().map_err(failed)?;
    let copy = || output.try_clone().map(Stdio::from).map_err(failed);
    let CommandLine { arguments, directory } = &source.serving.config.command_line;
    let mut command = Command::new(program);
    command.arg("--check").args(arguments).env(VARIABLE, variable("rehearse", &written, directory));
    let child = command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?).spawn().map_err(failed)?;
    Ok((Pid::from_raw(child.id().cast_signed()), output))
}

/// Executes the new program in this process. Returns only when that fails.
// Not `std::process::Command`, whose exec unblocks all signals: one that is pending would end the process before the new
// program has blocked it again.
pub(crate) fn execute(source: &HandoverSource<'_>, program: &Path) -> Result<(), Error> {
    let failed = |what: &str| Error::Failed(format!("{what} holds a NUL byte"));
    let text = |text: &OsStr, what: &str| CString::new(text.as_bytes()).map_err(|_| failed(what));
    let CommandLine { arguments, directory } = &source.serving.config.command_line;
    let written = handover::write(source)?;
    let words = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
    let words = words.map(|word| text(word, "the command line")).collect::<Result<Vec<_>, _>>()?;
    let kept = std::env::vars_os().filter(|(name, _)| name != VARIABLE);
    let ours = (OsString::from(VARIABLE), variable("resume", &written, directory));
    let environment = kept.chain([ours]).map(|(name, value)| {
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        text(OsStr::from_bytes(&pair), "the environment")
    });
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let Err(errno) = execve(&text(program.as_os_str(), "its path")?, &words, &environment);
    Err(Error::sys("executing it", errno))
}

fn variable(what: &str, written: &Written, directory: &Path) -> OsString {
    let mut bytes = format!("{what} {} ", written.text.as_raw_fd()).into_bytes();
    bytes.extend_from_slice(directory.as_os_str().as_bytes());
    OsString::from_vec(bytes)
}

/// What the former program of this process, or in a rehearsal of the parent, hands over.
#[derive(Debug)]
pub(crate) enum Offered {
    /// To try whether it could be taken over.
    Rehearsal(Handover, PathBuf),
    /// To be taken over.
    Resume(Handover, PathBuf),
}

/// Looks for a handover to this very process, and for the directory in which the command line was typed.
///
/// Errors: a handover that cannot be understood.
pub(crate) fn offered() -> Result<Option<Offered>, Error> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let mut parts = value.as_bytes().splitn(3, |byte| *byte == b' ');
    let text = |part: Option<&[u8]>| part.and_then(|part| str::from_utf8(part).ok()).unwrap_or_default().to_owned();
    let (what, number) = (text(parts.next()), text(parts.next()));
    let directory = PathBuf::from(OsStr::from_bytes(parts.next().unwrap_or_default()));
    let Ok(number) = number.parse() else { return Ok(None) };
    // The descriptor may be none of ours: somebody else has set the variable.
    if !inherited::is_memory_file(number) {
        return Ok(None);
    }
    let handover = handover::read(File::from(handover::descriptor(number)?))?;
    // A process that has only inherited the variable ignores it.
    match what.as_str() {
        "rehearse" if handover.pid == std::os::unix::process::parent_id() => {
            Ok(Some(Offered::Rehearsal(handover, directory)))
        }
        "resume" if handover.pid == std::process::id() => Ok(Some(Offered::Resume(handover, directory))),
        _ => Ok(None),
    }
}

/// Tries whether this program could take over: it understands the handover and the configuration, the one that serves and
/// the one that is to serve.
pub(crate) fn rehearse(handover: &Handover, command_line: &CommandLine) -> Result<(), Error> {
    serving_config(handover, command_line)?;
    config::read_again(command_line)?;
    println!("{ACCEPTED}");
    Ok(())
}

/// The configuration that serves.
pub(crate) fn serving_config(handover: &Handover, command_line: &CommandLine) -> Result<Config, Error> {
    config::read_from(command_line, handover.file.as_ref().map(|file| file.as_bytes()))
}
