//! Who has our port: somebody else, another tproxy, or workers that a killed guardian has left behind. These serve on
//! and can be relieved without a client noticing.

use std::fmt;
use std::fs;
use std::net::SocketAddr;

use nix::unistd::Pid;

use crate::daemon::spawn::WORKER;

/// A process that holds a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: Pid,
    /// Its name (proc(5), /proc/PID/comm).
    pub name: String,
}

impl Holder {
    /// Whether it is a worker of ours. Without a guardian among the holders it has lost its own.
    pub fn is_worker(&self) -> bool {
        self.name == WORKER
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The processes that listen on the port of `address` in this network namespace. Of other users' processes only root
/// sees the descriptors, so the list may be too short.
pub fn holders(address: SocketAddr) -> Vec<Holder> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    holders_of(&listening_inodes(&fs::read_to_string(table).unwrap_or_default(), address.port()))
}

/// The processes that have one of these sockets, with the same reservation.
pub fn holders_of(inodes: &[u64]) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| holds(*pid, inodes))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Holder { pid: Pid::from_raw(pid), name: name.trim_end().to_owned() }
        })
        .collect()
}

fn holds(pid: i32, inodes: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .any(|inode: u64| inodes.contains(&inode))
}

/// Reads the table of proc(5), /proc/net/tcp: sockets in state 0A (TCP_LISTEN) on the port, by inode.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    let lines = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&suffix)) && fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_of_this_process_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            assert!(holders(address).iter().any(|holder| holder.pid == Pid::this()));
            drop(listener);
            assert!(!holders(address).iter().any(|holder| holder.pid == Pid::this()));
        }
    }
}
