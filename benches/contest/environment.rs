//! The machine and the versions of the contestants, for the readers of the tables.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use crate::rounds::Effort;

/// The environment in one sentence.
pub fn describe(effort: &Effort) -> String {
    let cpus = available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let (kernel, load) = (first_word("/proc/sys/kernel/osrelease"), first_word("/proc/loadavg"));
    let congestion = congestion_control();
    let peers = [("haproxy", "-v"), ("nginx", "-v"), ("rinetd", "-v"), ("redsocks", "-v"), ("socat", "-V")];
    let peers: Vec<String> = peers.into_iter().map(|(name, flag)| format!("{name} {}", version(name, flag))).collect();
    format!(
        "{cpus} CPUs ({model}), Linux {kernel}, congestion control {congestion}, load average before the run {load}; \
         rounds: {}, seconds in each turn: {}; {}.",
        effort.rounds,
        effort.window.as_secs_f64(),
        peers.join(", "),
    )
}

/// The congestion control of this network namespace, and of the others.
pub fn congestion_control() -> String {
    first_word("/proc/sys/net/ipv4/tcp_congestion_control")
}

fn first_word(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The first word of a program's version output that looks like a version: a digit first, and a point in it.
fn version(program: &str, flag: &str) -> String {
    let Ok(done) = Command::new(program).arg(flag).output() else { return "?".to_owned() };
    let output = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    let without_name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let is_version = |word: &String| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    output.split_whitespace().map(without_name).find(is_version).unwrap_or_else(|| "?".to_owned())
}
