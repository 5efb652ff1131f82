//! The connections of a worker: from the listening socket to the line in the log.

pub(crate) mod acceptor;
pub(crate) mod access_log;
pub(crate) mod admission;
pub(crate) mod compact_addr;
pub(crate) mod connection;
pub(crate) mod connections;
pub mod counters;
pub(crate) mod destinations;
pub(crate) mod dialer;
pub(crate) mod embedded;
pub(crate) mod host_check;
pub(crate) mod layer;
pub(crate) mod preread;
pub(crate) mod probe;
pub(crate) mod records;
pub(crate) mod redirections;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod slots;
pub(crate) mod source_limit;
pub(crate) mod stock;
pub(crate) mod timers;
pub(crate) mod token;
pub(crate) mod turns;
pub(crate) mod upstreams;
