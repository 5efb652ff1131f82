//! Whether a relay may end as it did, and when.

use tproxy::testing::CloseReason;
use tproxy::testing::Peer;
use tproxy::testing::Tick;
use tproxy::testing::Timeouts;

use super::net::{Net, State};
use super::worker::Worker;
use super::{CONNECT, ENDS, HANDSHAKE, Scene, Setup};

/// What `Relay::due_class` calls the phases.
const CONNECTING: u8 = 0;
const ASKING: u8 = 1;
const HALF_CLOSED: u8 = 3;
const BROKEN: u8 = 5;

/// Ticks for which the last bytes before a reset are waited for, at most.
const SETTLE: Tick = 300;

fn settling(fin: Option<Tick>) -> Tick {
    fin.map_or(SETTLE, |fin| fin.min(SETTLE))
}

/// In how many ticks it must have ended if nothing happens; `None` if it may wait for ever.
pub fn patience_left(net: &Net, worker: &Worker<'_>, setup: &Setup) -> Option<Tick> {
    let state = net.state();
    let may_read = matches!(setup.scene, Scene::Http { .. });
    let wait = match worker.class() {
        BROKEN.. => Some(setup.fin.unwrap_or(SETTLE)),
        _ if ENDS.iter().any(|end| state.wires[*end].gone) => Some(setup.fin.unwrap_or(SETTLE)),
        CONNECTING => Some(CONNECT * (setup.addresses + 1)),
        ASKING => Some(HANDSHAKE),
        HALF_CLOSED => setup.fin,
        _ => setup.idle,
    };
    wait.map(|wait| if may_read { wait.max(HANDSHAKE) } else { wait } + settling(setup.fin) + 2)
}

/// Everybody has read all there was and nothing moves: is anything left?
pub fn nothing_waits(net: &Net, worker: &Worker<'_>) -> Result<(), String> {
    let mut state = net.state();
    if worker.class() >= BROKEN {
        return Ok(());
    }
    for end in ENDS {
        let is_open = state.refusal().is_none();
        if !state.is_complete(end) {
            state.breach(format_args!("bytes for the {} wait, and nothing moves", end.name()));
        } else if state.wires[end.other()].ended && !state.wires[end].finished && is_open {
            state.breach(format_args!("the {} is not told the end", end.name()));
        }
    }
    state.verdict()
}

/// Judges the end of a relay.
pub fn judge(net: &Net, worker: &Worker<'_>, timeouts: &Timeouts) -> Result<(), String> {
    let Some((reason, class)) = &worker.ended else { return Ok(()) };
    let state = net.state();
    let is_right = match reason {
        CloseReason::Finished => is_finished(&state),
        CloseReason::Reset(by) => {
            let is_early = *class <= ASKING || !state.is_through();
            state.wires[*by].gone && (is_early || is_passed_on(&state, *by, timeouts))
        }
        CloseReason::Idle => timeouts.idle.is_some_and(|idle| has_been_silent(&state, idle)),
        CloseReason::HalfClosed => {
            is_half_closed(&state) && timeouts.fin.is_some_and(|fin| has_been_silent(&state, fin))
        }
        CloseReason::ConnectFailed(_) => worker.is_at_last_address(),
        CloseReason::ProxyRefused(_) => is_denied(&state),
        CloseReason::HandshakeTimeout => state.now >= HANDSHAKE,
        CloseReason::BadRequest(_) => state.refusal().is_some() && is_told(&state, timeouts),
        // The others are for connections that never come to this relay, or for the end of the worker.
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("it must not end like this now: {reason} (phase {class})")) }
}

fn has_been_silent(state: &State, ticks: Tick) -> bool {
    state.now - state.last_byte >= ticks
}

/// One direction has ended, or the client's because of a refusal.
fn is_half_closed(state: &State) -> bool {
    ENDS.iter().any(|end| state.wires[*end].ended) || state.refusal().is_some()
}

/// Both have ended, and have heard each other out. One of them was told the end, the other by the close.
fn is_finished(state: &State) -> bool {
    ENDS.iter().all(|end| state.wires[*end].ended && state.is_complete(*end))
        && !ENDS.iter().all(|end| state.wires[*end].finished)
}

/// What came from the end that failed has reached the other, unless that failed too, or took too long.
fn is_passed_on(state: &State, by: Peer, timeouts: &Timeouts) -> bool {
    let other = &state.wires[by.other()];
    let (since, settling) = (state.reset_at[usize::from(by == Peer::Upstream)], settling(timeouts.fin));
    let is_late = since.is_some_and(|since| state.now - since.max(state.last_byte) >= settling);
    other.gone || is_late || state.has_heard(by.other()) && other.unacknowledged() == 0
}

/// The proxy said no, or said nothing.
fn is_denied(state: &State) -> bool {
    let upstream = &state.wires[Peer::Upstream];
    state.denies() || upstream.ended || upstream.gone
}

/// The client has got all its answers and the words about the request it gets none for, unless it was told the end
/// before it made that.
fn is_told(state: &State, timeouts: &Timeouts) -> bool {
    let (client, upstream) = (&state.wires[Peer::Client], &state.wires[Peer::Upstream]);
    let is_late = has_been_silent(state, settling(timeouts.fin));
    let served = upstream.gone || state.is_complete(Peer::Upstream);
    let told = state.last_words().is_closed() && client.unacknowledged() == 0;
    client.gone || is_late || served && (told || client.finished)
}
