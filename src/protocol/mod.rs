//! What is said on the wire to clients, proxies and balancers. Nothing here knows a socket: bytes in, bytes out.

pub mod credentials;
pub mod proxy_header;
pub mod sniff;

pub mod request;
pub mod tunnel;
