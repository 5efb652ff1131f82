//! Tells when tables of nft change: the kernel sends a copy of each change to whoever listens (`NFNLGRP_NFTABLES`,
//! `nf_tables_commit` in net/netfilter/nf_tables_api.c), in this network namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

/// The group as a bit (include/uapi/linux/netfilter/nfnetlink.h: it is number 7).
const NFTABLES: u32 = 1 << 6;

/// The kernel puts many changes into one message of at most so many bytes (`NLMSG_GOODSIZE`).
const ROOM: usize = 8192;

/// So many messages are read at once. A new one is a new event, also when others are left.
const MOST: usize = 1024;

/// A socket that is readable when something has changed.
#[derive(Debug)]
pub(crate) struct NftEvents {
    socket: OwnedFd,
}

impl NftEvents {
    pub(crate) fn open() -> io::Result<NftEvents> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, NFTABLES))?;
        Ok(NftEvents { socket })
    }

    /// Takes what has come, and says whether it names one of these tables. What was lost is taken for something that does.
    pub(crate) fn name_any(&self, tables: &[String]) -> bool {
        // Strings end with a zero (nla_put_string).
        let names: Vec<Vec<u8>> = tables.iter().map(|name| [name.as_bytes(), &[0]].concat()).collect();
        let mut buffer = [0; ROOM];
        let mut found = false;
        for _ in 0..MOST {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(count) => {
                    let message = buffer.get(..count).unwrap_or_default();
                    found |= names.iter().any(|name| message.windows(name.len()).any(|part| part == name));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return found,
                Err(_) => found = true,
            }
        }
        true
    }
}

impl AsRawFd for NftEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
