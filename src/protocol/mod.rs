//! What clients, proxies and load balancers say on the wire. Nothing here knows a socket: bytes in, bytes out.
//!
//! The bytes come from others. Code never assumes that a byte is there: reading past the end gives `None`, not a panic.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

pub(crate) mod addr_pair;
pub(crate) mod client_hello;
pub(crate) mod credentials;
pub(crate) mod hostname;
pub(crate) mod local_names;
pub mod proxy_header;
pub mod request;
pub mod sniff;
pub(crate) mod tunnel;
