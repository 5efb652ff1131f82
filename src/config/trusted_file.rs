//! Files that decide what a root process does, or that hold a secret. Who may write to one, or put another one into its
//! place, may as well be root.

use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Uid;

use crate::error::Error;
use crate::sys::files;

/// Reads a file that root reads only if nobody but root may change it. A link is followed, because what it leads to is
/// looked at.
///
/// Errors: it is no regular file, or others may change it, or it cannot be read.
pub(super) fn read(
    option: &str,
    path: &Path,
    most: u64,
    also: fn(&Metadata) -> Option<&str>,
) -> Result<Vec<u8>, Error> {
    let shown = path.display().to_string();
    let failed = |error| Error::file(shown.clone(), error);
    let wrong = |expected: &str| Error::value(option, shown.clone(), expected);
    let file = files::open_through_links(path).map_err(failed)?.ok_or_else(|| wrong("a regular file"))?;
    let about = file.metadata().map_err(failed)?;
    if let Some(expected) = also(&about) {
        return Err(wrong(expected));
    }
    if Uid::effective().is_root() {
        if !is_roots(&about, 0) {
            return Err(wrong("a file that only root may write (chown root, chmod go-w)"));
        }
        let directory = open_to_others(path).map_err(failed)?;
        if let Some(directory) = directory {
            let expected = format!("a file that only root may replace, but others may write to {directory}");
            return Err(wrong(&expected));
        }
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Whether only root may write. A mode with the bits of `protects` keeps others out nevertheless.
fn is_roots(about: &Metadata, protects: u32) -> bool {
    let by_group = about.mode() & 0o020 != 0 && about.gid() != 0;
    about.uid() == 0 && (about.mode() & protects != 0 || (about.mode() & 0o002 == 0 && !by_group))
}

/// The first directory above a file, and above each link on the way to it, in which others than root may replace what leads
/// to the file. In one with the sticky bit they may not replace what is not theirs (inode(7)).
fn open_to_others(path: &Path) -> std::io::Result<Option<String>> {
    let real = path.canonicalize()?;
    let by_name = path.ancestors().skip(1).filter(|directory| !directory.as_os_str().is_empty());
    for directory in by_name.chain(real.ancestors().skip(1)) {
        if !is_roots(&fs::metadata(directory)?, libc::S_ISVTX) {
            return Ok(Some(directory.display().to_string()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn refused(path: &Path) -> Option<String> {
        read("-c", path, u64::MAX, |_| None).err().map(|error| error.to_string())
    }

    #[test]
    fn what_others_may_change_is_not_read_as_root() {
        let directory = TempDir::new();
        let path = directory.path.join("file");
        fs::write(&path, "text").unwrap();
        if !Uid::effective().is_root() {
            return;
        }
        let table = [
            (0o600, 0, 0, true),
            (0o664, 0, 0, true),
            (0o664, 0, 1, false),
            (0o602, 0, 0, false),
            (0o666, 0, 0, false),
            (0o600, 1, 0, false),
        ];
        for (mode, uid, gid, is_read) in table {
            chown(&path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(refused(&path).is_none(), is_read, "{mode:o} {uid} {gid}");
        }
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        for (mode, uid, is_read) in [(0o777, 0, false), (0o1777, 0, true), (0o755, 0, true), (0o755, 1, false)] {
            chown(&directory.path, Some(uid), None).unwrap();
            fs::set_permissions(&directory.path, Permissions::from_mode(mode)).unwrap();
            let why = refused(&path);
            assert_eq!(why.is_none(), is_read, "{mode:o} {uid} {why:?}");
            assert!(why.is_none_or(|why| why.ends_with(&directory.path.display().to_string())));
        }
        chown(&directory.path, Some(0), None).unwrap();
    }

    #[test]
    fn a_link_is_as_good_as_its_way() {
        let (safe, open) = (TempDir::new(), TempDir::open_to_all());
        let (good, bad) = (safe.write("file", "text"), open.write("file", "text"));
        for (at, to, is_read) in [(&safe, &good, true), (&safe, &bad, false), (&open, &good, false)] {
            let link = at.path.join(format!("link{}", to.len() + usize::from(*to == bad)));
            symlink(to, &link).unwrap();
            assert_eq!(refused(&link).is_none(), is_read || !Uid::effective().is_root(), "{}", link.display());
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = TempDir::new();
        let fifo = directory.path.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&fifo, &directory.path, Path::new("/dev/zero")] {
            assert!(refused(path).is_some_and(|why| why.ends_with("expected a regular file")), "{}", path.display());
        }
    }
}
