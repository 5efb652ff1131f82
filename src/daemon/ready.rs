//! What the log says when a generation serves.

use std::net::SocketAddr;

use crate::config::{Config, Redirection, Target, via};
use crate::daemon::generation::{self, Generation};
use crate::daemon::names::Names;
use crate::daemon::pacing_hint;
use crate::daemon::transition::Kind;
use crate::redirection::RedirectionId;
use crate::sys::congestion::Algorithm;
use crate::traffic::service::{self, Destination, HostPort, Service};

/// From so many redirections on, only their number is logged.
const MANY: usize = 16;

/// Logs that a change has succeeded, and what is not served yet.
pub(crate) fn log_change(kind: Kind, generation: &Generation, names: &Names) {
    generation.what_waits_for_names(names).iter().for_each(|sentence| log::warn!("{sentence}"));
    match kind {
        Kind::Start => log_ready(generation, names),
        Kind::Reload => log::info!("reloaded: {}", count(&generation.config)),
        Kind::Upgrade => log::info!("upgraded to tproxy {}: {}", env!("CARGO_PKG_VERSION"), count(&generation.config)),
    }
}

/// How many redirections there are, in words.
fn count(config: &Config) -> String {
    match config.redirections.len() {
        1 => "1 redirection".into(),
        count => format!("{count} redirections"),
    }
}

/// Logs the congestion control of both sides.
fn log_congestion(generation: &Generation) {
    let usual = Algorithm::usual();
    let of_listener = generation.listeners.sockets().next().map(Algorithm::of);
    if let (Ok(usual), Some(Ok(client))) = (usual, of_listener) {
        let upstream = generation.config.process.congestion.as_ref().map_or(usual, |wanted| wanted.upstream.clone());
        log::info!("congestion control: {client} towards clients, {upstream} towards upstreams");
        pacing_hint::hint(&generation.config, &client, &upstream).iter().for_each(|hint| log::info!("{hint}"));
    }
}

/// Logs what each redirection does.
pub(crate) fn log_ready(generation: &Generation, names: &Names) {
    log_congestion(generation);
    if generation.config.redirections.len() > MANY {
        return log::info!("ready: {}", count(&generation.config));
    }
    for (index, redirection) in generation.config.redirections.iter().enumerate() {
        log::info!("ready: {}", what(generation, RedirectionId::from(index), redirection, names));
    }
}

fn what(generation: &Generation, id: RedirectionId, redirection: &Redirection, names: &Names) -> String {
    match &redirection.target {
        Target::Relay(service) => relay_text(generation, id, service, names),
        Target::Local(Some(port)) => format!("redirecting to port {port} of this host"),
        Target::Local(None) => "redirecting to the same port of this host".into(),
        Target::Kernel(host) => format!("the kernel sends to {}", host_text(host, names)),
    }
}

fn relay_text(generation: &Generation, id: RedirectionId, service: &Service, names: &Names) -> String {
    let listening: Vec<String> = generation.listeners.addresses(id).iter().map(SocketAddr::to_string).collect();
    let target = match &service.destination {
        Destination::Original => "the original destination".to_owned(),
        Destination::Hosts(hosts) => hosts.iter().map(|host| host_text(host, names)).collect::<Vec<_>>().join(", "),
    };
    let (via, places) = (via::text(&service.via), generation.capacity.places * generation.slots.len().max(1));
    format!("listening on {}; relaying to {target}{via}; at most {places} connections", listening.join(", "))
}

fn host_text(host: &HostPort, names: &Names) -> String {
    let addresses: Vec<String> = generation::addresses(host, names).iter().map(service::shown).collect();
    let addresses = if addresses.is_empty() { "does not resolve yet".to_owned() } else { addresses.join(", ") };
    format!("{host} ({addresses})")
}
