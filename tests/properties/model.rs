//! The relay against a model of the kernel: whatever order things happen in, what arrives is the beginning of what was
//! sent, and all of it unless a connection was reset or took too long; an end is told once and after the last byte; a
//! reset is passed on after what came before it; and while bytes wait that can move, they move.

#[path = "model/simulation.rs"]
mod simulation;

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tproxy::testing::Peer;

use super::cases::cases;
use simulation::scene::{PROXIES, Scene, TALKS};
use simulation::{Act, Op, Seen, Setup, Trace, play};

/// So many sequences, unless PROPTEST_CASES says otherwise; few where the code is not optimised.
fn sequences(usual: u32) -> Config {
    let usual = if cfg!(debug_assertions) { usual / 100 } else { usual };
    Config { max_shrink_iters: 20_000, ..cases(usual) }
}

/// A sequence.
#[derive(Clone)]
struct Sequence {
    setup: Setup,
    ops: Vec<Op>,
}

/// One thing a line.
impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "    {op:?},"))
    }
}

/// Sizes at which something changes: a byte, a segment, half of the shared buffer and all of it, a pipe, a turn.
const SIZES: [u32; 16] =
    [1, 2, 3, 100, 1448, 4096, 4097, 8191, 8192, 16_383, 16_384, 16_385, 65_536, 70_000, 300_000, 600_000];

const ROOMS: [u32; 8] = [1 << 21, 1, 5, 1000, 16_384, 20_000, 100_000, 600_000];

fn setup(scene: impl Strategy<Value = Scene>) -> impl Strategy<Value = Setup> {
    let patience = || prop_oneof![Just(None), Just(Some(7)), Just(Some(50)), Just(Some(1000))];
    let room = || (0..ROOMS.len()).prop_map(|at| ROOMS[at]);
    (scene, room(), room(), 0..64_u8, patience(), patience()).prop_map(|(scene, client, upstream, bits, idle, fin)| {
        let (knows_names, stalls, addresses) = (bits & 1 == 0, bits & 2 != 0, u32::from(bits & 4 != 0));
        let rooms = [client, upstream];
        let budget = [None, None, Some(1), Some(20_000)][usize::from(bits >> 4)];
        Setup {
            rooms,
            splices: bits & 15 != 15,
            knows_names,
            idle,
            fin,
            addresses,
            stalls,
            budget,
            ..Setup::new(scene)
        }
    })
}

/// What never happens in a sequence, as bits: sequences in which less is going on get further.
type Calm = u8;
const NO_RESETS: Calm = 1;
const NO_ENDS: Calm = 2;
const NO_URGENCY: Calm = 4;
const NO_SCARCITY: Calm = 8;
const NO_RACES: Calm = 16;
const NO_TIME: Calm = 32;

/// Does what `pick` says, `amount` times as much; smaller numbers are simpler things.
fn op(pick: u8, amount: u16, calm: Calm) -> Op {
    let may = |what: Calm, op: Op| if calm & what == 0 { op } else { Op::Work };
    match pick {
        0..80 => Op::Work,
        80..208 => Op::Now(act(pick - 80, amount, calm)),
        208..240 => {
            may(NO_RACES, Op::Soon(u32::from(amount >> 12) + 1, act((amount >> 5) as u8 & 127, amount << 4, calm)))
        }
        240..244 => may(NO_RACES, Op::Rumour(end(amount))),
        244..250 => Op::Answer,
        250.. => may(NO_TIME, Op::Pass([1, 2, 8, 35, 60, 400][usize::from(amount % 6)])),
    }
}

fn end(amount: u16) -> Peer {
    if amount & 1 == 0 { Peer::Client } else { Peer::Upstream }
}

fn act(pick: u8, amount: u16, calm: Calm) -> Act {
    let (end, size) = (end(amount), SIZES[usize::from(amount >> 1) % SIZES.len()]);
    let few = u32::from(amount >> 6) % 4 + 1;
    let may = |what: Calm, act: Act| if calm & what == 0 { act } else { Act::Say(end, 1, size) };
    match pick {
        0..24 => Act::Say(end, 1, size),
        24..32 => Act::Say(end, 20 * few, size % 2000),
        32..56 => Act::Hear(end, size),
        56..66 => Act::Connect,
        66..74 => may(NO_ENDS, Act::End(end)),
        74..78 => may(NO_URGENCY, Act::SayUrgently(end, size)),
        78..84 => may(NO_RESETS, Act::Reset(end)),
        84..92 => may(NO_SCARCITY, Act::Nibble(end, size)),
        92..98 => may(NO_SCARCITY, Act::Choke(end, few)),
        98..106 => may(NO_SCARCITY, Act::Room(end, ROOMS[usize::from(amount >> 1) % ROOMS.len()])),
        106..114 => may(NO_SCARCITY, Act::Pipes(u32::from(amount) % 3, [16, 1, 2, 4][few as usize - 1])),
        114..118 => Act::Wake(end),
        _ => Act::Hear(end, u32::MAX),
    }
}

