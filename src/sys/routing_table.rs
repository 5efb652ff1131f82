//! What the routing table says of an address (RTM_GETROUTE, rtnetlink(7)): whether it belongs to this host.
//!
//! The kernel is asked for the route that connect(2) would take, with the same user, protocol and port, so that all rules
//! of ip-rule(8) count. Only the routing table knows all of this host's addresses: those of interfaces, but also those
//! of routes of type `local`. It answers within send(2) and without a lock (since Linux 4.15), so nothing ever waits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{BPF_ABS, BPF_H, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, sock_filter};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

/// linux/rtnetlink.h; libc has it for glibc only.
const RTA_VIA: u16 = 18;

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressOwner {
    /// Packets to it stay on this host.
    ThisHost,
    /// It is a broadcast or multicast address.
    NoHost,
    /// Another host's, or there is no way to it.
    Elsewhere,
}

/// A route, as the kernel chooses it for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    kind: u8,
    device: u32,
    has_gateway: bool,
}

impl KernelRoute {
    fn read(answer: &[u8]) -> KernelRoute {
        let kind = answer.get(ROUTE_TYPE).copied().unwrap_or(libc::RTN_UNSPEC);
        let mut route = KernelRoute { kind, device: 0, has_gateway: false };
        // struct rtattr: length with itself, kind, value; the next one begins at a multiple of four.
        let mut rest = answer.get(HEADER + 12..).unwrap_or_default();
        while let [l0, l1, k0, k1, ..] = *rest {
            let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
            match (kind, rest.get(4..8)) {
                (libc::RTA_OIF, Some(&[a, b, c, d])) => route.device = u32::from_ne_bytes([a, b, c, d]),
                (libc::RTA_GATEWAY | RTA_VIA, _) => route.has_gateway = true,
                _ => {}
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
        }
        route
    }

    /// Packets stay on this host.
    pub(crate) fn is_local(self) -> bool {
        self.kind == libc::RTN_LOCAL
    }

    /// The address is on a network that this host is on as well.
    pub(crate) fn is_on_link(self) -> bool {
        self.kind == libc::RTN_UNICAST && !self.has_gateway
    }

    /// The interface that packets leave by.
    pub(crate) fn device(self) -> Option<String> {
        if_indextoname(self.device).ok()?.into_string().ok()
    }
}

/// A socket on which the routing table is asked.
#[derive(Debug)]
pub(crate) struct RoutingTable {
    socket: OwnedFd,
    /// Of the last question.
    number: u32,
}

/// How often a question is asked whose answer does not come.
const TRIES: usize = 8;

/// The length of struct `nlmsghdr`, which begins every message (netlink(7)).
const HEADER: usize = 16;

/// More than an answer has.
const ROOM: usize = 512;

/// More than a question has.
const QUESTION: usize = 80;

/// The place of the type of the route in an answer (`rtm_type`, rtnetlink(7)).
const ROUTE_TYPE: usize = HEADER + 7;

impl RoutingTable {
    /// Opens the socket. No privileges are needed, and none that the process loses later come with it.
    ///
    /// Errors: there are no netlink sockets here (a sandbox may forbid them), or the kernel does not understand the question.
    pub(crate) fn open() -> io::Result<RoutingTable> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        hear_routes_only(&socket)?;
        let mut table = RoutingTable { socket, number: 0 };
        // A kernel that refused every question as invalid would seem to say that no address is its own.
        match table.ask(SocketAddr::from(([127, 0, 0, 1], 1))) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(error),
            _ => Ok(table),
        }
    }

    /// Whose address this is, for a TCP connection from this process.
    ///
    /// Errors: this host is short of what it takes to ask.
    pub(crate) fn owner(&mut self, address: SocketAddr) -> io::Result<AddressOwner> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        // connect(2) takes an unspecified address for loopback.
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            return Ok(AddressOwner::ThisHost);
        }
        match self.ask(address).map(|route| route.kind) {
            Ok(libc::RTN_LOCAL | libc::RTN_ANYCAST) => Ok(AddressOwner::ThisHost),
            Ok(libc::RTN_BROADCAST | libc::RTN_MULTICAST) => Ok(AddressOwner::NoHost),
            Ok(_) => Ok(AddressOwner::Elsewhere),
            // No route, or one that forbids: unreachable, prohibit, blackhole (`fib_props`, net/ipv4/fib_semantics.c). The
            // last ones are a kernel without IPv6. connect(2) fails with the same error.
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(AddressOwner::Elsewhere)
                }
                Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => Ok(AddressOwner::Elsewhere),
                _ => Err(error),
            },
        }
    }

    /// The route to an address.
    ///
    /// Errors: there is none.
    pub(crate) fn route(&mut self, address: SocketAddr) -> io::Result<KernelRoute> {
        self.ask(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The route to an address. A question or an answer that is lost is asked for again: the kernel had no memory for it,
    /// or a signal came in between.
    fn ask(&mut self, address: SocketAddr) -> io::Result<KernelRoute> {
        let mut answer = self.ask_once(address);
        for _ in 1..TRIES {
            let lost = [libc::EAGAIN, libc::EINTR, libc::ENOBUFS, libc::EPROTO];
            if !answer.as_ref().is_err_and(|error| error.raw_os_error().is_some_and(|errno| lost.contains(&errno))) {
                break;
            }
            answer = self.ask_once(address);
        }
        // An answer that is missing is no local port that is missing.
        answer.map_err(|error| if error.kind() == io::ErrorKind::WouldBlock { Errno::ENOBUFS.into() } else { error })
    }

    fn ask_once(&mut self, address: SocketAddr) -> io::Result<KernelRoute> {
        self.number = self.number.wrapping_add(1);
        let question = Question::new(self.number, address);
        send(self.socket.as_raw_fd(), question.bytes(), MsgFlags::MSG_DONTWAIT)?;
        let mut answer = [0; ROOM];
        loop {
            let count = match recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
                // The answer is there all the same: the kernel gives it while it takes the question.
                Err(Errno::EINTR) => continue,
                heard => heard?,
            };
            let field = |at: usize| {
                let bytes = answer.get(at..at + 4).filter(|_| at + 4 <= count)?;
                Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            };
            if field(8) != Some(self.number) {
                // The answer to an earlier question, which was given up.
                continue;
            }
            let kind = u16::from_ne_bytes([answer[4], answer[5]]);
            if i32::from(kind) == libc::NLMSG_ERROR {
                let errno = field(HEADER).map_or(libc::EPROTO, |error| error.cast_signed().wrapping_neg());
                return Err(io::Error::from_raw_os_error(errno));
            }
            return if kind == libc::RTM_NEWROUTE && ROUTE_TYPE < count {
                Ok(KernelRoute::read(&answer[..count]))
            } else {
                Err(Errno::EPROTO.into())
            };
        }
    }
}

