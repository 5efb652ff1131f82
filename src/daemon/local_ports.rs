//! The services of this host that redirections lead to: a port on which nobody listens is told, once, and again when
//! it changes.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::config::{Config, Target};

/// How often the ports are looked at.
const EVERY: Duration = Duration::from_secs(30);

/// The ports, as they were seen last.
#[derive(Debug, Default)]
pub(crate) struct LocalPorts {
    silent: BTreeSet<u16>,
    next: Option<Instant>,
}

impl LocalPorts {
    /// When to look again; `None` before the first look and when there is nothing to look at.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Looks now.
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

/// The ports on which somebody listens (state 0A) or receives datagrams (07), from the tables of proc(5).
fn taken_ports() -> BTreeSet<u16> {
    let tables = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];
    let port = |line: &str, state: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = fields.get(1).filter(|_| fields.get(3) == Some(&state))?;
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
    };
    let read = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    tables
        .iter()
        .flat_map(|(name, state)| read(name).lines().filter_map(|line| port(line, state)).collect::<Vec<_>>())
        .collect()
}
