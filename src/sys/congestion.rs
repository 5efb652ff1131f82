//! The congestion control of TCP sockets: `TCP_CONGESTION`, tcp(7).

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::sockopt::TcpCongestion;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket};

/// The longest name of an algorithm (`TCP_CA_NAME_MAX`, net/tcp.h, without the end of the string).
const LONGEST: usize = 15;

/// A congestion control algorithm, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Algorithm(OsString);

impl Algorithm {
    /// `None` when no algorithm can have this name.
    pub(crate) fn parse(name: &str) -> Option<Algorithm> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        ((1..=LONGEST).contains(&name.len()) && name.chars().all(plain)).then(|| Algorithm(name.into()))
    }

    /// That of a socket. Accepted sockets have that of their listener.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Algorithm> {
        Ok(Algorithm(getsockopt(&socket, TcpCongestion)?))
    }

    /// That of all sockets for which none is chosen: the sysctl `net.ipv4.tcp_congestion_control`.
    pub(crate) fn usual() -> io::Result<Algorithm> {
        Algorithm::of(untouched_socket()?)
    }

    /// Errors: ENOENT for an algorithm that this kernel does not have; EPERM for one that is not in the sysctl
    /// `net.ipv4.tcp_allowed_congestion_control`, unless the process has CAP_NET_ADMIN.
    pub(crate) fn set(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(setsockopt(&socket, TcpCongestion, &self.0)?)
    }

    /// Whether this kernel has it, or can load it. Errors as for [`Algorithm::set`].
    pub(crate) fn try_out(&self) -> io::Result<()> {
        self.set(untouched_socket()?)
    }

    /// Whether the kernel sends what is written at a pace of its own. Of its algorithms only the versions of BBR ask for
    /// that (`sk_pacing_status`, net/ipv4/tcp_bbr.c).
    pub(crate) fn paces(&self) -> bool {
        self.0.as_encoded_bytes().starts_with(b"bbr")
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

fn untouched_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_the_kernel_can_have() {
        for name in ["cubic", "bbr", "dctcp-reno", "x_1", "fifteen-letters"] {
            assert_eq!(Algorithm::parse(name).unwrap().to_string(), name);
        }
        for name in ["", "cubic ", "a,b", "sixteen--letters", "cub\u{ef}c"] {
            assert_eq!(Algorithm::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_socket_has_the_algorithm_that_was_set_and_others_the_usual_one() {
        let reno = Algorithm::parse("reno").unwrap();
        let socket = untouched_socket().unwrap();
        assert_eq!(Algorithm::of(&socket).unwrap(), Algorithm::usual().unwrap());
        reno.set(&socket).unwrap();
        assert_eq!(Algorithm::of(&socket).unwrap(), reno);
        assert!(!reno.paces() && Algorithm::parse("bbr").unwrap().paces());
    }

    #[test]
    fn an_algorithm_that_the_kernel_does_not_have_is_refused() {
        let error = Algorithm::parse("no-such-thing").unwrap().try_out().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
