//! What a contestant and the machine use, as the kernel counts it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Instant;

/// Nanoseconds in a clock tick of `/proc`. It is always 1/100 s, whatever the kernel's own tick is (proc(5), USER_HZ).
const TICK: f64 = 1e7;

/// The counters at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    at: Instant,
    /// Nanoseconds of CPU of all processes of the contestant, user and system.
    cpu: f64,
    /// Context switches of these processes.
    switches: u64,
    /// Packets that the gateway sent. A large packet that is segmented later counts as one.
    packets: f64,
    /// Nanoseconds in which CPUs were idle, or ran another virtual machine (steal).
    idle: f64,
    machine_switches: u64,
}

/// The difference of the counters between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Nanoseconds.
    pub cpu: f64,
    pub switches: f64,
    pub packets: f64,
    /// Nanoseconds in which a CPU was not idle.
    pub machine: f64,
    pub machine_switches: f64,
}

impl Totals {
    /// Reads the counters of a contestant's process and its descendants, and those of the machine.
    pub fn read(root: Option<u32>) -> Totals {
        let pids = root.map(process_tree).unwrap_or_default();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let switches = stat.lines().find_map(|line| line.strip_prefix("ctxt ")).and_then(|text| text.parse().ok());
        let columns: Vec<f64> = numbers(stat.lines().next().unwrap_or_default());
        // The columns: user nice system idle iowait irq softirq steal, proc(5).
        let column = |at: usize| columns.get(at).copied().unwrap_or(0.0);
        Totals {
            at: Instant::now(),
            cpu: pids.iter().map(|pid| cpu_time(*pid)).sum(),
            switches: pids.iter().map(|pid| switch_count(*pid)).sum(),
            packets: root.map_or(0.0, packets_sent),
            idle: (column(3) + column(4) + column(7)) * TICK,
            machine_switches: switches.unwrap_or(0),
        }
    }

    pub fn until(&self, later: &Totals) -> Used {
        let wall = later.at.duration_since(self.at).as_nanos() as f64;
        let cpus = available_parallelism().map_or(1, usize::from) as f64;
        Used {
            cpu: later.cpu - self.cpu,
            switches: later.switches.saturating_sub(self.switches) as f64,
            packets: later.packets - self.packets,
            machine: wall * cpus - (later.idle - self.idle),
            machine_switches: (later.machine_switches - self.machine_switches) as f64,
        }
    }
}

fn numbers(line: &str) -> Vec<f64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// A process and its descendants.
pub fn process_tree(root: u32) -> Vec<u32> {
    let mut found = BTreeSet::from([root]);
    let mut unseen = vec![root];
    while let Some(pid) = unseen.pop() {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = text.split_whitespace().filter_map(|word| word.parse().ok());
        unseen.extend(children.filter(|child| found.insert(*child)));
    }
    found.into_iter().collect()
}

/// Nanoseconds of CPU of a process, and of its children that have ended.
///
/// The kernel counts the first in nanoseconds (`/proc/PID/task/TID/schedstat`), the second in ticks.
fn cpu_time(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let ran = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        numbers(&text).first().copied().unwrap_or(0.0)
    };
    let own: f64 = tasks.flatten().map(|task| ran(task.path())).sum();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    own + (ticks(13) + ticks(14)) * TICK
}

/// The number in a line of `/proc/PID/status` or of `/proc/meminfo`.
fn number_of(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn switch_count(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    number_of(&text, "voluntary_ctxt_switches:") + number_of(&text, "nonvoluntary_ctxt_switches:")
}

/// Packets sent by all Ethernet devices in the namespace of a process.
fn packets_sent(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    // eth1: bytes packets errs drop fifo frame compressed multicast of reception, and then of transmission.
    let sent = |line: &str| numbers(line.split_once("eth")?.1.split_once(':')?.1).get(9).copied();
    text.lines().filter_map(sent).sum()
}

/// What a contestant holds at one moment, or for each connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Footprint {
    /// Bytes of private memory of its processes (RssAnon).
    pub memory: f64,
    pub descriptors: f64,
    pub pipes: f64,
    /// Bytes that the kernel has allocated for the buffers of the gateway's sockets (`ss -m`).
    pub buffers: f64,
    /// Bytes of the machine's memory that are not available.
    pub machine: f64,
}

impl Footprint {
    /// Reads that of a process and its descendants, in the gateway's namespace.
    pub fn read(root: u32, namespace: &str) -> Footprint {
        let mut footprint =
            Footprint { buffers: socket_buffers(namespace), machine: unavailable(), ..Footprint::default() };
        for pid in process_tree(root) {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            footprint.memory += number_of(&text, "RssAnon:") as f64 * 1024.0;
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
            let targets: Vec<String> = targets.map(|target| target.display().to_string()).collect();
            footprint.descriptors += targets.len() as f64;
            footprint.pipes += targets.iter().filter(|target| target.starts_with("pipe:")).count() as f64 / 2.0;
        }
        footprint
    }

    /// The difference from before, divided by the number of connections.
    pub fn since(&self, before: &Footprint, connections: usize) -> Footprint {
        let each = |now: f64, then: f64| (now - then) / connections as f64;
        Footprint {
            memory: each(self.memory, before.memory),
            descriptors: each(self.descriptors, before.descriptors),
            pipes: each(self.pipes, before.pipes),
            buffers: each(self.buffers, before.buffers),
            machine: each(self.machine, before.machine),
        }
    }
}

/// Bytes of the machine's memory that are not available.
pub fn unavailable() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    (number_of(&text, "MemTotal:") - number_of(&text, "MemAvailable:")) as f64 * 1024.0
}

/// The sum of r and w in all `skmem:(r...,rb...,t...,tb...,f...,w...,o...,bl...,d...)`, ss(8).
fn socket_buffers(namespace: &str) -> f64 {
    let done = Command::new("ip").args(["netns", "exec", namespace, "ss", "-Htnm"]).output();
    let text = done.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
    let fields = text.split("skmem:(").skip(1).flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','));
    let allocated = |field: &str| {
        let digits = field.strip_prefix('r').or_else(|| field.strip_prefix('w'))?;
        digits.parse::<f64>().ok()
    };
    fields.filter_map(allocated).sum()
}
