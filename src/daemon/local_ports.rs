//! The services of this host that redirections lead to (`--local`). A port without a listener is logged once, and again
//! when that changes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::config::{Config, Target};
use crate::sys::procfs;

const EVERY: Duration = Duration::from_secs(30);

/// The ports without a listener, as they were seen last.
#[derive(Debug, Default)]
pub(crate) struct LocalPorts {
    silent: BTreeSet<u16>,
    next: Option<Instant>,
}

impl LocalPorts {
    /// When to look again; `None` before the first look and without such redirections.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Looks for listeners, and logs what has changed.
    pub(crate) fn look(&mut self, config: &Config) {
        let ports: BTreeSet<u16> =
            config.redirections.iter().filter_map(|redirection| local_port(&redirection.target)).collect();
        self.next = (!ports.is_empty()).then(|| Instant::now() + EVERY);
        if ports.is_empty() {
            return self.silent.clear();
        }
        let taken = taken_ports();
        let silent: BTreeSet<u16> = ports.into_iter().filter(|port| !taken.contains(port)).collect();
        for port in silent.difference(&self.silent) {
            log::warn!("nobody listens on port {port} of this host, to which connections are redirected");
        }
        for port in self.silent.difference(&silent) {
            log::info!("port {port} of this host is listened on, or not redirected to any more");
        }
        self.silent = silent;
    }
}

fn local_port(target: &Target) -> Option<u16> {
    match target {
        Target::Local(port) => *port,
        Target::Relay(_) | Target::Kernel(_) => None,
    }
}

/// The ports on which a process listens or receives datagrams.
fn taken_ports() -> BTreeSet<u16> {
    procfs::tcp_listeners().into_iter().chain(procfs::udp_receivers()).map(|socket| socket.port).collect()
}
