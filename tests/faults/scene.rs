//! The machines with servers that check what they get, and a daemon between them.

use super::inject::Faults;
use lab::clients;
use lab::daemon::{Daemon, Launch};
use lab::netns::Lab;
use lab::process;
use lab::servers::Server;
use lab::tempdir::TempDir;
use lab::transfer::{self, Ledger, Manners, Order, Outcome, Transfer};
use lab::wait;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where clients go who want a transfer. They get it from cow.
pub const MOOSE: &str = "10.2.0.5:9";
/// Where clients go who want an echo.
pub const ECHO: &str = "10.2.0.5:7";

/// One redirection for each port of the servers, in the foreground.
const TABLE: &str = "-r nobody\n-s 12970 -R '--dport 9' cow 9\n-s 12971 -R '--dport 7' cow 7\n";

/// The machines.
pub struct Scene {
    /// What the servers have seen.
    pub ledger: Arc<Ledger>,
    _servers: [Server; 2],
    directory: TempDir,
    /// The machines themselves.
    pub lab: Lab,
}

impl Scene {
    /// `None` where there are no namespaces.
    pub fn new() -> Option<Scene> {
        let lab = Lab::new()?;
        let ledger = Arc::default();
        let servers = lab.cow.enter(|| [transfer::serve("[::]:9", &ledger), Server::echo("[::]:7")]);
        Some(Scene { ledger, _servers: servers, directory: TempDir::new(), lab })
    }

    /// A file in a directory that goes with the scene.
    pub fn file(&self, name: &str) -> String {
        self.directory.file(name)
    }

    /// The daemon with the usual table, not yet started; `more` are lines about the whole process.
    pub fn launch(&self, more: &str) -> Launch {
        self.launch_table(&format!("{TABLE}{more}\n"))
    }

    /// The daemon with a table of its own, not yet started.
    pub fn launch_table(&self, table: &str) -> Launch {
        let file = self.file("table.conf");
        std::fs::write(&file, table).expect("table");
        Launch::new(&["-d", "-c", &file]).within(&self.lab.gateway)
    }

    /// The daemon with the usual table.
    pub fn relay(&self) -> Daemon {
        self.launch("").ready()
    }

    /// The daemon with the usual table, whose system calls can be made to fail.
    pub fn fragile(&self, more: &str) -> (Daemon, Faults) {
        let faults = Faults::new();
        (faults.preload(self.launch(more)).ready(), faults)
    }

    /// A transfer from the client.
    pub fn transfer(&self, transfer: &Transfer, manners: Manners) -> Outcome {
        self.lab.client.enter(|| attempt(MOOSE, transfer, manners))
    }

    /// Asserts that a new connection is served at once and whole.
    pub fn assert_serves(&self, what: &str) {
        let outcome = self.transfer(&Transfer::new(77, 100_000, 300_000, Order::AfterEnd), Manners::default());
        assert_eq!(outcome.cut, None, "{what}: a new connection");
    }
}

/// Connects and does the transfer; connecting may fail like the rest of it.
pub fn attempt(to: &str, transfer: &Transfer, manners: Manners) -> Outcome {
    let to: SocketAddr = to.parse().expect("an address");
    match clients::connect(to) {
        Ok(stream) => transfer.run(stream, manners),
        Err(error) => Outcome { bytes: 0, cut: Some(error.kind()), stall: Duration::ZERO },
    }
}

/// What a worker holds that it must not hold more of after a fault than before.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    /// Descriptors other than pipes.
    pub descriptors: usize,
    /// Ends of pipes.
    pub pipe_ends: usize,
    /// Anonymous memory in bytes.
    pub memory: u64,
}

/// Pipes that may be kept for the next connection, two ends each.
const RESTING: usize = 2 * 32;

impl Holdings {
    /// Those of a process now.
    pub fn of(pid: i32) -> Holdings {
        let pipe_ends = process::pipe_ends(pid);
        let descriptors = process::descriptor_count(pid).saturating_sub(pipe_ends);
        Holdings { descriptors, pipe_ends, memory: process::anonymous_memory(pid) }
    }

    /// The same once it does not change any more: a worker gets its line to the control process when it serves already.
    pub fn at_rest(pid: i32) -> Holdings {
        process::resting_descriptor_count(pid);
        Holdings::of(pid)
    }

    /// Waits until a process holds no more than this.
    pub fn wait_returned(&self, pid: i32, what: &str) {
        let returned = wait::try_until(wait::PATIENCE, || {
            let now = Holdings::of(pid);
            (now.descriptors <= self.descriptors && now.pipe_ends <= self.pipe_ends.max(RESTING)).then_some(())
        });
        assert!(
            returned.is_some(),
            "{what}: {:?} and before {self:?}: {:?}",
            Holdings::of(pid),
            process::descriptors(pid)
        );
    }
}
