//! The file with the process id of the daemon (`-P`). The daemon keeps it open and locked: only that says that a daemon
//! runs. A number that a killed daemon has left may be that of any process by now.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid};

use crate::error::Error;
use crate::sys::files::{self, FileId};
use crate::sys::procfs;

/// How long a start waits for another one that is just writing its number. Whoever may read the file may lock it, too
/// (flock(2)): a lock without the number of its holder counts no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two looks at the file.
const PAUSE: Duration = Duration::from_millis(5);

/// Readable by everybody, writable by nobody else.
const MODE: u32 = 0o644;

/// A file with the id of this process. It is removed when the value goes, unless another process has written its own
/// id meanwhile.
#[derive(Debug)]
pub(crate) struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Writes the file. Whoever reads its first line gets the old number or the new one.
    ///
    /// Errors: a running daemon has the file, something else than a pid file is there, or it cannot be written.
    pub(crate) fn write(path: &Path) -> Result<PidFile, Error> {
        let failed = |error| Error::file(path.display().to_string(), error);
        let limit = Instant::now() + PATIENCE;
        loop {
            let is_late = Instant::now() >= limit;
            match look(path)? {
                Found::Ours(file) => {
                    write_number(&file).map_err(failed)?;
                    return Ok(PidFile { file, path: path.to_owned() });
                }
                Found::Strange => fs::remove_file(path).map_err(failed)?,
                Found::Locked if is_late => fs::remove_file(path).map_err(failed)?,
                Found::Moved if is_late => return Err(failed(io::Error::other("other processes keep changing it"))),
                Found::Locked | Found::Moved => thread::sleep(PAUSE),
            }
        }
    }

    /// The file that the former program of this process has written.
    pub(crate) fn adopt(path: PathBuf, descriptor: OwnedFd) -> PidFile {
        PidFile { file: File::from(descriptor), path }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_ours = files::is_at(&self.file, &self.path)
            && fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// What is at the path.
enum Found {
    /// A file of our own, now open and locked.
    Ours(File),
    /// A file that another user, or another name of it, could change later.
    Strange,
    /// A file that is locked, and not by the process that it names.
    Locked,
    /// Something else than a moment ago.
    Moved,
}

/// Opens and locks the file, or makes it.
///
/// Errors: a daemon has it, or it is no pid file.
fn look(path: &Path) -> Result<Found, Error> {
    let failed = |error| Error::file(path.display().to_string(), error);
    let other = |expected| Error::value("-P", path.display().to_string(), expected);
    let mut options = File::options();
    let file = match files::open(path, options.read(true).write(true).mode(MODE), fs::Metadata::is_file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            files::open(path, options.create_new(true), fs::Metadata::is_file)
        }
        found => found,
    };
    let file = match file {
        Ok(Some(file)) => file,
        Ok(None) => return Err(other("a regular file, or the path of a new one")),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Found::Moved),
        Err(error) => return Err(failed(error)),
    };
    let text = files::number(&file);
    let about = file.metadata().map_err(failed)?;
    if !files::try_lock(&file).map_err(failed)? {
        return match text.and_then(|number| number.parse().ok()).map(Pid::from_raw) {
            Some(pid) if is_daemon(pid, FileId::of(&about)) => {
                Err(Error::Taken(format!("-P: {}: tproxy is running already as process {pid}", path.display())))
            }
            _ => Ok(Found::Locked),
        };
    }
    if text.is_none() {
        return Err(other("a file with a process id, or the path of a new one"));
    }
    Ok(match files::is_at(&file, path) {
        true if about.uid() == Uid::effective().as_raw() && about.nlink() == 1 => Found::Ours(file),
        true => Found::Strange,
        false => Found::Moved,
    })
}

/// Whether a process may have locked the file as its pid file: it has it open, and is our user's.
fn is_daemon(pid: Pid, file: FileId) -> bool {
    procfs::user(pid) == Some(Uid::effective().as_raw()) && procfs::has_file(pid, file)
}

fn write_number(file: &File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;
    use std::os::unix::fs::symlink;

    fn refused(path: &Path) -> String {
        PidFile::write(path).expect_err("an error").to_string()
    }

    #[test]
    fn the_file_goes_with_its_process_only() {
        let directory = TempDir::new();
        let path = directory.path.join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        let file = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        drop(file);
        assert!(path.exists(), "a file that somebody else has put there");
    }

    #[test]
    fn a_lock_and_not_a_number_says_that_a_daemon_runs() {
        let directory = TempDir::new();
        let path = directory.path.join("pid");
        for left in ["", "1\n", "4194304\n", " 7 \n"] {
            fs::write(&path, left).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
            let file = PidFile::write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
            let running = format!("tproxy is running already as process {}", std::process::id());
            assert!(refused(&path).ends_with(&running));
            drop(file);
        }
    }

    #[test]
    fn a_lock_that_is_not_the_daemons_is_no_daemon() {
        let directory = TempDir::new();
        let path = directory.path.join("pid");
        for left in ["", "1\n", "4194304\n"] {
            fs::write(&path, left).unwrap();
            let squatter = File::open(&path).unwrap();
            assert!(files::try_lock(&squatter).unwrap());
            let file = PidFile::write(&path).unwrap();
            assert!(files::is_at(&file.file, &path) && !files::is_at(&squatter, &path));
        }
    }

    #[test]
    fn what_is_no_pid_file_stays_as_it_is() {
        let directory = TempDir::new();
        let path = directory.path.join("pid");
        for text in ["root:x:0:0:\n", "12 34\n", "-1\n", &"1".repeat(40)] {
            fs::write(&path, text).unwrap();
            assert!(refused(&path).contains("a file with a process id"), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        for (name, target) in [("link", "pid"), ("broken", "new"), ("loop", "loop")] {
            symlink(directory.path.join(target), directory.path.join(name)).unwrap();
            assert!(refused(&directory.path.join(name)).contains("a regular file"), "{name}");
        }
        assert!(!directory.path.join("new").exists());
        assert!(refused(Path::new("/dev/null")).contains("a regular file"));
    }

    #[test]
    fn another_name_of_the_file_keeps_what_it_has() {
        let directory = TempDir::new();
        let (path, other) = (directory.path.join("pid"), directory.path.join("other"));
        fs::write(&other, "1\n").unwrap();
        fs::hard_link(&other, &path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }
}
