//! The options of the whole process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use syslog::Facility;

use crate::cli::option::OptionId;
use crate::cli::parse::Arguments;
use crate::config::congestion::{self, CongestionControl};
use crate::config::control::{self, ControlSettings, ControlSocket, MetricsAddress};
use crate::config::values;
use crate::error::Error;
use crate::rules::backend::FirewallChoice;
use crate::rules::policy_routing::{Mark, PolicyRouting};
use crate::sys::account::Account;
use crate::traffic::source_limit::SourcePrefix;

/// The settings of the whole process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Who relays, if not the user who started it.
    pub user: Option<Account>,
    pub foreground: bool,
    pub access_log: Option<PathBuf>,
    pub pidfile: Option<PathBuf>,
    /// The most connections of all workers together, if less than the descriptors allow.
    pub max_connections: Option<usize>,
    pub max_per_source: Option<usize>,
    /// The prefixes by which clients are grouped for `max_per_source`.
    pub source_block: SourcePrefix,
    pub verbose: bool,
    /// Where in syslog.
    pub facility: Facility,
    /// What installs the rules.
    pub firewall: FirewallChoice,
    /// What to do with a redirection that no worker can serve.
    pub fail: FailMode,
    /// How long connections may go on after SIGTERM.
    pub drain: Duration,
    /// How long connections may go on after a reload or an upgrade; `None` is to their end.
    pub retire_timeout: Option<Duration>,
    pub workers: usize,
    /// `None` is what the system chooses.
    pub congestion: Option<CongestionControl>,
    /// How often the rules are compared with what they should be; `None` is never.
    pub verify: Option<Duration>,
    /// What marks the packets that stay on this host, and the table that keeps them there.
    pub mark: Mark,
    pub table: u32,
    /// How long all upstreams of a redirection may be unreachable before `fail` counts; `None` is for ever.
    pub upstream_grace: Option<Duration>,
    pub control: ControlSettings,
    /// How long the daemon is unhealthy before it stops.
    pub drain_delay: Duration,
}

/// What to do with traffic that no worker can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailMode {
    /// It goes to its original destination.
    Open,
    /// It is rejected.
    Closed,
}

/// The same settings as far as they were given, on the command line or on lines of a file.
#[derive(Debug, Default)]
pub(super) struct GlobalOptions {
    user: Option<Account>,
    access_log: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    max_connections: Option<usize>,
    max_per_source: Option<usize>,
    source_block: Option<SourcePrefix>,
    verbose: bool,
    facility: Option<Facility>,
    firewall: Option<FirewallChoice>,
    fail: Option<FailMode>,
    drain: Option<Duration>,
    retire_timeout: Option<Duration>,
    workers: Option<usize>,
    congestion: Option<CongestionControl>,
    verify: Option<Duration>,
    upstream_grace: Option<Duration>,
    mark: Option<Mark>,
    table: Option<u32>,
    control: Option<ControlSocket>,
    control_group: Option<u32>,
    metrics: Option<MetricsAddress>,
    health_file: Option<PathBuf>,
    drain_delay: Option<Duration>,
}

impl GlobalOptions {
    /// The settings of one command line.
    pub(super) fn read(arguments: &Arguments) -> Result<GlobalOptions, Error> {
        let mut options = GlobalOptions::default();
        options.add(arguments)?;
        Ok(options)
    }

