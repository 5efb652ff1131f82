//! The address that a connection leaves from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket};

/// The option that [`from`] sets. The system call filter allows it where addresses are chosen.
pub(crate) const WITHOUT_PORT: (libc::c_int, libc::c_int) = (libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT);

/// Has connections of this socket leave from an address. connect(2) chooses the port then: only it knows which ports are
/// free towards one upstream (`IP_BIND_ADDRESS_NO_PORT`, ip(7), which is for IPv6 too).
pub(crate) fn from(socket: impl AsFd, ip: IpAddr) -> io::Result<()> {
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    bind_to(socket, SocketAddr::new(ip, 0))
}

/// Binds, with the length of the address's own kind: the system call filter looks at that.
fn bind_to(socket: impl AsFd, address: SocketAddr) -> io::Result<()> {
    let socket = socket.as_fd().as_raw_fd();
    match address {
        SocketAddr::V4(v4) => bind(socket, &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => bind(socket, &SockaddrIn6::from(v6)),
    }?;
    Ok(())
}

/// Whether connections can leave from this address.
///
/// Errors: EADDRNOTAVAIL when it is not one of this host.
pub(crate) fn try_out(ip: IpAddr) -> io::Result<()> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    from(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?, ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_host_can_be_used_and_no_other() {
        try_out("127.0.0.3".parse().unwrap()).unwrap();
        // TEST-NET-1 of RFC 5737.
        let error = try_out("192.0.2.1".parse().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }
}
