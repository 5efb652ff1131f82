//! What this host is short of, as the error of a system call says.

use std::fmt;
use std::io;

/// Something of this host that connections need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    OpenFiles,
    /// Of `net.ipv4.ip_local_port_range`, for one address and port of an upstream.
    LocalPorts,
    KernelMemory,
    /// Of the user (`fs.epoll.max_user_watches`).
    EpollWatches,
    /// None that the error names.
    Other,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::OpenFiles => "open files",
            Resource::LocalPorts => "local ports",
            Resource::KernelMemory => "kernel memory",
            Resource::EpollWatches => "epoll watches",
            Resource::Other => "system resources",
        })
    }
}

/// What is missing when connect(2) fails, at once or later. `None` when the error is about the upstream or the way to it:
/// refused, unreachable, silent, or forbidden by a firewall.
pub(crate) fn missing(error: &io::Error) -> Option<Resource> {
    match error.raw_os_error()? {
        libc::EMFILE | libc::ENFILE => Some(Resource::OpenFiles),
        // `__inet_hash_connect` says the first, automatic binding the others (net/ipv4/inet_hashtables.c, af_inet.c).
        libc::EADDRNOTAVAIL | libc::EAGAIN | libc::EADDRINUSE => Some(Resource::LocalPorts),
        libc::ENOBUFS | libc::ENOMEM => Some(Resource::KernelMemory),
        // epoll_ctl(2) alone says this.
        libc::ENOSPC => Some(Resource::EpollWatches),
        _ => None,
    }
}

/// Why a connection could not be begun.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// This host is short of something.
    Shortage(io::Error),
    /// The connection cannot leave from the address that it should.
    Source(io::Error),
    /// The upstream or the way to it.
    Upstream(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use Resource::{EpollWatches, KernelMemory, LocalPorts, OpenFiles};

    #[test]
    fn each_error_is_this_hosts_or_the_upstreams() {
        let table = [
            (libc::EMFILE, Some(OpenFiles)),
            (libc::ENFILE, Some(OpenFiles)),
            (libc::EADDRNOTAVAIL, Some(LocalPorts)),
            (libc::EAGAIN, Some(LocalPorts)),
            (libc::EADDRINUSE, Some(LocalPorts)),
            (libc::ENOBUFS, Some(KernelMemory)),
            (libc::ENOMEM, Some(KernelMemory)),
            (libc::ENOSPC, Some(EpollWatches)),
            (libc::ECONNREFUSED, None),
            (libc::ECONNRESET, None),
            (libc::ETIMEDOUT, None),
            (libc::ENETUNREACH, None),
            (libc::EHOSTUNREACH, None),
            (libc::ENETDOWN, None),
            (libc::EHOSTDOWN, None),
            (libc::EACCES, None),
            (libc::EPERM, None),
            (libc::EINVAL, None),
        ];
        for (errno, resource) in table {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(missing(&error), resource, "{error}");
        }
        assert_eq!(missing(&io::ErrorKind::TimedOut.into()), None, "--connect-timeout");
        assert_eq!(missing(&io::Error::other("no address is known")), None);
    }
}
