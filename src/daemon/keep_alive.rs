//! Keep-alive for the sake of connection tracking. A redirected connection whose entry has expired cannot be translated any
//! more, and the next packet of its client goes to the original destination, which resets it. A probe renews the entry; so
//! probes must come more often than entries expire. Usually they do: the kernel sends one every two hours, and an entry
//! lives for five days.

use crate::sys::procfs;
use crate::sys::sockopt::KeepAliveTimes;

/// For how long an entry of an established connection lives.
const TIMEOUT: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";

/// The most seconds and the most probes that the kernel takes (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPCNT`, linux/tcp.h).
const MOST_SECONDS: u32 = 32767;
const MOST_PROBES: u32 = 127;

/// What the log says about these times.
pub(crate) fn log(times: KeepAliveTimes) {
    let KeepAliveTimes { idle, .. } = times;
    log::info!("connections are kept alive with a probe every {idle} seconds, because {TIMEOUT} is short");
}

/// The times that connections need here; `None` if those of the kernel will do.
pub(crate) fn needed() -> Option<KeepAliveTimes> {
    let timeout = setting(TIMEOUT)?;
    let kernels = KeepAliveTimes {
        idle: setting("net.ipv4.tcp_keepalive_time")?,
        interval: setting("net.ipv4.tcp_keepalive_intvl")?,
        probes: setting("net.ipv4.tcp_keepalive_probes")?,
    };
    shorter_than(timeout, kernels)
}

fn setting(name: &str) -> Option<u32> {
    procfs::sysctl(name)?.parse().ok()
}

/// A peer that does not answer is given up as late as with the kernel's times, if the number of probes allows.
fn shorter_than(timeout: u32, kernels: KeepAliveTimes) -> Option<KeepAliveTimes> {
    if timeout > kernels.idle {
        return None;
    }
    let idle = (timeout / 2).clamp(1, MOST_SECONDS);
    let interval = idle.min(kernels.interval.max(1));
    let patience = kernels.interval.saturating_mul(kernels.probes);
    Some(KeepAliveTimes { idle, interval, probes: patience.div_ceil(interval).clamp(1, MOST_PROBES) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: KeepAliveTimes = KeepAliveTimes { idle: 7200, interval: 75, probes: 9 };

    #[test]
    fn probes_come_before_an_entry_expires_and_give_up_as_late_as_ever() {
        let table = [
            (432_000, None),
            (7201, None),
            (7200, Some((3600, 75, 9))),
            (300, Some((150, 75, 9))),
            (30, Some((15, 15, 45))),
            (4, Some((2, 2, 127))),
            (1, Some((1, 1, 127))),
            (0, Some((1, 1, 127))),
        ];
        for (timeout, wanted) in table {
            let wanted = wanted.map(|(idle, interval, probes)| KeepAliveTimes { idle, interval, probes });
            assert_eq!(shorter_than(timeout, KERNELS), wanted, "{timeout}");
        }
    }
}
