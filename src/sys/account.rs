//! User accounts: finding one, and becoming it for good.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

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

/// The arguments of capset(2), linux/capability.h.
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
