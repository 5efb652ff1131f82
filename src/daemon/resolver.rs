//! The resolver process: looks up one name after the other. It may block for as long as the name servers do.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::children::{Children, RESOLVER, Role};
use crate::daemon::confine;
use crate::daemon::message::{Answer, Question, SIZE};
use crate::error::Error;
use crate::sys::channel::{Channel, Received};
use crate::sys::process;
use crate::traffic::upstreams::ADDRESSES;

/// Looks a name up as the host is set up for it (getaddrinfo(3)). Returns each address once, in the order of preference.
///
/// Errors: the text of the resolver library.
pub(crate) fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in found.map(|address| address.ip()) {
        if !addresses.contains(&ip) && addresses.len() < ADDRESSES {
            addresses.push(ip);
        }
    }
    if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
}

/// The addresses of each name. The first name that does not resolve is an error.
pub(crate) fn look_up_all(names: Vec<String>) -> Result<HashMap<String, Vec<IpAddr>>, Error> {
    let pair = |name: String| match look_up(&name) {
        Ok(found) => Ok((name, found)),
        Err(why) => Err(Error::Failed(format!("cannot resolve '{name}': {why}"))),
    };
    names.into_iter().map(pair).collect()
}

/// Starts a resolver process.
pub(crate) fn start(role: Role, config: &Config, children: &mut Children) -> Result<Pid, Error> {
    children.spawn(role, RESOLVER, Vec::new(), |channel| {
        let confinement = confine::resolver(config)?;
        process::obey(&[Signal::SIGTERM]).map_err(|error| Error::sys("setting the signal mask", error))?;
        confinement.seal()?;
        run(&channel);
        Ok(())
    })
}

/// Answers questions until the other end of the channel is closed.
fn run(channel: &Channel) {
    let mut buffer = [0; SIZE];
    loop {
        match channel.receive(&mut buffer) {
            Ok(Received::Message(count)) => {
                let Some(Question { name }) = Question::decode(&buffer[..count]) else { continue };
                let answer = match look_up(&name) {
                    Ok(addresses) => Answer::Addresses(addresses),
                    Err(why) => Answer::Failed(why),
                };
                if channel.send(&answer.encode(), None).is_err() {
                    return;
                }
            }
            Ok(Received::Nothing) => {
                let mut wait = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
                // An interrupted wait is followed by another look, like a finished one.
                let _ = poll(&mut wait, PollTimeout::NONE);
            }
            Ok(Received::Closed) | Err(_) => return,
        }
    }
}