/// Most of what is interesting comes after the connection, and after the dialogue with a proxy.
fn beginning(scene: &Scene, late: u8) -> Vec<Op> {
    let connected = [Op::Now(Act::Connect), Op::Work, Op::Work];
    let answered = [Op::Now(Act::Hear(Peer::Upstream, u32::MAX)), Op::Now(Act::Say(Peer::Upstream, 1, 100)), Op::Work];
    match (scene, late) {
        (_, 3) => Vec::new(),
        (Scene::Tunnel { .. }, 0) => [connected, answered, answered, answered].concat(),
        _ => connected.into(),
    }
}

fn sequence(scene: impl Strategy<Value = Scene>) -> impl Strategy<Value = Sequence> {
    let picks = vec((any::<u8>(), any::<u16>()), 0..80);
    (setup(scene), any::<Calm>(), 0..4_u8, picks).prop_map(|(setup, calm, late, picks)| {
        let rest = picks.into_iter().map(|(pick, amount)| op(pick, amount, calm));
        let ops = beginning(&setup.scene, late).into_iter().chain(rest).collect();
        Sequence { setup, ops }
    })
}

fn holds(sequence: &Sequence) -> Result<(), TestCaseError> {
    play(&sequence.setup, &sequence.ops).map(drop).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(sequences(1_000_000))]

    #[test]
    fn a_plain_connection(sequence in sequence(Just(Scene::Plain))) {
        holds(&sequence)?;
    }
}

proptest! {
    #![proptest_config(sequences(200_000))]

    #[test]
    fn a_connection_behind_a_proxy_header(sequence in sequence(Just(Scene::Introduced))) {
        holds(&sequence)?;
    }

    #[test]
    fn a_connection_through_a_proxy(sequence in sequence((0..PROXIES.len()).prop_map(|proxy| Scene::Tunnel { proxy }))) {
        holds(&sequence)?;
    }

    #[test]
    fn requests_that_are_rewritten(sequence in sequence(http())) {
        holds(&sequence)?;
    }
}

fn http() -> impl Strategy<Value = Scene> {
    let tunnel = prop_oneof![Just(None), (0..PROXIES.len()).prop_map(Some)];
    (0..TALKS.len(), tunnel, any::<bool>()).prop_map(|(talk, tunnel, checks)| Scene::Http { talk, tunnel, checks })
}

/// What some thousand sequences of a scene come to.
fn traces(scene: impl Strategy<Value = Scene>, runner: &mut TestRunner) -> Vec<Trace> {
    let sequences = sequence(scene);
    let play = |runner: &mut TestRunner| {
        let Sequence { setup, ops } = sequences.new_tree(runner).expect("a sequence").current();
        play(&setup, &ops).expect("it holds")
    };
    (0..4000).map(|_| play(runner)).collect()
}

/// Sequences in which nothing goes wrong prove nothing.
#[test]
fn the_sequences_get_everywhere() {
    let mut runner = TestRunner::deterministic();
    let mut all = traces(Just(Scene::Plain), &mut runner);
    all.extend(traces((0..PROXIES.len()).prop_map(|proxy| Scene::Tunnel { proxy }), &mut runner));
    all.extend(traces(http(), &mut runner));
    for what in Seen::ALL {
        let count = all.iter().filter(|trace| trace.seen[what as usize]).count();
        assert!(count * 100 > all.len(), "{what:?} in {count} of {} sequences", all.len());
    }
    let reasons = [
        "finished",
        "reset by client",
        "reset by upstream",
        "idle",
        "half-closed",
        "connect failed",
        "refused by proxy",
        "handshake timed out",
        "bad request",
    ];
    for reason in reasons {
        let count = all.iter().filter(|trace| trace.reason.starts_with(reason)).count();
        assert!(count > 20, "{count} of {} sequences ended so: {reason}", all.len());
    }
}
