//! Socket options, and making the sockets that need them.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{
    AcceptConn, BindToDevice, Ip6tOriginalDst, IpTransparent, Ipv6V6Only, KeepAlive, Linger, OobInline, OriginalDst,
    ReuseAddr, ReusePort, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, getsockopt, listen,
    setsockopt, socket,
};
use nix::{setsockopt_impl, sockopt_impl};

/// The options, each with its level, that a relay sets once it serves. Its system call filter allows no others.
pub(crate) const WHILE_SERVING: &[(libc::c_int, libc::c_int)] = &[
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
];

/// When a silent connection is probed (`TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`, tcp(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepAliveTimes {
    /// Seconds of silence before the first probe.
    pub idle: u32,
    /// Seconds between probes that are not answered.
    pub interval: u32,
    /// So many of these, and the peer is given up.
    pub probes: u32,
}

/// Sets when connections are probed. Those that a listener accepts inherit it.
pub(crate) fn set_keep_alive(socket: impl AsFd, times: KeepAliveTimes) -> io::Result<()> {
    setsockopt(&socket, TcpKeepIdle, &times.idle)?;
    setsockopt(&socket, TcpKeepInterval, &times.interval)?;
    setsockopt(&socket, TcpKeepCount, &times.probes)?;
    Ok(())
}

fn keep_alive_times(socket: impl AsFd) -> io::Result<KeepAliveTimes> {
    let (idle, interval) = (getsockopt(&socket, TcpKeepIdle)?, getsockopt(&socket, TcpKeepInterval)?);
    Ok(KeepAliveTimes { idle, interval, probes: getsockopt(&socket, TcpKeepCount)? })
}

/// The original destination of a redirected connection: netfilter's `SO_ORIGINAL_DST`, which has an option
/// of its own for IPv6 (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
///
/// Errors: ENOENT when connection tracking does not know the connection, ENOPROTOOPT when it is not loaded.
pub(crate) fn original_destination(socket: impl AsFd, family: IpAddr) -> io::Result<SocketAddr> {
    match family {
        IpAddr::V4(_) => {
            let address = SockaddrIn::from(getsockopt(&socket, OriginalDst)?);
            Ok(SocketAddr::V4(SocketAddrV4::from(address)))
        }
        IpAddr::V6(_) => {
            let address = SockaddrIn6::from(getsockopt(&socket, Ip6tOriginalDst)?);
            Ok(SocketAddr::V6(SocketAddrV6::from(address)))
        }
    }
}

/// Whether a new listener may stand beside one that already listens on the same port (`SO_REUSEPORT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortSharing {
    /// The port must be free.
    Exclusive,
    /// Other listeners of ours may be there: those of other workers, or of workers that a dead guardian has left.
    Shared,
}

/// A non-blocking socket of the family of `address`: without Nagle's delay, and a dead peer is noticed.
pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    be_prompt(&socket)?;
    Ok(socket)
}

/// Sets what all stream sockets have: no delay by Nagle's algorithm, and keep-alive.
pub(crate) fn be_prompt(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, TcpNoDelay, &true)?;
    setsockopt(&socket, KeepAlive, &true)?;
    Ok(())
}

/// A listening, non-blocking socket. IPv6 sockets take IPv6 only, so that each family has its own. What all
/// stream sockets have set is set here once: accepted sockets inherit it.
pub(crate) fn listener(address: SocketAddr, beside: PortSharing) -> io::Result<TcpListener> {
    let socket = stream_socket(address)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    start_listening(socket, address, beside)
}

