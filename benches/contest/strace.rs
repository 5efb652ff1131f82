//! Counts a contestant's system calls with strace(1).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clients::Probe;
use crate::resources::process_tree;

/// strace is attached between begin and end.
#[derive(Debug)]
pub struct Strace {
    root: u32,
    output: PathBuf,
    child: Option<Child>,
}

impl Strace {
    pub fn new(root: u32, directory: &Path) -> Strace {
        Strace { root, output: directory.join("strace"), child: None }
    }

    /// The number of calls of each system call, the most frequent first.
    pub fn counts(&self) -> Vec<(String, f64)> {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        // The columns: % time, seconds, usecs/call, calls, errors (can be missing), syscall.
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = words.last().filter(|name| words.len() >= 5 && **name != "total")?;
            Some((name.to_string(), words[3].parse().ok()?))
        };
        let mut counts: Vec<(String, f64)> = text.lines().filter_map(line).collect();
        counts.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        counts
    }
}

impl Probe for Strace {
    fn begin(&mut self) -> Result<(), String> {
        let pids = process_tree(self.root);
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-o"]).arg(&self.output);
        command.args(pids.iter().map(|pid| format!("--attach={pid}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().map_err(|error| format!("strace: {error}"))?);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !pids.iter().all(|pid| is_traced(*pid)) {
            if Instant::now() > deadline {
                return Err("strace did not attach".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).map_err(|error| format!("strace: {error}"))?;
        child.wait().map_err(|error| format!("strace: {error}"))?;
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A process that has ended meanwhile counts as traced.
fn is_traced(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !text.lines().any(|line| line == "TracerPid:\t0")
}
