//! Writes a head for the proxy.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::credentials::Credentials;
use crate::protocol::local_names::LocalNames;
use crate::protocol::request::authority::{self, Authority, HostClaim};
use crate::protocol::request::connection_options;
use crate::protocol::request::forwarded::{self, Forwarded};
use crate::protocol::request::framing::trim;
use crate::protocol::request::head::Head;
use crate::protocol::request::lines::HEAD;
use crate::protocol::request::target;

/// How the requests of a redirection are rewritten.
#[derive(Debug, Clone)]
pub struct Rewriting {
    pub forwarded: Forwarded,
    /// The content of `Proxy-Authorization`.
    pub credentials: Option<Credentials>,
    /// The URL of `-f`, which every request is sent to.
    pub page: Option<String>,
    /// Whether a host is believed only if it has the address of the original destination.
    pub check_host: bool,
    /// The names that are judged even if hosts are not checked.
    pub local_names: Rc<LocalNames>,
    /// Bytes of the longest head.
    pub max_head: usize,
}

impl Default for Rewriting {
    fn default() -> Rewriting {
        Rewriting {
            forwarded: Forwarded::No,
            credentials: None,
            page: None,
            check_host: false,
            local_names: Rc::default(),
            max_head: HEAD,
        }
    }
}

/// The new target of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestTarget<'a> {
    /// Unchanged.
    Same,
    /// The URL of `-f`.
    Page(&'a str),
    /// `http://`, this host and this path.
    At(Authority<'a>, &'a [u8]),
    /// `http://`, the original destination and this path.
    AtOriginal(&'a [u8]),
    /// The original destination in the form for CONNECT.
    Through,
}

impl Rewriting {
    /// The URL of `-f`, unless the request comes from that page: its pictures, for example, are not replaced.
    pub fn page_for(&self, referer: Option<&[u8]>) -> Option<&str> {
        self.page.as_deref().filter(|page| referer != Some(page.as_bytes()))
    }

    /// Whether it has to be asked for a name whether it is believed.
    pub fn doubts(&self, name: &str) -> bool {
        self.check_host || self.local_names.addresses(name).is_some()
    }

    /// Whether the proxy may be asked for a host.
    pub fn claim<'a>(&self, host: &Authority<'a>, original: SocketAddr) -> HostClaim<'a> {
        host.claim(original, self.check_host, &self.local_names)
    }

    /// Appends a head with its new target and the added fields. A Host that does not agree with the target is replaced: no
    /// two programs may understand one request in two ways.
    pub fn write(&self, head: &Head<'_>, target: RequestTarget<'_>, addrs: &AddrPair, out: &mut Vec<u8>) {
        out.extend_from_slice(head.method.as_bytes());
        out.push(b' ');
        let start = out.len();
        self.write_target(head, target, addrs, out);
        let authority = target::authority_place(out.get(start..).unwrap_or_default());
        let authority = start + authority.start..start + authority.end;
        let agrees = |host| out.get(authority.clone()).is_some_and(|authority| authority::agree(host, authority));
        let replaces_host = head.host.is_some_and(|host| !agrees(host));
        let host = replaces_host.then_some(authority);
        // The client does not know about this proxy: its Proxy-Authorization is for another one.
        let cuts_authorization = head.lines.authorization && self.credentials.is_some();
        let cuts_forwarded = head.lines.forwarded && self.forwarded.has_standard();
        if head.lines.connection || cuts_authorization || cuts_forwarded || host.is_some() {
            let lines = head.rest.split_inclusive(|byte| *byte == b'\n');
            lines.for_each(|line| self.write_line(line, host.clone(), out));
        } else {
            out.extend_from_slice(head.rest);
        }
        self.forwarded.write(addrs.client.ip().to_canonical(), out);
        if let Some(credentials) = &self.credentials {
            credentials.write_header(out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_target(&self, head: &Head<'_>, target: RequestTarget<'_>, addrs: &AddrPair, out: &mut Vec<u8>) {
        match target {
            RequestTarget::Same => out.extend_from_slice(head.target),
            RequestTarget::Page(url) => out.extend_from_slice(url.as_bytes()),
            RequestTarget::At(host, path) => {
                out.extend_from_slice(b"http://");
                host.write(addrs.original, out);
                out.extend_from_slice(path);
            }
            RequestTarget::AtOriginal(path) => {
                out.extend_from_slice(b"http://");
                authority::write_address(addrs.original, out);
                out.extend_from_slice(path);
            }
            RequestTarget::Through => {
                let original = addrs.original;
                let _ = write!(out, "{}", SocketAddr::new(original.ip().to_canonical(), original.port()));
            }
        }
    }

    /// Appends a line of the head as it may stay. `host` is the place in `out` of what stands in the Host line, if that
    /// changes.
    fn write_line(&self, line: &[u8], host: Option<Range<usize>>, out: &mut Vec<u8>) {
        let (name, value) = field(line);
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("Connection") || is("Proxy-Connection") {
            connection_options::write_line(name, value, out);
        } else if let Some(host) = host.filter(|_| is("Host")) {
            out.extend_from_slice(b"Host: ");
            out.extend_from_within(host);
            out.extend_from_slice(b"\r\n");
        } else if !self.cuts(name, value) {
            out.extend_from_slice(line);
        }
    }

    /// Whether what is added takes the place of this field.
    fn cuts(&self, name: &[u8], value: &[u8]) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        is("Proxy-Authorization") && self.credentials.is_some()
            || is("Forwarded") && self.forwarded.has_standard() && forwarded::is_open(value)
    }
}

/// The name and the value of a line.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let (name, value) = line.split_at_checked(end).unwrap_or_default();
    (name, trim(value.strip_prefix(b":").unwrap_or_default().trim_ascii_end()))
}
