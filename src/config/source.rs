//! `--source`

use std::net::{IpAddr, SocketAddr};

use crate::cli::option::OptionId;
use crate::cli::options;
use crate::cli::parse::Arguments;
use crate::error::Error;
use crate::sys::outgoing;
use crate::sys::routing_table::{AddressOwner, RoutingTable};
use crate::traffic::service::{Service, Source};

/// Reads the option, which may be given once for each family.
pub(super) fn read(arguments: &Arguments) -> Result<Source, Error> {
    // A balancer on this host speaks for itself when it checks tproxy.
    let serves_own = arguments.has(OptionId::Output) || arguments.has(OptionId::AcceptProxy);
    let given: Vec<&str> = arguments.texts(OptionId::Source).flat_map(|text| text.split(',')).collect();
    let mut source = Source::System;
    for text in &given {
        let refused = |expected: &str| Err(Error::value(name(), *text, expected));
        source = match (*text, source, text.parse::<IpAddr>().map(|ip| ip.to_canonical())) {
            ("client", Source::System, _) => Source::Client { same_port: false, serves_own },
            ("client:port", Source::System, _) => Source::Client { same_port: true, serves_own },
            ("client" | "client:port", ..) | (_, Source::Client { .. }, _) => {
                return refused("the client's address or addresses of this host, not both");
            }
            (.., Err(_)) => return refused("client, client:port or an address of this host"),
            (_, Source::System, Ok(IpAddr::V4(v4))) => Source::Address { v4: Some(v4), v6: None },
            (_, Source::System, Ok(IpAddr::V6(v6))) => Source::Address { v4: None, v6: Some(v6) },
            (_, Source::Address { v4: None, v6 }, Ok(IpAddr::V4(v4))) => Source::Address { v4: Some(v4), v6 },
            (_, Source::Address { v4, v6: None }, Ok(IpAddr::V6(v6))) => Source::Address { v4, v6: Some(v6) },
            (_, Source::Address { .. }, Ok(_)) => return refused("one address for each family"),
        };
    }
    Ok(source)
}

/// Whether connections can be made from the addresses, as this host is now.
///
/// Errors: one that is none of this host's, or that no upstream can be reached from.
pub(super) fn check(service: &Service) -> Result<(), Error> {
    let (v4, v6) = match service.source {
        Source::System => return Ok(()),
        Source::Client { .. } => return check_upstreams(service),
        Source::Address { v4, v6 } => (v4, v6),
    };
    let addresses = [v4.map(IpAddr::V4), v6.map(IpAddr::V6)];
    addresses.into_iter().flatten().try_for_each(|ip| check_one(ip, service))
}

/// The kernel sends nothing from a loopback address to others (`__mkroute_output`, net/ipv4/route.c), so such an upstream
/// would not answer.
fn check_upstreams(service: &Service) -> Result<(), Error> {
    let literals = service.destination.hosts().iter().filter_map(|host| host.name.literal());
    match literals.map(|ip| ip.to_canonical()).find(IpAddr::is_loopback) {
        None => Ok(()),
        Some(ip) => {
            let expected = "an address that can answer to clients (--source client), such as another one of this host";
            Err(Error::value("HOST", ip.to_string(), expected))
        }
    }
}

fn check_one(ip: IpAddr, service: &Service) -> Result<(), Error> {
    let refused = |expected: String| Err(Error::value(name(), ip.to_string(), expected));
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_unspecified() || ip.is_multicast() || is_link_local || is_no_host(ip) {
        return refused("an address of this host that others can answer to".into());
    }
    if outgoing::try_out(ip).is_err() {
        return refused("an address of this host".into());
    }
    let literals: Option<Vec<IpAddr>> = service.destination.hosts().iter().map(|host| host.name.literal()).collect();
    let of_family = |upstream: &IpAddr| upstream.to_canonical().is_ipv4() == ip.is_ipv4();
    match literals {
        // With --fallback the original destination may be of this family.
        Some(upstreams) if !upstreams.is_empty() && !upstreams.iter().any(of_family) && !service.fallback => {
            let family = if ip.is_ipv4() { "IPv6" } else { "IPv4" };
            refused(format!("an address of the upstream's family, {family}"))
        }
        _ => Ok(()),
    }
}

/// Whether it is a broadcast address. bind(2) takes these too (`inet_addr_valid_or_nonlocal`, net/inet_sock.h).
fn is_no_host(ip: IpAddr) -> bool {
    let owner = RoutingTable::open().and_then(|mut routes| routes.owner(SocketAddr::new(ip, 1)));
    owner.is_ok_and(|owner| owner == AddressOwner::NoHost)
}

fn name() -> String {
    options::opt(OptionId::Source).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::path::Path;

    fn given(text: &str) -> Result<Source, String> {
        let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        read(&crate::cli::parse::parse(&words, Path::new("/")).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_source_is_the_client_or_one_address_for_each_family() {
        assert_eq!(given(""), Ok(Source::System));
        let client = |same_port, serves_own| Ok(Source::Client { same_port, serves_own });
        assert_eq!(given("--source client"), client(false, false));
        assert_eq!(given("--source client:port -O"), client(true, true));
        let both = Ok(Source::Address { v4: "10.0.0.1".parse().ok(), v6: "fd00::1".parse().ok() });
        for text in
            ["--source 10.0.0.1,fd00::1", "--source fd00::1 --source 10.0.0.1", "--source fd00::1,::ffff:10.0.0.1"]
        {
            assert_eq!(given(text), both, "{text}");
        }
        for (text, wanted) in [
            ("cow", "client, client:port or an address of this host"),
            ("10.0.0.1,", "client, client:port or an address of this host"),
            ("10.0.0.1,10.0.0.2", "one address for each family"),
            ("client,10.0.0.1", "the client's address or addresses of this host, not both"),
            ("fd00::1 --source client:port", "the client's address or addresses of this host, not both"),
        ] {
            let error = given(&format!("--source {text}")).unwrap_err();
            assert!(error.starts_with("--source: ") && error.ends_with(wanted), "{text}: {error}");
        }
    }
}
