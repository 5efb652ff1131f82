//! System call filters (seccomp(2)): which calls the kernel still carries out for this process.
//!
//! A call that is not allowed fails with ENOSYS, as a call of a newer kernel would: a libc that tries a new call first
//! then falls back to the old one. The process is not killed, since that would end its connections. A call that is
//! allowed with other arguments fails with EPERM. The call numbers of another architecture mean other calls; a process
//! does not use these by accident, and is killed.

use std::io;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, c_long, sock_filter,
};
use nix::errno::Errno;

/// `AUDIT_ARCH_*` of linux/audit.h for this program; `None` where filters have not been tried.
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
    Some(0xc000_00b7)
} else {
    None
};

/// Offsets in struct `seccomp_data` (seccomp(2)).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The answer to a call that is not allowed.
const UNKNOWN: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The answer to a call with arguments that are not allowed.
const REFUSED: u32 = SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// A condition on one argument of a call. It compares the lower half only, which is all that the kernel uses of an int.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    at: u32,
    mask: u32,
    among: Vec<u32>,
    /// It holds if the argument is none of these.
    inverted: bool,
}

impl Condition {
    /// The argument of this number, counted from 0, is one of these.
    pub(crate) fn is(argument: u32, among: &[i32]) -> Condition {
        Condition::masked(argument, -1, among)
    }

    /// The argument is none of these.
    pub(crate) fn is_not(argument: u32, among: &[i32]) -> Condition {
        Condition { inverted: true, ..Condition::is(argument, among) }
    }

    /// The bits of `mask` in the argument are one of these.
    pub(crate) fn masked(argument: u32, mask: i32, among: &[i32]) -> Condition {
        let among = among.iter().map(|value| value.cast_unsigned()).collect();
        Condition { at: ARGUMENTS + 8 * argument, mask: mask.cast_unsigned(), among, inverted: false }
    }

    /// The argument is a null pointer: both its halves are zero.
    pub(crate) fn is_null(argument: u32) -> [Condition; 2] {
        let half = |at| Condition { at, mask: u32::MAX, among: vec![0], inverted: false };
        [half(ARGUMENTS + 8 * argument), half(ARGUMENTS + 8 * argument + 4)]
    }
}

/// A filter, which has no effect until it is installed. Calls with conditions are found first, in the order in which they
/// were added: the kernel remembers the answer for all others.
#[derive(Debug, Default)]
pub(crate) struct SyscallFilter {
    always: Vec<c_long>,
    /// A call is allowed if all conditions in one of its lists hold.
    sometimes: Vec<(c_long, Vec<Vec<Condition>>)>,
}

impl SyscallFilter {
    /// Allows these calls with any arguments.
    ///
    /// The kernel (since 5.11) runs the filter for them once, when it is installed, and remembers the answer.
    pub(crate) fn allow(mut self, calls: &[c_long]) -> SyscallFilter {
        self.always.extend(calls);
        self
    }

    /// Allows a call if all the conditions hold. Added again for the same call, one of the lists must hold.
    pub(crate) fn allow_if(mut self, call: c_long, conditions: impl IntoIterator<Item = Condition>) -> SyscallFilter {
        let conditions = conditions.into_iter().collect();
        match self.sometimes.iter_mut().find(|(other, _)| *other == call) {
            Some((_, ways)) => ways.push(conditions),
            None => self.sometimes.push((call, vec![conditions])),
        }
        self
    }

    /// Installs the filter in this process and its children for good. With several filters, each must allow a call.
    /// `PR_SET_NO_NEW_PRIVS` must be set before.
    ///
    /// Errors: `Unsupported` if this kernel or architecture has no filters.
    pub(crate) fn install(&self) -> io::Result<()> {
        let Some(architecture) = ARCHITECTURE else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut program = self.program(architecture);
        let length = u16::try_from(program.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        // Kernels before 5.16 slow down a process with a filter, as if it ran untrusted code (as a browser does). This
        // flag says that it does not.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // SAFETY: the kernel reads `program` and what it points at, which lives through the call, and writes nothing.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        match Errno::result(result) {
            // The kernel is older than the flag (4.17) or the call (3.17), or a filter of the service manager forbids it.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => {}
            done => return Ok(done.map(drop)?),
        }
        // SAFETY: as above.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        match Errno::result(result) {
            Err(Errno::EINVAL | Errno::ENOSYS) => Err(io::ErrorKind::Unsupported.into()),
            done => Ok(done.map(drop)?),
        }
    }

    fn program(&self, architecture: u32) -> Vec<sock_filter> {
        let mut program = vec![load(ARCH), jump_if(architecture, 1, 0), answer(SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
        // On x86_64, the numbers of x32 have an extra bit, so they are none of these.
        for (call, ways) in &self.sometimes {
            let mut block: Vec<sock_filter> = ways.iter().flat_map(|conditions| way(conditions)).collect();
            block.push(answer(REFUSED));
            program.extend([jump_if(*call as u32, 1, 0), jump(block.len())]);
            program.extend(block);
        }
        for call in &self.always {
            program.extend([jump_if(*call as u32, 0, 1), answer(SECCOMP_RET_ALLOW)]);
        }
        program.push(answer(UNKNOWN));
        program
    }
}

/// Allows the call if all conditions hold. Otherwise the program goes on behind this block.
fn way(conditions: &[Condition]) -> Vec<sock_filter> {
    let mut block = vec![answer(SECCOMP_RET_ALLOW)];
    for condition in conditions.iter().rev() {
        let otherwise = jump(block.len());
        let count = condition.among.len();
        let mut test = vec![load(condition.at), statement(BPF_ALU | BPF_AND | BPF_K, condition.mask)];
        // A value that matches skips the rest of the values and the instruction behind them.
        test.extend(condition.among.iter().enumerate().map(|(at, value)| jump_if(*value, (count - at) as u8, 0)));
        if condition.inverted {
            test.push(jump(1));
        }
        test.push(otherwise);
        test.append(&mut block);
        block = test;
    }
    block
}

fn statement(code: u32, value: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

fn load(at: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, at)
}

fn answer(value: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, value)
}

