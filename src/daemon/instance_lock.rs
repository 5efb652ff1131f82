//! The lock on the name of an instance. Its chains have that name, so two daemons of one name would remove each other's
//! rules.
//!
//! The lock is that of a file (flock(2)) in a directory which only root can enter, so nobody else can take it. Rules reach as
//! far as their network namespace, and so does the name: the file is called after both. The kernel frees the lock with the
//! last process that has it, however that process ends; the file is removed at the next chance.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use crate::daemon::children::RULES;
use crate::daemon::socket_owners::SocketOwner;
use crate::error::Error;
use crate::sys::files::{self, FileId};
use crate::sys::procfs;

/// Where the files are, on every system with a /run of its own for each boot (hier(7)).
const DIRECTORY: &str = "/run/tproxy";

/// How often a file is locked that its former holder removes at the same time.
const TRIES: usize = 100;

/// How long a daemon of the same name may take to end: one that has just been told to stop gives its name back when its
/// rules are unhooked.
const LIMIT: Duration = Duration::from_secs(1);

/// How long the last process of a killed daemon that works on its rules may take: it waits for the lock of the tables.
const LIMIT_FOR_RULES: Duration = Duration::from_secs(15);

/// The name of what is shared.
const ROUTING: &str = "+routing";

/// Between two attempts to lock the name.
const PAUSE: Duration = Duration::from_millis(20);

/// The lock on a name.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    file: File,
    path: PathBuf,
}

impl InstanceLock {
    /// Locks the name, unless another daemon has it.
    pub(crate) fn try_lock(name: &str) -> Result<Option<InstanceLock>, Error> {
        let directory = Path::new(DIRECTORY);
        prepare(directory).and_then(|()| try_lock_in(directory, name)).map_err(|error| failed(name, error))
    }

    /// The lock on the name that the former program of this process has handed over. If an administrator has removed its
    /// file, it is locked anew.
    pub(crate) fn handed_over(descriptor: OwnedFd, name: &str) -> Result<Option<InstanceLock>, Error> {
        let path = path(Path::new(DIRECTORY), name).map_err(|error| failed(name, error))?;
        let file = File::from(descriptor);
        if files::is_at(&file, &path) {
            return Ok(Some(InstanceLock { file, path }));
        }
        InstanceLock::try_lock(name)
    }
}

/// The lock on what all instances in this network namespace share: policy routing. Work on it is short. No instance has
/// this name, because no file of `-c` gives one with a `+`.
///
/// Errors: another process keeps it.
pub(crate) fn for_routing() -> Result<InstanceLock, Error> {
    let since = Instant::now();
    loop {
        if let Some(lock) = InstanceLock::try_lock(ROUTING)? {
            return Ok(lock);
        }
        if since.elapsed() > LIMIT_FOR_RULES {
            return Err(taken(ROUTING, &holders(ROUTING)));
        }
        thread::sleep(PAUSE);
    }
}

/// Attempts to lock a name, until it is clear that another daemon keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockAttempt {
    since: Instant,
    waits_for_rules: bool,
}

impl LockAttempt {
    pub(crate) fn begin() -> LockAttempt {
        LockAttempt { since: Instant::now(), waits_for_rules: false }
    }

    /// When to try again.
    pub(crate) fn due() -> Instant {
        Instant::now() + PAUSE
    }

    /// Tries once. `None` is to be tried again.
    ///
    /// Errors: another daemon has the name, or nobody can lock it.
    pub(crate) fn again(&mut self, name: &str) -> Result<Option<InstanceLock>, Error> {
        let lock = InstanceLock::try_lock(name)?;
        let limit = if self.waits_for_rules { LIMIT_FOR_RULES } else { LIMIT };
        if lock.is_some() || self.since.elapsed() < limit {
            return Ok(lock);
        }
        let holders = holders(name);
        // Who had it may have gone while we looked who it is.
        let lock = InstanceLock::try_lock(name)?;
        let are_rules_only = holders.iter().all(|holder| holder.name == RULES);
        if lock.is_none() && (self.waits_for_rules || !are_rules_only) {
            return Err(taken(name, &holders));
        }
        self.waits_for_rules = true;
        Ok(lock)
    }
}

