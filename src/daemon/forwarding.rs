//! The kernel forwards nothing for `--kernel` unless it is told to, and that is for the administrator to decide.

use crate::config::Config;
use crate::config::rules::Known;
use crate::daemon::names::Names;
use crate::error::Error;
use crate::rules::address::Family;
use crate::sys::procfs;

/// Refuses `--kernel` towards a family that the kernel does not forward.
pub(crate) fn check(config: &Config, names: &Names) -> Result<(), Error> {
    let addresses = |name: &str| names.addresses(name).to_vec();
    let known = Known { addresses: &addresses, listening: &|_| Vec::new() };
    for family in config.forwards(&known) {
        let name = match family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        };
        if procfs::sysctl(name).is_some_and(|value| value == "0") {
            return Err(Error::Usage(format!(
                "--kernel: {name} is 0, but the kernel must forward: `sysctl -w {name}=1`"
            )));
        }
    }
    Ok(())
}
