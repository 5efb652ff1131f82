//! How the upstream of a connection is spoken to.

use mio::net::TcpStream;

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::proxy_header::{self, Version};
use crate::relay::http_filter::HttpFilter;
use crate::relay::proxy_layer::ProxyLayer;
use crate::relay::tunnel::TunnelHandshake;
use crate::traffic::service::{Service, Via};
use crate::traffic::session::Route;

/// What a connection to a proxy needs; `None` when the upstream is no proxy. `name` is the one that the client asks for.
pub(crate) fn proxy_layer(service: &Service, route: &Route, name: Option<&str>) -> Option<Box<ProxyLayer>> {
    let (client, original) = (route.client.socket_addr(), route.original.socket_addr());
    Some(Box::new(match &service.via {
        Via::Tcp(_) => return None,
        Via::Tunnel(tunnel) => ProxyLayer::TunnelHandshake(TunnelHandshake::new(tunnel, original, name)),
        Via::Http(rewriting, tunnel) => {
            ProxyLayer::HttpFilter(HttpFilter::new(AddrPair { client, original }, rewriting.clone(), tunnel.clone()))
        }
    }))
}

/// The PROXY header of a connection. The destination of one that was not redirected is the address where it arrived.
pub(crate) fn proxy_header(version: Version, route: &Route, client: &TcpStream) -> Vec<u8> {
    let destination = match route.original.is_known() {
        true => route.original.socket_addr(),
        false => client.local_addr().unwrap_or_else(|_| route.local.socket_addr()),
    };
    let mut header = Vec::new();
    proxy_header::write(version, route.client.socket_addr(), destination, &mut header);
    header
}
