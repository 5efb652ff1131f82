//! The services of this host that redirections lead to (`--local`). A port without a listener, or with listeners that
//! redirected connections do not reach, is logged once, and again when that changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{Config, Redirection, RuleKind, Target};
use crate::rules::matching::Match;
use crate::sys::procfs::{self, InetSocket};

const EVERY: Duration = Duration::from_secs(30);

/// A port of a protocol.
type Port = (String, u16);

/// Who listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listening {
    Nobody,
    /// Somebody at loopback addresses. Connections are redirected to the address of the interface that they come in on.
    OnLoopback,
    Reachable,
}

/// The ports, as they were seen last.
#[derive(Debug, Default)]
pub(crate) struct LocalPorts {
    seen: BTreeMap<Port, Listening>,
    next: Option<Instant>,
}

impl LocalPorts {
    /// When to look again; `None` before the first look and without such redirections.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Looks for listeners, and logs what has changed.
    pub(crate) fn look(&mut self, config: &Config) {
        let ports: Vec<Port> = config.redirections.iter().flat_map(local_ports).collect();
        self.next = (!ports.is_empty()).then(|| Instant::now() + EVERY);
        if ports.is_empty() {
            return self.seen.clear();
        }
        let (tcp, udp) = (procfs::tcp_listeners(), procfs::udp_receivers());
        let listening = |(protocol, port): &Port| listening_at(*port, if protocol == "udp" { &udp } else { &tcp });
        let now: BTreeMap<Port, Listening> = ports.into_iter().map(|port| (port.clone(), listening(&port))).collect();
        for (port, listening) in &now {
            if *listening != self.seen.get(port).copied().unwrap_or(Listening::Reachable) {
                tell(port, *listening);
            }
        }
        self.seen = now;
    }
}

fn tell((protocol, port): &Port, listening: Listening) {
    match listening {
        Listening::Nobody => {
            log::warn!("nobody listens on port {port} of this host, to which connections are redirected");
        }
        Listening::OnLoopback => log::warn!(
            "{protocol} port {port} of this host is listened on at loopback addresses only, but connections are \
             redirected to the address of the interface that they come in on: they are refused"
        ),
        Listening::Reachable => log::info!("port {port} of this host is listened on"),
    }
}

fn listening_at(port: u16, sockets: &[InetSocket]) -> Listening {
    let mut there = sockets.iter().filter(|socket| socket.port == port).peekable();
    if there.peek().is_none() {
        Listening::Nobody
    } else if there.all(|socket| socket.ip.to_canonical().is_loopback()) {
        Listening::OnLoopback
    } else {
        Listening::Reachable
    }
}

/// The ports of this host that a redirection leads to. With `--local same` these are the ports that its rules name.
fn local_ports(redirection: &Redirection) -> Vec<Port> {
    let Target::Local(fixed) = redirection.target else { return Vec::new() };
    let redirects = redirection.rules.iter().filter(|(kind, _)| *kind == RuleKind::Redirect);
    let port = |matching: &Match| Some((matching.protocol().to_owned(), fixed.or_else(|| matching.port())?));
    redirects.filter_map(|(_, matching)| port(matching)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_reachable_if_one_of_its_sockets_is() {
        let socket = |ip: &str, port| InetSocket { is_ipv4: true, ip: ip.parse().unwrap(), port, inode: 1 };
        let loopback = ["127.0.0.53", "::ffff:127.0.0.1", "::1"].map(|ip| socket(ip, 53));
        let all = [&loopback[..], &[socket("0.0.0.0", 80)]].concat();
        assert_eq!(listening_at(53, &all), Listening::OnLoopback);
        assert_eq!(listening_at(80, &all), Listening::Reachable);
        assert_eq!(listening_at(81, &all), Listening::Nobody);
        assert_eq!(listening_at(53, &[&all[..], &[socket("10.1.0.1", 53)]].concat()), Listening::Reachable);
    }
}
