//! How long a connection may be silent.

use crate::sys::clock::Tick;

/// The timeouts of a connection in ticks. `None` means for ever.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For one address of the upstream to answer.
    pub connect: Tick,
    /// For everything before the payload, and for the head of a request.
    pub handshake: Tick,
    /// With both directions open.
    pub idle: Option<Tick>,
    /// With one direction closed, or while the last bytes before a reset are awaited.
    pub fin: Option<Tick>,
}
