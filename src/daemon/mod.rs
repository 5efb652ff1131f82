//! The processes: the guardian, its children, and how they start and end.

pub mod change;
pub mod children;
pub mod confine;
pub mod generation;
pub mod guardian;
pub mod inherited;
pub mod instance_lock;
pub mod listeners;
pub mod local_ports;
pub mod message;
pub mod names;
pub mod notify;
pub mod pidfile;
pub mod reconciler;
pub mod reload;
pub mod resolver;
pub mod resolver_pool;
pub mod respawn;
pub mod socket_owners;
pub mod start;
pub mod stats;
pub mod worker;
