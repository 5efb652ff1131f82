//! The requests of an HTTP/1 connection, rewritten for a proxy.
//!
//! ```text
//!   Head ──► Body ─────────────────────────────────────────────────► Head
//!     │
//!     └────► Size ──► Chunk ──► ChunkEnd ──► Size ... ──► Trailer ──► Head
//! ```
//!
//! Behind a request that asks for another protocol or a tunnel, the next head waits for the answer of the proxy
//! ([`answers`]): if the proxy agrees, there is none, and all that follows is opaque.
//!
//! A redirected client speaks to us as to the server: its request names only the path (origin form). A proxy expects the
//! whole URL (absolute form, RFC 9112, 3.2). Only the target changes, and the fields are added that the administrator
//! wants; every other byte of a head stays. The proxy parses the same bytes after us, so a request that two parsers could
//! understand in two ways is refused (RFC 9112, 11.2).

pub mod answer_head;
pub mod answers;
pub mod authority;
pub mod chunked;
pub mod connection_options;
pub mod forwarded;
pub mod framing;
pub mod head;
pub mod lines;
pub mod refusal;
pub mod requests;
pub mod rewriting;
pub mod target;

pub use crate::protocol::request::answers::BadAnswer;
pub use crate::protocol::request::forwarded::Forwarded;
pub use crate::protocol::request::lines::{HEAD, MAX_HEAD};
pub use crate::protocol::request::refusal::Refusal;
pub use crate::protocol::request::requests::{Requests, Taken};
pub use crate::protocol::request::rewriting::Rewriting;