    /// Adds the settings of a further command line. What was given before counts more.
    pub(super) fn add(&mut self, arguments: &Arguments) -> Result<(), Error> {
        let seconds = |id| arguments.value(id, |text| values::seconds(text, 0));
        let path = |id| arguments.path(id).map(Path::to_owned);
        fill(&mut self.user, values::user(arguments)?);
        fill(&mut self.access_log, path(OptionId::AccessLog));
        fill(&mut self.pidfile, path(OptionId::PidFile));
        fill(&mut self.max_connections, arguments.value(OptionId::MaxConnections, values::connections)?);
        fill(&mut self.max_per_source, arguments.value(OptionId::MaxPerSource, values::connections)?);
        fill(&mut self.source_block, arguments.value(OptionId::SourceBlock, values::source_block)?);
        self.verbose |= arguments.has(OptionId::Verbose);
        fill(&mut self.facility, arguments.value(OptionId::Syslog, values::facility)?);
        fill(&mut self.firewall, arguments.text(OptionId::Firewall).map(firewall));
        fill(&mut self.fail, arguments.text(OptionId::Fail).map(fail_mode));
        fill(&mut self.drain, seconds(OptionId::Drain)?);
        fill(&mut self.retire_timeout, seconds(OptionId::RetireTimeout)?);
        fill(&mut self.workers, arguments.value(OptionId::Workers, values::workers)?);
        fill(&mut self.congestion, arguments.value(OptionId::CongestionControl, congestion::parse)?);
        fill(&mut self.verify, seconds(OptionId::Verify)?);
        fill(&mut self.upstream_grace, seconds(OptionId::UpstreamGrace)?);
        fill(&mut self.mark, arguments.value(OptionId::TproxyMark, values::mark)?);
        fill(&mut self.table, arguments.value(OptionId::TproxyTable, values::table)?);
        fill(&mut self.control, arguments.value(OptionId::Control, control::socket)?);
        fill(&mut self.control_group, control::group(arguments)?);
        fill(&mut self.metrics, arguments.value(OptionId::Metrics, control::metrics)?);
        fill(&mut self.health_file, path(OptionId::HealthFile));
        fill(&mut self.drain_delay, seconds(OptionId::DrainDelay)?);
        Ok(())
    }

    /// The settings with the defaults of those that were not given.
    pub(super) fn complete(self) -> Process {
        let or_never = |given: Option<Duration>, default| {
            Some(given.unwrap_or(Duration::from_secs(default))).filter(|duration| !duration.is_zero())
        };
        Process {
            user: self.user,
            foreground: false,
            access_log: self.access_log,
            pidfile: self.pidfile,
            max_connections: self.max_connections,
            max_per_source: self.max_per_source,
            source_block: self.source_block.unwrap_or(SourcePrefix::DEFAULT),
            verbose: self.verbose,
            facility: self.facility.unwrap_or(Facility::LOG_DAEMON),
            firewall: self.firewall.unwrap_or_default(),
            fail: self.fail.unwrap_or(FailMode::Open),
            drain: self.drain.unwrap_or(Duration::from_secs(30)),
            retire_timeout: or_never(self.retire_timeout, 86_400),
            workers: self.workers.unwrap_or(1),
            congestion: self.congestion,
            verify: or_never(self.verify, 30),
            upstream_grace: or_never(self.upstream_grace, 0),
            mark: self.mark.unwrap_or(Mark::DEFAULT),
            table: self.table.unwrap_or(PolicyRouting::TABLE),
            control: ControlSettings {
                socket: self.control.unwrap_or(ControlSocket::Usual),
                group: self.control_group,
                metrics: self.metrics,
                health_file: self.health_file,
            },
            drain_delay: self.drain_delay.unwrap_or(Duration::ZERO),
        }
    }
}

fn fill<T>(setting: &mut Option<T>, given: Option<T>) {
    if setting.is_none() {
        *setting = given;
    }
}

fn firewall(word: &str) -> FirewallChoice {
    match word {
        "auto" => FirewallChoice::Auto,
        "nft" => FirewallChoice::Nft,
        _ => FirewallChoice::Iptables,
    }
}

fn fail_mode(word: &str) -> FailMode {
    if word == "closed" { FailMode::Closed } else { FailMode::Open }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn what_was_given_first_counts() {
        let line = |text: &str| {
            let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
            crate::cli::parse::parse(&words, Path::new("/")).unwrap()
        };
        let mut options = GlobalOptions::read(&line("--drain 5 -l here")).unwrap();
        options.add(&line("--drain 6 -w 2 -v --verify 0")).unwrap();
        options.add(&line("-w 3 --verify 9 --fail closed")).unwrap();
        assert!(options.add(&line("--drain soon")).is_err(), "what does not count is checked as well");
        let process = options.complete();
        assert_eq!((process.drain, process.workers, process.verify), (Duration::from_secs(5), 2, None));
        assert_eq!((process.verbose, process.fail), (true, FailMode::Closed));
        assert_eq!(process.access_log.as_deref(), Some(Path::new("/here")));
        let process = GlobalOptions::default().complete();
        assert_eq!((process.verify, process.upstream_grace), (Some(Duration::from_secs(30)), None));
    }
}