fn jump(over: usize) -> sock_filter {
    statement(BPF_JMP | BPF_JA, over as u32)
}

/// Skips `equal` instructions if the loaded value is `value`, and `other` if not.
fn jump_if(value: u32, equal: u8, other: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: equal, jf: other, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = 0xc000_003e;

    /// Runs the program as the kernel would.
    fn verdict(program: &[sock_filter], number: u32, arch: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    loaded = match k {
                        NUMBER => number,
                        ARCH => arch,
                        k => (arguments[(k - ARGUMENTS) as usize / 8] >> (8 * (k % 8))) as u32,
                    }
                }
                code if code == BPF_ALU | BPF_AND | BPF_K => loaded &= k,
                code if code == BPF_JMP | BPF_JA => at += k as usize,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += usize::from(if loaded == k { jt } else { jf }),
                code if code == BPF_RET | BPF_K => return k,
                code => panic!("code {code:#x}"),
            }
        }
    }

    fn example() -> Vec<sock_filter> {
        SyscallFilter::default()
            .allow(&[1, 7])
            .allow_if(2, [Condition::is(0, &[10, 11, 12]), Condition::masked(1, 0xf, &[1, 2])])
            .allow_if(3, Condition::is_null(2))
            .allow_if(2, [Condition::is(0, &[-1])])
            .allow_if(4, [Condition::is_not(0, &[1, 2]), Condition::is(1, &[5])])
            .program(HERE)
    }

    #[test]
    fn what_is_named_is_allowed_and_nothing_else() {
        let program = example();
        let ask = |number, arguments| verdict(&program, number, HERE, arguments);
        for number in 0..1000 {
            let wanted = match number {
                1 | 7 => SECCOMP_RET_ALLOW,
                2 | 4 => REFUSED,
                3 => SECCOMP_RET_ALLOW,
                _ => UNKNOWN,
            };
            assert_eq!(ask(number, [0; 6]), wanted, "{number}");
            // The same call by the numbers of x32.
            assert_eq!(ask(number | 0x4000_0000, [0; 6]), UNKNOWN);
            assert_eq!(verdict(&program, number, 0x4000_0003, [0; 6]), SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn all_conditions_of_one_way_must_hold() {
        let program = example();
        let ask = |first: u64, second: u64| verdict(&program, 2, HERE, [first, second, 0, 0, 0, 0]);
        for first in 0..20 {
            for second in 0..40 {
                let met = (10..=12).contains(&first) && [1, 2].contains(&(second & 0xf));
                assert_eq!(ask(first, second) == SECCOMP_RET_ALLOW, met, "{first} {second}");
            }
        }
        assert_eq!(ask(u64::from(u32::MAX), 9), SECCOMP_RET_ALLOW);
        for (first, second) in (0..4).flat_map(|first| [4, 5].map(|second| (first, second))) {
            let met = ![1, 2].contains(&first) && second == 5;
            let verdict = verdict(&program, 4, HERE, [first, second, 0, 0, 0, 0]);
            assert_eq!(verdict == SECCOMP_RET_ALLOW, met, "{first} {second}");
        }
        for (pointer, wanted) in [(0, SECCOMP_RET_ALLOW), (1, REFUSED), (1 << 32, REFUSED)] {
            assert_eq!(verdict(&program, 3, HERE, [9, 9, pointer, 9, 9, 9]), wanted, "{pointer:#x}");
        }
    }

    #[test]
    fn an_empty_filter_allows_nothing() {
        assert_eq!(verdict(&SyscallFilter::default().program(HERE), 1, HERE, [0; 6]), UNKNOWN);
    }
}
