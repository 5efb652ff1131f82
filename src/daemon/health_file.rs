//! The file of `--health-file`: a number for programs that watch a file.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::control::description::Health;
use crate::error::Error;
use crate::sys::files;

/// Looks whether the file can be written, before anything is touched. It is not made yet.
///
/// Errors: those of [`write()`].
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    open(path, false).map(drop)
}

/// Writes the number that `tproxyctl health` exits with.
///
/// Errors: there is something at the path that is no file of ours, or it cannot be opened or written.
pub(crate) fn write(path: &Path, health: Health) -> Result<(), Error> {
    let text: &[u8] = if health == Health::Serving { b"0\n" } else { b"1\n" };
    let Some(file) = open(path, true)? else { return Ok(()) };
    let written = file.write_all_at(text, 0).and_then(|()| file.set_len(text.len() as u64));
    written.map_err(|error| Error::file(shown(path), error))
}

/// `None`: there is no file, and its directory is there.
fn open(path: &Path, create: bool) -> Result<Option<File>, Error> {
    let other = |expected| Error::value("--health-file", path.display().to_string(), expected);
    let mut options = File::options();
    let is_ours = |about: &Metadata| about.is_file() && about.nlink() == 1;
    let file = match files::open(path, options.read(true).write(true).create(create).mode(0o644), is_ours) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(other("a regular file with one name, or the path of a new one")),
        Err(error) if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::file(shown(path), error)),
    };
    match files::number(&file) {
        Some(_) => Ok(Some(file)),
        None => Err(other("a file with a number, or the path of a new one")),
    }
}

fn shown(path: &Path) -> String {
    format!("--health-file: {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_file_with_a_number_is_written() {
        let directory = TempDir::new();
        let at = |name: &str| directory.path.join(name);
        check(&at("new")).unwrap();
        assert!(!at("new").exists());
        for (health, text) in [(Health::Serving, "0\n"), (Health::Draining, "1\n")] {
            write(&at("new"), health).unwrap();
            assert_eq!(fs::read_to_string(at("new")).unwrap(), text);
        }
        for empty in ["", "17\n"] {
            fs::write(at("new"), empty).unwrap();
            check(&at("new")).unwrap();
        }
        directory.write("text", "precious\n");
        symlink(at("new"), at("link")).unwrap();
        symlink(at("nothing"), at("broken")).unwrap();
        for (name, wanted) in [
            ("text", "a file with a number"),
            ("link", "a regular file"),
            ("broken", "a regular file"),
            (".", "a regular file"),
            ("nowhere/health", "No such file"),
        ] {
            let path = at(name);
            let errors = [check(&path).unwrap_err(), write(&path, Health::Serving).unwrap_err()].map(|e| e.to_string());
            assert!(errors.iter().all(|error| error.contains(wanted)), "{name}: {errors:?}");
        }
        assert_eq!(fs::read_to_string(at("text")).unwrap(), "precious\n");
        assert!(!at("nothing").exists());
    }
}
