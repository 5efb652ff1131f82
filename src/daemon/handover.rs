//! What the guardian hands over to the next program of its process (SIGUSR2): a text in memory, and the descriptors that it
//! names.
//!
//! The first line holds the version of this format and that of the messages between the processes. A program that
//! speaks another version refuses in the rehearsal, before anything has happened.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::daemon::children::{Children, Role};
use crate::daemon::control_handover::{self, ControlEntry};
use crate::daemon::generation::Generation;
use crate::daemon::inherited::{Inherited, PassedSocket};
use crate::daemon::instance::Instance;
use crate::daemon::listeners::{ListenSocket, Origin};
use crate::daemon::pidfile::PidFile;
use crate::daemon::reconciler::Reconciler;
use crate::daemon::sources::SocketSupply;
use crate::daemon::worker_record::WorkerRecord;
use crate::error::Error;
use crate::record::{Writer, words};
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::rule::RuleSpec;
use crate::sys::inherited;
use crate::sys::lifeline::Lifeline;
use crate::traffic::shared_counters::{CounterLayout, WorkerCounters};
use crate::traffic::totals::Totals;

/// The first line: change a number whenever what follows, or a message of `message.rs`, changes its meaning.
const HEADER: &str = "tproxy-handover 7 messages 8";

/// What an upgrade hands over.
#[derive(Debug)]
pub(crate) struct HandoverSource<'a> {
    pub serving: &'a Generation,
    pub instance: &'a Instance,
    pub pidfile: Option<&'a PidFile>,
    /// The daemon is in the foreground.
    pub logs_to_stderr: bool,
}

/// A worker that was handed over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WorkerEntry {
    pub pid: Pid,
    /// The descriptor of the guardian's end of the channel.
    pub channel: RawFd,
    /// The slot of the generation that serves; `None` for a worker that drains.
    pub slot: Option<usize>,
}

/// What is kept of a worker that was handed over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RecordEntry {
    pid: Pid,
    /// The descriptor of its counters.
    memory: RawFd,
    number: u32,
    slot: usize,
    started: u64,
    places: usize,
    /// Those of each redirection that are counted.
    upstreams: Vec<Vec<String>>,
}

/// A listening socket that was handed over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListenerEntry {
    pub redirection: RedirectionId,
    pub address: SocketAddr,
    pub descriptor: RawFd,
    pub origin: Origin,
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Handover {
    /// The process that wrote it.
    pub pid: u32,
    /// The daemon is in the foreground.
    pub logs_to_stderr: bool,
    /// The text of the configuration file that serves, if it was read from one.
    pub file: Option<OsString>,
    /// The pid file that this process has written, with its descriptor.
    pub pidfile: Option<(PathBuf, RawFd)>,
    /// The descriptor of the instance lock.
    pub lock: Option<RawFd>,
    pub workers_started: u32,
    pub listeners: Vec<ListenerEntry>,
    /// Sockets that were passed to this process and that no redirection has taken: name and descriptor.
    pub unused: Vec<(Option<String>, RawFd)>,
    /// The descriptor of the access log.
    pub access_log: Option<RawFd>,
    pub workers: Vec<WorkerEntry>,
    /// Workers that may have sockets for connections from addresses of clients.
    pub supplied: Vec<Pid>,
    /// Pool resolvers, each with its slot.
    pub pool_resolvers: Vec<(Pid, usize)>,
    pub names: Vec<(String, Vec<IpAddr>)>,
    /// What workers have counted that are gone.
    pub past: Totals,
    /// What is kept of the workers.
    pub records: Vec<RecordEntry>,
    pub control: ControlEntry,
    /// The installed rules ([`crate::rules::snapshot::Snapshot`]).
    pub snapshot: Option<OsString>,
    /// What connections from the time of earlier rules need.
    pub former_redirects: Vec<RuleSpec>,
    /// Both ends of the lifeline.
    pub lifeline: Option<(RawFd, RawFd)>,
    /// The owner of the nft table, with the guardian's end of its channel.
    pub table_owner: Option<(Pid, RawFd)>,
}

