//! One relay through one sequence of whatever can happen, and then a fair end; what must hold is watched all the time.

#[path = "acts.rs"]
mod acts;
#[path = "kernel.rs"]
mod kernel;
#[path = "net.rs"]
mod net;
#[path = "scene.rs"]
pub mod scene;
#[path = "sockets.rs"]
mod sockets;
#[path = "speech.rs"]
mod speech;
#[path = "verdict.rs"]
mod verdict;
#[path = "worker.rs"]
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tproxy::testing::Peer;
use tproxy::testing::Tick;
use tproxy::testing::Timeouts;

pub use acts::Act;
use net::Net;
pub use net::Seen;
use scene::Scene;
use worker::Worker;

/// Both ends.
const ENDS: [Peer; 2] = [Peer::Client, Peer::Upstream];

/// Ticks for the upstream to answer, and for what comes before the payload.
const CONNECT: Tick = 30;
const HANDSHAKE: Tick = 40;

/// More steps than any worker needs until it waits for events.
const STEPS: usize = 20_000;

/// How a sequence begins.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Who speaks to whom.
    pub scene: Scene,
    /// Sizes of the send buffers to client and upstream.
    pub rooms: [u32; 2],
    /// Whether splice(2) is to be had.
    pub splices: bool,
    /// Whether the addresses of names are known.
    pub knows_names: bool,
    /// `--idle-timeout` and `--fin-timeout`.
    pub idle: Option<Tick>,
    pub fin: Option<Tick>,
    /// Further addresses of the upstream.
    pub addresses: u32,
    /// Before the fair end, time passes and nothing else happens.
    pub stalls: bool,
    /// Bytes that a turn may move; `None` for as many as it is in earnest.
    pub budget: Option<u64>,
}

impl Setup {
    /// Nothing special.
    pub fn new(scene: Scene) -> Setup {
        let rooms = [1 << 20; 2];
        let (idle, fin, budget) = (None, None, None);
        Setup { scene, rooms, splices: true, knows_names: true, idle, fin, addresses: 0, stalls: false, budget }
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts { connect: CONNECT, handshake: HANDSHAKE, idle: self.idle, fin: self.fin }
    }
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The worker does the next thing.
    Work,
    /// Something happens between two steps of the worker.
    Now(Act),
    /// The same, before the system call of this number from now on.
    Soon(u32, Act),
    /// An event comes that says what is no longer so.
    Rumour(Peer),
    /// A name was looked up.
    Answer,
    /// Ticks pass.
    Pass(Tick),
}

/// What a sequence has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// Which of [`Seen::ALL`].
    pub seen: [bool; Seen::ALL.len()],
    /// How the relay ended, as the log says it.
    pub reason: String,
}

/// Plays a sequence. What breaks a rule comes back in words.
pub fn play(setup: &Setup, ops: &[Op]) -> Result<Trace, String> {
    catch_unwind(AssertUnwindSafe(|| Simulation::play(setup, ops))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        Err(words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panics").to_owned())
    })
}

struct Simulation<'n> {
    net: &'n Net,
    worker: Worker<'n>,
    setup: &'n Setup,
}

impl Simulation<'_> {
    fn play(setup: &Setup, ops: &[Op]) -> Result<Trace, String> {
        let mut cast = setup.scene.cast();
        let layer = cast.layer.take();
        let net = Net::new(cast, setup.rooms, setup.splices);
        let header = (setup.scene == Scene::Introduced).then_some(scene::HEADER);
        let worker = Worker::new(&net, layer, setup.timeouts(), setup.addresses);
        let worker = worker.with(header, setup.knows_names, setup.budget);
        let mut simulation = Simulation { net: &net, worker, setup };
        simulation.play_out(ops)?;
        verdict::judge(&net, &simulation.worker, &setup.timeouts())?;
        let reason = simulation.worker.ended.map(|(reason, _)| reason.to_string()).unwrap_or_default();
        Ok(Trace { seen: net.state().seen, reason })
    }

    /// Until it is over.
    fn play_out(&mut self, ops: &[Op]) -> Result<(), String> {
        for op in ops {
            self.perform(*op);
            self.net.state().verdict()?;
            if self.is_over() {
                return Ok(());
            }
        }
        if self.setup.stalls {
            self.stall()?;
        }
        if self.is_over() { Ok(()) } else { self.end_fairly() }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Work => _ = self.worker.work(),
            Op::Now(act) => self.net.state().perform(act),
            Op::Soon(calls, act) => self.net.state().soon.push((calls, act)),
            Op::Rumour(end) => self.worker.rumour(end),
            Op::Answer => _ = self.worker.answer(),
            Op::Pass(ticks) => self.net.state().clock += ticks,
        }
    }

    fn is_over(&self) -> bool {
        self.worker.ended.is_some()
    }

    /// The worker works until it waits for events. False if it does already.
    fn settle(&mut self) -> Result<bool, String> {
        for step in 0..STEPS {
            let worked = self.worker.work();
            self.net.state().verdict()?;
            if !worked {
                return Ok(step > 0);
            }
        }
        Err("it never waits for events".into())
    }

    /// Nothing happens but that time passes: whoever has a deadline must have met it then.
    fn stall(&mut self) -> Result<(), String> {
        self.net.state().soon.clear();
        self.settle()?;
        let Some(most) = verdict::patience_left(self.net, &self.worker, self.setup) else { return Ok(()) };
        for _ in 0..most {
            if self.is_over() {
                return Ok(());
            }
            self.net.state().clock += 1;
            self.settle()?;
        }
        if self.is_over() {
            Ok(())
        } else {
            Err(format!("nobody does anything, and after {most} ticks it still waits"))
        }
    }

    /// All that can be said was said and all that was sent is read; then the peers end, and a moment passes.
    fn end_fairly(&mut self) -> Result<(), String> {
        let soon = std::mem::take(&mut self.net.state().soon);
        for (_, act) in soon {
            self.net.state().perform(act);
        }
        if self.let_flow()? {
            return Ok(());
        }
        verdict::nothing_waits(self.net, &self.worker)?;
        for end in ENDS {
            self.net.state().perform(Act::End(end));
        }
        for _ in 0..3 {
            if self.let_flow()? {
                return Ok(());
            }
            self.net.state().clock += 1;
        }
        Err("all was said and heard, and it does not end".into())
    }

    /// Everybody reads and answers until nothing moves any more. Whether it is over.
    fn let_flow(&mut self) -> Result<bool, String> {
        for _ in 0..STEPS {
            self.be_kind();
            let answered = self.worker.answer();
            let worked = self.settle()?;
            if self.is_over() || !worked && !answered {
                return Ok(self.is_over());
            }
        }
        Err("it never comes to rest".into())
    }

    fn be_kind(&mut self) {
        let mut state = self.net.state();
        state.perform(Act::Connect);
        for end in ENDS {
            for act in [Act::Choke(end, 0), Act::Nibble(end, 0), Act::Room(end, 1 << 22), Act::Hear(end, u32::MAX)] {
                state.perform(act);
            }
            state.speak_out(end);
        }
    }
}
