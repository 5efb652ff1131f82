//! Full control of a process of the daemon under test: what an attacker has who made it run his program (ptrace(2)).

use crate::wait;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A process that does nothing any more but what it is told. It goes on with its own work when this is dropped.
pub struct Puppet {
    pid: Pid,
    own: libc::user_regs_struct,
}

/// The machine code of `syscall`, which a process that waits in the kernel has just before it.
const SYSCALL: libc::c_long = 0x050f;

/// What is written for a process to find lies so far below what its own program may use of the stack.
const BELOW: u64 = 64 * 1024;

impl Puppet {
    /// Takes a process over that waits for something.
    pub fn take(pid: i32) -> Puppet {
        let pid = Pid::from_raw(pid);
        wait::until("the process in a system call", || {
            ptrace::attach(pid).expect("attach");
            assert!(matches!(stop_of(pid), WaitStatus::Stopped(..)));
            let own = ptrace::getregs(pid).expect("registers");
            let before = ptrace::read(pid, (own.rip - 2) as *mut _).expect("memory");
            if before & 0xffff == SYSCALL {
                return Some(Puppet { pid, own });
            }
            ptrace::detach(pid, None).expect("detach");
            None
        })
    }

    /// Makes it do a system call; the arguments that are not given are zero.
    pub fn call(&self, number: libc::c_long, arguments: &[u64]) -> Result<u64, Errno> {
        let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
        let registers = libc::user_regs_struct {
            // None that could be begun again.
            orig_rax: u64::MAX,
            rax: number as u64,
            rip: self.own.rip - 2,
            rdi: argument(0),
            rsi: argument(1),
            rdx: argument(2),
            r10: argument(3),
            r8: argument(4),
            r9: argument(5),
            ..self.own
        };
        ptrace::setregs(self.pid, registers).expect("registers");
        ptrace::step(self.pid, None).expect("step");
        assert_eq!(stop_of(self.pid), WaitStatus::Stopped(self.pid, Signal::SIGTRAP));
        let result = ptrace::getregs(self.pid).expect("registers").rax.cast_signed();
        if (-4095..0).contains(&result) { Err(Errno::from_raw(-result as i32)) } else { Ok(result.cast_unsigned()) }
    }

    /// Puts bytes into its memory, and gives their address. What was put there before is overwritten.
    pub fn put(&self, bytes: &[u8]) -> u64 {
        let address = (self.own.rsp - BELOW) & !15;
        let there = RemoteIoVec { base: address as usize, len: bytes.len() };
        let written = process_vm_writev(self.pid, &[IoSlice::new(bytes)], &[there]);
        assert_eq!(written, Ok(bytes.len()));
        address
    }

