//! tproxy: takes TCP connections that the kernel redirected to a local port and relays them elsewhere.
//!
//! The floors, ground first; a module uses its own folder and what stands above it in this list, never what stands
//! below.

// What would end the process, and with it every connection that it has.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::get_unwrap,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unchecked_time_subtraction,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod sys;

pub mod error;

pub mod cli;

pub mod logging;

pub mod protocol;

pub mod rules;

pub mod traffic;

pub mod config;

pub mod daemon;

pub mod commands;
