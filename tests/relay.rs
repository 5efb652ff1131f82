//! The relay over loopback: `tproxy -d -b 127.0.0.1 -s PORT HOST PORT`, without rules and without root.

#[path = "relay/failures.rs"]
mod failures;
#[path = "relay/files.rs"]
mod files;
#[path = "relay/inherited_state.rs"]
mod inherited_state;
#[path = "relay/instructions.rs"]
mod instructions;
#[path = "relay/integrity.rs"]
mod integrity;
#[path = "relay/limits.rs"]
mod limits;
#[path = "relay/log.rs"]
mod log;
#[path = "relay/payload.rs"]
mod payload;
#[path = "relay/resources.rs"]
mod resources;
#[path = "relay/stopping.rs"]
mod stopping;
#[path = "relay/streams.rs"]
mod streams;
#[path = "relay/stuck_log.rs"]
mod stuck_log;
#[path = "relay/via.rs"]
mod via;
#[path = "relay/via_guests.rs"]
mod via_guests;
#[path = "relay/via_http.rs"]
mod via_http;
#[path = "relay/via_limits.rs"]
mod via_limits;
#[path = "relay/via_switch.rs"]
mod via_switch;

use lab::clients::{self, expect_reset, read_all, reset, round_trip, wait_acknowledged};
use lab::daemon::{Daemon, Launch, LoopbackRelay, free_port};
use lab::pattern::{Cut, Pattern, sum_of, sum_with_pause};
use lab::servers::{FullServer, Server};
use lab::tempdir::TempDir;
use lab::{AtEnd, process, report, wait};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;
const LOCAL: &str = "127.0.0.1:0";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