/// A handover that was written, with the copies of the descriptors that survive execve(2).
#[derive(Debug)]
pub(crate) struct Written {
    /// The text, which survives as well.
    pub text: OwnedFd,
    _copies: Vec<OwnedFd>,
}

/// Writes down what serves.
pub(crate) fn write(source: &HandoverSource<'_>) -> Result<Written, Error> {
    let HandoverSource { serving, instance, pidfile, logs_to_stderr } = *source;
    let failed = |error| Error::sys("handing over", error);
    let mut copies = Vec::new();
    let mut copy = |descriptor: &dyn AsFd| -> Result<String, Error> {
        let copy = inherited::survivor(descriptor.as_fd()).map_err(failed)?;
        let number = copy.as_raw_fd().to_string();
        copies.push(copy);
        Ok(number)
    };
    let mut out = Writer::default();
    out.line(["pid".into(), std::process::id().to_string()]);
    if logs_to_stderr {
        out.line(["stderr"]);
    }
    if let Some(file) = &serving.config.file {
        out.line([OsString::from("file"), OsString::from_vec(file.clone())]);
    }
    if let Some(pidfile) = pidfile {
        out.line(["pidfile".into(), pidfile.path().as_os_str().to_owned(), copy(pidfile)?.into()]);
    }
    if let Some(lock) = &instance.lock {
        out.line(["lock".into(), copy(lock)?]);
    }
    out.line(["workers".into(), instance.children.workers_started.to_string()]);
    for socket in &serving.listeners.all {
        for listener in &socket.listeners {
            let (id, address) = (socket.redirection.0.to_string(), socket.address.to_string());
            let origin = match &socket.origin {
                Origin::Opened => vec![],
                Origin::Passed(name) => std::iter::once("passed".to_owned()).chain(name.clone()).collect(),
            };
            out.line(["listener".into(), id, address, copy(listener)?].into_iter().chain(origin));
        }
    }
    for socket in instance.inherited.listeners() {
        out.line(["unused".to_owned(), copy(&socket.listener)?].into_iter().chain(socket.name.clone()));
    }
    if let Some(file) = &serving.access_log {
        out.line(["access-log".into(), copy(file)?]);
    }
    let slots = serving.slots.iter().enumerate();
    for (number, slot) in slots {
        if let Some((pid, channel)) = slot.worker.and_then(|pid| Some((pid, instance.children.channel(pid)?))) {
            out.line(["worker".into(), pid.to_string(), copy(channel)?, number.to_string()]);
        }
        slot.resolvers.iter().for_each(|pid| out.line(["pool".into(), pid.to_string(), number.to_string()]));
    }
    for (pid, channel) in instance.children.draining() {
        if let Some(channel) = channel {
            out.line(["draining".into(), pid.to_string(), copy(channel)?]);
        }
    }
    instance.children.supplied().for_each(|pid| out.line(["supplied".into(), pid.to_string()]));
    for (name, addresses) in instance.names.known() {
        out.line(["name".to_owned(), name.to_owned()].into_iter().chain(addresses.iter().map(ToString::to_string)));
    }
    for (pid, record) in instance.children.records() {
        let Some(memory) = record.counters.memory() else { continue };
        let numbers = [u64::from(record.number), record.slot as u64, record.started, record.places as u64];
        let head = ["record".to_owned(), pid.to_string(), copy(&memory)?];
        let upstreams = record.counters.layout().upstreams().iter().map(|hosts| hosts.join(","));
        out.line(head.into_iter().chain(numbers.map(|number| number.to_string())).chain(upstreams));
    }
    for words in instance.stats.past().lines() {
        out.line(std::iter::once("past".to_owned()).chain(words));
    }
    control_handover::write(&mut out, instance, &mut copy)?;
    if let Some(rules) = &instance.rules {
        out.line(["rules", rules.snapshot()]);
        for former in &rules.former_redirects {
            out.line(["former".to_owned(), former.matching.family.to_string(), former.action.port().to_string()]);
        }
    }
    let lifeline = &instance.children.lifeline;
    out.line(["lifeline".into(), copy(&lifeline.held)?, copy(&lifeline.watched)?]);
    if let Some(pid) = instance.rules.as_ref().and_then(Reconciler::owner)
        && let Some(channel) = instance.children.channel(pid)
    {
        out.line(["table-owner".into(), pid.to_string(), copy(channel)?]);
    }
    let text = format!("{HEADER}\n{}", out.into_text());
    let file = inherited::filled_memory_file(text.as_bytes()).map_err(failed)?;
    Ok(Written { text: inherited::survivor(&file).map_err(failed)?, _copies: copies })
}

