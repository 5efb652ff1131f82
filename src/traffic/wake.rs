//! What an event is about, packed into a `mio::Token`. Slots of the connection table are used again within one batch
//! of events, so a connection's token carries the generation of its slot: an event for a former tenant finds nobody.

use mio::Token;

/// Where a connection lives in its table, and which tenant of the slot it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Key {
    /// Index of the slot, below 2^31.
    pub slot: u32,
    /// How often the slot was let before, modulo 2^31.
    pub generation: u32,
}

/// The two ends of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Upstream,
}

impl End {
    /// The one across.
    pub fn other(self) -> End {
        match self {
            End::Client => End::Upstream,
            End::Upstream => End::Client,
        }
    }

    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            End::Client => "client",
            End::Upstream => "upstream",
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// The signal descriptor.
    Signals,
    /// The line to the guardian, or in the guardian the line to the child of this number.
    Line(u32),
    /// The listening socket of this number.
    Listener(u32),
    /// A try whether an upstream of the redirection of this number answers again.
    Probe(u32),
    /// One socket of a relay.
    Relay(Key, End),
}

/// Generations wrap here, because the token has 31 bits for them.
pub const GENERATIONS: u32 = 1 << 31;

const RELAY: usize = 1 << 63;
const KIND_SHIFT: u32 = 32;
const LOW: usize = 0xffff_ffff;
const _: () = assert!(usize::BITS == 64, "a token packs generation, slot and end into 64 bits");

impl From<Wake> for Token {
    fn from(wake: Wake) -> Token {
        Token(match wake {
            Wake::Signals => 0,
            Wake::Line(number) => 1 << KIND_SHIFT | number as usize,
            Wake::Listener(number) => 2 << KIND_SHIFT | number as usize,
            Wake::Probe(number) => 3 << KIND_SHIFT | number as usize,
            Wake::Relay(key, end) => {
                let end = usize::from(end == End::Upstream);
                RELAY | (key.generation as usize) << KIND_SHIFT | (key.slot as usize) << 1 | end
            }
        })
    }
}

impl From<Token> for Wake {
    fn from(Token(bits): Token) -> Wake {
        let low = (bits & LOW) as u32;
        if bits & RELAY != 0 {
            let generation = ((bits & !RELAY) >> KIND_SHIFT) as u32;
            let end = if low & 1 == 0 { End::Client } else { End::Upstream };
            return Wake::Relay(Key { slot: low >> 1, generation }, end);
        }
        match bits >> KIND_SHIFT {
            1 => Wake::Line(low),
            2 => Wake::Listener(low),
            3 => Wake::Probe(low),
            _ => Wake::Signals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wake_survives_the_token() {
        let far = Key { slot: GENERATIONS - 1, generation: GENERATIONS - 1 };
        let near = Key { slot: 0, generation: 0 };
        let wakes = [
            Wake::Signals,
            Wake::Line(0),
            Wake::Line(u32::MAX),
            Wake::Listener(0),
            Wake::Listener(7),
            Wake::Probe(499),
            Wake::Relay(near, End::Client),
            Wake::Relay(near, End::Upstream),
            Wake::Relay(far, End::Client),
            Wake::Relay(far, End::Upstream),
        ];
        for wake in wakes {
            assert_eq!(Wake::from(Token::from(wake)), wake);
        }
    }
}
