//! Sockets for connections that leave from addresses of clients (`--source client`). Making them takes a privilege, using
//! them none: the guardian makes them and passes them to the workers, some at a time and before they are needed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::Error;
use crate::logging::Limiter;
use crate::rules::policy_routing::Connects;
use crate::sys::account::{self, Account};
use crate::sys::congestion::Algorithm;
use crate::sys::outgoing;
use crate::traffic::service::Source;
use crate::traffic::stock::{MOST, SocketKind};

/// Who chooses the addresses that connections to upstreams leave from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sources {
    /// The worker, among the addresses of this host.
    pub own: bool,
    /// The worker takes those of clients.
    pub clients: bool,
    /// Also their ports.
    pub ports: bool,
}

impl Sources {
    /// What serving a configuration needs.
    pub(crate) fn of(config: &Config) -> Sources {
        let any = |is: fn(Source) -> bool| config.relayed().any(|(_, _, service)| is(service.source));
        Sources {
            own: any(|source| matches!(source, Source::Address { .. })),
            clients: config.uses_client_addresses(),
            ports: any(|source| matches!(source, Source::Client { same_port: true, .. })),
        }
    }

    /// Whether any but the kernel chooses.
    pub(crate) fn are_chosen(self) -> bool {
        self.own || self.clients
    }
}

/// A worker gets at most so many sockets in this time, so that one which was taken over cannot keep the guardian busy:
/// 40,000 a second.
const AT_ONCE: usize = 4 * MOST;
const WINDOW: Duration = Duration::from_millis(50);

/// The sockets that a worker may have.
#[derive(Debug)]
pub(crate) struct SocketSupply {
    /// Who will use them, if it is another user.
    user: Option<Account>,
    /// The mark of the packets of those that have a zone, if any have.
    mark: Option<u32>,
    /// Their congestion control, if it is not the usual one.
    congestion: Option<Algorithm>,
    window: Option<Instant>,
    given: usize,
    failures: Limiter,
}

impl SocketSupply {
    /// For a worker that serves a configuration; `None` if it needs none.
    pub(crate) fn of(config: &Config) -> Option<SocketSupply> {
        config.uses_client_addresses().then(|| SocketSupply::new(config))
    }

    /// For a worker that serves a configuration with the same settings of the whole process.
    pub(crate) fn new(config: &Config) -> SocketSupply {
        let congestion = config.process.congestion.as_ref().map(|wanted| wanted.upstream.clone());
        let mark = (config.connects() == Connects::Zoned).then(|| config.process.mark.of_zone().value);
        SocketSupply { user: config.process.user, mark, congestion, window: None, given: 0, failures: Limiter::new() }
    }

    /// Whether such sockets can be had here.
    pub(crate) fn try_out(config: &Config) -> Result<(), Error> {
        let Some(supply) = SocketSupply::of(config) else { return Ok(()) };
        match outgoing::transparent_socket(true, supply.mark, supply.congestion.as_ref()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::Privilege(format!(
                "--source client: sockets for addresses of clients need CAP_NET_ADMIN: {error}"
            ))),
            Err(error) => Err(Error::sys("a socket for --source client", error)),
        }
    }

    /// Makes the sockets that a worker asks for, as far as it may have them now. It asks again for the others.
    pub(crate) fn make(&mut self, kind: SocketKind, wanted: u16) -> Vec<OwnedFd> {
        let count = self.grant(wanted, Instant::now());
        let mark = self.mark.filter(|_| kind.zoned);
        let one = |_| outgoing::transparent_socket(kind.is_v4, mark, self.congestion.as_ref());
        let all = || (0..count).map(one).collect::<Result<_, _>>();
        // Rules know whose a socket is by who has made it (xt_owner(8), `uidrange` of ip-rule(8)).
        let made: io::Result<_> = match self.user {
            Some(user) => account::make_files_as(user, all),
            None => all(),
        };
        made.unwrap_or_else(|error| {
            // A host without IPv6 needs none.
            if error.raw_os_error() != Some(libc::EAFNOSUPPORT)
                && let Some(more) = self.failures.pass()
            {
                let family = if kind.is_v4 { "IPv4" } else { "IPv6" };
                log::error!("--source client: {family} sockets for a worker cannot be made: {error}{more}");
            }
            Vec::new()
        })
    }

    fn grant(&mut self, wanted: u16, now: Instant) -> usize {
        if self.window.is_none_or(|begin| begin + WINDOW <= now) {
            (self.window, self.given) = (Some(now), 0);
        }
        let granted = usize::from(wanted).min(MOST).min(AT_ONCE - self.given);
        self.given += granted;
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_asks_without_end_gets_so_many_at_a_time() {
        let mut supply =
            SocketSupply { user: None, mark: None, congestion: None, window: None, given: 0, failures: Limiter::new() };
        let begin = Instant::now();
        let given: usize = (0..100).map(|_| supply.grant(u16::MAX, begin)).sum();
        assert_eq!(given, AT_ONCE);
        assert_eq!(supply.grant(7, begin + WINDOW), 7);
        assert_eq!(supply.grant(u16::MAX, begin + WINDOW), MOST);
    }
}
