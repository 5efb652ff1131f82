//! What an event is about, packed into a `mio::Token`. Slots of the connection table are used again within one batch
//! of events, so a connection's token carries the generation of its slot: an event for the connection that was there before finds nothing.

use mio::Token;

use crate::relay::side::Peer;

/// Which slot of the table a connection has, and which of its uses that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Key {
    /// Index of the slot, below 2^31.
    pub slot: u32,
    /// How often the slot was used before, modulo 2^31.
    pub generation: u32,
}

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventToken {
    /// The signal descriptor.
    Signals,
    /// The channel to the guardian, or in the guardian the channel to the child of this number.
    Channel(u32),
    /// The listening socket of this number.
    Listener(u32),
    /// The rules of others may have changed.
    Rules,
    /// The probe of the upstreams of the redirection of this number.
    Probe(u32),
    /// One socket of a relay.
    Connection(Key, Peer),
}

/// Generations wrap here, because the token has 31 bits for them.
pub(crate) const GENERATIONS: u32 = 1 << 31;

const RELAY: usize = 1 << 63;
const KIND_SHIFT: u32 = 32;
const LOW: usize = 0xffff_ffff;
const _: () = assert!(usize::BITS == 64, "a token packs generation, slot and end into 64 bits");

impl From<EventToken> for Token {
    fn from(token: EventToken) -> Token {
        Token(match token {
            EventToken::Signals => 0,
            EventToken::Channel(number) => 1 << KIND_SHIFT | number as usize,
            EventToken::Listener(number) => 2 << KIND_SHIFT | number as usize,
            EventToken::Rules => 4 << KIND_SHIFT,
            EventToken::Probe(number) => 3 << KIND_SHIFT | number as usize,
            EventToken::Connection(key, peer) => {
                let peer = usize::from(peer == Peer::Upstream);
                RELAY | (key.generation as usize) << KIND_SHIFT | (key.slot as usize) << 1 | peer
            }
        })
    }
}

impl From<Token> for EventToken {
    fn from(Token(bits): Token) -> EventToken {
        let low = (bits & LOW) as u32;
        if bits & RELAY != 0 {
            let generation = ((bits & !RELAY) >> KIND_SHIFT) as u32;
            let peer = if low & 1 == 0 { Peer::Client } else { Peer::Upstream };
            return EventToken::Connection(Key { slot: low >> 1, generation }, peer);
        }
        match bits >> KIND_SHIFT {
            1 => EventToken::Channel(low),
            2 => EventToken::Listener(low),
            3 => EventToken::Probe(low),
            4 => EventToken::Rules,
            _ => EventToken::Signals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_survives_the_token() {
        let far = Key { slot: GENERATIONS - 1, generation: GENERATIONS - 1 };
        let near = Key { slot: 0, generation: 0 };
        let tokens = [
            EventToken::Signals,
            EventToken::Channel(0),
            EventToken::Channel(u32::MAX),
            EventToken::Listener(0),
            EventToken::Listener(7),
            EventToken::Probe(499),
            EventToken::Rules,
            EventToken::Connection(near, Peer::Client),
            EventToken::Connection(near, Peer::Upstream),
            EventToken::Connection(far, Peer::Client),
            EventToken::Connection(far, Peer::Upstream),
        ];
        for token in tokens {
            assert_eq!(EventToken::from(Token::from(token)), token);
        }
    }
}