/// Reads a handover.
///
/// Errors: another version, or a text that cannot be understood.
pub(crate) fn read(mut file: File) -> Result<Handover, Error> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|error| Error::sys("the handover", error))?;
    decode(&text)
}

fn decode(text: &str) -> Result<Handover, Error> {
    let (header, rest) = text.split_once('\n').unwrap_or((text, ""));
    if header != HEADER {
        let sentence = format!("the running program hands over as '{header}', this one expects '{HEADER}': restart it");
        return Err(Error::Failed(sentence));
    }
    let mut handover = Handover::default();
    for line in rest.lines() {
        let understood = words(line).and_then(|words| handover.take(words));
        understood
            .ok_or_else(|| Error::Failed(format!("the handover has a line that cannot be understood: '{line}'")))?;
    }
    Ok(handover)
}

impl Handover {
    fn take(&mut self, words: Vec<OsString>) -> Option<()> {
        let texts: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or("")).collect();
        match texts[..] {
            ["pid", pid] => self.pid = pid.parse().ok()?,
            ["stderr"] => self.logs_to_stderr = true,
            ["file", _] => self.file = words.into_iter().nth(1),
            ["pidfile", _, descriptor] => {
                let descriptor = descriptor.parse().ok()?;
                self.pidfile = words.into_iter().nth(1).map(|path| (PathBuf::from(path), descriptor));
            }
            ["lock", descriptor] => self.lock = Some(descriptor.parse().ok()?),
            ["workers", count] => self.workers_started = count.parse().ok()?,
            ["listener", redirection, address, descriptor, ref origin @ ..] => self.listeners.push(ListenerEntry {
                redirection: RedirectionId(redirection.parse().ok()?),
                address: address.parse().ok()?,
                descriptor: descriptor.parse().ok()?,
                origin: match origin {
                    [] => Origin::Opened,
                    ["passed"] => Origin::Passed(None),
                    ["passed", name] => Origin::Passed(Some((*name).to_owned())),
                    _ => return None,
                },
            }),
            ["unused", descriptor] => self.unused.push((None, descriptor.parse().ok()?)),
            ["unused", descriptor, name] => self.unused.push((Some(name.to_owned()), descriptor.parse().ok()?)),
            ["access-log", descriptor] => self.access_log = Some(descriptor.parse().ok()?),
            ["worker", pid, channel, slot] => self.workers.push(worker(pid, channel, Some(slot))?),
            ["draining", pid, channel] => self.workers.push(worker(pid, channel, None)?),
            ["supplied", pid] => self.supplied.push(Pid::from_raw(pid.parse().ok()?)),
            ["pool", pid, slot] => self.pool_resolvers.push((Pid::from_raw(pid.parse().ok()?), slot.parse().ok()?)),
            ["name", name, ref addresses @ ..] => {
                let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>().ok()?;
                self.names.push((name.to_owned(), addresses));
            }
            ["record", pid, memory, number, slot, started, places, ref upstreams @ ..] => {
                let hosts = |text: &&str| text.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
                self.records.push(RecordEntry {
                    pid: Pid::from_raw(pid.parse().ok()?),
                    memory: memory.parse().ok()?,
                    number: number.parse().ok()?,
                    slot: slot.parse().ok()?,
                    started: started.parse().ok()?,
                    places: places.parse().ok()?,
                    upstreams: upstreams.iter().map(hosts).collect(),
                });
            }
            ["lifeline", held, watched] => self.lifeline = Some((held.parse().ok()?, watched.parse().ok()?)),
            ["table-owner", pid, channel] => {
                self.table_owner = Some((Pid::from_raw(pid.parse().ok()?), channel.parse().ok()?));
            }
            ["control" | "control-socket" | "metrics-socket" | "numbers" | "order", ..] => self.control.take(words)?,
            ["past", ref words @ ..] => self.past.take(words)?,
            ["rules", _] => self.snapshot = words.into_iter().nth(1),
            ["former", family, port] => {
                let family = Family::BOTH.into_iter().find(|one| one.to_string() == family)?;
                self.former_redirects.push(RuleSpec::redirect_of_all(family, port.parse().ok()?));
            }
            _ => return None,
        }
        Some(())
    }

    /// Takes the listening sockets over.
    pub(crate) fn take_listeners(&mut self) -> Result<Vec<ListenSocket>, Error> {
        let take = |entry: ListenerEntry| {
            let ListenerEntry { redirection, address, descriptor: number, origin } = entry;
            let listeners = vec![TcpListener::from(descriptor(number)?)];
            Ok(ListenSocket { redirection, address, listeners, origin })
        };
        self.listeners.drain(..).map(take).collect()
    }

    /// Takes over the sockets that no redirection has taken.
    pub(crate) fn take_unused_sockets(&mut self) -> Result<Inherited, Error> {
        let take = |(name, number)| {
            let listener = TcpListener::from(descriptor(number)?);
            let address = listener.local_addr().map_err(|error| Error::sys("a passed socket", error))?;
            Ok(PassedSocket { name, address, listener })
        };
        Ok(Inherited::adopt(self.unused.drain(..).map(take).collect::<Result<_, Error>>()?))
    }

    /// Takes the lifeline over that the workers hold.
    pub(crate) fn take_lifeline(&mut self) -> Result<Option<Lifeline>, Error> {
        let take = |(held, watched)| Ok(Lifeline { held: descriptor(held)?, watched: descriptor(watched)? });
        self.lifeline.take().map(take).transpose()
    }

    /// Enters the owner of the nft table as a child of this process, which it is.
    pub(crate) fn take_table_owner(&mut self, children: &mut Children) -> Result<Option<Pid>, Error> {
        let Some((pid, number)) = self.table_owner.take() else { return Ok(None) };
        children.adopt(pid, Role::TableOwner, Some(descriptor(number)?.into()))?;
        Ok(Some(pid))
    }

    /// Enters the workers and pool resolvers as children of this process, which they are.
    pub(crate) fn take_children(&mut self, serving: &mut Generation, children: &mut Children) -> Result<(), Error> {
        children.workers_started = self.workers_started;
        for WorkerEntry { pid, channel, slot } in self.workers.drain(..) {
            let role = match slot.and_then(|slot| Some((slot, serving.slots.get_mut(slot)?))) {
                Some((slot, place)) => {
                    (place.worker, place.ready) = (Some(pid), true);
                    Role::Worker { generation: serving.id, slot }
                }
                None => Role::Draining,
            };
            children.adopt(pid, role, Some(descriptor(channel)?.into()))?;
        }
        for pid in self.supplied.drain(..) {
            children.set_supply(pid, Some(SocketSupply::new(&serving.config)));
        }
        for RecordEntry { pid, memory, number, slot, started, places, upstreams } in self.records.drain(..) {
            let counters = WorkerCounters::adopt(descriptor(memory)?.into(), CounterLayout::new(upstreams));
            let counters = counters.map_err(|error| Error::sys("the counters of a worker", error))?;
            children.keep(pid, WorkerRecord { number, slot, started, places, counters });
        }
        for (pid, slot) in self.pool_resolvers.drain(..) {
            if let Some(place) = serving.slots.get_mut(slot) {
                place.resolvers.push(pid);
            }
            children.adopt(pid, Role::PoolResolver, None)?;
        }
        Ok(())
    }
}

