//! Memory that a process shares with the children that it passes a descriptor to.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use crate::sys::{inherited, reset};

/// A file in memory as words. Its length is sealed.
#[derive(Debug)]
struct Mapping {
    first: NonNull<AtomicU64>,
    count: usize,
}

impl Mapping {
    /// Maps the whole file with this access (`PROT_*`, mmap(2)).
    fn new(file: &File, access: libc::c_int) -> io::Result<Mapping> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory in use. The descriptor is open.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { first, count: bytes / size_of::<AtomicU64>() })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has room for `count` words, begins at a page and so is aligned, is zeroed by the kernel,
        // which is a valid value of each, and lives as long as `self`. The file cannot become shorter, since it is sealed.
        // Other processes may change the words, since they are atomic. Memory that may only be read is enough for who only
        // loads: a relaxed load of 64 bits only reads on the architectures that this program is for.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is exactly what mmap(2) returned, and no reference to it is left: `words` lends it no longer than
        // `self` lives. Other processes have their own mappings.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

/// Words that several processes can read and change. They begin as zero.
#[derive(Debug)]
pub(crate) struct SharedWords {
    mapping: Mapping,
    /// The memory as a file, in the process that has made it.
    file: Option<File>,
}

impl SharedWords {
    pub(crate) fn new(count: usize) -> io::Result<SharedWords> {
        let bytes = count.checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let file = inherited::memory_file()?;
        reset::without_size_limit(|| file.set_len(bytes as u64))?;
        // Nobody can take away what others have mapped.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        SharedWords::adopt(file)
    }

    /// The words that another process has made, by the descriptor that it has passed.
    pub(crate) fn map(file: &File) -> io::Result<SharedWords> {
        Ok(SharedWords { mapping: Mapping::new(file, libc::PROT_READ | libc::PROT_WRITE)?, file: None })
    }

    /// The same, and keeps the descriptor to pass it on.
    pub(crate) fn adopt(file: File) -> io::Result<SharedWords> {
        let mut words = SharedWords::map(&file)?;
        words.file = Some(file);
        Ok(words)
    }

    /// The descriptor to pass on, in the process that has made the words.
    pub(crate) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        self.mapping.words()
    }
}

/// A descriptor for the same memory that can only be read: it has an open file description of its own.
pub(crate) fn read_only(memory: BorrowedFd<'_>) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}

/// Words that another process changes and this one can only read.
#[derive(Debug)]
pub(crate) struct ReadWords(Mapping);

impl ReadWords {
    /// The words behind a descriptor that need only be open for reading.
    pub(crate) fn map(file: &File) -> io::Result<ReadWords> {
        Mapping::new(file, libc::PROT_READ).map(ReadWords)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.count
    }

    /// The word at this place; 0 beyond the last one.
    pub(crate) fn load(&self, place: usize) -> u64 {
        self.0.words().get(place).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn what_one_writes_the_other_reads() {
        let words = SharedWords::new(3).unwrap();
        assert!(words.iter().all(|word| word.load(SeqCst) == 0));
        let file = words.file.as_ref().unwrap();
        let others = SharedWords::map(file).unwrap();
        others[2].store(7, SeqCst);
        assert_eq!(words.iter().map(|word| word.load(SeqCst)).collect::<Vec<_>>(), [0, 0, 7]);
        assert!(file.set_len(0).is_err(), "it is sealed");
        let reader = ReadWords::map(&read_only(words.memory().unwrap()).unwrap()).unwrap();
        assert_eq!((reader.len(), reader.load(2), reader.load(3)), (3, 7, 0));
        let file = read_only(words.memory().unwrap()).unwrap();
        assert!(SharedWords::map(&file).is_err(), "it cannot be written");
    }
}