impl AsFd for InstanceLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for InstanceLock {
    /// The file goes first: who locks it in between sees that it is not there any more.
    fn drop(&mut self) {
        if files::is_at(&self.file, &self.path)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

fn failed(name: &str, error: io::Error) -> Error {
    Error::file(format!("the lock on the name '{name}': {DIRECTORY}"), error)
}

/// Makes the directory, or sees that nobody but root can have put anything into it.
fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        // /run may be read-only, and the directory there.
        Err(error) if fs::symlink_metadata(directory).is_err() => return Err(error),
        _ => {}
    }
    let about = fs::symlink_metadata(directory)?;
    if !about.is_dir() || about.uid() != Uid::effective().as_raw() || about.mode() & 0o066 != 0 {
        return Err(io::Error::other("expected a directory of root that nobody else may read or write (chmod 700)"));
    }
    Ok(())
}

fn try_lock_in(directory: &Path, name: &str) -> io::Result<Option<InstanceLock>> {
    let path = path(directory, name)?;
    for _ in 0..TRIES {
        let file = open(&path, File::options().create(true).mode(0o600))?;
        if !files::try_lock(&file)? {
            return Ok(None);
        }
        // Or else its former holder has removed it in between.
        if files::is_at(&file, &path) {
            sweep(directory, &path);
            return Ok(Some(InstanceLock { file, path }));
        }
    }
    Ok(None)
}

fn open(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    let file = files::open(path, options.read(true).write(true), fs::Metadata::is_file)?;
    file.ok_or_else(|| io::Error::other(format!("{} is no regular file", path.display())))
}

/// The file of a name in the network namespace of this process.
fn path(directory: &Path, name: &str) -> io::Result<PathBuf> {
    Ok(directory.join(format!("{}.{name}", namespace()?)))
}

/// The kernel has each network namespace as an inode (namespaces(7)).
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Removes the files of daemons that were killed: their namespace may be gone, and the name would never come again. Other
/// files are not ours: the unit lets an administrator put some here (`--health-file`).
fn sweep(directory: &Path, own: &Path) {
    for path in files(directory).filter(|path| path != own && is_of_lock(path)) {
        if let Ok(file) = open(&path, &mut File::options())
            && files::try_lock(&file).is_ok_and(|locked| locked)
        {
            drop(InstanceLock { file, path });
        }
    }
}

/// Whether a lock may have made this file: it is called after a namespace and a name.
fn is_of_lock(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.and_then(|name| name.split_once('.')).is_some_and(|(namespace, _)| namespace.parse::<u64>().is_ok())
}

fn files(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The error for a name that these processes have.
fn taken(name: &str, holders: &[SocketOwner]) -> Error {
    let by = list(holders);
    Error::Taken(format!(
        "the name '{name}' of the rules is in use by {by}; rules are called after the port, or after the file of -c"
    ))
}

/// The processes that have the name. None at all: it has become free in between.
fn holders(name: &str) -> Vec<SocketOwner> {
    path(Path::new(DIRECTORY), name).map(|path| holders_of(&path)).unwrap_or_default()
}

fn holders_of(path: &Path) -> Vec<SocketOwner> {
    let Ok(id) = fs::symlink_metadata(path).map(|about| FileId::of(&about)) else { return Vec::new() };
    procfs::pids().filter(|pid| procfs::has_file(*pid, id)).filter_map(SocketOwner::of).collect()
}

/// The processes that have a name, as text, unless they end soon: one that was killed is gone from ps(1) a moment before
/// the kernel has closed its files (do_exit, kernel/exit.c).
pub(crate) fn holders_that_stay(name: &str) -> Option<String> {
    let path = path(Path::new(DIRECTORY), name).ok()?;
    let since = Instant::now();
    while is_held(&path) {
        if since.elapsed() > LIMIT {
            return Some(list(&holders_of(&path)));
        }
        thread::sleep(PAUSE);
    }
    None
}

/// Whether a process has the lock that this file is.
fn is_held(path: &Path) -> bool {
    let locked = open(path, &mut File::options()).and_then(|file| files::try_lock(&file));
    locked.is_ok_and(|locked| !locked)
}

/// The names that are in use in this network namespace, each with the processes that have it, as text.
pub(crate) fn living() -> Vec<(String, String)> {
    let Ok(namespace) = namespace() else { return Vec::new() };
    let living = |path: PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str)?.strip_prefix(&format!("{namespace}."))?.to_owned();
        (name != ROUTING && is_held(&path)).then(|| (name, list(&holders_of(&path))))
    };
    files(Path::new(DIRECTORY)).filter_map(living).collect()
}

