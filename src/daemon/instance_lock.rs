//! The lock on the name of an instance. Its chains have that name, so two daemons of one name would remove each other's
//! rules.
//!
//! The lock is an abstract address of unix(7). A network namespace has each address once, and rules reach just as far. The
//! kernel frees the address with the last process that has it, however that process ends.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::daemon::children::RULES;
use crate::daemon::socket_owners::{SocketOwner, SocketOwners};
use crate::error::Error;
use crate::rules::chains::PREFIX;
use crate::sys::procfs;

/// The lock on a name.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    socket: UnixDatagram,
}

impl InstanceLock {
    /// Locks the name, unless another daemon has it.
    pub(crate) fn try_lock(name: &str) -> Result<Option<InstanceLock>, Error> {
        let failed = |error| Error::sys(format!("locking the name '{name}'"), error);
        let address = SocketAddr::from_abstract_name(format!("{PREFIX}{name}")).map_err(failed)?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Ok(Some(InstanceLock { socket })),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// A lock that the former program of this process has handed over.
    pub(crate) fn handed_over(descriptor: OwnedFd) -> InstanceLock {
        InstanceLock { socket: UnixDatagram::from(descriptor) }
    }
}

impl AsFd for InstanceLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The error for a name that these processes have.
pub(crate) fn taken(name: &str, holders: &[SocketOwner]) -> Error {
    let by = list(holders);
    Error::Taken(format!(
        "the name '{name}' of the rules is in use by {by}; rules are called after the port, or after the file of -c"
    ))
}

/// The processes that have the name. None at all: it has become free in between.
pub(crate) fn holders(name: &str) -> Vec<SocketOwner> {
    let names = procfs::abstract_sockets(PREFIX);
    let inodes: Vec<u64> = names.into_iter().filter(|(other, _)| other == name).map(|(_, inode)| inode).collect();
    SocketOwners::take().holders_of(&inodes)
}

/// Whether a process with the lock only works on the rules. Its guardian was killed, and it ends soon.
pub(crate) fn works_on_rules(holder: &SocketOwner) -> bool {
    holder.name == RULES
}

/// The names that are in use in this network namespace, each with the processes that have it, as text.
pub(crate) fn living() -> Vec<(String, String)> {
    let owners = SocketOwners::take();
    let names = procfs::abstract_sockets(PREFIX);
    names.into_iter().map(|(name, inode)| (name, list(&owners.holders_of(&[inode])))).collect()
}

fn list(holders: &[SocketOwner]) -> String {
    let names: Vec<String> = holders.iter().map(SocketOwner::to_string).collect();
    if names.is_empty() { "another process".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_until_its_last_holder_is_gone() {
        let name = lab::process::unique("test");
        let first = InstanceLock::try_lock(&name).unwrap().expect("free");
        assert!(InstanceLock::try_lock(&name).unwrap().is_none());
        let error = taken(&name, &holders(&name));
        assert_eq!(error.exit_status(), 69);
        let sentence = error.to_string();
        assert!(sentence.contains(&format!("'{name}'")), "{sentence}");
        assert!(sentence.contains(&format!("(process {})", std::process::id())), "{sentence}");
        let second = InstanceLock::handed_over(first.as_fd().try_clone_to_owned().unwrap());
        drop(first);
        assert!(InstanceLock::try_lock(&name).unwrap().is_none());
        drop(second);
        // Not at the first attempt, perhaps: a child that another test forks has a copy until its exec.
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while InstanceLock::try_lock(&name).unwrap().is_none() {
            assert!(std::time::Instant::now() < limit, "still locked");
        }
    }
}
