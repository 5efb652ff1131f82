//! What a worker is given.

use std::fs::File;
use std::net::{TcpListener, TcpStream};

use crate::config::Config;
use crate::control::command::UpstreamOrder;
use crate::daemon::capacity::Capacity;
use crate::redirection::RedirectionId;
use crate::sys::channel::Channel;
use crate::traffic::redirections::ActiveRedirection;
use crate::traffic::shared_counters::WorkerCounters;
use crate::traffic::source_limit::SourceLimit;

/// What a worker starts with.
#[derive(Debug)]
pub(crate) struct WorkerArgs<'a> {
    /// The number of this worker, from 1. Log lines of connections begin with it.
    pub number: u32,
    pub config: &'a Config,
    /// Listening, non-blocking sockets, each with the number of its redirection.
    pub listeners: Vec<(TcpListener, RedirectionId)>,
    /// The redirections, with the addresses of their upstreams.
    pub redirections: Vec<ActiveRedirection>,
    /// The file of `-l`.
    pub access_log: Option<File>,
    /// The channel to the guardian; `None` for a process without one.
    pub guardian: Option<Channel>,
    pub capacity: Capacity,
    /// Counts the connections of each source (`--max-per-source`).
    pub source_limit: Option<SourceLimit>,
    /// The connection that inetd has accepted. The worker serves no other one then.
    pub connection: Option<TcpStream>,
    pub counters: WorkerCounters,
    /// What an administrator has said about upstreams, by `HOST:PORT`.
    pub orders: Vec<(String, UpstreamOrder)>,
}
