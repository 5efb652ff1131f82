//! Making system calls of the running daemon fail: `inject.c`, compiled here and preloaded there.

use lab::daemon::Launch;
use lab::process::unique;
use lab::tempdir::TempDir;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The calls that can be made to fail, in the order of `enum call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Accept4,
    Pipe2,
    Splice,
    Connect,
    Socket,
    EpollCtl,
    EpollWait,
    Recv,
    Send,
    Setsockopt,
    Getsockopt,
    Getsockname,
    Shutdown,
    Fork,
}

const CALLS: u64 = 14;

/// Whose calls fail; the values are those of `enum role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Guardian = 1,
    Worker = 2,
}

/// In place of an errno: the call does less than it was asked to.
pub const SHORT: i32 = 10000;

/// The size of `struct rule`, and the places of its fields; what stands before the rules.
const RULE: u64 = 32;
const MADE: u64 = 16;
const HITS: u64 = 24;
const CLOCK: u64 = 8;

/// The page that the processes of one daemon look at.
pub struct Faults {
    file: File,
    path: String,
    _directory: TempDir,
}

impl Faults {
    /// Nothing fails yet.
    pub fn new() -> Faults {
        let directory = TempDir::new();
        let path = directory.file("page");
        let file = File::options().create_new(true).read(true).write(true).open(&path).expect("page");
        file.set_len(CLOCK + CALLS * RULE).expect("page");
        Faults { file, path, _directory: directory }
    }

    /// The daemon that will look at it.
    pub fn preload(&self, launch: Launch) -> Launch {
        let library = library().display().to_string();
        launch.env("LD_PRELOAD", &library).env("TPROXY_TEST_FAULTS", &self.path)
    }

    /// One in `every` of these calls fails from now on, and its hits are counted from 0.
    pub fn strike(&self, role: Role, call: Call, error: i32, every: u32) {
        let seed = every.wrapping_mul(31).wrapping_add(error as u32);
        let words = [0, error as u32, role as u32, seed, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
        self.file.write_all_at(&words, place(call)).expect("page");
        self.file.write_all_at(&every.to_ne_bytes(), place(call)).expect("page");
    }

    /// Counts these calls from 0 from now on; none fails.
    pub fn watch(&self, role: Role, call: Call) {
        // Once in four milliards.
        self.strike(role, call, libc::EIO, u32::MAX);
    }

    /// How many of these calls were made since.
    pub fn made(&self, call: Call) -> u64 {
        self.number_at(place(call) + MADE)
    }

    /// They work again.
    pub fn heal(&self, call: Call) {
        self.file.write_all_at(&0u32.to_ne_bytes(), place(call)).expect("page");
    }

    /// How many of these calls have failed.
    pub fn hits(&self, call: Call) -> u64 {
        self.number_at(place(call) + HITS)
    }

    fn number_at(&self, place: u64) -> u64 {
        let mut number = [0; 8];
        self.file.read_exact_at(&mut number, place).expect("page");
        u64::from_ne_bytes(number)
    }

    /// The wall clock is wrong by so many seconds.
    pub fn set_clock(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("page");
    }
}

fn place(call: Call) -> u64 {
    CLOCK + call as u64 * RULE
}

/// The compiled library.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| compiled("inject", &["-fPIC", "-shared"]))
}

/// A C program or library of this folder, compiled once for all tests that share the result.
pub fn compiled(name: &str, options: &[&str]) -> PathBuf {
    let source = format!("{}/tests/faults/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (new, result) = (directory.join(unique(name)), directory.join(name));
    let mut command = Command::new("cc");
    command.args(["-Wall", "-Wextra", "-Werror", "-O2", "-o"]).arg(&new).args(options).arg(source);
    let done = command.output().unwrap_or_else(|error| panic!("cc: {error}"));
    assert!(done.status.success(), "cc: {}", String::from_utf8_lossy(&done.stderr));
    // In one step: another test process may be starting a daemon with it.
    std::fs::rename(&new, &result).expect("rename");
    result
}
