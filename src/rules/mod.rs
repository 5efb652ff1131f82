//! Firewall rules: from a MATCH on the command line to chains in the kernel, and their removal.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

pub(crate) mod address;
pub(crate) mod backend;
pub(crate) mod blame;
pub(crate) mod chains;
pub(crate) mod command;
pub(crate) mod conntrack_match;
pub(crate) mod drift;
pub(crate) mod family_tables;
pub(crate) mod firewall;
pub(crate) mod groups;
pub(crate) mod installation;
pub(crate) mod interception;
pub(crate) mod ip;
pub(crate) mod lacking;
mod local_answers;
pub(crate) mod matching;
pub(crate) mod native;
pub(crate) mod native_filter;
pub(crate) mod nft;
pub(crate) mod one_family;
pub(crate) mod passage;
pub(crate) mod plan;
pub(crate) mod policy_routing;
pub(crate) mod quic;
pub(crate) mod routes;
pub(crate) mod rule;
pub(crate) mod ruleset;
pub(crate) mod save;
pub(crate) mod snapshot;
pub(crate) mod tools;
pub(crate) mod untracked;
pub(crate) mod verdict;
