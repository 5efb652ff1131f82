//! What the kernel knows of a set of ipset(8), asked as iptables(8) asks it (linux/netfilter/ipset/ip_set.h).

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SO_IP_SET`, the request for a set's family in it, and the oldest version of the requests, which has not changed since.
const SO_IP_SET: libc::c_int = 83;
const GET_FAMILY: u32 = 8;
const PROTOCOL: u32 = 6;

/// The longest name with its final zero (`IPSET_MAXNAMELEN`), and the number in its place when there is no such set.
const NAME: usize = 32;
const NO_SET: u16 = u16::MAX;

/// struct `ip_set_req_get_set_family`. The number of the set overwrites its name.
#[repr(C)]
struct FamilyRequest {
    operation: u32,
    version: u32,
    family: u32,
    name: [u8; NAME],
}

/// The family of the addresses in a set; `None` if it holds any, as a list of sets does.
///
/// Errors: there is no such set, the kernel has no sets, or this process may not administer the network.
pub(crate) fn family(name: &str) -> io::Result<Option<AddressFamily>> {
    let mut request = FamilyRequest { operation: GET_FAMILY, version: PROTOCOL, family: 0, name: [0; NAME] };
    let place = request.name.get_mut(..name.len()).filter(|_| name.len() < NAME).ok_or(Errno::ENOENT)?;
    place.copy_from_slice(name.as_bytes());
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut length = size_of::<FamilyRequest>() as libc::socklen_t;
    // SAFETY: the kernel reads and writes at most `length` bytes at `request`, which is that long and may hold any bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_IP, SO_IP_SET, (&raw mut request).cast(), &raw mut length)
    };
    Errno::result(result)?;
    if u16::from_ne_bytes([request.name[0], request.name[1]]) == NO_SET {
        return Err(Errno::ENOENT.into());
    }
    Ok(match i32::try_from(request.family) {
        Ok(libc::AF_INET) => Some(AddressFamily::Inet),
        Ok(libc::AF_INET6) => Some(AddressFamily::Inet6),
        _ => None,
    })
}
