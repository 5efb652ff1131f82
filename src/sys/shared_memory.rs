//! Memory that a process shares with the children that it forks.

use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// Words that this process and all children forked later can read and change. They begin as zero.
#[derive(Debug)]
pub(crate) struct SharedWords {
    first: NonNull<AtomicU64>,
    count: usize,
}

impl SharedWords {
    pub(crate) fn new(count: usize) -> io::Result<SharedWords> {
        let bytes = count.checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory in use. An anonymous mapping
        // ignores the descriptor.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedWords { first, count })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has room for `count` words, begins at a page and so is aligned, is zeroed by the kernel,
        // which is a valid value of each, and lives as long as `self`. Other processes may change the words, since they
        // are atomic.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: this is exactly what mmap(2) returned, and no reference to it is left: `deref` lends it no longer than
        // `self` lives. Other processes have their own mappings.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;
    use nix::unistd::{ForkResult, fork};
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn what_a_child_writes_its_parent_reads() {
        let words = SharedWords::new(3).unwrap();
        assert!(words.iter().all(|word| word.load(SeqCst) == 0));
        // SAFETY: the child, which has the other threads' locks and not the threads, writes a word and ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                words[2].store(7, SeqCst);
                process::leave(0)
            }
            ForkResult::Parent { child } => process::wait_for(child),
        }
        assert_eq!(words.iter().map(|word| word.load(SeqCst)).collect::<Vec<_>>(), [0, 0, 7]);
    }
}
