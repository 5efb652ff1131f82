//! The processes: the guardian, its children, and how they start and end.

pub(crate) mod change;
pub(crate) mod children;
pub(crate) mod confine;
pub(crate) mod generation;
pub(crate) mod guardian;
pub(crate) mod inherited;
pub(crate) mod instance_lock;
pub(crate) mod listeners;
pub(crate) mod local_ports;
pub mod message;
pub(crate) mod names;
pub(crate) mod notify;
pub(crate) mod pidfile;
pub(crate) mod reconciler;
pub(crate) mod reload;
pub(crate) mod resolver;
pub(crate) mod resolver_pool;
pub(crate) mod respawn;
pub(crate) mod socket_owners;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod worker;
