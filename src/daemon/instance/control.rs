//! What the control process is told of the instance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use super::Instance;
use crate::cli::option::OptionId;
use crate::cli::parse;
use crate::config::{Config, Listen, Redirection, Target, via};
use crate::control::command::UpstreamOrder;
use crate::control::description::{DescribedRedirection, DescribedUpstream, Description, Health, Status};
use crate::control::picture::SeenState;
use crate::daemon::children::Role;
use crate::daemon::control_link::ControlLink;
use crate::daemon::control_message::ToControl;
use crate::daemon::generation::{self, Generation};
use crate::daemon::health_file;
use crate::daemon::message::ToWorker;
use crate::daemon::names::Names;
use crate::daemon::reconciler::{Reconciler, RulesState};
use crate::logging;
use crate::redirection::RedirectionId;
use crate::rules::rule::Gate;
use crate::sys::account;
use crate::sys::clock::TICK;
use crate::traffic::service::{Destination, Service};

/// The least time between two looks for something to tell.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Instance {
    /// Keeps the control process, what it knows, and the health file as they should be. Once in a while is enough, unless
    /// something has changed that somebody has asked for.
    pub(crate) fn work_on_control(&mut self, at_once: bool) {
        let now = Instant::now();
        self.control.put_off = !at_once && self.control.look_from.is_some_and(|from| now < from);
        if self.control.put_off {
            return self.control.flush(&self.children);
        }
        self.answer_for_rules();
        let mut control = std::mem::take(&mut self.control);
        control.look_from = Some(now + LOOK_EVERY);
        if let Some(serving) = &self.serving {
            let shows = control.start(&serving.config, self.stats.past(), &mut self.children);
            let path = serving.config.process.control.health_file.as_deref();
            let status = (shows || path.is_some()).then(|| self.status(&control));
            if let (Some(path), Some(Status { health, .. })) = (path, &status)
                && control.written != Some((*health, true))
            {
                let result = health_file::write(path, *health);
                // It is tried again, and said once.
                if let Err(error) = &result
                    && control.written != Some((*health, false))
                {
                    log::error!("{error}");
                }
                control.written = Some((*health, result.is_ok()));
            }
            if let Some(status) = status.filter(|_| shows) {
                control.describe(describe(serving, &self.names, control.began), status);
                let workers = self.children.records().map(|(pid, record)| {
                    let state = match self.children.role(pid) {
                        Some(Role::Worker { generation, slot }) => {
                            let place = serving.slots.get(slot).filter(|_| generation == serving.id);
                            let ready = place.is_some_and(|place| place.ready && place.worker == Some(pid));
                            if ready { SeenState::Serving } else { SeenState::Starting }
                        }
                        _ => SeenState::Draining,
                    };
                    (pid, record, state)
                });
                control.show_workers(workers, &self.children);
            }
            control.flush(&self.children);
        }
        self.control = control;
    }

    /// Answers those who wait for the rules.
    fn answer_for_rules(&mut self) {
        if self.control.awaits_rules.is_empty() {
            return;
        }
        let result = match self.rules.as_ref().map(Reconciler::state) {
            Some(RulesState::Working) => return,
            Some(RulesState::Failed) => Err("the rules could not be changed; it is tried again"),
            Some(RulesState::Settled) | None => Ok(()),
        };
        for (number, text) in std::mem::take(&mut self.control.awaits_rules) {
            self.control.done(number, result.map(|()| text).map_err(str::to_owned));
        }
    }

    /// All processes log debug messages from now on, or none does.
    pub(crate) fn set_verbose(&mut self, on: bool) {
        logging::set_verbose(on);
        self.children.tell_workers(&ToWorker::Verbose(on), None);
        self.control.send(&ToControl::Verbose(on), None);
    }

    /// An administrator takes an upstream out, or back.
    pub(crate) fn order_upstream(&mut self, order: UpstreamOrder, name: &str) -> Result<String, String> {
        let known = self.serving.as_ref().is_some_and(|serving| serving.config.has_upstream(name));
        if !known {
            return Err(format!("no redirection has the upstream {}", logging::escaped(name)));
        }
        log::info!("upstream {name} is {} by an administrator", order.state());
        match order {
            UpstreamOrder::Enable => _ = self.control.orders.remove(name),
            _ => _ = self.control.orders.insert(name.to_owned(), order),
        }
        self.children.tell_workers(&ToWorker::Upstream { name: name.to_owned(), order }, None);
        Ok(format!("ok: upstream {name} is {}", order.state()))
    }

    /// An administrator takes the rules of a redirection away, or puts them back.
    pub(crate) fn order_redirection(&mut self, id: RedirectionId, enable: bool) -> Result<String, String> {
        let one = self.serving.as_ref().and_then(|serving| serving.config.redirections.get(id.index()));
        match one {
            None => return Err(format!("there is no redirection {id}")),
            Some(one) if one.rules.is_empty() => return Err(format!("redirection {id} has no rules")),
            Some(_) => {}
        }
        let state = if enable { "enabled" } else { "disabled" };
        log::info!("redirection {id} is {state} by an administrator");
        if enable {
            self.control.disabled.remove(&id)
        } else {
            self.control.disabled.insert(id)
        };
        self.set_gates();
        self.work_on_rules();
        Ok(format!("ok: redirection {id} is {state}"))
    }

    /// How the instance is handed over to the next program.
    pub(crate) fn control_numbers(&self) -> [u64; 6] {
        let ControlLink { reloads, deaths, asked, began, stopping, .. } = self.control;
        let restored = self.rules.as_ref().map_or(0, |rules| rules.restored);
        [reloads, deaths, restored, asked.into(), began, stopping.into()]
    }

    /// How the instance stands.
    fn status(&self, control: &ControlLink) -> Status {
        let rules = self.rules.as_ref();
        let state = rules.map(Reconciler::state);
        let mut gates = BTreeMap::new();
        for (index, gate) in rules.map(Reconciler::gates).unwrap_or_default().iter().enumerate() {
            let word = match gate {
                Gate::Normal => continue,
                Gate::Withdrawn => "withdrawn",
                Gate::Rejected => "rejected",
                Gate::Disabled => "disabled",
            };
            gates.insert(RedirectionId::from(index), word.to_owned());
        }
        let failed = state == Some(RulesState::Failed);
        let (health, reason) = if control.stopping {
            (Health::Draining, "the instance stops".to_owned())
        } else if let Some((id, word)) = gates.first_key_value() {
            (Health::Withdrawn, format!("redirection {id} is {word}"))
        } else if failed {
            (Health::Withdrawn, "the rules could not be installed".to_owned())
        } else if self.serving.is_none() {
            (Health::Withdrawn, "the instance starts".to_owned())
        } else {
            (Health::Serving, String::new())
        };
        let word = match state {
            None => "none",
            Some(RulesState::Settled) => "in place",
            Some(RulesState::Working) => "working",
            Some(RulesState::Failed) => "failed",
        };
        Status {
            health,
            reason,
            rules: word.to_owned(),
            gates,
            orders: control.orders.clone(),
            restored: rules.map_or(0, |rules| rules.restored),
            reloads: control.reloads,
            deaths: control.deaths,
            lost: logging::lost(),
            rules_text: rules.map(|rules| rules.target_text().to_owned()).unwrap_or_default(),
        }
    }
}