/// Becomes the owner of a descriptor that was handed over.
pub(crate) fn descriptor(number: RawFd) -> Result<OwnedFd, Error> {
    inherited::take(number).map_err(|error| Error::sys(format!("taking over descriptor {number}"), error))
}

fn worker(pid: &str, channel: &str, slot: Option<&str>) -> Option<WorkerEntry> {
    let slot = slot.map(str::parse).transpose().ok()?;
    Some(WorkerEntry { pid: Pid::from_raw(pid.parse().ok()?), channel: channel.parse().ok()?, slot })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood() {
        let text = format!(
            "{HEADER}\npid 7\nfile -s%2080%0a\npidfile /run/t%ff 8\nlock 9\nworkers 12\nlistener 3 [::]:80 10\nlistener 4 1.2.3.4:5 13 passed web\nunused 14\naccess-log 15\n\
             worker 20 11 0\ndraining 21 12\nsupplied 20\npool 22 0\nname cow 10.0.0.1 fd00::1\nname lost\n\
             record 20 16 3 0 9 100 cow:80,[fd00::1]:81 \npast worker 1 2 3 4 5 6 7 8\ncontrol 30 17\ncontrol-socket 18 /c 1 2\nmetrics-socket 19 /m 1 3\nnumbers 1 2 3 4 5 0\norder cow:80 disabled\nrules family%20IPv4%0a\nformer IPv6 12970\nlifeline 16 17\ntable-owner 23 18\n",
        );
        let handover = decode(&text).unwrap();
        assert_eq!((handover.pid, handover.lock, handover.workers_started), (7, Some(9), 12));
        assert_eq!(handover.file.unwrap(), "-s 80\n");
        let [opened, passed] = &handover.listeners[..] else { panic!("{:?}", handover.listeners) };
        assert_eq!((opened.redirection, opened.descriptor, &opened.origin), (RedirectionId(3), 10, &Origin::Opened));
        assert_eq!((passed.descriptor, &passed.origin), (13, &Origin::Passed(Some("web".into()))));
        assert_eq!((&handover.unused[..], handover.access_log), (&[(None, 14)][..], Some(15)));
        let worker = |pid, channel, slot| WorkerEntry { pid: Pid::from_raw(pid), channel, slot };
        assert_eq!(handover.workers, [worker(20, 11, Some(0)), worker(21, 12, None)]);
        assert_eq!(handover.names[0].1.len(), 2);
        assert_eq!((handover.names[1].1.len(), handover.past.worker[0]), (0, 1));
        let [record] = &handover.records[..] else { panic!("{:?}", handover.records) };
        assert_eq!((record.number, record.slot, record.started, record.places), (3, 0, 9, 100));
        assert_eq!(record.upstreams, [vec!["cow:80", "[fd00::1]:81"], vec![]]);
        assert_ne!(handover.control, ControlEntry::default());
        assert_eq!(handover.snapshot.unwrap(), "family IPv4\n");
        assert_eq!(handover.former_redirects, [RuleSpec::redirect_of_all(Family::V6, 12970)]);
        assert_eq!((handover.lifeline, handover.table_owner), (Some((16, 17)), Some((Pid::from_raw(23), 18))));
    }

    #[test]
    fn another_version_and_odd_lines_are_refused_with_a_sentence() {
        let refused = |text: &str| decode(text).unwrap_err().to_string();
        let other = refused("tproxy-handover 1 messages 1\npid 7\n");
        assert_eq!(
            other,
            format!(
                "the running program hands over as 'tproxy-handover 1 messages 1', this one expects '{HEADER}': restart it"
            )
        );
        for line in ["pid x", "cow", "listener 1 2 3", "worker 1", "past cow 1", "former IPv5 1", "file %zz"] {
            assert!(refused(&format!("{HEADER}\n{line}\n")).contains(&format!("'{line}'")));
        }
    }
}
