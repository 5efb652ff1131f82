//! The processes: the guardian, its children, and how they start and end.

pub mod guardian;
pub mod keeper;
pub mod message;
pub mod names;
pub mod notify;
pub mod orphans;
pub mod pidfile;
pub mod resolver;
pub mod respawn;
pub mod spawn;
pub mod start;
pub mod worker;
