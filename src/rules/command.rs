//! Running a short command of the system: input fed and output drained at the same time, within a time limit.
//!
//! A child whose output nobody reads blocks, and iptables would block with the lock of the tables in its hands.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::sys::process;

/// How long to wait at most before looking whether the child has ended: something that it started may hold its
/// output open.
const LOOK: Duration = Duration::from_millis(50);

/// Between the end of a child's output and its own there is next to nothing.
const LOOK_AT_END: Duration = Duration::from_millis(1);

/// Runs a program in a clean environment, with no descriptor but the three, and returns what it wrote to its standard output. Any end but exit
/// status 0 within `limit` is an error that holds what it wrote to its standard error.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str, limit: Duration) -> Result<String, Error> {
    let command = std::iter::once(program.display().to_string()).chain(arguments.iter().map(|a| a.to_string()));
    let command = command.collect::<Vec<_>>().join(" ");
    process::keep_descriptors().map_err(|error| Error::sys("close_range", error))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group, so that Ctrl-C in the terminal does not reach it in the middle of its work.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::sys(format!("starting {command}"), error))?;
    let mut said = PrereadStep::default();
    let ended = converse(&mut child, input.as_bytes(), &mut said, Instant::now() + limit);
    if !matches!(ended, Ok(Some(_))) {
        // Either it is to be killed, or it cannot be talked to. Neither can fail in a way that leaves anything to do.
        let _ = child.kill();
        let _ = child.wait();
    }
    let failed = |status: String| Error::Firewall {
        command: command.clone(),
        status,
        said: String::from_utf8_lossy(&said.errors).into_owned(),
    };
    match ended {
        Ok(Some(status)) if status.success() => Ok(String::from_utf8_lossy(&said.output).into_owned()),
        Ok(Some(status)) => Err(failed(status.to_string())),
        Ok(None) => Err(failed(format!("not done after {limit:?}, killed"))),
        Err(error) => Err(Error::sys(format!("talking to {command}"), error)),
    }
}

#[derive(Default)]
struct PrereadStep {
    output: Vec<u8>,
    errors: Vec<u8>,
}

/// Feeds and drains until the child has ended, or the time is up (None).
fn converse(
    child: &mut Child,
    mut input: &[u8],
    said: &mut PrereadStep,
    until: Instant,
) -> io::Result<Option<ExitStatus>> {
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    for end in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)] {
        end.map_or(Ok(()), never_block)?;
    }
    loop {
        feed(&mut stdin, &mut input)?;
        // Before the reading: what an ended child wrote is then all there.
        let ended = child.try_wait()?;
        drain(&mut stdout, &mut said.output)?;
        drain(&mut stderr, &mut said.errors)?;
        if ended.is_some() {
            return Ok(ended);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut ends = Vec::with_capacity(3);
        ends.extend(stdin.as_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLOUT)));
        ends.extend(stdout.as_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        ends.extend(stderr.as_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        let look = if ends.is_empty() { LOOK_AT_END } else { LOOK };
        let timeout = PollTimeout::try_from(left.min(look)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut ends, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn never_block(end: BorrowedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL)?);
    fcntl(end, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Writes what the pipe takes, and closes it after the last byte or when nobody reads it any more.
fn feed<W: Write>(pipe: &mut Option<W>, input: &mut &[u8]) -> io::Result<()> {
    while let Some(end) = pipe {
        if input.is_empty() {
            *pipe = None;
            break;
        }
        match end.write(input) {
            Ok(written) => *input = input.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => *pipe = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there, and closes the pipe at its end.
fn drain<R: Read>(pipe: &mut Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(end) = pipe else { return Ok(()) };
    match end.read_to_end(into) {
        Ok(_) => *pipe = None,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str, input: &str, limit: Duration) -> Result<String, Error> {
        run(Path::new("/bin/sh"), &["-c", script], input, limit)
    }

    #[test]
    fn much_input_and_much_output_do_not_block_each_other() {
        let input = "0123456789abcdef\n".repeat(200_000);
        assert_eq!(run(Path::new("/bin/cat"), &[], &input, LIMIT).unwrap(), input);
        assert_eq!(shell("tee /dev/stderr; exit 0", &input, LIMIT).unwrap(), input);
    }

    #[test]
    fn a_child_that_ignores_its_input_is_no_error() {
        assert_eq!(shell("echo done", &"x".repeat(1_000_000), LIMIT).unwrap(), "done\n");
    }

    #[test]
    fn a_failure_says_the_command_how_it_ended_and_what_it_said() {
        let error = shell("echo out; echo 'no such thing' >&2; exit 3", "", LIMIT).unwrap_err().to_string();
        assert!(error.starts_with("`/bin/sh -c "), "{error}");
        assert!(error.ends_with("failed (exit status: 3): no such thing"), "{error}");
        let error = shell("kill -9 $$", "", LIMIT).unwrap_err().to_string();
        assert!(error.contains("(signal: 9 (SIGKILL))"), "{error}");
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let began = Instant::now();
        let error = shell("echo waiting >&2; exec sleep 60", "", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(error.contains("not done after 200ms, killed") && error.ends_with("waiting"), "{error}");
        assert!(began.elapsed() < LIMIT);
    }

    #[test]
    fn output_held_open_by_a_grandchild_does_not_hold_us() {
        let began = Instant::now();
        assert_eq!(shell("sleep 3 & echo done", "", LIMIT).unwrap(), "done\n");
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn the_environment_is_fixed() {
        let environment = run(Path::new("/usr/bin/env"), &[], "", LIMIT).unwrap();
        assert_eq!(environment, "LC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n");
    }

    #[test]
    fn nothing_that_was_left_open_is_inherited() {
        // Far from what a shell opens for itself; without FD_CLOEXEC, as whoever starts us may leave it.
        let left = fcntl(io::stdin(), FcntlArg::F_DUPFD(300)).unwrap();
        let seen = shell("echo /proc/self/fd/*", "", LIMIT).unwrap();
        assert!(seen.contains("/proc/self/fd/2") && !seen.contains(&format!("/{left}")), "{seen}");
    }

    #[test]
    fn a_program_that_is_not_there_is_said() {
        let error = run(Path::new("/nonexistent/tool"), &["-x"], "", LIMIT).unwrap_err().to_string();
        assert!(error.starts_with("starting /nonexistent/tool -x: "), "{error}");
    }
}
