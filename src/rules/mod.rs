//! The rules: from a MATCH on the command line to chains in the kernel, and back out again.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

pub mod address;
pub mod backend;
pub mod blame;
pub mod chains;
pub mod command;
pub mod drift;
pub mod dump;
pub mod firewall;
pub mod line;
pub mod matching;
pub mod origin;
pub mod plan;
pub mod rule;