/// A message that asks for one route.
struct Question {
    bytes: [u8; QUESTION],
    length: usize,
}

impl Question {
    fn new(number: u32, address: SocketAddr) -> Question {
        let mut question = Question { bytes: [0; QUESTION], length: 0 };
        // struct nlmsghdr; the length comes last, the process id is the kernel's business.
        question.add(&[0; 4]);
        question.add(&libc::RTM_GETROUTE.to_ne_bytes());
        question.add(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        question.add(&number.to_ne_bytes());
        question.add(&[0; 4]);
        // struct rtmsg: family, length of the destination in bits; the rest is for the kernel to say.
        let (family, bits) = if address.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
        question.add(&[family as u8, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        match address.ip() {
            IpAddr::V4(v4) => question.attribute(libc::RTA_DST, &v4.octets()),
            IpAddr::V6(v6) => question.attribute(libc::RTA_DST, &v6.octets()),
        }
        if let SocketAddr::V6(v6) = address
            && v6.scope_id() != 0
        {
            question.attribute(libc::RTA_OIF, &v6.scope_id().to_ne_bytes());
        }
        question.attribute(RTA_IP_PROTO, &[libc::IPPROTO_TCP as u8]);
        question.attribute(RTA_DPORT, &address.port().to_be_bytes());
        let length = question.length as u32;
        question.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        question
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// struct rtattr, its value, and what fills it up to four bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.add(&(4 + value.len() as u16).to_ne_bytes());
        self.add(&kind.to_ne_bytes());
        self.add(value);
        self.length = self.length.next_multiple_of(4);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// linux/rtnetlink.h, since Linux 4.18. Older kernels have no rules about ports, and ignore them.
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;

/// Lets only answers about a single route, and errors, arrive at a socket, for good. A process that is taken over cannot
/// list the links, neighbours and routes of this host on it (socket(7), `SO_ATTACH_FILTER`, `SO_LOCK_FILTER`).
fn hear_routes_only(socket: &OwnedFd) -> io::Result<()> {
    let one = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    // The filter takes the fields of struct nlmsghdr for big-endian, which they are not.
    let is = |kind: u16, then, otherwise| one(BPF_JMP | BPF_JEQ | BPF_K, then, otherwise, u32::from(kind.to_be()));
    let many = u32::from((libc::NLM_F_MULTI as u16).to_be());
    let mut program = [
        one(BPF_LD | BPF_H | BPF_ABS, 0, 0, 4),
        is(libc::NLMSG_ERROR as u16, 3, 0),
        is(libc::RTM_NEWROUTE, 0, 3),
        one(BPF_LD | BPF_H | BPF_ABS, 0, 0, 6),
        one(BPF_JMP | BPF_JSET | BPF_K, 1, 0, many),
        one(BPF_RET | BPF_K, 0, 0, u32::MAX),
        one(BPF_RET | BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let set = |option, value: *const libc::c_void, length: usize| {
        // SAFETY: the kernel reads `length` bytes at `value`, and from a filter the instructions that it points at. All of
        // it lives in this function. The descriptor is borrowed and so open.
        let result =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length as libc::socklen_t) };
        Errno::result(result).map(drop)
    };
    set(libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size_of_val(&filter))?;
    let locked: libc::c_int = 1;
    set(libc::SO_LOCK_FILTER, (&raw const locked).cast(), size_of_val(&locked))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_others() {
        let mut table = RoutingTable::open().unwrap();
        for (address, owner) in [
            ("127.0.0.1:80", AddressOwner::ThisHost),
            ("127.9.9.9:80", AddressOwner::ThisHost),
            ("[::1]:80", AddressOwner::ThisHost),
            ("[::ffff:127.0.0.1]:80", AddressOwner::ThisHost),
            ("0.0.0.0:80", AddressOwner::ThisHost),
            ("[::]:80", AddressOwner::ThisHost),
            ("192.0.2.1:80", AddressOwner::Elsewhere),
            ("[2001:db8::1]:80", AddressOwner::Elsewhere),
        ] {
            assert_eq!(table.owner(address.parse().unwrap()).unwrap(), owner, "{address}");
        }
    }

    #[test]
    fn the_kernel_is_asked_and_answers_at_once() {
        let mut table = RoutingTable::open().unwrap();
        for address in ["127.0.0.1:80", "127.255.255.254:1"] {
            assert_eq!(table.ask(address.parse().unwrap()).unwrap().kind, libc::RTN_LOCAL, "{address}");
        }
    }

    #[test]
    fn an_answer_that_was_given_up_is_not_taken_for_the_next_one() {
        let mut table = RoutingTable::open().unwrap();
        let stale = Question::new(table.number.wrapping_sub(1), "192.0.2.1:80".parse().unwrap());
        send(table.socket.as_raw_fd(), stale.bytes(), MsgFlags::empty()).unwrap();
        assert_eq!(table.ask("127.0.0.1:80".parse().unwrap()).unwrap().kind, libc::RTN_LOCAL);
    }

    #[test]
    fn nothing_but_single_routes_is_told() {
        for kind in [libc::RTM_GETLINK, libc::RTM_GETADDR, libc::RTM_GETROUTE, libc::RTM_GETNEIGH] {
            let table = RoutingTable::open().unwrap();
            let mut list = Question::new(7, "127.0.0.1:80".parse().unwrap());
            list.bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            list.bytes[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
            list.bytes[0..4].copy_from_slice(&28_u32.to_ne_bytes());
            send(table.socket.as_raw_fd(), &list.bytes[..28], MsgFlags::empty()).unwrap();
            let heard = recv(table.socket.as_raw_fd(), &mut [0; ROOM], MsgFlags::MSG_DONTWAIT);
            assert_eq!(heard, Err(Errno::EAGAIN), "{kind}");
        }
    }
}
