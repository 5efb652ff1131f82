//! What the guardian tells the control process of the instance, as text: what is configured, and how it stands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::control::command::UpstreamOrder;
use crate::record::{Writer, text_words, words};
use crate::redirection::RedirectionId;
use crate::traffic::service::{CheckKind, UpstreamCheck};

/// The configuration at work.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Description {
    pub instance: String,
    /// That of the guardian.
    pub pid: u32,
    /// Seconds since 1970.
    pub started: u64,
    /// The most connections at once.
    pub limit: u64,
    /// The administrator besides root.
    pub owner: u32,
    pub arguments: Vec<OsString>,
    /// The path of `-c` and the text that was read from there.
    pub file: Option<(OsString, OsString)>,
    pub redirections: Vec<DescribedRedirection>,
}

/// A redirection, as it is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DescribedRedirection {
    /// `relay`, `local` or `kernel`.
    pub kind: String,
    pub has_rules: bool,
    pub target: String,
    pub listen: Vec<String>,
    /// How its upstreams are checked, and how long a check may take.
    pub check: Option<(UpstreamCheck, Duration)>,
    /// The addresses of this host that connections to its upstreams leave from, if the kernel does not choose.
    pub leaves_from: Vec<IpAddr>,
    pub upstreams: Vec<DescribedUpstream>,
}

/// An upstream, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DescribedUpstream {
    /// `HOST:PORT`
    pub name: String,
    pub addresses: Vec<SocketAddr>,
}

/// Whether new clients are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Health {
    Serving,
    Draining,
    #[default]
    Withdrawn,
}

impl Health {
    const ALL: [Health; 3] = [Health::Serving, Health::Draining, Health::Withdrawn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Health::Serving => "serving",
            Health::Draining => "draining",
            Health::Withdrawn => "withdrawn",
        }
    }
}

/// How the instance stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Status {
    pub health: Health,
    /// A sentence, unless it serves.
    pub reason: String,
    /// `in place`, `working`, `failed` or `none`.
    pub rules: String,
    /// The redirections whose rules are not in place: `withdrawn`, `rejected` or `disabled`.
    pub gates: BTreeMap<RedirectionId, String>,
    /// The upstreams that an administrator has taken out.
    pub orders: BTreeMap<String, UpstreamOrder>,
    /// How often rules were put back that others had changed.
    pub restored: u64,
    pub reloads: u64,
    /// Workers that were killed or have crashed.
    pub deaths: u64,
    /// Lines of the guardian's log that were lost.
    pub lost: u64,
    /// The rules as they should be.
    pub rules_text: String,
}

impl Description {
    pub(crate) fn text(&self) -> String {
        let mut out = Writer::default();
        out.line(["instance", &self.instance]);
        for (name, number) in [
            ("pid", u64::from(self.pid)),
            ("started", self.started),
            ("limit", self.limit),
            ("owner", u64::from(self.owner)),
        ] {
            out.line([name.to_owned(), number.to_string()]);
        }
        self.arguments.iter().for_each(|argument| out.line(["argument".as_ref(), argument.as_os_str()]));
        if let Some((path, text)) = &self.file {
            out.line(["file".as_ref(), path.as_os_str(), text.as_os_str()]);
        }
        for one in &self.redirections {
            let rules = if one.has_rules { "rules" } else { "no-rules" };
            let head = ["redirection", &one.kind, rules, &one.target].map(str::to_owned);
            out.line(head.into_iter().chain(one.listen.clone()));
            if let Some((UpstreamCheck { interval, kind, rise, fall }, limit)) = &one.check {
                let (kind, path) = match kind {
                    CheckKind::Connect => ("connect", ""),
                    CheckKind::Http(path) => ("http", path.as_str()),
                    CheckKind::Tls => ("tls", ""),
                };
                let numbers = [interval.as_secs(), (*rise).into(), (*fall).into(), limit.as_millis() as u64];
                let head = ["check", kind, path].map(str::to_owned);
                out.line(head.into_iter().chain(numbers.map(|number| number.to_string())));
            }
            if !one.leaves_from.is_empty() {
                out.line(std::iter::once("source".to_owned()).chain(one.leaves_from.iter().map(IpAddr::to_string)));
            }
            for upstream in &one.upstreams {
                let addresses = upstream.addresses.iter().map(SocketAddr::to_string);
                out.line(["upstream".to_owned(), upstream.name.clone()].into_iter().chain(addresses));
            }
        }
        out.into_text()
    }

    /// `None` if it is none of ours.
    pub(crate) fn read(text: &str) -> Option<Description> {
        let mut description = Description::default();
        text.lines().try_for_each(|line| description.take(words(line)?))?;
        Some(description)
    }

