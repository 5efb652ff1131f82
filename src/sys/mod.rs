//! The system floor: raw system calls, one concern a file. The only place where `unsafe` may stand.
#![allow(unsafe_code)]

pub mod account;
pub mod channel;
pub mod inherited;
pub mod message;
pub mod process;
pub mod seccomp;
pub mod services;
pub mod shared_memory;
pub mod sockopt;
pub mod splice;
pub mod wait;
