//! The resolver process: looks up one name after the other. It may block for as long as the name servers do.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::Process;
use crate::daemon::children::{Children, Role};
use crate::daemon::confine::Confinement;
use crate::daemon::instructions::Instructions;
use crate::daemon::message::{ANSWER, Answer, Question, SIZE};
use crate::error::Error;
use crate::sys::channel::{Channel, Received};
use crate::sys::process;

/// Looks a name up as the host is set up for it (getaddrinfo(3)). Returns each address once, in the order of preference.
///
/// Errors: the text of the resolver library.
pub(crate) fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let mut found = (name, 0).to_socket_addrs();
    // musl finds a name in hosts(5) only as it is written there, and small letters are usual.
    let small = name.to_ascii_lowercase();
    if cfg!(target_env = "musl") && found.is_err() && small != name {
        found = (small.as_str(), 0).to_socket_addrs();
    }
    let found = found.map_err(|error| error.to_string())?;
    let mut seen = HashSet::new();
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).filter(|ip| seen.insert(*ip)).collect();
    match addresses.len() {
        0 => Err("the name has no address".into()),
        // Half of them would be a wrong answer to "is this one of them".
        count if count > ANSWER => Err(format!("the name has {count} addresses, and at most {ANSWER} are supported")),
        _ => Ok(addresses),
    }
}

/// The addresses of each name. The first name that does not resolve is an error.
pub(crate) fn look_up_all(names: Vec<String>) -> Result<HashMap<String, Vec<IpAddr>>, Error> {
    let pair = |name: String| match look_up(&name) {
        Ok(found) => Ok((name, found)),
        Err(why) => Err(Error::NoHost(format!("cannot resolve '{name}': {why}"))),
    };
    names.into_iter().map(pair).collect()
}

/// The addresses of the names that resolve. The others are logged.
pub(crate) fn look_up_some(names: Vec<String>) -> HashMap<String, Vec<IpAddr>> {
    let mut found = HashMap::new();
    for name in names {
        match look_up_all(vec![name]) {
            Ok(addresses) => found.extend(addresses),
            Err(error) => log::warn!("{error}"),
        }
    }
    found
}

/// Starts a resolver process.
pub(crate) fn start(role: Role, process: &Process, children: &mut Children) -> Result<Pid, Error> {
    children.spawn(role, Instructions::for_resolver(process))
}

/// The life of a resolver.
pub(crate) fn run(channel: &Channel, confinement: Confinement) -> Result<(), Error> {
    process::obey(&[Signal::SIGTERM]).map_err(|error| Error::sys("setting the signal mask", error))?;
    confinement.seal()?;
    serve(channel);
    Ok(())
}

/// Answers questions until the other end of the channel is closed.
fn serve(channel: &Channel) {
    let mut buffer = [0; SIZE];
    loop {
        match channel.receive(&mut buffer) {
            Ok(Received::Message(count)) => {
                let Some(Question { name }) = Question::decode(&buffer[..count]) else { continue };
                let sent = match look_up(&name) {
                    Ok(addresses) => Answer::messages(&addresses).try_for_each(|part| say(channel, &part)),
                    Err(why) => say(channel, &Answer::Failed(why).encode()),
                };
                if sent.is_err() {
                    return;
                }
            }
            Ok(Received::Nothing) => wait_for(channel, PollFlags::POLLIN),
            Ok(Received::Closed) | Err(_) => return,
        }
    }
}

/// Sends a message when there is room for it: a long answer has many.
fn say(channel: &Channel, message: &[u8]) -> io::Result<()> {
    loop {
        match channel.send(message, None) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for(channel, PollFlags::POLLOUT),
            sent => return sent,
        }
    }
}

fn wait_for(channel: &Channel, what: PollFlags) {
    // An interrupted wait is followed by another look, like a finished one.
    let _ = poll(&mut [PollFd::new(channel.as_fd(), what)], PollTimeout::NONE);
}