    fn take(&mut self, words: Vec<OsString>) -> Option<()> {
        let texts: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or("")).collect();
        match texts[..] {
            ["instance", name] => self.instance = name.to_owned(),
            ["pid", pid] => self.pid = pid.parse().ok()?,
            ["started", time] => self.started = time.parse().ok()?,
            ["limit", limit] => self.limit = limit.parse().ok()?,
            ["owner", owner] => self.owner = owner.parse().ok()?,
            ["argument", _] => self.arguments.push(words.into_iter().nth(1)?),
            ["file", ..] => {
                let mut words = words.into_iter().skip(1);
                self.file = Some((words.next()?, words.next()?));
            }
            ["redirection", kind, rules, target, ref listen @ ..] => self.redirections.push(DescribedRedirection {
                kind: kind.to_owned(),
                has_rules: rules == "rules",
                target: target.to_owned(),
                listen: listen.iter().map(|address| (*address).to_owned()).collect(),
                check: None,
                leaves_from: Vec::new(),
                upstreams: Vec::new(),
            }),
            ["check", kind, path, interval, rise, fall, limit] => {
                let kind = match kind {
                    "connect" => CheckKind::Connect,
                    "http" => CheckKind::Http(path.to_owned()),
                    "tls" => CheckKind::Tls,
                    _ => return None,
                };
                let interval = Duration::from_secs(interval.parse().ok()?);
                let check = UpstreamCheck { interval, kind, rise: rise.parse().ok()?, fall: fall.parse().ok()? };
                self.redirections.last_mut()?.check = Some((check, Duration::from_millis(limit.parse().ok()?)));
            }
            ["source", ref addresses @ ..] => {
                let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>().ok()?;
                self.redirections.last_mut()?.leaves_from = addresses;
            }
            ["upstream", name, ref addresses @ ..] => {
                let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>().ok()?;
                let upstream = DescribedUpstream { name: name.to_owned(), addresses };
                self.redirections.last_mut()?.upstreams.push(upstream);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Status {
    pub(crate) fn text(&self) -> String {
        let mut out = Writer::default();
        out.line(["health", self.health.name(), &self.reason]);
        out.line(["rules", &self.rules, &self.rules_text]);
        for (id, state) in &self.gates {
            out.line(["gate", &id.0.to_string(), state]);
        }
        for (name, order) in &self.orders {
            out.line(["order", name, order.state()]);
        }
        let numbers = [self.restored, self.reloads, self.deaths, self.lost].map(|number| number.to_string());
        out.line(["numbers".to_owned()].into_iter().chain(numbers));
        out.into_text()
    }

    /// `None` if it is none of ours.
    pub(crate) fn read(text: &str) -> Option<Status> {
        let mut status = Status::default();
        for line in text.lines() {
            let words = text_words(line)?;
            let texts: Vec<&str> = words.iter().map(String::as_str).collect();
            match texts[..] {
                ["health", health, reason] => {
                    status.health = Health::ALL.into_iter().find(|one| one.name() == health)?;
                    status.reason = reason.to_owned();
                }
                ["rules", rules, text] => (status.rules, status.rules_text) = (rules.to_owned(), text.to_owned()),
                ["gate", id, state] => {
                    _ = status.gates.insert(RedirectionId(id.parse().ok()?), state.to_owned());
                }
                ["order", name, state] => _ = status.orders.insert(name.to_owned(), UpstreamOrder::of_state(state)?),
                ["numbers", restored, reloads, deaths, lost] => {
                    (status.restored, status.reloads) = (restored.parse().ok()?, reloads.parse().ok()?);
                    (status.deaths, status.lost) = (deaths.parse().ok()?, lost.parse().ok()?);
                }
                _ => return None,
            }
        }
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn both_texts_are_read_as_they_were_written() {
        let check =
            UpstreamCheck { interval: Duration::from_secs(2), kind: CheckKind::Http("/h".into()), rise: 1, fall: 4 };
        let upstream =
            DescribedUpstream { name: "[fd00::1]:80".into(), addresses: vec!["[fd00::1]:80".parse().unwrap()] };
        let description = Description {
            instance: "web".into(),
            pid: 7,
            started: 8,
            limit: 9,
            owner: 10,
            arguments: vec!["-s".into(), OsString::from_vec(vec![0xff, b' '])],
            file: Some(("/etc/x".into(), "a b\n\n".into())),
            redirections: vec![
                DescribedRedirection { kind: "local".into(), has_rules: true, ..DescribedRedirection::default() },
                DescribedRedirection {
                    kind: "relay".into(),
                    has_rules: false,
                    target: "cow:80 via http".into(),
                    listen: vec!["0.0.0.0:80".into()],
                    check: Some((check, Duration::from_millis(1500))),
                    leaves_from: vec!["10.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap()],
                    upstreams: vec![upstream],
                },
            ],
        };
        assert_eq!(Description::read(&description.text()), Some(description));
        assert_eq!(Description::read("cow 1\n"), None);
        let status = Status {
            health: Health::Draining,
            reason: "the instance stops".into(),
            rules: "in place".into(),
            gates: [(RedirectionId(3), "disabled".to_owned())].into(),
            orders: [("cow:80".to_owned(), UpstreamOrder::Drain)].into(),
            restored: 1,
            reloads: 2,
            deaths: 3,
            lost: 4,
            rules_text: "# x\n".into(),
        };
        assert_eq!(Status::read(&status.text()), Some(status));
        assert_eq!(Status::read("health well x\n"), None);
    }
}
