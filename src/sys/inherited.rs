//! Descriptors that this process was started with.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use nix::sys::stat::{FileStat, fstat};

use crate::sys::reset;
use crate::sys::sockopt::listens;

/// Takes ownership of a descriptor that was open when the program began, and makes it close-on-exec and non-blocking.
/// The caller must do this at most once for a number, and before anything else can open a descriptor of that number.
///
/// Errors: EBADF if there is no such descriptor.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer and changes nothing; a number that is not open gives EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    Errno::result(flags)?;
    // SAFETY: the descriptor is open, as just seen, and the caller guarantees that nothing else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let status = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    fcntl(&descriptor, FcntlArg::F_SETFL(status | OFlag::O_NONBLOCK))?;
    Ok(descriptor)
}

/// What a descriptor is that the program was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Passed {
    /// A TCP socket that listens.
    Listener,
    /// A TCP socket that has, or had, a peer.
    Connection,
    /// Something else, in words.
    Other(&'static str),
}

/// Looks at a descriptor that the caller does not own, and changes nothing: others may have the same open file description.
///
/// Errors: EBADF if there is no such descriptor.
pub(crate) fn look(number: RawFd) -> io::Result<Passed> {
    // SAFETY: F_GETFD takes no pointer and changes nothing; a number that is not open gives EBADF.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: the descriptor is open, as just seen. This process has one thread, and nothing closes it before the end of
    // this function.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let address = match getsockname::<SockaddrStorage>(number) {
        Err(Errno::ENOTSOCK) => return Ok(Passed::Other("no socket")),
        address => address?,
    };
    match address.family() {
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {}
        Some(AddressFamily::Unix) => return Ok(Passed::Other("a Unix socket")),
        _ => return Ok(Passed::Other("a socket of another family")),
    }
    if getsockopt(&socket, sockopt::SockType)? != SockType::Stream || protocol(socket)? != libc::IPPROTO_TCP {
        return Ok(Passed::Other("a socket of another protocol"));
    }
    if listens(socket)? {
        return Ok(Passed::Listener);
    }
    // A connection that was reset has no peer any more, but it keeps its own port.
    let v4 = address.as_sockaddr_in().map(|address| address.port());
    match v4.or(address.as_sockaddr_in6().map(|address| address.port())) {
        None | Some(0) => Ok(Passed::Other("a TCP socket that neither listens nor is connected")),
        Some(_) => Ok(Passed::Connection),
    }
}

/// Whether standard error is this socket.
pub(crate) fn is_stderr(socket: impl AsFd) -> bool {
    let id = |about: FileStat| (about.st_dev, about.st_ino);
    matches!((fstat(io::stderr()), fstat(socket)), (Ok(stderr), Ok(socket)) if id(stderr) == id(socket))
}

/// The protocol of a socket (`SO_PROTOCOL`, socket(7)): MPTCP and SCTP have streams over IP as well.
fn protocol(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut protocol: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PROTOCOL);
    let (value, size) = ((&raw mut protocol).cast(), &raw mut length);
    // SAFETY: the kernel writes at most `length` bytes, the size of an int, into `protocol`, and the new length into
    // `length`; both live through the call.
    Errno::result(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, size) })?;
    Ok(protocol)
}

/// A copy of a descriptor that stays open across exec, under the same number.
pub(crate) fn survivor(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    let number = fcntl(&descriptor, FcntlArg::F_DUPFD(3))?;
    // SAFETY: the kernel has just made this descriptor for us (F_DUPFD, fcntl(2)); nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether a descriptor that this process was started with is a file of [`memory_file`].
pub(crate) fn is_memory_file(number: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|to| to.starts_with("/memfd:tproxy (deleted)"))
}

/// An empty file in memory, closed on exec (memfd_create(2)).
pub(crate) fn memory_file() -> io::Result<File> {
    Ok(File::from(memfd_create(c"tproxy", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?))
}

/// One that holds these bytes; the place in it is behind them.
pub(crate) fn filled_memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = memory_file()?;
    reset::without_size_limit(|| file.write_all(bytes))?;
    Ok(file)
}

/// Makes a file in memory one that can only be read (`F_ADD_SEALS`, fcntl(2)).
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{SockFlag, socket};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_descriptor_is_told_without_a_change_to_it() {
        let directory = lab::tempdir::TempDir::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let fresh = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
        let six = TcpListener::bind("[::1]:0").map(OwnedFd::from).ok();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(directory.path.join("socket")).unwrap();
        let (file, (pipe, _write)) = (File::open("/dev/null").unwrap(), nix::unistd::pipe().unwrap());
        let mut table: Vec<(OwnedFd, Passed)> = vec![
            (listener.into(), Passed::Listener),
            // Reset by now, for its listener is gone.
            (client.into(), Passed::Connection),
            (fresh, Passed::Other("a TCP socket that neither listens nor is connected")),
            (udp.into(), Passed::Other("a socket of another protocol")),
            (unix.into(), Passed::Other("a Unix socket")),
            (file.into(), Passed::Other("no socket")),
            (pipe, Passed::Other("no socket")),
        ];
        table.extend(six.map(|six| (six, Passed::Listener)));
        for (descriptor, expected) in table {
            let flags = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_GETFL).unwrap();
            let before = flags(&descriptor);
            assert_eq!(look(descriptor.as_raw_fd()).unwrap(), expected);
            assert_eq!(flags(&descriptor), before);
        }
        let memory = memory_file().unwrap();
        assert!(is_memory_file(memory.as_raw_fd()) && !is_memory_file(0) && !is_memory_file(900_000));
        assert_eq!(look(900_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
