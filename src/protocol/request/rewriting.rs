//! What becomes of a head.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::credentials::Credentials;
use crate::protocol::request::authority::{self, Authority};
use crate::protocol::request::head::Head;

/// How the requests of a redirection are rewritten.
#[derive(Debug, Clone, Default)]
pub struct Rewriting {
    /// Which header tells the proxy who the client is.
    pub forwarded: Forwarded,
    /// For `Proxy-Authorization`.
    pub credentials: Option<Credentials>,
    /// `-f`: what every request is for.
    pub page: Option<String>,
    /// Whether a Host is believed only when it leads to the original destination.
    pub check_host: bool,
}

/// Which header tells the proxy who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    /// None.
    #[default]
    No,
    /// `Forwarded` (RFC 7239).
    Standard,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// Both.
    Both,
}

/// What the target of a request becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestTarget<'a> {
    /// It stays.
    Same,
    /// The page that every request is for.
    Page(&'a str),
    /// `http://`, this host and this path.
    At(Authority<'a>, &'a str),
    /// `http://`, the original destination and this path.
    AtOriginal(&'a str),
    /// The original destination, to be connected through to.
    Through,
}

impl Rewriting {
    /// The page that a request is for, whatever it asks for. What the page itself refers to, such as its pictures, is
    /// not replaced.
    pub fn page_for(&self, referer: Option<&[u8]>) -> Option<&str> {
        self.page.as_deref().filter(|page| referer != Some(page.as_bytes()))
    }

    /// Appends a head with its new target and the headers that are wanted.
    pub fn write(&self, head: &Head<'_>, target: RequestTarget<'_>, addrs: &AddrPair, out: &mut Vec<u8>) {
        out.extend_from_slice(head.method.as_bytes());
        out.push(b' ');
        self.write_target(head, target, addrs, out);
        // The client knows of no proxy. What it says to one is nobody's, or meant for another.
        let cut = head.authorization.clone().filter(|_| self.credentials.is_some()).unwrap_or_default();
        for part in [head.rest.get(..cut.start), head.rest.get(cut.end..)] {
            out.extend_from_slice(part.unwrap_or_default());
        }
        self.write_forwarded(addrs.client.ip().to_canonical(), out);
        if let Some(credentials) = &self.credentials {
            credentials.write_header(out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_target(&self, head: &Head<'_>, target: RequestTarget<'_>, addrs: &AddrPair, out: &mut Vec<u8>) {
        match target {
            RequestTarget::Same => out.extend_from_slice(head.target.as_bytes()),
            RequestTarget::Page(url) => out.extend_from_slice(url.as_bytes()),
            RequestTarget::At(host, path) => {
                out.extend_from_slice(b"http://");
                host.write(addrs.original, out);
                out.extend_from_slice(path.as_bytes());
            }
            RequestTarget::AtOriginal(path) => {
                out.extend_from_slice(b"http://");
                authority::write_address(addrs.original, out);
                out.extend_from_slice(path.as_bytes());
            }
            RequestTarget::Through => {
                let original = addrs.original;
                let _ = write!(out, "{}", SocketAddr::new(original.ip().to_canonical(), original.port()));
            }
        }
    }

    fn write_forwarded(&self, client: IpAddr, out: &mut Vec<u8>) {
        if matches!(self.forwarded, Forwarded::Standard | Forwarded::Both) {
            // A vector takes all that is written to it.
            let _ = match client {
                IpAddr::V4(address) => write!(out, "Forwarded: for={address}\r\n"),
                IpAddr::V6(address) => write!(out, "Forwarded: for=\"[{address}]\"\r\n"),
            };
        }
        if matches!(self.forwarded, Forwarded::XForwardedFor | Forwarded::Both) {
            let _ = write!(out, "X-Forwarded-For: {client}\r\n");
        }
    }
}
