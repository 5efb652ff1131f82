//! tproxy: takes TCP connections that the kernel redirected to a local port and relays them elsewhere.
//!
//! The floors, ground first; a module uses its own folder and what stands above it in this list, never what stands
//! below.

// A `pub` that nobody outside the crate can reach hides dead code.
#![warn(unreachable_pub)]
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

mod sys;

mod error;

mod redirection;

mod record;

mod cli;

mod logging;

mod protocol;

mod rules;

mod relay;

mod traffic;

mod control;

mod config;

mod daemon;

mod commands;

mod ctl;

#[doc(hidden)]
pub mod testing;

pub use commands::main;
pub use ctl::main as tproxyctl;
