//! Directories for the files of one test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A new directory that no other test uses, removed with its contents when dropped, panic or not.
pub struct TempDir {
    /// Where it is.
    pub path: PathBuf,
}

impl TempDir {
    /// Makes it. Other users can read it: the daemon's children are some of them.
    pub fn new() -> TempDir {
        let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("tproxy-test-XXXXXX")).expect("mkdtemp");
        let directory = TempDir { path };
        directory.set_mode(0o755);
        directory
    }

    /// One that every user can write to.
    pub fn open_to_all() -> TempDir {
        let directory = TempDir::new();
        directory.set_mode(0o777);
        directory
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Writes a file in it and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
        path
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).expect("mode");
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
