//! Which processes have a port: another program, another tproxy, or workers whose guardian was killed. These workers go on
//! serving, and a new daemon can take over from them without a client noticing.

use std::fmt;
use std::net::SocketAddr;

use nix::unistd::Pid;

use crate::daemon::instructions::WORKER;
use crate::sys::procfs::{self, InetSocket};

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
        Some(SocketOwner { pid, name: procfs::name(pid)? })
    }

    /// Whether this is a worker. If no guardian is among the owners, its guardian was killed.
    pub(crate) fn is_worker(&self) -> bool {
        self.name == WORKER
    }
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Which process has which socket of this network namespace. Reading it is expensive (all descriptors of all processes),
/// so it is read once for many questions. Only root sees the descriptors of other users' processes.
#[derive(Debug)]
pub(crate) struct SocketOwners {
    processes: Vec<(SocketOwner, Vec<u64>)>,
    listening: Vec<InetSocket>,
}

impl SocketOwners {
    /// Reads all of it.
    pub(crate) fn take() -> SocketOwners {
        let processes = procfs::pids().filter_map(|pid| Some((SocketOwner::of(pid)?, procfs::socket_inodes(pid))));
        SocketOwners { processes: processes.collect(), listening: procfs::tcp_listeners() }
    }

    /// The processes that listen on the port of `address`.
    pub(crate) fn listeners_at(&self, address: SocketAddr) -> Vec<SocketOwner> {
        let at = |socket: &&InetSocket| socket.is_ipv4 == address.is_ipv4() && socket.port == address.port();
        let inodes: Vec<u64> = self.listening.iter().filter(at).map(|socket| socket.inode).collect();
        self.holders_of(&inodes)
    }

    /// The processes that have one of these sockets.
    pub(crate) fn holders_of(&self, inodes: &[u64]) -> Vec<SocketOwner> {
        let has = |(_, sockets): &&(SocketOwner, Vec<u64>)| sockets.iter().any(|inode| inodes.contains(inode));
        self.processes.iter().filter(has).map(|(holder, _)| holder.clone()).collect()
    }
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
