//! The requests of an HTTP/1 connection, rewritten for a proxy.
//!
//! ```text
//!   Head ──► Body ─────────────────────────────────────────────────► Head, or Opaque after an upgrade
//!     │
//!     ├────► Size ──► Chunk ──► ChunkEnd ──► Size ... ──► Trailer ──► Head, or Opaque after an upgrade
//!     │
//!     └────► Opaque after CONNECT
//! ```
//!
//! A redirected client speaks to us as to the server, and names in a request only the path (origin form); a proxy wants
//! the whole URL (absolute form, RFC 9112, 3.2). Only that changes, and what the administrator wants added; any other
//! byte of a head stays. Since the proxy reads the same bytes after us, everything is refused that two readers could
//! understand in two ways (RFC 9112, 11.2).

pub mod authority;
pub mod chunked;
pub mod framing;
pub mod head;
pub mod lines;
pub mod refusal;
pub mod requests;
pub mod rewriting;
pub mod target;

pub use crate::protocol::request::lines::HEAD;
pub use crate::protocol::request::refusal::Refusal;
pub use crate::protocol::request::requests::{Requests, Taken};
pub use crate::protocol::request::rewriting::{Forwarded, Rewriting};
