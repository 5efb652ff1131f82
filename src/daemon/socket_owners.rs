//! Who has our port: somebody else, another tproxy, or workers that a killed guardian has left behind. These serve on
//! and can be relieved without a client noticing.

use std::fmt;
use std::fs;
use std::net::SocketAddr;

use nix::unistd::Pid;

use crate::daemon::children::WORKER;

/// A process that holds a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketOwner {
    /// Its process id.
    pub pid: Pid,
    /// Its name (proc(5), /proc/PID/comm).
    pub name: String,
}

impl SocketOwner {
    /// The process of that id, if there is one.
    pub(crate) fn of(pid: Pid) -> Option<SocketOwner> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(SocketOwner { pid, name: name.trim_end().to_owned() })
    }

    /// Whether it is a worker of ours. Without a guardian among the holders it has lost its own.
    pub(crate) fn is_worker(&self) -> bool {
        self.name == WORKER
    }
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Who has which socket of this network namespace. It is taken once for many questions, since it looks at all descriptors
/// of all processes. Of other users' processes only root sees the descriptors, so the answers may be too short.
#[derive(Debug)]
pub(crate) struct SocketOwners {
    processes: Vec<(SocketOwner, Vec<u64>)>,
    /// Listening sockets: whether it is IPv4, the port, the inode.
    listening: Vec<(bool, u16, u64)>,
}

impl SocketOwners {
    /// Takes it.
    pub(crate) fn take() -> SocketOwners {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let processes = pids.filter_map(|pid| Some((SocketOwner::of(Pid::from_raw(pid))?, listeners(pid))));
        let read = |name: &str, v4| {
            let table = fs::read_to_string(name).unwrap_or_default();
            listening(&table).map(|(port, inode)| (v4, port, inode)).collect::<Vec<_>>()
        };
        let listening = [read("/proc/net/tcp", true), read("/proc/net/tcp6", false)].concat();
        SocketOwners { processes: processes.collect(), listening }
    }

    /// Who listens on the port of `address`.
    pub(crate) fn listeners_at(&self, address: SocketAddr) -> Vec<SocketOwner> {
        let at = |(v4, port, _): &&(bool, u16, u64)| *v4 == address.is_ipv4() && *port == address.port();
        let inodes: Vec<u64> = self.listening.iter().filter(at).map(|(.., inode)| *inode).collect();
        self.holders_of(&inodes)
    }

    /// Who has one of these sockets.
    pub(crate) fn holders_of(&self, inodes: &[u64]) -> Vec<SocketOwner> {
        let has = |(_, listeners): &&(SocketOwner, Vec<u64>)| listeners.iter().any(|inode| inodes.contains(inode));
        self.processes.iter().filter(has).map(|(holder, _)| holder.clone()).collect()
    }
}

fn listeners(pid: i32) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// Reads the table of proc(5), /proc/net/tcp: ports and inodes of the sockets in state 0A (TCP_LISTEN).
fn listening(table: &str) -> impl Iterator<Item = (u16, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, port) = fields.get(1).filter(|_| fields.get(3) == Some(&"0A"))?.rsplit_once(':')?;
        Some((u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
    })
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
            let holders = || SocketOwners::take().listeners_at(address);
            assert!(holders().iter().any(|holder| holder.pid == Pid::this()));
            drop(listener);
            assert!(!holders().iter().any(|holder| holder.pid == Pid::this()));
        }
    }
}
