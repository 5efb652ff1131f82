//! The queueing disciplines of the network interfaces (RTM_GETQDISC, rtnetlink(7); tc(8) shows the same). The kernel
//! writes the list within recv(2), so nothing ever waits.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// A queueing discipline at an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueingDiscipline {
    /// The number of the interface.
    pub interface: u32,
    pub kind: String,
}

/// The lengths of struct `nlmsghdr` and struct `tcmsg` (linux/rtnetlink.h), and of a part of a list.
const HEADER: usize = 16;
const TCMSG: usize = 20;
const PART: usize = 32 * 1024;

/// All of them. An interface with several queues has one for each besides its root.
pub(crate) fn disciplines() -> io::Result<Vec<QueueingDiscipline>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let mut question = [0; HEADER + TCMSG];
    question[..4].copy_from_slice(&((HEADER + TCMSG) as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&libc::RTM_GETQDISC.to_ne_bytes());
    question[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    send(socket.as_raw_fd(), &question, MsgFlags::MSG_DONTWAIT)?;
    let (mut found, mut part) = (Vec::new(), vec![0; PART]);
    loop {
        let length = recv(socket.as_raw_fd(), &mut part, MsgFlags::MSG_DONTWAIT)?;
        let messages = part.get(..length).unwrap_or_default();
        if messages.is_empty() {
            return Err(Errno::EPROTO.into());
        }
        if !read(messages, &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads a part of the list, and says whether there is more.
fn read(mut messages: &[u8], found: &mut Vec<QueueingDiscipline>) -> io::Result<bool> {
    while let Some(length) = word(messages, 0).map(|length| length as usize).filter(|length| *length >= HEADER) {
        let message = messages.get(..length).ok_or(Errno::EPROTO)?;
        match i32::from(half(message, 4).unwrap_or_default()) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => return Err(Errno::EPROTO.into()),
            kind if kind == i32::from(libc::RTM_NEWQDISC) => found.extend(discipline(message)),
            _ => {}
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn discipline(message: &[u8]) -> Option<QueueingDiscipline> {
    let interface = word(message, HEADER + 4)?;
    // struct rtattr: length with itself, kind, value; the next one begins at a multiple of four.
    let mut rest = message.get(HEADER + TCMSG..)?;
    loop {
        let (length, kind) = (usize::from(half(rest, 0)?), half(rest, 2)?);
        let value = rest.get(4..length)?;
        if kind == libc::TCA_KIND {
            let name = value.split(|byte| *byte == 0).next()?;
            return Some(QueueingDiscipline { interface, kind: String::from_utf8_lossy(name).into_owned() });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_them_and_parts_that_are_cut_are_no_panic() {
        for found in disciplines().unwrap() {
            assert!(found.interface > 0 && !found.kind.is_empty(), "{found:?}");
        }
        let mut message = vec![0; HEADER + TCMSG];
        message[4..6].copy_from_slice(&libc::RTM_NEWQDISC.to_ne_bytes());
        message[HEADER + 4] = 7;
        message.extend([7, 0, 1, 0, b'f', b'q', 0, 0]);
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        let mut found = Vec::new();
        assert!(read(&message, &mut found).unwrap());
        assert_eq!(found, [QueueingDiscipline { interface: 7, kind: "fq".into() }]);
        for cut in 0..message.len() {
            let _ = read(&message[..cut], &mut found);
        }
    }
}
