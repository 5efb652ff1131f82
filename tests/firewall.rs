//! The firewall half against the real iptables, each test in network namespaces of its own.
//!
//! Needs root and network namespaces. Without them the tests say so and pass, unless TPROXY_MUST_NETNS=1.

#[path = "firewall/comments.rs"]
mod comments;
#[path = "firewall/common.rs"]
mod common;
#[path = "firewall/drift.rs"]
mod drift;
#[path = "firewall/forwarding.rs"]
mod forwarding;
#[path = "firewall/install.rs"]
mod install;
#[path = "firewall/tools.rs"]
mod tools;
#[path = "firewall/traffic.rs"]
mod traffic;
#[path = "firewall/translation.rs"]
mod translation;
