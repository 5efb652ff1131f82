//! A worker or a resolver, as it begins.
//!
//! Both are executed, and not only forked: each has a layout of memory of its own, and of what the guardian knows only what
//! it is told. A worker reads the configuration again, from the same text. A resolver gets none.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use crate::cli::CommandLine;
use crate::config;
use crate::daemon::instructions::{self, CONTROL, RESOLVER, ToldTask, VARIABLE, WORKER};
use crate::daemon::sources::Sources;
use crate::daemon::worker;
use crate::daemon::worker_args::WorkerArgs;
use crate::daemon::{confine, control, generation, handover, resolver, table_owner};
use crate::error::Error;
use crate::logging;
use crate::rules::nft::owners::OWNER;
use crate::sys::channel::Channel;
use crate::sys::{inherited, process};
use crate::traffic::shared_counters::WorkerCounters;
use crate::traffic::source_limit::SourceLimit;

/// Looks whether this process is a child of a guardian.
///
/// Errors: the guardian is gone, or the text cannot be understood.
pub(crate) fn told() -> Result<Option<ToldTask>, Error> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let not_one = || Error::Usage(format!("{VARIABLE} is set; only tproxy itself sets it, for its own children"));
    let number = value.to_str().and_then(|number| number.parse().ok()).ok_or_else(not_one)?;
    let mut file = File::from(inherited::take(number).map_err(|_| not_one())?);
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|_| not_one())?;
    let told = instructions::understood(&text).ok_or_else(not_one)?;
    if told.parent != std::os::unix::process::parent_id() {
        return Err(Error::Failed("the guardian is gone".into()));
    }
    Ok(Some(told))
}

/// Does what this child is for, and ends with it. A failure goes to the log.
pub(crate) fn run(told: ToldTask) -> ! {
    let name = [WORKER, OWNER, CONTROL].into_iter().find(|name| told.name == *name).unwrap_or(RESOLVER);
    process::set_name(name);
    let facility = told.facility.as_deref().and_then(|facility| facility.parse().ok());
    logging::start_in_child(name, facility.filter(|_| !told.foreground), told.verbose);
    let result = match name {
        WORKER => work(told),
        OWNER => own_table(&told),
        CONTROL => control(&told),
        _ => resolve(&told),
    };
    process::leave(match result {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{error}");
            error.exit_status()
        }
    })
}

fn channel(told: &ToldTask) -> Result<Channel, Error> {
    let number = told.channel.ok_or_else(|| Error::Failed("a child was told of no channel".into()))?;
    handover::descriptor(number).map(Channel::from)
}

fn resolve(told: &ToldTask) -> Result<(), Error> {
    resolver::run(&channel(told)?, confine::resolver(told.user, told.foreground)?)
}

fn own_table(told: &ToldTask) -> Result<(), Error> {
    if !told.foreground {
        // Whoever started the daemon may wait for the end of its output.
        logging::leave_terminal()?;
    }
    let number = told.lifeline.ok_or_else(|| Error::Failed("a child was told of no lifeline".into()))?;
    table_owner::run(channel(told)?, &handover::descriptor(number)?)
}

fn control(told: &ToldTask) -> Result<(), Error> {
    let channel = channel(told)?;
    let listener = told.control_socket.map(handover::descriptor).transpose()?;
    let metrics = match &told.metrics_socket {
        Some((number, kind)) => Some((handover::descriptor(*number)?, kind == "tcp")),
        None => None,
    };
    let confinement = confine::control(told.user, told.foreground, channel.as_fd())?;
    control::run(channel, listener, metrics, confinement)
}

fn work(told: ToldTask) -> Result<(), Error> {
    let channel = channel(&told)?;
    // Held, and not used, for as long as this process serves.
    let _lifeline = told.lifeline.map(handover::descriptor).transpose()?;
    let ToldTask { arguments, directory, file, outside, addresses, number, listeners, orders, .. } = told;
    let command_line = CommandLine { arguments, directory };
    let config = config::read_alike(&command_line, file.map(OsString::into_vec).as_deref(), outside)?;
    let redirections =
        generation::active_redirections(&config, |name| addresses.get(name).cloned().unwrap_or_default());
    let listener = |(number, id)| Ok((TcpListener::from(handover::descriptor(number)?), id));
    let source_limit = match told.source_limit {
        None => None,
        Some((number, numbers)) => {
            let memory = File::from(handover::descriptor(number)?);
            let source_limit = SourceLimit::from_numbers(&memory, numbers);
            Some(source_limit.ok_or_else(|| Error::Failed("the counts of sources do not fit".into()))?)
        }
    };
    let counters = told.counters.ok_or_else(|| Error::Failed("a worker was told of no counters".into()))?;
    let counters = WorkerCounters::map(&File::from(handover::descriptor(counters)?), config.counter_layout());
    let counters = counters.map_err(|error| Error::sys("the counters", error))?;
    let confinement = confine::worker(told.user, told.foreground, channel.as_fd(), Sources::of(&config))?;
    let args = WorkerArgs {
        number,
        config: &config,
        listeners: listeners.into_iter().map(listener).collect::<Result<_, Error>>()?,
        redirections,
        access_log: told.access_log.map(handover::descriptor).transpose()?.map(File::from),
        guardian: Some(channel),
        capacity: told.capacity.ok_or_else(|| Error::Failed("a worker was told of no capacity".into()))?,
        source_limit,
        connection: None,
        counters,
        orders,
    };
    worker::run(args, confinement)
}
