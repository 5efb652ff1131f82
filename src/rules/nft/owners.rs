//! The processes to which tables belong, of this and of earlier runs of an instance.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::rules::nft::table;
use crate::sys::{process, procfs};

/// The name of the process.
pub(crate) const OWNER: &str = "tproxy-nft";

/// How long one may take to end, and the kernel to remove its table.
const LIMIT: Duration = Duration::from_secs(2);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What ps(1) shows for the owner of an instance's table.
pub(crate) fn title(instance: &str) -> String {
    format!("tproxy: owner of the nft table {}", table::name(instance))
}

/// The owners of tables in this network namespace, each with its instance.
fn all() -> Vec<(Pid, String)> {
    let instance = |pid: Pid| {
        let is_owner = procfs::name(pid)? == OWNER && procfs::user(pid)? == 0 && procfs::shares_network(pid);
        let instance = procfs::title(pid)?.strip_prefix(&title(""))?.to_owned();
        is_owner.then_some((pid, instance))
    };
    procfs::pids().filter_map(instance).collect()
}

/// Kills the owners of these instances' tables.
pub(crate) fn end_all(which: impl Fn(&str) -> bool) {
    let owners = all().into_iter().filter(|(_, instance)| which(instance)).map(|(pid, _)| pid).collect();
    kill(owners);
}

/// Kills the owners of an instance's tables but one. The kernel removes their tables.
pub(crate) fn end(instance: &str, but: Option<Pid>) {
    let owners = all().into_iter().filter(|(pid, other)| other == instance && Some(*pid) != but);
    kill(owners.map(|(pid, _)| pid).collect());
}

/// Kills processes, and waits until they and their tables are gone.
fn kill(owners: Vec<Pid>) {
    for pid in &owners {
        if let Err(error) = process::send_signal(*pid, Signal::SIGKILL) {
            log::debug!("killing process {pid}: {error}");
        }
    }
    let until = Instant::now() + LIMIT;
    while owners.iter().any(|pid| procfs::title(*pid).is_some_and(|title| !title.is_empty())) && Instant::now() < until
    {
        std::thread::sleep(PAUSE);
    }
}
