//! What a machine may do to the daemon: system calls that fail, resources that run out, processes that stop, cables
//! that are pulled, clocks that jump. In network namespaces of their own, as in `netns.rs`; needs root.
//!
//! `soak` mixes all of it with load of every kind, for as long as `SOAK_SECONDS` says.

#[path = "faults/inject.rs"]
mod inject;
#[path = "faults/kernel.rs"]
mod kernel;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/resources.rs"]
mod resources;
#[path = "faults/scene.rs"]
mod scene;
#[path = "faults/shortages.rs"]
mod shortages;
#[path = "faults/signals.rs"]
mod signals;
#[path = "faults/soak.rs"]
mod soak;

/// Serialises the tests with load or tight timing.
static HEAVY: std::sync::Mutex<()> = std::sync::Mutex::new(());