fn start_listening(socket: OwnedFd, address: SocketAddr, beside: PortSharing) -> io::Result<TcpListener> {
    setsockopt(&socket, ReuseAddr, &true)?;
    if beside == PortSharing::Shared {
        setsockopt(&socket, ReusePort, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // The next process must be able to bind beside this one.
    setsockopt(&socket, ReusePort, &true)?;
    // As many as net.core.somaxconn allows. SOMAXCONN of musl is 128.
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(TcpListener::from(socket))
}

/// A listener in the place of one that no longer listens: at the same address, for the same families, on the same device,
/// with the same keep-alive, and for the addresses of others if the former one is. Another process may have the former one open, which then keeps the port, but no longer
/// listens there.
pub(crate) fn listener_instead_of(former: &TcpListener, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream_socket(address)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &getsockopt(former, Ipv6V6Only)?)?;
    }
    let device = getsockopt(former, BindToDevice)?;
    if !device.is_empty() {
        setsockopt(&socket, BindToDevice, &device)?;
    }
    set_keep_alive(&socket, keep_alive_times(former)?)?;
    if getsockopt(former, IpTransparent)? {
        setsockopt(&socket, IpTransparent, &true)?;
    }
    setsockopt(former, ReusePort, &true)?;
    start_listening(socket, address, PortSharing::Shared)
}

/// Lets a socket have addresses that are not this host's (`IP_TRANSPARENT`, ip(7)), and connections that it accepts too. An
/// IPv6 socket has the same flag (`do_ip_setsockopt`, net/ipv4/ip_sockglue.c).
///
/// Errors: EPERM without CAP_NET_ADMIN or CAP_NET_RAW, unless it is so already.
pub(crate) fn be_transparent(socket: &TcpListener) -> io::Result<()> {
    if !getsockopt(socket, IpTransparent)? {
        setsockopt(socket, IpTransparent, &true)?;
    }
    Ok(())
}

/// Whether an IPv6 socket takes IPv4 as well (`IPV6_V6ONLY`, ipv6(7)).
pub(crate) fn takes_both_families(socket: impl AsFd) -> io::Result<bool> {
    Ok(!getsockopt(&socket, Ipv6V6Only)?)
}

/// Whether a socket listens (`SO_ACCEPTCONN`, socket(7)). A process that shares a listening socket can end that for all of
/// them: connect(2) to no address (`AF_UNSPEC`) disconnects it (`tcp_disconnect`, net/ipv4/tcp.c).
pub(crate) fn listens(socket: impl AsFd) -> io::Result<bool> {
    Ok(getsockopt(&socket, AcceptConn)?)
}

/// Does that to a socket.
#[cfg(test)]
pub(crate) fn disconnect(socket: impl AsFd) -> io::Result<()> {
    let none = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads the address, which lives through the call, and the descriptor is borrowed and so open.
    Errno::result(unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const none, length) })?;
    Ok(())
}

/// Sets the options of a listener again that a process which shares it can have changed: accepted sockets inherit them.
/// They are those of [`WHILE_SERVING`].
pub(crate) fn restore_options(listener: &TcpListener) -> io::Result<()> {
    be_prompt(listener)?;
    setsockopt(listener, Linger, &libc::linger { l_onoff: 0, l_linger: 0 })?;
    setsockopt(listener, OobInline, &false)?;
    setsockopt(listener, QuickAck, &true)?;
    Ok(())
}

/// Makes the coming close send RST and throw away what is unsent (`SO_LINGER` of zero seconds, socket(7)).
pub(crate) fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

sockopt_impl!(
    /// Acknowledging at once (`TCP_QUICKACK`, tcp(7)).
    QuickAck,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_QUICKACK,
    bool
);

/// Lets the third packet of a handshake wait for the first data to go with it.
pub(crate) fn acknowledge_late(socket: impl AsFd) -> nix::Result<()> {
    setsockopt(&socket, QuickAck, &false)
}

/// Acknowledges now what was received, and not only when there is something to send: a peer that has not set
/// `TCP_NODELAY` holds back what it says next until then, 40 ms (RFC 896, RFC 1122 4.2.3.2). Not permanent, tcp(7).
pub(crate) fn acknowledge(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, QuickAck, &true)?;
    Ok(())
}

/// Puts urgent data in its place in the stream, where a relay can carry it (tcp(7)).
pub(crate) fn urgent_inline(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, OobInline, &true)?;
    Ok(())
}

/// Bytes sent but not yet acknowledged by the peer (`SIOCOUTQ`, tcp(7)).
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (= TIOCOUTQ) writes one int through the pointer, which is valid for the length of the call; the
    // descriptor is borrowed and so open.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    Errno::result(result)?;
    Ok(usize::try_from(count).unwrap_or(0))
}
