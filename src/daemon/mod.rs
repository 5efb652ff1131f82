//! The processes: the guardian, its children, and how they start and end.

pub mod askers;
pub mod change;
pub mod claim;
pub mod confine;
pub mod guardian;
pub mod keeper;
pub mod local;
pub mod message;
pub mod names;
pub mod notify;
pub mod orphans;
pub mod passed;
pub mod pidfile;
pub mod reload;
pub mod resolver;
pub mod respawn;
pub mod shift;
pub mod sockets;
pub mod spawn;
pub mod start;
pub mod tally;
pub mod worker;
