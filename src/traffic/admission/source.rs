//! Where a connection leaves from: whether the upstream may see the client's address, and what the log says if it does not
//! come to that.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Admission;
use crate::relay::close::{CloseReason, DenyReason};
use crate::sys::routing_table::AddressOwner;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::destinations;
use crate::traffic::service::{Service, Source};
use crate::traffic::session::Session;

impl Admission {
    /// Decides whether the upstream sees the client's address. `is_claimed` says that a PROXY header names it.
    pub(super) fn choose_source(
        &mut self,
        service: &Service,
        session: &mut Session,
        is_claimed: bool,
    ) -> Result<(), CloseReason> {
        let Source::Client { serves_own, .. } = service.source else { return Ok(()) };
        let client = session.route.client;
        let address = SocketAddr::new(client.ip(), client.port());
        let reason = match destinations::deny_reason(client.ip(), &[]) {
            None => match self.routes.owner(address).map_err(|error| self.shortage(error, client, None))? {
                AddressOwner::ThisHost => Some(DenyReason::Own),
                AddressOwner::NoHost => Some(DenyReason::NoHost),
                AddressOwner::Elsewhere => None,
            },
            reason => reason,
        };
        session.as_client = reason.is_none();
        let is_here = matches!(reason, Some(DenyReason::Own | DenyReason::Loopback));
        match reason {
            Some(reason) if !is_here || !serves_own || is_claimed => {
                if let Some(more) = self.warnings.sources.pass() {
                    log::warn!("--source client: {client} is reset, for it is a {reason}{more}");
                }
                Err(CloseReason::BadSource(reason))
            }
            _ => Ok(()),
        }
    }

    /// A connection leaves from our own address where the client's is wanted.
    pub(crate) fn warn_own_source(&mut self, client: CompactAddr, to: SocketAddr) {
        if let Some(more) = self.warnings.own_sources.pass() {
            let why = match client.ip().is_ipv4() == to.is_ipv4() {
                _ if to.ip().is_loopback() => "a loopback address cannot answer to the client's",
                true => "the guardian, which makes the sockets for that, is gone",
                false => "they are of different families",
            };
            log::warn!("--source client: {client} is connected to {to} from our own address, for {why}{more}");
        }
    }

    /// Connections wait for sockets.
    pub(crate) fn warn_empty_stock(&mut self, client: CompactAddr) {
        if let Some(more) = self.warnings.empty_stock.pass() {
            log::warn!("--source client: {client} waits for the guardian to make a socket{more}");
        }
    }

    /// A connection cannot leave from the address that it should.
    pub(crate) fn warn_source(
        &mut self,
        client: CompactAddr,
        to: SocketAddr,
        source: Option<IpAddr>,
        error: &io::Error,
    ) {
        if let (Some(source), Some(more)) = (source, self.warnings.sources.pass()) {
            log::warn!("--source: cannot connect from {source} to {to} for {client}: {error}{more}");
        }
    }
}
