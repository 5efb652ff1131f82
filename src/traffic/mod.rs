//! The data path: from an accepted connection to its line in the log.

pub(crate) mod acceptor;
pub(crate) mod access_log;
pub(crate) mod bulk;
pub(crate) mod compact_addr;
pub(crate) mod connections;
pub mod counters;
pub(crate) mod destinations;
pub(crate) mod dialer;
pub(crate) mod flow;
pub(crate) mod host_check;
pub(crate) mod http_filter;
pub(crate) mod pipe;
pub(crate) mod preread;
pub(crate) mod probe;
pub(crate) mod relay;
pub(crate) mod service;
pub(crate) mod slots;
pub(crate) mod source_limit;
pub(crate) mod timers;
pub(crate) mod token;
pub(crate) mod tunnel;
pub(crate) mod upstreams;
