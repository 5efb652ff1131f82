//! What the tests of tproxy share: the daemon as a child that ends with its test, network namespaces that are removed
//! even on panic, servers, clients and proxies that behave well or badly, and a look into `/proc`.
//!
//! Nothing here sleeps until something is ready: [`wait`] polls with a deadline. tests/floors.rs finds helpers that no
//! test uses any more.

// What is new here is made: a directory, a server. No default should do that.
#![allow(clippy::new_without_default)]

pub mod attack;
pub mod clients;
pub mod controller;
pub mod daemon;
pub mod dice;
pub mod journal;
pub mod netns;
pub mod origin;
pub mod pattern;
pub mod peers;
pub mod process;
pub mod rules;
pub mod servers;
pub mod sink;
pub mod speaker;
#[cfg(target_arch = "x86_64")]
pub mod takeover;
pub mod tempdir;
pub mod transfer;
pub mod wait;

/// Raises the soft limit of open files to the hard one: thousands of test sockets live in this process.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("setrlimit");
}

/// Takes a lock that serialises the tests whose timing would suffer from company; a failed test before us
/// must not fail this one too.
pub fn alone(lock: &'static std::sync::Mutex<()>) -> std::sync::MutexGuard<'static, ()> {
    lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Sets a flag when it is dropped. A scope waits for its threads also when the test in it panics: what tells them to end must
/// happen then as well.
pub struct AtEnd<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A number from the environment, for the few tests whose size can be set.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

/// Writes where `cargo test` does not hide it, even when the test passes: figures and skips.
pub fn report(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("\n{text}\n").as_bytes());
}