    /// What its memory holds there.
    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let there = RemoteIoVec { base: address as usize, len: length };
        assert_eq!(process_vm_readv(self.pid, &mut [IoSliceMut::new(&mut bytes)], &[there]), Ok(length));
        bytes
    }

    /// Makes it go on at an address where there is no program.
    pub fn run_wild(mut self) {
        (self.own.rip, self.own.orig_rax) = (8, u64::MAX);
    }

    /// Makes it do a system call in the way of 32-bit programs: fork(2) is number 2 there.
    pub fn run_as_32_bits(mut self) {
        const INT_80: libc::c_long = 0x80cd;
        let at = (self.own.rip - 2) as *mut _;
        let word = ptrace::read(self.pid, at).expect("memory");
        ptrace::write(self.pid, at, (word & !0xffff) | INT_80).expect("memory");
        (self.own.rip, self.own.rax, self.own.orig_rax) = (self.own.rip - 2, 2, u64::MAX);
    }

    /// Lets it go on until a system call of this number has been done, and makes it believe in another result.
    pub fn lie(mut self, number: libc::c_long, result: u64) {
        ptrace::setregs(self.pid, self.own).expect("registers");
        ptrace::setoptions(self.pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("options");
        loop {
            ptrace::syscall(self.pid, None).expect("go on");
            assert_eq!(stop_of(self.pid), WaitStatus::PtraceSyscall(self.pid));
            let registers = ptrace::getregs(self.pid).expect("registers");
            if is_exit(self.pid) && registers.orig_rax == number as u64 {
                self.own = libc::user_regs_struct { rax: result, ..registers };
                return;
            }
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // It may have died of what it was told.
        let _ = ptrace::setregs(self.pid, self.own);
        let _ = ptrace::detach(self.pid, None);
    }
}

fn stop_of(pid: Pid) -> WaitStatus {
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("wait")
}

/// Whether a process that stopped at a system call has done it already.
fn is_exit(pid: Pid) -> bool {
    ptrace::syscall_info(pid).expect("information").op == libc::PTRACE_SYSCALL_INFO_EXIT
}

/// The system calls of a process, by number: how many there were, and how many of them were refused by a filter.
pub type Calls = BTreeMap<u64, (usize, usize)>;

/// Counts the system calls of a process from now to its end.
pub fn watch(pid: i32) -> JoinHandle<Calls> {
    let (begun, wait_begun) = std::sync::mpsc::channel();
    let watching = std::thread::spawn(move || {
        let pid = Pid::from_raw(pid);
        ptrace::attach(pid).expect("attach");
        assert!(matches!(stop_of(pid), WaitStatus::Stopped(..)));
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("options");
        begun.send(()).expect("begun");
        let (mut calls, mut signal) = (Calls::new(), None);
        while ptrace::syscall(pid, signal.take()).is_ok() {
            match stop_of(pid) {
                WaitStatus::PtraceSyscall(_) if is_exit(pid) => {
                    let registers = ptrace::getregs(pid).expect("registers");
                    let refused = [Errno::ENOSYS, Errno::EPERM].map(|errno| -(errno as i64));
                    let (count, bad) = calls.entry(registers.orig_rax).or_default();
                    *count += 1;
                    *bad += usize::from(refused.contains(&registers.rax.cast_signed()));
                }
                WaitStatus::PtraceSyscall(_) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                _ => break,
            }
        }
        calls
    });
    wait_begun.recv().expect("begun");
    watching
}

/// The number of the descriptor that is a line to the guardian, of a process that has one.
pub fn line(pid: i32) -> i32 {
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).expect("the kernel's table");
    // Num RefCount Protocol Flags Type St Inode Path; SOCK_SEQPACKET is type 5.
    let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let packets = fields.filter(|fields| fields.get(4) == Some(&"0005"));
    let inodes: Vec<u64> = packets.map(|fields| fields[6].parse().expect("an inode")).collect();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let lines = entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        inodes.contains(&inode).then(|| (inode, entry.file_name().to_string_lossy().into_owned()))
    });
    // The one to the guardian is older than the one between a worker and the control process.
    lines.min().expect("a line").1.parse().expect("a number")
}

/// A copy of a descriptor of another process, for what is to be done faster than a puppet can do it.
#[allow(unsafe_code)]
pub fn copy_of_descriptor(pid: i32, number: i32) -> OwnedFd {
    // SAFETY: pidfd_open(2) and pidfd_getfd(2) take integers only and make a new descriptor, which nobody else in this
    // process knows.
    unsafe {
        let process = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0)).expect("pidfd_open");
        let process = OwnedFd::from_raw_fd(process as i32);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        OwnedFd::from_raw_fd(Errno::result(copy).expect("pidfd_getfd") as i32)
    }
}

/// Counts the instructions that a process executes outside the kernel while `work` is done, by stepping through them.
pub fn instructions(pid: i32, work: impl FnOnce() + Send) -> u64 {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid).expect("attach");
    assert!(matches!(stop_of(pid), WaitStatus::Stopped(..)));
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        let (mut count, mut last) = (0, Instant::now());
        ptrace::step(pid, None).expect("step");
        while !working.is_finished() || last.elapsed() < QUIET {
            match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).expect("wait") {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                    (count, last) = (count + 1, Instant::now());
                    ptrace::step(pid, None).expect("step");
                }
                // In the kernel.
                WaitStatus::StillAlive => std::thread::yield_now(),
                status => panic!("{status:?}"),
            }
        }
        kill(pid, Signal::SIGSTOP).expect("stop");
        assert!(matches!(stop_of(pid), WaitStatus::Stopped(..)));
        ptrace::detach(pid, None).expect("detach");
        count
    })
}

/// Who has executed nothing for so long has nothing to do.
const QUIET: Duration = Duration::from_millis(50);
