//! The control process and what belongs to it, as an upgrade hands it over.

use std::ffi::OsString;
use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::config::Config;
use crate::control::command::UpstreamOrder;
use crate::daemon::children::Role;
use crate::daemon::control_sockets::{BoundSocket, ControlSockets, MetricsSocket};
use crate::daemon::generation::UpstreamOrders;
use crate::daemon::instance::Instance;
use crate::error::Error;
use crate::record::Writer;
use crate::sys::files::FileId;
use crate::sys::inherited;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlEntry {
    /// With the descriptor of the channel.
    process: Option<(Pid, RawFd)>,
    socket: Option<(RawFd, SocketFile)>,
    /// With its file, if it has one.
    metrics: Option<(RawFd, Option<SocketFile>)>,
    numbers: [u64; 6],
    orders: UpstreamOrders,
}

/// The path of a Unix socket, and which file it was there.
type SocketFile = (PathBuf, FileId);

/// Writes it down. `copy` makes a copy of a descriptor that survives, and tells its number.
pub(crate) fn write(
    out: &mut Writer,
    instance: &Instance,
    copy: &mut dyn FnMut(&dyn AsFd) -> Result<String, Error>,
) -> Result<(), Error> {
    let control = &instance.control;
    if let Some((pid, channel)) = control.pid.and_then(|pid| Some((pid, instance.children.channel(pid)?))) {
        out.line(["control".into(), pid.to_string(), copy(channel)?]);
    }
    if let Some(sockets) = &control.sockets {
        if let Some(socket) = &sockets.control {
            out.line(bound_socket("control-socket", socket, copy)?);
        }
        match &sockets.metrics {
            Some(MetricsSocket::Tcp(listener)) => out.line(["metrics-socket".into(), copy(listener)?]),
            Some(MetricsSocket::Unix(socket)) => out.line(bound_socket("metrics-socket", socket, copy)?),
            None => {}
        }
    }
    let numbers = instance.control_numbers().map(|number| number.to_string());
    out.line(std::iter::once("numbers".to_owned()).chain(numbers));
    for (name, order) in &control.orders {
        out.line(["order", name, order.state()]);
    }
    Ok(())
}

fn bound_socket(
    name: &str,
    socket: &BoundSocket,
    copy: &mut dyn FnMut(&dyn AsFd) -> Result<String, Error>,
) -> Result<[OsString; 5], Error> {
    let FileId { device, inode } = socket.id;
    let path = socket.path.clone().into_os_string();
    Ok([name.into(), copy(&socket.listener)?.into(), path, device.to_string().into(), inode.to_string().into()])
}

impl ControlEntry {
    /// Takes one line. `None` if it is none of ours.
    pub(crate) fn take(&mut self, words: Vec<OsString>) -> Option<()> {
        let texts: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or("")).collect();
        let file = |device: &str, inode: &str| {
            let id = FileId { device: device.parse().ok()?, inode: inode.parse().ok()? };
            Some((PathBuf::from(words.get(2)?), id))
        };
        match texts[..] {
            ["control", pid, channel] => {
                self.process = Some((Pid::from_raw(pid.parse().ok()?), channel.parse().ok()?));
            }
            ["control-socket", descriptor, _, device, inode] => {
                self.socket = Some((descriptor.parse().ok()?, file(device, inode)?));
            }
            ["metrics-socket", descriptor] => self.metrics = Some((descriptor.parse().ok()?, None)),
            ["metrics-socket", descriptor, _, device, inode] => {
                self.metrics = Some((descriptor.parse().ok()?, Some(file(device, inode)?)));
            }
            ["numbers", ref numbers @ ..] => {
                let numbers: Vec<u64> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>().ok()?;
                self.numbers = numbers.try_into().ok()?;
            }
            ["order", name, state] => _ = self.orders.insert(name.to_owned(), UpstreamOrder::of_state(state)?),
            _ => return None,
        }
        Some(())
    }

    /// Takes over the control process, with its sockets.
    pub(crate) fn resume(self, config: &Config, instance: &mut Instance) -> Result<(), Error> {
        let ControlEntry { process, socket, metrics, numbers, orders } = self;
        let failed = |error| Error::sys("taking over a control socket", error);
        let descriptor = |number| inherited::take(number).map_err(failed);
        let adopt = |number, (path, id): SocketFile| Ok(BoundSocket::adopt(descriptor(number)?, path, id));
        let control = socket.map(|(number, file)| adopt(number, file)).transpose()?;
        let metrics = match metrics {
            Some((number, Some(file))) => Some(MetricsSocket::Unix(adopt(number, file)?)),
            Some((number, None)) => Some(MetricsSocket::Tcp(descriptor(number)?.into())),
            None => None,
        };
        if let Some((pid, channel)) = process {
            instance.children.adopt(pid, Role::Control, Some(descriptor(channel)?.into()))?;
        }
        let [reloads, deaths, restored, asked, began, stopping] = numbers;
        instance.rules.iter_mut().for_each(|rules| rules.restored = restored);
        let sockets = ControlSockets { settings: config.process.control.clone(), control, metrics };
        let pid = process.map(|(pid, _)| pid);
        instance.control.resume(pid, sockets, orders, [reloads, deaths, asked, began, stopping]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::words;

    #[test]
    fn every_line_is_understood() {
        let mut control = ControlEntry::default();
        let text = "control 30 17\ncontrol-socket 18 /c 1 2\nmetrics-socket 19 /m 1 3\nnumbers 1 2 3 4 5 0\norder cow:80 disabled";
        for line in text.lines() {
            control.take(words(line).unwrap()).unwrap();
        }
        assert_eq!((control.process, control.numbers), (Some((Pid::from_raw(30), 17)), [1, 2, 3, 4, 5, 0]));
        assert_eq!(
            (control.socket.clone(), control.metrics.clone()),
            (
                Some((18, ("/c".into(), FileId { device: 1, inode: 2 }))),
                Some((19, Some(("/m".into(), FileId { device: 1, inode: 3 }))))
            )
        );
        assert_eq!(control.orders["cow:80"], UpstreamOrder::Disable);
        for line in ["control x 1", "numbers 1", "control-socket 18 /c", "order cow:80 well", "cow"] {
            assert!(control.take(words(line).unwrap()).is_none(), "{line}");
        }
    }
}
