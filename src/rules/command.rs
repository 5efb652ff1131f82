//! Runs a short command within a time limit. It writes the input and reads the output at the same time: otherwise a child
//! with much output would block, and iptables would hold the lock of the tables meanwhile.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::sys::process;

/// The longest wait before checking whether the child has ended. Its own children may keep its output open.
const LOOK: Duration = Duration::from_millis(50);

/// The same after the end of its output: it ends right after that.
const LOOK_AT_END: Duration = Duration::from_millis(1);

/// Stands in for the byte of this number minus [`LEAST`] where a text is not UTF-8: the last private characters of Unicode.
const STAND_INS: std::ops::RangeInclusive<u32> = 0x10_ff80..=0x10_ffff;

/// What the stand-in for byte 0 would be. Only bytes from 0x80 have one.
const LEAST: u32 = 0x10_ff00;

/// Runs a program in a clean environment and with the standard descriptors only, and returns its standard output. Its
/// bytes come back unchanged when the text is an argument or the input of another run, also those that are not UTF-8.
///
/// Errors: any end but exit status 0 within `limit`; the error holds its standard error.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str, limit: Duration) -> Result<String, Error> {
    run_with(program, arguments, input, &[], limit)
}

/// The same with more in the environment.
pub(crate) fn run_with(
    program: &Path,
    arguments: &[&str],
    input: &str,
    environment: &[(&str, &str)],
    limit: Duration,
) -> Result<String, Error> {
    let command = std::iter::once(program.display().to_string()).chain(arguments.iter().map(|a| a.to_string()));
    let command = command.collect::<Vec<_>>().join(" ");
    process::keep_descriptors().map_err(|error| Error::sys("close_range", error))?;
    let mut child = Command::new(program)
        .args(arguments.iter().map(|argument| OsString::from_vec(to_bytes(argument))))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A process group of its own, so that Ctrl-C in the terminal does not interrupt it.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::sys(format!("starting {command}"), error))?;
    let mut output = Output::default();
    let ended = converse(&mut child, &to_bytes(input), &mut output, Instant::now() + limit);
    if !matches!(ended, Ok(Some(_))) {
        // It has run out of time, or its pipes failed. If these calls fail, it has already ended.
        let _ = child.kill();
        let _ = child.wait();
    }
    let failed = |status: String| Error::Firewall {
        command: command.clone(),
        status,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    match ended {
        Ok(Some(status)) if status.success() => Ok(to_text(&output.stdout)),
        Ok(Some(status)) => Err(failed(status.to_string())),
        Ok(None) => Err(failed(format!("not done after {limit:?}, killed"))),
        Err(error) => Err(Error::sys(format!("talking to {command}"), error)),
    }
}

/// A text that holds any bytes.
fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().filter_map(|byte| char::from_u32(LEAST + u32::from(*byte))));
    }
    text
}

/// The bytes that a text of [`to_text`] holds.
fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, stand_in)) = rest.char_indices().find(|(_, letter)| STAND_INS.contains(&u32::from(*letter))) {
        let (before, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        bytes.extend_from_slice(before.as_bytes());
        bytes.extend(u8::try_from(u32::from(stand_in) - LEAST));
        rest = after.get(stand_in.len_utf8()..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Feeds and drains until the child has ended, or returns `None` when the time is up.
fn converse(
    child: &mut Child,
    mut input: &[u8],
    output: &mut Output,
    until: Instant,
) -> io::Result<Option<ExitStatus>> {
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    for end in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)] {
        end.map_or(Ok(()), never_block)?;
    }
    loop {
        feed(&mut stdin, &mut input)?;
        // Checked before reading: if the child has ended, all its output is there.
        let ended = child.try_wait()?;
        drain(&mut stdout, &mut output.stdout)?;
        drain(&mut stderr, &mut output.stderr)?;
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

/// Writes as much as the pipe takes, and closes it after the last byte or when its reader is gone.
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

/// Reads all that is there, and closes the pipe at its end.
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
    fn bytes_that_are_not_text_pass_through_unchanged() {
        let all: Vec<u8> = (0..=255).chain("é\u{10fffd}".bytes().take(2)).chain(0..=255).collect();
        assert_eq!(to_bytes(&to_text(&all)), all);
        let said = shell("printf 'caf\\351 \\303\\251'", "", LIMIT).unwrap();
        assert_eq!(to_bytes(&said), b"caf\xe9 \xc3\xa9");
        assert_eq!(run(Path::new("/bin/cat"), &[], &said, LIMIT).unwrap(), said);
        assert_eq!(run(Path::new("/bin/echo"), &["-n", &said], "", LIMIT).unwrap(), said);
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
