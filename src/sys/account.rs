//! User accounts: finding one, and becoming it for good.

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, getgroups, getresgid, getresuid, setfsgid, setfsuid, setgroups, setresgid, setresuid,
};

/// A user and its primary group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// Looks up an account by name, or by number as `#123`. `None` if there is no such account.
pub(crate) fn find(name: &str) -> io::Result<Option<Account>> {
    let user = match name.strip_prefix('#').map(str::parse) {
        Some(Ok(uid)) => User::from_uid(Uid::from_raw(uid))?,
        Some(Err(_)) => None,
        None => User::from_name(name)?,
    };
    Ok(user.map(|user| Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

/// Looks up a group by name, or by number as `#123`. `None` if there is no such group.
pub(crate) fn find_group(name: &str) -> io::Result<Option<u32>> {
    match name.strip_prefix('#').map(str::parse) {
        Some(Ok(gid)) => Ok(Some(gid)),
        Some(Err(_)) => Ok(None),
        None => Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())),
    }
}

/// The user whose files a process may change who is not root.
pub(crate) fn own_uid() -> u32 {
    Uid::effective().as_raw()
}

pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Becomes `account` for good: drops supplementary groups, sets all user and group ids, and checks that root cannot be
/// regained.
///
/// Errors: the kernel's, or a check that failed. The caller must not go on after an error.
pub(crate) fn become_account(account: Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;

    let (users, groups) = (getresuid()?, getresgid()?);
    let all_users = [users.real, users.effective, users.saved];
    let all_groups = [groups.real, groups.effective, groups.saved];
    if all_users != [uid; 3] || all_groups != [gid; 3] || !getgroups()?.is_empty() {
        return Err(io::Error::other("the kernel kept some of the former user and group ids"));
    }
    if !uid.is_root() && (setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() || is_root()) {
        return Err(io::Error::other("root can be regained"));
    }
    Ok(())
}

/// Does something whose files and sockets belong to another user then, and not to root (setfsuid(2)). This process keeps
/// its capabilities, apart from those over files while that lasts (capabilities(7)).
pub(crate) fn make_files_as<T>(account: Account, work: impl FnOnce() -> T) -> T {
    let group = setfsgid(Gid::from_raw(account.gid));
    let user = setfsuid(Uid::from_raw(account.uid));
    let done = work();
    setfsuid(user);
    setfsgid(group);
    done
}

/// Prevents programs that this process executes from getting capabilities from their files (`PR_CAPBSET_DROP`,
/// capabilities(7)). If this process may not do that, nothing happens: [`no_new_privileges`] has the same effect.
pub(crate) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0.. {
        // SAFETY: takes integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
        match Errno::result(result) {
            Ok(_) => {}
            // EINVAL: this kernel knows no more capabilities.
            Err(Errno::EINVAL | Errno::EPERM) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A capability that root may lack, in a container for instance (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    Kill = 5,
    SetGid = 6,
    SetUid = 7,
    NetAdmin = 12,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::Kill => "CAP_KILL",
            Capability::SetGid => "CAP_SETGID",
            Capability::SetUid => "CAP_SETUID",
            Capability::NetAdmin => "CAP_NET_ADMIN",
        })
    }
}

/// The first of these capabilities that is not in effect.
pub(crate) fn first_lacking(wanted: &[Capability]) -> io::Result<Option<Capability>> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [Capabilities::default(); 2];
    // SAFETY: the kernel writes the two halves that this version has, and may write the version that it prefers into the
    // header; both live through the call and are ours to write.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(wanted.iter().copied().find(|capability| sets[0].effective & (1 << *capability as u32) == 0))
}

/// The arguments of capget(2) and capset(2), linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Half of the three sets: 32 capabilities each.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Capabilities {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities, in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Gives up all capabilities; one that is not permitted cannot be ambient either. A user other than root has none unless
/// the program's file gives it some.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let none = [Capabilities::default(); 2];
    // SAFETY: the kernel reads the two halves that this version has, and may write the version that it prefers into the
    // header; both live through the call, and the header is ours to write.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

/// Prevents this process and its children from gaining privileges by exec (`PR_SET_NO_NEW_PRIVS`, prctl(2)).
pub(crate) fn no_new_privileges() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_that_proc_shows() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let shown = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let shown = u64::from_str_radix(shown.trim(), 16).unwrap();
        for capability in [Capability::Kill, Capability::SetGid, Capability::SetUid, Capability::NetAdmin] {
            let lacking = first_lacking(&[capability]).unwrap();
            assert_eq!(lacking.is_none(), shown & (1 << capability as u32) != 0, "{capability}");
        }
    }
}
