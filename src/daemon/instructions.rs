//! What a worker or a resolver is told by the guardian: lines of words in a sealed file in memory, and the descriptors that
//! they name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use crate::config::Process;
use crate::config::outside::OutsideAnswers;
use crate::control::command::UpstreamOrder;
use crate::daemon::capacity::Capacity;
use crate::error::Error;
use crate::record::{Writer, words};
use crate::redirection::RedirectionId;
use crate::rules::nft::owners;
use crate::sys::account::Account;
use crate::sys::channel::Channel;
use crate::sys::execution::Execution;
use crate::sys::{inherited, reset};
use crate::traffic::source_limit::NUMBERS;

/// The name of a worker process. The next start recognises workers whose guardian was killed by it.
pub(crate) const WORKER: &str = "tproxy-worker";

/// The name of the control process.
pub(crate) const CONTROL: &str = "tproxy-control";

/// The name of a resolver process.
pub(crate) const RESOLVER: &str = "tproxy-resolver";

/// The variable with the descriptor of the text.
pub(crate) const VARIABLE: &str = "TPROXY_CHILD";

/// The text for a child under construction, with the descriptors that it names.
#[derive(Debug)]
pub(crate) struct Instructions<'a> {
    title: String,
    text: Writer,
    keep: Vec<BorrowedFd<'a>>,
}

impl<'a> Instructions<'a> {
    fn new(name: &'static str, title: &str, process: &Process) -> Instructions<'a> {
        let mut new = Instructions { title: title.to_owned(), text: Writer::default(), keep: Vec::new() };
        new.text.line(["parent".into(), std::process::id().to_string()]);
        new.text.line(["name", name]);
        new.text.line(["facility".into(), format!("{:?}", process.facility)]);
        if let Some(Account { uid, gid }) = process.user {
            new.text.line(["user".into(), uid.to_string(), gid.to_string()]);
        }
        for (flag, is_set) in [("foreground", process.foreground), ("verbose", process.verbose)] {
            if is_set {
                new.text.line([flag]);
            }
        }
        new
    }

    /// For a worker, which is told the rest with [`Instructions::line`] and [`Instructions::descriptor`].
    pub(crate) fn for_worker(process: &Process) -> Instructions<'a> {
        Instructions::new(WORKER, "tproxy: worker", process)
    }

    /// A line of words.
    pub(crate) fn line<W: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = W>) {
        self.text.line(words);
    }

    /// A line with a descriptor, which the child gets under the same number.
    pub(crate) fn descriptor(
        &mut self,
        name: &str,
        descriptor: BorrowedFd<'a>,
        more: impl IntoIterator<Item = String>,
    ) {
        let number = descriptor.as_raw_fd().to_string();
        self.keep.push(descriptor);
        self.text.line([name.to_owned(), number].into_iter().chain(more));
    }

    /// For a resolver.
    pub(crate) fn for_resolver(process: &Process) -> Instructions<'static> {
        Instructions::new(RESOLVER, "tproxy: resolver", process)
    }

    /// For the owner of an instance's nft table.
    pub(crate) fn for_table_owner(instance: &str, process: &Process) -> Instructions<'a> {
        Instructions::new(owners::OWNER, &owners::title(instance), process)
    }

    /// For the control process, which is told the rest through its channel.
    pub(crate) fn for_control(process: &Process) -> Instructions<'a> {
        Instructions::new(CONTROL, "tproxy: control", process)
    }

    /// Makes the program ready that the child executes; `channel` is its end, `text` an empty file for the text.
    pub(crate) fn finish(mut self, channel: &'a Channel, mut text: &'a File) -> Result<Execution<'a>, Error> {
        self.descriptor("channel", channel.as_fd(), []);
        let failed = |error| Error::sys("telling a child what to do", error);
        let words = self.text.into_text();
        reset::without_size_limit(|| text.write_all(words.as_bytes())).map_err(failed)?;
        inherited::seal(text).map_err(failed)?;
        let variable = (VARIABLE, text.as_raw_fd().to_string());
        self.keep.push(text.as_fd());
        Execution::new(&self.title, variable, self.keep).map_err(|error| Error::sys("executing a child", error))
    }
}

/// What a child was told.
#[derive(Debug, Default)]
pub(crate) struct ToldTask {
    pub parent: u32,
    pub name: String,
    pub facility: Option<String>,
    pub user: Option<Account>,
    pub foreground: bool,
    pub verbose: bool,
    pub channel: Option<RawFd>,
    pub directory: PathBuf,
    pub arguments: Vec<OsString>,
    pub file: Option<OsString>,
    pub outside: OutsideAnswers,
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    pub number: u32,
    pub capacity: Option<Capacity>,
    pub listeners: Vec<(RawFd, RedirectionId)>,
    pub lifeline: Option<RawFd>,
    pub access_log: Option<RawFd>,
    pub source_limit: Option<(RawFd, [u64; NUMBERS])>,
    pub counters: Option<RawFd>,
    pub control_socket: Option<RawFd>,
    /// With the address family.
    pub metrics_socket: Option<(RawFd, String)>,
    /// What an administrator has said about upstreams.
    pub orders: Vec<(String, UpstreamOrder)>,
}

