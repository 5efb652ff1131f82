//! Connections to upstreams, and the address that they leave from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, IpTransparent, Mark, ReuseAddr};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, setsockopt, socket};
use nix::{setsockopt_impl, sockopt_impl};

use crate::sys::congestion::Algorithm;
use crate::sys::shortage::{self, ConnectError};
use crate::sys::sockopt;

/// The option that [`leave_from`] sets. The system call filter allows it where addresses are chosen.
pub(crate) const WITHOUT_PORT: (libc::c_int, libc::c_int) = (libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT);

/// Has connections of this socket leave from an address. connect(2) chooses the port then: only it knows which ports are
/// free towards one upstream (`IP_BIND_ADDRESS_NO_PORT`, ip(7), which is for IPv6 too).
fn leave_from(socket: impl AsFd, ip: IpAddr) -> io::Result<()> {
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

/// When the third packet of a handshake is sent, which tells the peer that it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThirdPacket {
    AtOnce,
    /// With the first data, which saves a packet. A caller that has none must [`sockopt::acknowledge`], or else the peer
    /// learns it only after 200 ms (`tcp_rcv_synsent_state_process`, net/ipv4/tcp_input.c).
    WithData,
}

/// A non-blocking socket that is being connected, and its own address. The kernel chooses that in connect(2) already,
/// as far as `source` does not say it.
pub(crate) fn connecting(
    address: SocketAddr,
    source: Option<IpAddr>,
    congestion: Option<&Algorithm>,
    third: ThirdPacket,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let socket = sockopt::stream_socket(address).map_err(ConnectError::Shortage)?;
    if let Some(algorithm) = congestion
        && let Err(error) = algorithm.set(&socket)
    {
        log::debug!("congestion control {algorithm}: {error}");
    }
    if let Some(ip) = source {
        leave_from(&socket, ip).map_err(ConnectError::Source)?;
    }
    connect_to(socket, address, third).map_err(|errno| match errno {
        Errno::EADDRNOTAVAIL if source.is_none() && !has_source(address) => ConnectError::Upstream(errno.into()),
        errno => refused(errno),
    })
}

/// The same on a [`transparent_socket`], from this address; port 0 leaves the port to the kernel.
pub(crate) fn connecting_from(
    socket: OwnedFd,
    source: SocketAddr,
    address: SocketAddr,
    third: ThirdPacket,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    bind_to(&socket, source).map_err(ConnectError::Source)?;
    connect_to(socket, address, third).map_err(refused)
}

fn connect_to(socket: OwnedFd, address: SocketAddr, third: ThirdPacket) -> nix::Result<(TcpStream, SocketAddr)> {
    if third == ThirdPacket::WithData {
        sockopt::acknowledge_late(&socket)?;
    }
    // With the length of its own kind of address: the filter looks at that.
    let connected = match address {
        SocketAddr::V4(v4) => connect(socket.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => connect(socket.as_raw_fd(), &SockaddrIn6::from(v6)),
    };
    match connected {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    let socket = TcpStream::from(socket);
    // What getsockname(2) can fail with on a socket of one's own is want of memory (ENOBUFS).
    let local = socket.local_addr().map_err(|_| Errno::ENOBUFS)?;
    Ok((socket, local))
}

fn refused(errno: Errno) -> ConnectError {
    let error = io::Error::from(errno);
    if shortage::missing(&error).is_some() { ConnectError::Shortage(error) } else { ConnectError::Upstream(error) }
}

/// A socket for a connection from any address, which need not be one of this host (`IP_TRANSPARENT`, ip(7)), with what all
/// sockets to upstreams have. connect(2) chooses the port if bind(2) does not. A process without privileges can use it.
///
/// Errors: EPERM without CAP_NET_ADMIN and CAP_NET_RAW.
pub(crate) fn transparent_socket(
    is_v4: bool,
    mark: Option<u32>,
    congestion: Option<&Algorithm>,
) -> io::Result<OwnedFd> {
    let any = if is_v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = sockopt::stream_socket(SocketAddr::new(any, 0))?;
    match is_v4 {
        true => setsockopt(&socket, IpTransparent, &true)?,
        false => setsockopt(&socket, Ipv6Transparent, &true)?,
    }
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    // One port of a client may lead to several upstreams.
    setsockopt(&socket, ReuseAddr, &true)?;
    if let Some(mark) = mark {
        setsockopt(&socket, Mark, &mark)?;
    }
    congestion.map_or(Ok(()), |algorithm| algorithm.set(&socket))?;
    Ok(socket)
}

sockopt_impl!(
    /// `IP_TRANSPARENT` for IPv6 (linux/in6.h).
    Ipv6Transparent,
    SetOnly,
    libc::SOL_IPV6,
    libc::IPV6_TRANSPARENT,
    bool
);

/// Whether this host has an address from which it can send there. Without an IPv6 address connect(2) says EADDRNOTAVAIL,
/// as it does without a port (`ipv6_dev_get_saddr`, net/ipv6/addrconf.c). A datagram socket that has a port tells them
/// apart. Without an IPv4 address it says ENETUNREACH.
fn has_source(address: SocketAddr) -> bool {
    if address.is_ipv4() {
        return true;
    }
    let Ok(probe) = datagram_socket(address) else { return true };
    let error = probe.connect(address).err().and_then(|error| error.raw_os_error());
    error != Some(libc::EADDRNOTAVAIL)
}

/// Without bind(2), which a confined process does not have: connect(2) gives it a port.
fn datagram_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(UdpSocket::from(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?))
}

/// Whether connections can leave from this address.
///
/// Errors: EADDRNOTAVAIL when it is not one of this host.
pub(crate) fn try_out(ip: IpAddr) -> io::Result<()> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    leave_from(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?, ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transparent_socket_leaves_from_an_address_of_nobody() {
        let from = SocketAddr::from(([192, 0, 2, 7], 4321));
        let socket = match transparent_socket(true, Some(1 << 29), None) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            socket => socket.unwrap(),
        };
        bind_to(&socket, from).unwrap();
        assert_eq!(std::net::UdpSocket::from(socket).local_addr().unwrap(), from);
        transparent_socket(false, None, None).unwrap();
    }

    #[test]
    fn an_address_of_this_host_can_be_used_and_no_other() {
        try_out("127.0.0.3".parse().unwrap()).unwrap();
        // TEST-NET-1 of RFC 5737.
        let error = try_out("192.0.2.1".parse().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }
}
