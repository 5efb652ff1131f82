//! Reading and writing of sockets with flags.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{MsgFlags, recv, send};

/// Takes as many bytes from a stream socket as `buffer` is long, without copying them (`MSG_TRUNC`, tcp(7)).
pub(crate) fn discard(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)?)
}

/// Writes bytes to a stream socket which go out with what is written next, or with the end (`MSG_MORE`, send(2)). A
/// packet that is not full waits for that up to 200 ms, so it must be certain to come at once.
pub(crate) fn send_with_more(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let more = MsgFlags::from_bits_retain(libc::MSG_MORE);
    Ok(send(socket.as_fd().as_raw_fd(), bytes, more | MsgFlags::MSG_NOSIGNAL)?)
}
