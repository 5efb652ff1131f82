//! The data path: from an accepted connection to its line in the log.

pub mod acceptor;
pub mod census;
pub mod counters;
pub mod deadline;
pub mod destinations;
pub mod dialer;
pub mod endpoint;
pub mod flow;
pub mod guest;
pub mod handshake;
pub mod hosts;
pub mod journal;
pub mod lane;
pub mod pipe;
pub mod probe;
pub mod relay;
pub mod rewriter;
pub mod service;
pub mod switchboard;
pub mod table;
pub mod upstream;
pub mod wake;