/// Reads the text. `None` if it is none of ours.
pub(crate) fn understood(text: &str) -> Option<ToldTask> {
    let mut told = ToldTask::default();
    text.lines().try_for_each(|line| told.take(words(line)?))?;
    Some(told).filter(|told| !told.name.is_empty())
}

impl ToldTask {
    fn take(&mut self, words: Vec<OsString>) -> Option<()> {
        let texts: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or("")).collect();
        match texts[..] {
            ["parent", pid] => self.parent = pid.parse().ok()?,
            ["name", name] => self.name = name.to_owned(),
            ["facility", facility] => self.facility = Some(facility.to_owned()),
            ["user", uid, gid] => self.user = Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
            ["foreground"] => self.foreground = true,
            ["verbose"] => self.verbose = true,
            ["channel", descriptor] => self.channel = Some(descriptor.parse().ok()?),
            ["directory", _] => self.directory = words.into_iter().nth(1)?.into(),
            ["argument", _] => self.arguments.push(words.into_iter().nth(1)?),
            ["file", _] => self.file = words.into_iter().nth(1),
            ["outside", kind, _, answer] => self.outside.add(kind, words.get(2)?, answer.to_owned()),
            ["address", name, ref addresses @ ..] => {
                let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>().ok()?;
                self.addresses.insert(name.to_owned(), addresses);
            }
            ["number", number] => self.number = number.parse().ok()?,
            ["capacity", places, pipes, sockets] => {
                let (places, pipes, sockets) = (places.parse().ok()?, pipes.parse().ok()?, sockets.parse().ok()?);
                self.capacity = Some(Capacity { places, pipes, sockets });
            }
            ["listener", descriptor, redirection] => {
                self.listeners.push((descriptor.parse().ok()?, RedirectionId(redirection.parse().ok()?)));
            }
            ["lifeline", descriptor] => self.lifeline = Some(descriptor.parse().ok()?),
            ["control-socket", descriptor] => self.control_socket = Some(descriptor.parse().ok()?),
            ["metrics-socket", descriptor, kind] => {
                self.metrics_socket = Some((descriptor.parse().ok()?, kind.to_owned()));
            }
            ["order", name, state] => self.orders.push((name.to_owned(), UpstreamOrder::of_state(state)?)),
            ["counters", descriptor] => self.counters = Some(descriptor.parse().ok()?),
            ["access-log", descriptor] => self.access_log = Some(descriptor.parse().ok()?),
            ["source-limit", descriptor, ref numbers @ ..] => {
                let numbers: Vec<u64> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>().ok()?;
                self.source_limit = Some((descriptor.parse().ok()?, numbers.try_into().ok()?));
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood() {
        let text = "parent 7\nname tproxy-worker\nfacility LOG_DAEMON\nuser 1 2\nforeground\nverbose\nchannel 9\n\
                    directory /\nargument -s\nargument 80%20\nfile -s%2080%0a\noutside service http 80\n\
                    address cow 10.0.0.1 fd00::1\naddress lost\nnumber 3\ncapacity 100 20 5\nlistener 5 0\naccess-log 6\nlifeline 4\n\
                    source-limit 8 1 2 3 4 5 6\ncounters 11\ncontrol-socket 12\nmetrics-socket 13 tcp\norder cow:80 draining\n";
        let told = understood(text).unwrap();
        assert_eq!((told.parent, told.name.as_str(), told.channel, told.number), (7, WORKER, Some(9), 3));
        assert_eq!(told.user, Some(Account { uid: 1, gid: 2 }));
        assert_eq!(told.arguments, ["-s", "80 "]);
        assert_eq!((told.addresses["cow"].len(), told.addresses["lost"].len()), (2, 0));
        assert_eq!((told.listeners, told.source_limit), (vec![(5, RedirectionId(0))], Some((8, [1, 2, 3, 4, 5, 6]))));
        assert_eq!(
            (told.counters, told.control_socket, told.metrics_socket),
            (Some(11), Some(12), Some((13, "tcp".into())))
        );
        assert_eq!(told.orders, [("cow:80".to_owned(), UpstreamOrder::Drain)]);
        for line in ["", "cow", "parent x", "listener 1", "source-limit 8 1", "capacity 1", "argument %"] {
            assert!(understood(&format!("name tproxy-worker\n{line}\n")).is_none(), "{line}");
        }
    }
}
