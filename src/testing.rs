//! What the tests and benchmarks outside this crate use. Nothing else of the library is public.

pub use crate::cli::options::OPTIONS;
pub use crate::cli::{MARKS, generated};
pub use crate::daemon::message::{self, Answer, Question, ToGuardian, ToWorker};
pub use crate::protocol::addr_pair::AddrPair;
pub use crate::protocol::credentials::Credentials;
pub use crate::protocol::proxy_header::{self, HeaderRead, Version};
pub use crate::protocol::request::{self, Forwarded, HEAD, Refusal, Requests, Rewriting};
pub use crate::protocol::sniff::{self, Sniff};
pub use crate::protocol::tunnel::{Dialect, Dialogue, ProxyRefusal, TunnelTarget};
pub use crate::redirection::RedirectionId;
pub use crate::relay::close::CloseReason;
pub use crate::relay::http_filter::HttpFilter;
pub use crate::relay::io::{Fill, Io, PipeIo, PipePool, PipeSize, Socket};
pub use crate::relay::pipe::{LARGE_SIZE, USEFUL_SIZE};
pub use crate::relay::relay::{Progress, ProxyLayer, Relay};
pub use crate::relay::side::{Peer, SMALL, Shared, Side};
pub use crate::relay::timeouts::Timeouts;
pub use crate::relay::tunnel::{Tunnel, TunnelHandshake};
pub use crate::rules::address::Family;
pub use crate::rules::firewall::Firewall;
pub use crate::rules::matching::Match;
pub use crate::rules::rule::{Action, Gate, RuleSpec};
pub use crate::rules::ruleset::RuleSet;
pub use crate::sys::clock::Tick;
pub use crate::traffic::compact_addr::CompactAddr;
pub use crate::traffic::counters::{self, Counters};
pub use crate::traffic::upstreams::ADDRESSES;
