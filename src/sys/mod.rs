//! Raw system calls and /proc, one concern a file. `unsafe` is allowed here and nowhere else.
#![allow(unsafe_code)]

pub(crate) mod account;
pub(crate) mod channel;
pub(crate) mod clock;
pub(crate) mod congestion;
pub(crate) mod execution;
pub(crate) mod files;
pub(crate) mod inherited;
pub(crate) mod interfaces;
pub(crate) mod ipset;
pub(crate) mod landlock;
pub(crate) mod lifeline;
pub(crate) mod message;
pub(crate) mod nft_events;
pub(crate) mod outgoing;
pub(crate) mod process;
pub(crate) mod procfs;
pub(crate) mod qdisc;
pub(crate) mod reset;
pub(crate) mod routing_table;
pub(crate) mod seccomp;
pub(crate) mod services;
pub(crate) mod shared_memory;
pub(crate) mod shortage;
pub(crate) mod sockopt;
pub(crate) mod splice;
pub(crate) mod stderr;
pub(crate) mod terminal;
pub(crate) mod wait;
