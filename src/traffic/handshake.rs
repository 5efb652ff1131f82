//! How the next connection to an upstream shakes hands.

use crate::sys::outgoing::ThirdPacket;

/// What a sender may have under way before anything was acknowledged: ten segments (RFC 6928).
const INITIAL_WINDOW: u64 = 14_480;

/// After so many short connections in a row the next ones are expected to be short.
const SHORT_ONES: u32 = 64;

/// What the connections of a redirection were like.
///
/// A sender takes the time until the third packet for the round trip. Where that packet waits for data, it is the time that
/// the data took to come, and BBR begins with a rate that is too low by as much (`bbr_init_pacing_rate_from_rtt`,
/// net/ipv4/tcp_bbr.c). It does not learn better from requests that it answers at that rate. An answer that fits into the
/// initial window goes out whole at any rate, and for such answers the packet less is worth it.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    short_in_a_row: u32,
}

impl Handshake {
    /// For the next connection.
    pub(crate) fn third_packet(&self) -> ThirdPacket {
        if self.short_in_a_row >= SHORT_ONES { ThirdPacket::WithData } else { ThirdPacket::AtOnce }
    }

    /// A connection is over that has brought so many bytes from its upstream.
    pub(crate) fn note(&mut self, down: u64) {
        self.short_in_a_row = if down <= INITIAL_WINDOW { self.short_in_a_row.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_saved_only_where_answers_have_been_short() {
        let mut handshake = Handshake::default();
        for _ in 0..SHORT_ONES {
            assert_eq!(handshake.third_packet(), ThirdPacket::AtOnce);
            handshake.note(200);
        }
        assert_eq!(handshake.third_packet(), ThirdPacket::WithData);
        handshake.note(INITIAL_WINDOW + 1);
        assert_eq!(handshake.third_packet(), ThirdPacket::AtOnce);
    }
}
