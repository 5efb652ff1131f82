//! Rules for nft(8), whose tables can belong to a process: nobody else can change such a table, and it is gone when its
//! owner is.

pub(crate) mod addresses;
pub(crate) mod conditions;
pub(crate) mod extensions;
pub(crate) mod firewall;
pub(crate) mod lookups;
pub(crate) mod nft_rule;
pub(crate) mod options;
pub(crate) mod owners;
pub(crate) mod session;
pub(crate) mod table;
pub(crate) mod targets;
pub(crate) mod translation;
