//! What a relay does besides moving bytes when its upstream is a proxy.

use crate::relay::http_filter::HttpFilter;
use crate::relay::tunnel::TunnelHandshake;

/// How a proxy is spoken to.
#[derive(Debug)]
pub enum ProxyLayer {
    /// Asks the proxy for a connection to the original destination.
    TunnelHandshake(TunnelHandshake),
    /// Rewrites the client's requests.
    HttpFilter(HttpFilter),
}

impl ProxyLayer {
    pub(crate) fn http_filter(&self) -> Option<&HttpFilter> {
        match self {
            ProxyLayer::HttpFilter(http_filter) => Some(http_filter),
            ProxyLayer::TunnelHandshake(_) => None,
        }
    }

    pub(crate) fn http_filter_mut(&mut self) -> Option<&mut HttpFilter> {
        match self {
            ProxyLayer::HttpFilter(http_filter) => Some(http_filter),
            ProxyLayer::TunnelHandshake(_) => None,
        }
    }
}
