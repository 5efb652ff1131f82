//! The messages between the guardian and the control process. All have one size, and each field is checked on arrival: a
//! control process that was taken over can ask for what its messages allow, and for nothing else.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

use crate::control::command::UpstreamOrder;
use crate::control::picture::SeenState;
use crate::daemon::message::{Bytes, SIZE};
use crate::redirection::RedirectionId;

/// Numbers of a message.
const NUMBERS: usize = 6;

/// The place of the text, behind the kind, the numbers and the length of the text.
const TEXT: usize = 8 + 8 * NUMBERS;

/// Bytes of the longest text.
const LONGEST: usize = SIZE - TEXT;

/// From the guardian to the control process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToControl {
    /// The text of a description comes along.
    Description,
    /// The text of a status comes along.
    Status,
    /// What workers have counted that are gone comes along.
    Past,
    /// The memory of this worker's counters comes along.
    Worker {
        number: u32,
        pid: u32,
        slot: u16,
        started: u64,
        limit: u64,
        state: SeenState,
    },
    /// The upstreams that this worker counts come along, as text.
    Layout(u32),
    /// The channel to this worker comes along.
    WorkerChannel(u32),
    WorkerState {
        number: u32,
        state: SeenState,
    },
    WorkerEnded {
        number: u32,
        well: bool,
    },
    /// What was asked for with this number is done, or why not.
    Done {
        number: u32,
        result: Result<String, String>,
    },
    /// A reload or an upgrade that was asked for with this number or an earlier one has ended.
    Changed {
        upgrade: bool,
        number: u32,
        result: Result<String, String>,
    },
    /// A connection to syslog comes along.
    SystemLog,
    Verbose(bool),
}

/// From the control process to the guardian. The number comes back with the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromControl {
    Ready,
    /// The connection to syslog is lost.
    Unheard,
    Reload(u32),
    Reopen(u32),
    Upgrade(u32),
    Stop {
        number: u32,
        drain: Option<u32>,
    },
    Verbose {
        number: u32,
        on: bool,
    },
    Upstream {
        number: u32,
        order: UpstreamOrder,
        name: String,
    },
    Redirection {
        number: u32,
        id: RedirectionId,
        enable: bool,
    },
}

fn put(kind: u8, numbers: &[u64], text: &str) -> Bytes {
    let mut bytes = [0; SIZE];
    let end = (0..=LONGEST.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let text = text.as_bytes().get(..end).unwrap_or_default();
    let head = [kind, 0, 0, 0, 0, 0];
    let length = (text.len() as u16).to_be_bytes();
    let padded = (0..NUMBERS).flat_map(|place| numbers.get(place).copied().unwrap_or(0).to_be_bytes());
    let all = head.into_iter().chain(length).chain(padded).chain(text.iter().copied());
    bytes.iter_mut().zip(all).for_each(|(place, byte)| *place = byte);
    bytes
}

fn take(bytes: &[u8]) -> Option<(u8, [u64; NUMBERS], &str)> {
    let bytes: &Bytes = bytes.try_into().ok()?;
    let (kind, length) = (*bytes.first()?, u16::from_be_bytes(*bytes.get(6..)?.first_chunk()?));
    let mut numbers = bytes.get(8..TEXT)?.as_chunks().0.iter().map(|number| u64::from_be_bytes(*number));
    let numbers = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    let text = str::from_utf8(bytes.get(TEXT..)?.get(..length.into())?).ok()?;
    Some((kind, numbers, text))
}

fn number(number: u64) -> Option<u32> {
    u32::try_from(number).ok()
}

const STATES: [SeenState; 3] = [SeenState::Starting, SeenState::Serving, SeenState::Draining];

fn state(number: u64) -> Option<SeenState> {
    STATES.get(usize::try_from(number).ok()?).copied()
}

fn result(ok: u64, text: &str) -> Result<String, String> {
    if ok == 1 { Ok(text.to_owned()) } else { Err(text.to_owned()) }
}

fn text_of(result: &Result<String, String>) -> (u64, &str) {
    match result {
        Ok(text) => (1, text),
        Err(text) => (0, text),
    }
}

impl ToControl {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            ToControl::Description => put(1, &[], ""),
            ToControl::Status => put(2, &[], ""),
            ToControl::Past => put(3, &[], ""),
            ToControl::Worker { number, pid, slot, started, limit, state } => {
                let numbers = [u64::from(*number), (*pid).into(), (*slot).into(), *started, *limit, *state as u64];
                put(4, &numbers, "")
            }
            ToControl::Layout(number) => put(5, &[(*number).into()], ""),
            ToControl::WorkerChannel(number) => put(6, &[(*number).into()], ""),
            ToControl::WorkerState { number, state } => put(7, &[(*number).into(), *state as u64], ""),
            ToControl::WorkerEnded { number, well } => put(8, &[(*number).into(), (*well).into()], ""),
            ToControl::Done { number, result } => {
                let (ok, text) = text_of(result);
                put(9, &[(*number).into(), ok], text)
            }
            ToControl::Changed { upgrade, number, result } => {
                let (ok, text) = text_of(result);
                put(10, &[(*number).into(), ok, (*upgrade).into()], text)
            }
            ToControl::SystemLog => put(11, &[], ""),
            ToControl::Verbose(on) => put(12, &[(*on).into()], ""),
        }
    }

    /// `None` if the bytes are no valid message.
    pub(crate) fn decode(bytes: &[u8]) -> Option<ToControl> {
        let (kind, [a, b, c, d, e, f], text) = take(bytes)?;
        Some(match kind {
            1 => ToControl::Description,
            2 => ToControl::Status,
            3 => ToControl::Past,
            4 => ToControl::Worker {
                number: number(a)?,
                pid: number(b)?,
                slot: u16::try_from(c).ok()?,
                started: d,
                limit: e,
                state: state(f)?,
            },
            5 => ToControl::Layout(number(a)?),
            6 => ToControl::WorkerChannel(number(a)?),
            7 => ToControl::WorkerState { number: number(a)?, state: state(b)? },
            8 => ToControl::WorkerEnded { number: number(a)?, well: b == 1 },
            9 => ToControl::Done { number: number(a)?, result: result(b, text) },
            10 => ToControl::Changed { upgrade: c == 1, number: number(a)?, result: result(b, text) },
            11 => ToControl::SystemLog,
            12 => ToControl::Verbose(a == 1),
            _ => return None,
        })
    }
}

