//! What is said on the wire to clients, proxies and balancers. Nothing here knows a socket: bytes in, bytes out.
//!
//! These bytes are somebody else's. No place in them is taken for granted: what is not there is `None`, and no panic.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

pub(crate) mod addr_pair;
pub(crate) mod credentials;
pub(crate) mod hostname;
pub mod proxy_header;
pub mod request;
pub mod sniff;
pub(crate) mod tunnel;
