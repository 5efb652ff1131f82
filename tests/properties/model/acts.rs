//! What happens to the worker: the doings of peers, network and kernel, as far as they are possible at the time.

use tproxy::testing::Peer;

use super::kernel::Wire;
use super::net::{State, index};

/// The most a sequence lets a peer say: more than a relay moves in two turns.
const MOST_SAID: u64 = 1_500_000;

/// What the peers, the network and the kernel do by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// So many segments of this size arrive.
    Say(Peer, u32, u32),
    /// One that ends with an urgent byte.
    SayUrgently(Peer, u32),
    /// A FIN arrives.
    End(Peer),
    /// An RST arrives, to a connection that is being made a refusal.
    Reset(Peer),
    /// The connection is there.
    Connect,
    /// The peer acknowledges so many bytes.
    Hear(Peer, u32),
    /// The send buffer is that big now.
    Room(Peer, u32),
    /// There is no memory for so many writes.
    Choke(Peer, u32),
    /// There is memory for so many bytes in the next write.
    Nibble(Peer, u32),
    /// A wake-up for nothing.
    Wake(Peer),
    /// So many pipes can be had, of so many slots.
    Pipes(u32, u32),
}

impl State {
    /// Something happens, unless it cannot.
    pub fn perform(&mut self, act: Act) {
        match act {
            Act::Say(end, segments, size) => self.say(end, segments, size),
            Act::SayUrgently(end, size) if self.may_be_urgent(end) => self.wires[end].say_urgently(size.into()),
            Act::SayUrgently(..) => {}
            Act::End(end) => self.end(end),
            Act::Reset(end) => {
                if !self.wires[end].is_closed() {
                    self.wires[end].reset();
                    self.reset_at[index(end)] = Some(self.now);
                }
            }
            Act::Connect => {
                let wire = &mut self.wires[Peer::Upstream];
                if wire.connecting && !wire.gone {
                    wire.connect();
                }
            }
            Act::Hear(end, count) => {
                if !self.wires[end].gone {
                    self.wires[end].acknowledge(count.into());
                }
            }
            Act::Room(end, room) => self.wires[end].resize(room.max(1).into()),
            Act::Choke(end, times) => self.wires[end].choked = times,
            Act::Nibble(end, size) => self.wires[end].nibble = size as usize,
            Act::Wake(end) => self.wires[end].wake(),
            Act::Pipes(pipes, slots) => (self.pipes, self.slots) = (pipes, slots.max(1)),
        }
    }

    /// Whether something can arrive from there.
    pub fn can_speak(&self, end: Peer) -> bool {
        let wire = &self.wires[end];
        !wire.connecting && !wire.gone && !wire.ended
    }

    fn say(&mut self, end: Peer, segments: u32, size: u32) {
        let (arrived, most) = (self.wires[end].arrived, self.most(end));
        if !self.can_speak(end) || most == 0 {
            return;
        }
        let size = u64::from(size.max(1)).min(most);
        let segments = (most / size).min(segments.max(1).into());
        if arrived + size * segments <= MOST_SAID {
            self.wires[end].say(segments as u32, size);
        }
    }

    /// A client that ends before it can be known for HTTP may have spoken something else. It is sent to a proxy then,
    /// which must not have said anything yet.
    fn end(&mut self, end: Peer) {
        if !self.can_speak(end) {
            return;
        }
        let said = self.parts.scripts[0].words.get(..self.wires[Peer::Client].arrived as usize).unwrap_or_default();
        let is_unknown = end == Peer::Client && !said.is_empty() && !said.contains(&b'\n');
        if is_unknown
            && self.refusal().is_none()
            && let Some(other) = self.other.take()
        {
            if self.wires[Peer::Upstream].arrived > 0 {
                return self.other = Some(other);
            }
            self.parts = *other;
        }
        self.wires[end].end();
    }

    /// How much may be said next: answers come in their turn, and requests end where the noise begins.
    fn most(&self, end: Peer) -> u64 {
        let Wire { arrived, acknowledged, .. } = self.wires[end];
        let words = self.parts.scripts[index(end)].words.len() as u64;
        match end {
            Peer::Upstream => self.parts.manners.allow(arrived, acknowledged),
            Peer::Client if words > 0 => words - arrived,
            Peer::Client => u64::MAX,
        }
    }

    /// Requests and dialogues have nothing urgent in them.
    fn may_be_urgent(&self, end: Peer) -> bool {
        let is_noise = self.wires[end].arrived >= self.parts.scripts[index(end)].words.len() as u64;
        self.can_speak(end) && is_noise && self.most(end) == u64::MAX
    }

    /// A peer says the rest of its words.
    pub fn speak_out(&mut self, end: Peer) {
        let left = (self.parts.scripts[index(end)].words.len() as u64).saturating_sub(self.wires[end].arrived);
        if left > 0 {
            self.say(end, 1, left as u32);
        }
    }
}