impl FromControl {
    pub fn encode(&self) -> Bytes {
        match self {
            FromControl::Ready => put(1, &[], ""),
            FromControl::Unheard => put(2, &[], ""),
            FromControl::Reload(number) => put(3, &[(*number).into()], ""),
            FromControl::Reopen(number) => put(4, &[(*number).into()], ""),
            FromControl::Upgrade(number) => put(5, &[(*number).into()], ""),
            FromControl::Stop { number, drain } => {
                put(6, &[(*number).into(), drain.is_some().into(), drain.unwrap_or(0).into()], "")
            }
            FromControl::Verbose { number, on } => put(7, &[(*number).into(), (*on).into()], ""),
            FromControl::Upstream { number, order, name } => put(8, &[(*number).into(), *order as u64], name),
            FromControl::Redirection { number, id, enable } => {
                put(9, &[(*number).into(), id.0.into(), (*enable).into()], "")
            }
        }
    }

    /// `None` if the bytes are no valid message.
    pub fn decode(bytes: &[u8]) -> Option<FromControl> {
        let (kind, [a, b, c, ..], text) = take(bytes)?;
        let asked = number(a)?;
        Some(match kind {
            1 => FromControl::Ready,
            2 => FromControl::Unheard,
            3 => FromControl::Reload(asked),
            4 => FromControl::Reopen(asked),
            5 => FromControl::Upgrade(asked),
            6 => FromControl::Stop { number: asked, drain: if b == 1 { Some(number(c)?) } else { None } },
            7 => FromControl::Verbose { number: asked, on: b == 1 },
            8 => FromControl::Upstream {
                number: asked,
                order: *UpstreamOrder::ALL.get(usize::try_from(b).ok()?)?,
                name: text.to_owned(),
            },
            9 => FromControl::Redirection { number: asked, id: RedirectionId(u16::try_from(b).ok()?), enable: c == 1 },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_the_control_process_survive_the_journey() {
        let text = "é".repeat(LONGEST);
        for message in [
            ToControl::Description,
            ToControl::Status,
            ToControl::Past,
            ToControl::Worker { number: 1, pid: 2, slot: 3, started: 4, limit: 5, state: SeenState::Draining },
            ToControl::Layout(7),
            ToControl::WorkerChannel(8),
            ToControl::WorkerState { number: 9, state: SeenState::Serving },
            ToControl::WorkerEnded { number: 9, well: false },
            ToControl::Done { number: 4, result: Err("no".into()) },
            ToControl::Changed { upgrade: true, number: 4, result: Ok(String::new()) },
            ToControl::SystemLog,
            ToControl::Verbose(true),
        ] {
            assert_eq!(ToControl::decode(&message.encode()), Some(message));
        }
        let Some(ToControl::Done { result: Ok(cut), .. }) =
            ToControl::decode(&ToControl::Done { number: 1, result: Ok(text.clone()) }.encode())
        else {
            panic!("not done");
        };
        assert!(text.starts_with(&cut) && cut.len() >= LONGEST - 1);
    }

    #[test]
    fn messages_of_the_control_process_survive_and_others_are_none() {
        for message in [
            FromControl::Ready,
            FromControl::Unheard,
            FromControl::Reload(1),
            FromControl::Reopen(2),
            FromControl::Upgrade(3),
            FromControl::Stop { number: 4, drain: None },
            FromControl::Stop { number: 4, drain: Some(0) },
            FromControl::Verbose { number: 5, on: true },
            FromControl::Upstream { number: 6, order: UpstreamOrder::Drain, name: "cow:80".into() },
            FromControl::Redirection { number: 7, id: RedirectionId(u16::MAX), enable: false },
        ] {
            assert_eq!(FromControl::decode(&message.encode()), Some(message));
        }
        assert_eq!(FromControl::decode(&[]), None);
        assert_eq!(FromControl::decode(&[9; SIZE]), None);
        assert_eq!(FromControl::decode(&put(8, &[1, 3], "x")), None);
        assert_eq!(FromControl::decode(&put(9, &[1, 1 << 16], "")), None);
        let mut long = put(8, &[1, 1], "x");
        (long[6], long[7]) = (255, 255);
        assert_eq!(FromControl::decode(&long), None);
    }
}
