//! Reads the names that are known without a name server, for the redirections whose clients name hosts.

use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use crate::config::{Redirection, Target};
use crate::protocol::local_names::LocalNames;
use crate::sys::{files, procfs};
use crate::traffic::service::Via;

/// The longest file that is read. Lists of blocked names have some megabytes.
const LONGEST: u64 = 64 << 20;

/// Gives each redirection that needs them the names as they are now.
pub(super) fn give(redirections: &mut [Redirection]) {
    let services = redirections.iter_mut().filter_map(|redirection| match &mut redirection.target {
        Target::Relay(service) if service.trusts_hosts() => Some(service),
        _ => None,
    });
    let mut names = None;
    for service in services {
        let names = names.get_or_insert_with(|| Rc::new(read()));
        service.local_names = Rc::clone(names);
        if let Via::Http(rewriting, _) = &mut service.via {
            Rc::make_mut(rewriting).local_names = Rc::clone(names);
        }
    }
}

fn read() -> LocalNames {
    LocalNames::read(&text_of("/etc/hosts"), &procfs::sysctl("kernel.hostname").unwrap_or_default())
}

/// The text of a file; none if it cannot be read, as for the resolver library.
fn text_of(path: &str) -> String {
    let mut bytes = Vec::new();
    let file = files::open_through_links(Path::new(path)).ok().flatten();
    let _ = file.map(|file| file.take(LONGEST).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
