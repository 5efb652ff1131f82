//! Landlock (landlock(7)): what a process without privileges forbids itself, for good.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// struct `landlock_ruleset_attr` of linux/landlock.h, as far as Linux 6.7 knows it.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
}

/// struct `landlock_net_port_attr`.
#[repr(C)]
struct Port {
    access: u64,
    port: u64,
}

const BIND_TCP: u64 = 1;

/// `LANDLOCK_RULE_NET_PORT`.
const RULE_PORT: libc::c_int = 2;

/// This process can bind TCP sockets without a port only, or to one that the kernel chooses. `PR_SET_NO_NEW_PRIVS` must be
/// set before.
///
/// Errors: this kernel is older than 6.7, or has no Landlock.
pub(crate) fn bind_free_ports_only() -> io::Result<()> {
    let (ruleset, free) = (Ruleset { files: 0, network: BIND_TCP }, Port { access: BIND_TCP, port: 0 });
    // SAFETY: the kernel reads `ruleset`, which lives through the call, and makes a descriptor.
    let rules =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0) };
    let rules = Errno::result(rules)? as libc::c_int;
    // SAFETY: that descriptor is nobody else's yet.
    let rules = unsafe { OwnedFd::from_raw_fd(rules) };
    // SAFETY: the kernel reads `free`, which lives through the call.
    let added = unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), RULE_PORT, &raw const free, 0) };
    Errno::result(added)?;
    // SAFETY: only numbers are passed.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) })?;
    Ok(())
}
