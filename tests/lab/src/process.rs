//! Processes as `/proc` shows them, and families of processes that end with their test.

use crate::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The environment variable that marks every process of one daemon under test, orphans included.
const MARK: &str = "TPROXY_TEST_FAMILY";

/// A name that no other test on this machine uses, and none that was killed has left behind: process ids come again,
/// together with the time of day they do not.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static STARTED: LazyLock<u64> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
        since.as_millis() as u64
    });
    format!("{prefix}-{}-{:x}-{}", std::process::id(), *STARTED, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The command name of a process.
pub fn comm(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_string())
}

/// Whether a process exists and is not merely waiting to be reaped.
pub fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// One line of `/proc/PID/status`, without its name, its columns joined by one blank.
pub fn status_field(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Resident anonymous memory in bytes.
pub fn anonymous_memory(pid: i32) -> u64 {
    kib(&status_field(pid, "RssAnon")) * 1024
}

fn kib(field: &str) -> u64 {
    field.split(' ').next().and_then(|number| number.parse().ok()).expect("memory figure in /proc/PID/status")
}

/// What every open descriptor of a process points at, for example `socket:[123]`.
pub fn descriptors(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

/// How many descriptors a process has open.
pub fn descriptor_count(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0)
}

/// The same once it does not change any more.
pub fn resting_descriptor_count(pid: i32) -> usize {
    at_rest(|| descriptor_count(pid))
}

/// What processes hold, once it does not change any more: one that is ready has a few things left to close, or to be given.
pub fn at_rest<T: PartialEq>(mut holdings: impl FnMut() -> T) -> T {
    let (mut before, mut looks) = (holdings(), 0);
    wait::until_true("nothing comes or goes any more", || {
        let now = holdings();
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
        looks == 20
    });
    before
}

/// The number that the next descriptor of a process gets: a limit of so many lets it open no more.
pub fn next_descriptor(pid: i32) -> usize {
    let exists = |number: &usize| fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
    (0..).find(|number| !exists(number)).expect("a free number")
}

/// How many pipe ends a process has open.
pub fn pipe_ends(pid: i32) -> usize {
    descriptors(pid).iter().filter(|target| target.starts_with("pipe:")).count()
}

/// CPU time of a process in clock ticks (hundredths of a second), user and system.
pub fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// The direct children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let ppid = format!(" {pid} ");
    let is_child = |candidate: &i32| {
        let stat = fs::read_to_string(format!("/proc/{candidate}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.get(1..).is_some_and(|rest| rest.starts_with(&ppid)))
    };
    all_pids().into_iter().filter(is_child).collect()
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Sends a signal; a process that has gone is no failure.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Copies a program that is to be executed. Another process copies it: a child that a thread of this one forks meanwhile
/// would have the copy open for writing, and it could not be executed (ETXTBSY, execve(2)).
pub fn copy_program(from: &str, to: impl AsRef<std::ffi::OsStr>) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "copying {from}: {copied}");
}

/// All processes of one daemon under test: guardian, worker, resolver, and whatever they started.
///
/// Membership is a mark in the environment, which forks inherit and orphans keep. Ends them all when dropped.
pub struct Family {
    mark: String,
}

impl Family {
    /// A family without members so far.
    pub fn new() -> Family {
        Family { mark: unique("family") }
    }

    /// The environment entry that makes a process a member.
    pub fn entry(&self) -> (String, String) {
        (MARK.to_string(), self.mark.clone())
    }

    /// The living members.
    pub fn pids(&self) -> Vec<i32> {
        let entry = format!("{MARK}={}", self.mark);
        let member = |pid: &i32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|part| part == entry.as_bytes()) && alive(*pid)
        };
        all_pids().into_iter().filter(member).collect()
    }

    /// The living members with this command name.
    pub fn named(&self, name: &str) -> Vec<i32> {
        self.pids().into_iter().filter(|pid| comm(*pid).as_deref() == Some(name)).collect()
    }

    /// Waits until exactly one member has this command name.
    pub fn one(&self, name: &str) -> i32 {
        wait::until(&format!("exactly one process called {name}"), || match self.named(name)[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// The guardian.
    pub fn guardian(&self) -> i32 {
        self.one("tproxy")
    }

    /// The worker.
    pub fn worker(&self) -> i32 {
        self.one("tproxy-worker")
    }

    /// The resolver.
    pub fn resolver(&self) -> i32 {
        self.one("tproxy-resolver")
    }

    /// Waits for a worker other than `old`.
    pub fn next_worker(&self, old: i32) -> i32 {
        wait::until("a new worker", || self.named("tproxy-worker").into_iter().find(|pid| *pid != old))
    }

    /// Kills all members and waits until they have gone.
    pub fn end(&self) {
        let gone = wait::try_until(Duration::from_secs(10), || {
            let pids = self.pids();
            pids.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
            pids.is_empty().then_some(())
        });
        if gone.is_none() {
            crate::report(&format!("could not end the processes {:?}", self.pids()));
        }
    }

    /// Waits until no process works on the rules. Before its end, rules that are back may be written once more.
    pub fn wait_for_rules(&self) {
        wait::until_true("no process works on the rules", || self.named("tproxy-rules").is_empty());
    }

    /// Waits until all members have gone by themselves.
    pub fn wait_gone(&self) {
        wait::until_true("all processes of the daemon are gone", || self.pids().is_empty());
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.end();
    }
}
