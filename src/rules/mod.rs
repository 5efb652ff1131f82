//! The rules: from a MATCH on the command line to chains in the kernel, and back out again.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

pub mod address;
pub mod blame;
pub mod chains;
pub mod command;
pub mod conntrack_match;
pub mod drift;
pub mod firewall;
pub mod matching;
pub mod plan;
pub mod rule;
pub mod save;
pub mod spec;
pub mod tools;
