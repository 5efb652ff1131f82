//! What a reader of the figures has to know of the machine, and of who took part.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use crate::rounds::Effort;

/// One sentence.
pub fn sentence(effort: &Effort) -> String {
    let cpus = available_parallelism().map_or(1, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown")
        .to_owned();
    let first = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let (kernel, load) = (first("/proc/sys/kernel/osrelease"), first("/proc/loadavg"));
    let congestion = first("/proc/sys/net/ipv4/tcp_congestion_control");
    let peers = [("haproxy", "-v"), ("nginx", "-v"), ("rinetd", "-v"), ("redsocks", "-v"), ("socat", "-V")];
    let peers: Vec<String> = peers.into_iter().map(|(name, flag)| format!("{name} {}", version(name, flag))).collect();
    format!(
        "{cpus} CPUs ({model}), Linux {kernel}, congestion control {congestion}, load average before {load}; {} rounds, \
         {} s each; {}.",
        effort.rounds,
        effort.window.as_secs_f64(),
        peers.join(", "),
    )
}

/// The first word with a point between digits that a program says of itself.
fn version(program: &str, flag: &str) -> String {
    let Ok(done) = Command::new(program).arg(flag).output() else { return "?".to_owned() };
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    let plain = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let is_version = |word: &String| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    said.split_whitespace().map(plain).find(is_version).unwrap_or_else(|| "?".to_owned())
}
