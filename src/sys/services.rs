//! Service names (services(5)).

use std::ffi::CString;

/// The TCP port of a service; `None` if the name is not known.
pub(crate) fn tcp_port(name: &str) -> Option<u16> {
    port("tcp", name)
}

/// The port of a service of a protocol.
pub(crate) fn port(protocol: &str, name: &str) -> Option<u16> {
    let (protocol, name) = (CString::new(protocol).ok()?, CString::new(name).ok()?);
    // SAFETY: both arguments are strings that end in a zero byte and live through the call. The result is null or
    // points to a static structure, that no other call can overwrite meanwhile: the program has one thread.
    let port = unsafe { libc::getservbyname(name.as_ptr(), protocol.as_ptr()).as_ref()?.s_port };
    // s_port holds the 16 bits in network order (getservbyname(3)).
    u16::try_from(port).ok().map(u16::from_be)
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_services_have_their_ports() {
        assert_eq!(super::tcp_port("no such service"), None);
        if let Some(port) = super::tcp_port("http") {
            assert_eq!(port, 80);
        }
    }
}
