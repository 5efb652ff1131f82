//! Who the processes run as: finding the account, and giving root up for good.

use std::io;

use nix::unistd::{Gid, Uid, User, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

/// An account to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Its user id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// Looks an account up by name, or by number as `#123`. `None` when there is no such account.
pub fn find(name: &str) -> io::Result<Option<Account>> {
    let user = match name.strip_prefix('#').map(str::parse) {
        Some(Ok(uid)) => User::from_uid(Uid::from_raw(uid))?,
        Some(Err(_)) => None,
        None => User::from_name(name)?,
    };
    Ok(user.map(|user| Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Becomes `account` for good and proves it: no supplementary groups, all user and group ids changed, no way back.
///
/// Errors: whatever the kernel said, or a sentence when root could be had again; the caller must not go on then.
pub fn become_account(account: Account) -> io::Result<()> {
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

/// No exec of this process or its children can gain privileges any more (`PR_SET_NO_NEW_PRIVS`, prctl(2)).
pub fn no_new_privileges() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}
