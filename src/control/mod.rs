//! What the control socket and the metrics say, and what they understand: without processes and without sockets.

pub mod command;
pub(crate) mod description;
pub(crate) mod document;
pub(crate) mod filter;
pub mod http;
pub(crate) mod metrics;
pub(crate) mod picture;
pub(crate) mod show;
