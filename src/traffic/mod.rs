//! The data path: from an accepted connection to its line in the log.

pub mod acceptor;
pub mod access_log;
pub mod bulk;
pub mod compact_addr;
pub mod connections;
pub mod counters;
pub mod destinations;
pub mod dialer;
pub mod flow;
pub mod host_check;
pub mod http_filter;
pub mod pipe;
pub mod preread;
pub mod probe;
pub mod relay;
pub mod service;
pub mod slots;
pub mod source_limit;
pub mod timers;
pub mod token;
pub mod tunnel;
pub mod upstreams;