fn list(holders: &[SocketOwner]) -> String {
    let names: Vec<String> = holders.iter().map(SocketOwner::to_string).collect();
    if names.is_empty() { "another process".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn lock(directory: &Path, name: &str) -> Option<InstanceLock> {
        try_lock_in(directory, name).unwrap()
    }

    /// Not at the first attempt, perhaps: a child that another test forks has a copy until its exec.
    fn lock_soon(directory: &Path, name: &str) -> InstanceLock {
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(lock) = lock(directory, name) {
                return lock;
            }
            assert!(Instant::now() < limit, "still locked");
        }
    }

    #[test]
    fn a_name_is_given_once_until_its_last_holder_is_gone() {
        let directory = TempDir::new();
        let first = lock(&directory.path, "80").expect("free");
        assert!(lock(&directory.path, "80").is_none());
        assert!(lock(&directory.path, "8080").is_some());
        let error = taken("80", &holders_of(&first.path));
        assert_eq!(error.exit_status(), 69);
        let sentence = error.to_string();
        assert!(sentence.contains("'80'"), "{sentence}");
        assert!(sentence.contains(&format!("(process {})", std::process::id())), "{sentence}");
        // A process that has a copy, and has not taken the lock itself.
        let copy = first.as_fd().try_clone_to_owned().unwrap();
        std::mem::forget(first);
        assert!(lock(&directory.path, "80").is_none());
        let path = path(&directory.path, "80").unwrap();
        drop(InstanceLock { file: File::from(copy), path });
        drop(lock_soon(&directory.path, "80"));
    }

    #[test]
    fn no_file_stays_when_its_daemon_is_gone() {
        let directory = TempDir::new();
        for file in ["1.80", "4026531840.cow", "health", "web.pid"] {
            directory.write(file, "");
        }
        let alive = lock(&directory.path, "alive").expect("free");
        let lock = lock_soon(&directory.path, "80");
        let mut found: Vec<_> = files(&directory.path).collect();
        found.sort();
        let of_others = ["health", "web.pid"].map(|file| directory.path.join(file));
        let mut expected = [&[alive.path.clone(), lock.path.clone()], &of_others[..]].concat();
        expected.sort();
        assert_eq!(found, expected);
        drop((alive, lock));
        assert_eq!(files(&directory.path).count(), of_others.len());
    }

    #[test]
    fn a_lock_whose_file_was_replaced_is_not_removed_with_it() {
        let directory = TempDir::new();
        let first = lock(&directory.path, "80").expect("free");
        fs::remove_file(&first.path).unwrap();
        let second = lock_soon(&directory.path, "80");
        drop(first);
        assert!(second.path.exists());
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let parent = TempDir::new();
        let directory = parent.path.join("tproxy");
        prepare(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
        prepare(&directory).unwrap();
        // Others may pass to the control sockets: the files of locks are root's alone.
        for mode in [0o710, 0o711] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            prepare(&directory).unwrap();
        }
        for mode in [0o777, 0o755, 0o720, 0o1777] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            assert!(prepare(&directory).unwrap_err().to_string().contains("chmod 700"), "{mode:o}");
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        let (link, file) = (parent.path.join("link"), parent.path.join("file"));
        symlink(&directory, &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(prepare(&link).is_err() && prepare(&file).is_err());
        assert_eq!(prepare(Path::new("/nonexistent/tproxy")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let directory = TempDir::new();
        let target = directory.path.join("target");
        symlink(&target, path(&directory.path, "80").unwrap()).unwrap();
        assert!(try_lock_in(&directory.path, "80").is_err());
        assert!(!target.exists());
    }
}
