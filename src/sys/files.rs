//! Files at paths where others may have put something else: a link to another file, a FIFO, which blocks whoever opens it, a
//! device, which may act as soon as it is opened.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;

/// No number that a file holds is longer, even with a line end.
const LONGEST_NUMBER: u64 = 32;

/// What tells a file from all others (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub(crate) fn of(about: &Metadata) -> FileId {
        FileId { device: about.dev(), inode: about.ino() }
    }
}

/// Whether the file at this path is still the one that is open.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let at_path = fs::symlink_metadata(path).map(|about| FileId::of(&about));
    matches!((file.metadata(), at_path), (Ok(about), Ok(id)) if FileId::of(&about) == id)
}

/// Opens a file without waiting and without following a link. `None`: there is something that `accepts` does not take. What
/// is there is looked at before it is opened, and again afterwards.
pub(crate) fn open(
    path: &Path,
    options: &mut OpenOptions,
    accepts: impl Fn(&Metadata) -> bool,
) -> io::Result<Option<File>> {
    match fs::symlink_metadata(path) {
        Ok(about) if !accepts(&about) => return Ok(None),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let about = file.metadata()?;
    Ok(accepts(&about).then_some(file))
}

/// Opens a file for reading, without waiting, at the end of the links that lead to it. `None`: it is no regular file.
pub(crate) fn open_through_links(path: &Path) -> io::Result<Option<File>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let is_file = file.metadata()?.is_file();
    Ok(is_file.then_some(file))
}

/// Whether this is /dev/null, whatever its path: the device has these numbers on each Linux (null(4)).
pub(crate) fn is_null(about: &Metadata) -> bool {
    about.file_type().is_char_device() && about.rdev() == libc::makedev(1, 3)
}

/// The number in a file, an empty text if it is empty, `None` if it holds anything else.
pub(crate) fn number(file: &File) -> Option<String> {
    let mut text = String::new();
    file.take(LONGEST_NUMBER).read_to_string(&mut text).ok()?;
    let number = text.trim();
    let good = text.len() < LONGEST_NUMBER as usize && number.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| number.to_owned())
}

/// Locks a file, for this process and those that get a copy of the descriptor (flock(2)). Returns `false` if it is locked.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: takes two integers.
    match Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;
    use nix::sys::stat::Mode;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = TempDir::new();
        let at = |name: &str| directory.path.join(name);
        directory.write("file", "");
        symlink(at("file"), at("link")).unwrap();
        symlink(at("nothing"), at("broken")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let mut options = File::options();
        options.append(true).create(true);
        for name in ["link", "broken", "fifo", "."] {
            assert!(open(&at(name), &mut options, Metadata::is_file).unwrap().is_none(), "{name}");
        }
        assert!(!at("nothing").exists());
        for name in ["file", "new"] {
            assert!(open(&at(name), &mut options, Metadata::is_file).unwrap().is_some(), "{name}");
        }
        assert!(open_through_links(&at("link")).unwrap().is_some());
        assert!(open_through_links(&at("fifo")).unwrap().is_none() && open_through_links(&at(".")).unwrap().is_none());
        assert_eq!(open_through_links(&at("broken")).unwrap_err().kind(), ErrorKind::NotFound);
        let null = Path::new("/dev/null");
        assert!(open(null, &mut options, Metadata::is_file).unwrap().is_none());
        assert!(open(null, &mut options, is_null).unwrap().is_some());
        assert!(!is_null(&fs::metadata("/dev/zero").unwrap()));
    }

    #[test]
    fn a_copy_of_the_descriptor_keeps_the_lock() {
        let directory = TempDir::new();
        let path = directory.write("lock", "");
        let (first, second) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(try_lock(&first).unwrap() && try_lock(&first).unwrap());
        let copy = first.try_clone().unwrap();
        drop(first);
        assert!(!try_lock(&second).unwrap());
        assert!(try_lock(&copy).unwrap());
        assert!(is_at(&copy, Path::new(&path)) && !is_at(&copy, &directory.path));
    }
}
