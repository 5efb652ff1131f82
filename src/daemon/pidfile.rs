//! The file with the process id of the daemon (`-P`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::sys::procfs;

use nix::unistd::Pid;

/// A file with the id of this process. It is removed when the value goes, unless another process has written its own
/// id meanwhile.
#[derive(Debug)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes the file atomically: a reader sees the old content or the new one.
    ///
    /// Errors: the file names a running daemon, or cannot be written.
    pub(crate) fn write(path: &Path) -> Result<PidFile, Error> {
        if let Some(pid) = living_daemon(path) {
            return Err(Error::Taken(format!("-P: {}: tproxy is running already as process {pid}", path.display())));
        }
        let failed = |error| Error::file(path.display().to_string(), error);
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, format!("{}\n", std::process::id())).map_err(failed)?;
        fs::rename(&new, path).map_err(failed)?;
        Ok(PidFile(path.to_owned()))
    }

    /// The file that the former program of this process has written.
    pub(crate) fn adopt(path: PathBuf) -> PidFile {
        PidFile(path)
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours && let Err(error) = fs::remove_file(&self.0) {
            log::warn!("{}: {error}", self.0.display());
        }
    }
}

/// The daemon that the file speaks of, if it is one and lives.
fn living_daemon(path: &Path) -> Option<Pid> {
    let pid = Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?);
    // A dead process stays a zombie until its parent asks for its status.
    let lives = procfs::status(pid).is_some_and(|it| it.name == "tproxy" && !matches!(it.state, 'Z' | 'X'));
    (pid != Pid::this() && lives).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;

    #[test]
    fn the_file_goes_with_its_process_only() {
        let directory = TempDir::new();
        let path = directory.path.join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }
}
