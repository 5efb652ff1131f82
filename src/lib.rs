//! tproxy: takes TCP connections that the kernel redirected to a local port and relays them elsewhere.
//!
//! The floors, ground first; a module uses its own folder and what stands above it in this list, never what stands
//! below.

pub mod sys;

pub mod error;

pub mod options;

pub mod logging;

pub mod protocol;

pub mod rules;

pub mod traffic;

pub mod config;

pub mod daemon;

pub mod command_line;
