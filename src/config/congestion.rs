//! `--congestion-control`

use crate::cli::option::OptionId;
use crate::cli::options;
use crate::error::Error;
use crate::sys::account;
use crate::sys::congestion::Algorithm;
use crate::sys::procfs;

/// The algorithms of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CongestionControl {
    pub client: Algorithm,
    pub upstream: Algorithm,
}

/// One algorithm for both sides, or one for each.
pub(super) fn parse(text: &str) -> Result<CongestionControl, String> {
    let (client, upstream) = text.split_once(',').unwrap_or((text, text));
    let both = Algorithm::parse(client).zip(Algorithm::parse(upstream));
    let both = both.map(|(client, upstream)| CongestionControl { client, upstream });
    both.ok_or_else(|| "the name of an algorithm such as cubic, or two: CLIENT,UPSTREAM".to_owned())
}

/// Asks the kernel whether both can be used: by root for clients, without privileges for upstreams.
pub(super) fn check(wanted: &CongestionControl) -> Result<(), Error> {
    let CongestionControl { client, upstream } = wanted;
    let refused = |algorithm: &Algorithm, expected: String| {
        Err(Error::value(options::opt(OptionId::CongestionControl).to_string(), algorithm.to_string(), expected))
    };
    for algorithm in [client, upstream] {
        if algorithm.try_out().is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)) {
            let known = procfs::sysctl(AVAILABLE).unwrap_or_default();
            return refused(algorithm, format!("an algorithm that this kernel has (sysctl {AVAILABLE}): {known}"));
        }
    }
    // The usual one is set for every socket, whatever is allowed.
    let (allowed, usual) = (procfs::sysctl(ALLOWED).unwrap_or_default(), Algorithm::usual().ok());
    let may = |algorithm: &Algorithm| {
        usual.as_ref() == Some(algorithm) || allowed.split(' ').any(|name| name == algorithm.to_string())
    };
    let unprivileged = if account::is_root() { vec![upstream] } else { vec![client, upstream] };
    match unprivileged.into_iter().find(|algorithm| !may(algorithm)) {
        None => Ok(()),
        Some(algorithm) => refused(
            algorithm,
            format!("an algorithm that is allowed without privileges (add it to the sysctl {ALLOWED}): {allowed}"),
        ),
    }
}

const AVAILABLE: &str = "net.ipv4.tcp_available_congestion_control";
const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";
