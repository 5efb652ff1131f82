//! The daemon between real machines (network namespaces) with real rules. Needs root; skips loudly without, and
//! fails instead if TPROXY_MUST_NETNS is 1.
//!
//! Every test has its own client, gateway and servers (see `lab/src/netns.rs`), so that they run in parallel.

#[path = "netns/changes.rs"]
mod changes;
#[path = "netns/claims.rs"]
mod claims;
#[path = "netns/client_ports.rs"]
mod client_ports;
#[path = "netns/client_source.rs"]
mod client_source;
#[path = "netns/coexistence.rs"]
mod coexistence;
#[path = "netns/confinement.rs"]
mod confinement;
#[path = "netns/congestion.rs"]
mod congestion;
#[path = "netns/containers.rs"]
mod containers;
#[path = "netns/control.rs"]
mod control;
#[path = "netns/control_enemy.rs"]
mod control_enemy;
#[path = "netns/dead_upstream.rs"]
mod dead_upstream;
#[path = "netns/destinations.rs"]
mod destinations;
#[path = "netns/endurance.rs"]
mod endurance;
#[path = "netns/examples.rs"]
mod examples;
#[path = "netns/execution.rs"]
mod execution;
#[path = "netns/families.rs"]
mod families;
#[path = "netns/filter.rs"]
mod filter;
#[path = "netns/fuzz.rs"]
mod fuzz;
#[path = "netns/gates.rs"]
mod gates;
#[path = "netns/hanging.rs"]
mod hanging;
#[path = "netns/hidden_tables.rs"]
mod hidden_tables;
#[path = "netns/hostile.rs"]
mod hostile;
#[path = "netns/instance_lock.rs"]
mod instance_lock;
#[path = "netns/integrity.rs"]
mod integrity;
#[path = "netns/interception.rs"]
mod interception;
#[path = "netns/listeners.rs"]
mod listeners;
#[path = "netns/listing.rs"]
mod listing;
#[path = "netns/loops.rs"]
mod loops;
#[path = "netns/lost_entries.rs"]
mod lost_entries;
#[path = "netns/measures.rs"]
mod measures;
#[path = "netns/memory.rs"]
mod memory;
#[path = "netns/names.rs"]
mod names;
#[path = "netns/nft.rs"]
mod nft;
#[path = "netns/passed.rs"]
mod passed;
#[path = "netns/privileges.rs"]
mod privileges;
#[path = "netns/processes.rs"]
mod processes;
#[path = "netns/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "netns/retiring.rs"]
mod retiring;
#[path = "netns/return_path.rs"]
mod return_path;
#[path = "netns/rule_ownership.rs"]
mod rule_ownership;
#[path = "netns/same_port.rs"]
mod same_port;
#[path = "netns/scenarios.rs"]
mod scenarios;
#[path = "netns/source.rs"]
mod source;
#[path = "netns/source_kills.rs"]
mod source_kills;
#[path = "netns/starting.rs"]
mod starting;
#[path = "netns/steering.rs"]
mod steering;
#[path = "netns/stuck_log.rs"]
mod stuck_log;
#[path = "netns/system_log.rs"]
mod system_log;
#[path = "netns/table.rs"]
mod table;
#[path = "netns/tools.rs"]
mod tools;
#[path = "netns/udp_reject.rs"]
mod udp_reject;
#[path = "netns/under_fire.rs"]
mod under_fire;
#[path = "netns/via.rs"]
mod via;
#[path = "netns/via_http.rs"]
mod via_http;
#[path = "netns/via_switch.rs"]
mod via_switch;
#[path = "netns/via_tunnel.rs"]
mod via_tunnel;
#[path = "netns/warnings.rs"]
mod warnings;

use lab::daemon::{Daemon, Launch};
use lab::netns::Lab;
use lab::servers::Server;

/// moose's web server, which clients ask.
const MOOSE: &str = "10.2.0.5:80";
/// The same over IPv6.
const MOOSE6: &str = "[fd00:2::5]:80";
/// Serialises the tests with load or tight timing.
static HEAVY: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The machines with a web server on moose and on cow, each of which answers with its name.
struct Scene {
    moose: Option<Server>,
    cow: Option<Server>,
    lab: Lab,
}

impl Scene {
    /// `None` where there are no namespaces.
    fn new() -> Option<Scene> {
        let lab = Lab::new()?;
        let moose = lab.moose.enter(|| Server::page("[::]:80", "moose"));
        let cow = lab.cow.enter(|| Server::page("[::]:80", "cow"));
        Some(Scene { moose: Some(moose), cow: Some(cow), lab })
    }

    /// tproxy on the gateway, ready; without `-d` in the arguments it would not come to that.
    fn relay(&self, args: &[&str]) -> Daemon {
        self.launch(args).ready()
    }

    /// tproxy on the gateway, not yet started.
    fn launch(&self, args: &[&str]) -> Launch {
        Launch::new(args).within(&self.lab.gateway)
    }

    /// Scenario S1: whoever asks for moose gets the page from cow.
    fn stand_in(&self) -> Daemon {
        self.relay(STAND_IN)
    }

    /// The page that the client gets.
    fn page(&self, from: &str) -> String {
        self.lab.client.fetch(from).unwrap_or_else(|error| format!("({error})"))
    }
}

/// The command line of scenario S1, in the foreground.
const STAND_IN: &[&str] = &["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"];

/// The same as a daemon.
fn stand_in_detached<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&STAND_IN[1..], more].concat()
}