fn describe(serving: &Generation, names: &Names, began: u64) -> Description {
    let config = &serving.config;
    let redirections = config.redirections.iter().enumerate();
    let path = |config: &Config| {
        let line = &config.command_line;
        let arguments = parse::parse(&line.arguments, &line.directory).ok()?;
        arguments.path(OptionId::Config).map(|path| path.as_os_str().to_owned())
    };
    let file = config.file.clone().map(|text| (path(config).unwrap_or_default(), OsString::from_vec(text)));
    Description {
        instance: config.name.clone(),
        pid: std::process::id(),
        started: began,
        limit: (serving.capacity.places * serving.slots.len()) as u64,
        owner: account::own_uid(),
        arguments: config.command_line.arguments.clone(),
        file,
        redirections: redirections.map(|(index, one)| describe_one(serving, index.into(), one, names)).collect(),
    }
}

fn describe_one(serving: &Generation, id: RedirectionId, one: &Redirection, names: &Names) -> DescribedRedirection {
    let hosts = || one.hosts().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (kind, target, service) = match &one.target {
        Target::Relay(service) => {
            let to = match service.destination {
                Destination::Original => "the original destination".to_owned(),
                Destination::Hosts(_) => hosts(),
            };
            ("relay", format!("{to}{}", via::text(&service.via)), Some(service))
        }
        Target::Local(Some(port)) => ("local", format!("port {port} of this host"), None),
        Target::Local(None) => ("local", "the same port of this host".to_owned(), None),
        Target::Kernel(_) => ("kernel", hosts(), None),
    };
    let mut listen: Vec<String> = serving.listeners.addresses(id).iter().map(SocketAddr::to_string).collect();
    if let (Listen::Passed(Some(name)), "relay") = (&one.listen, kind) {
        listen.push(format!("fd:{name}"));
    }
    let upstreams = one
        .hosts()
        .iter()
        .map(|host| DescribedUpstream { name: host.to_string(), addresses: generation::addresses(host, names) });
    let checked = |service: &Service| {
        let check = service.check.clone()?;
        let limit = (TICK * service.timeouts.connect).min(check.interval.max(Duration::from_secs(1)));
        Some((check, limit))
    };
    DescribedRedirection {
        kind: kind.to_owned(),
        has_rules: !one.rules.is_empty(),
        target,
        listen,
        check: service.and_then(checked),
        leaves_from: service.map(|service| service.source.own_addresses().collect()).unwrap_or_default(),
        upstreams: upstreams.collect(),
    }
}
