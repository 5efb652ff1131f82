//! `main`, and the commands that do not run the daemon: `--check`, `--print-rules`, `--flush` and `--after-crash`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use crate::cli::{CommandLine, document};
use crate::config::rules::Known;
use crate::config::{self, Command, Config, FailMode, Listen, Target, families, via};
use crate::daemon::upgrade::{self, Offered};
use crate::daemon::{child, inherited, instance_lock, resolver, start, warnings};
use crate::error::Error;
use crate::logging;
use crate::redirection::RedirectionId;
use crate::rules::backend::{FirewallChoice, FirewallKind};
use crate::rules::installation::Installation;
use crate::rules::nft;
use crate::rules::rule::Gate;
use crate::rules::ruleset::{self, RuleSet};
use crate::sys::account;
use crate::sys::reset;
use crate::traffic::service::{self, Destination};

/// The program. Writes an error to standard error, or to the log.
pub fn main() -> ExitCode {
    match child::told() {
        Ok(Some(told)) => child::run(told),
        Ok(None) => {}
        Err(error) => return failed(&error),
    }
    let arguments = std::env::args_os().skip(1).collect();
    let result = match upgrade::offered() {
        Ok(Some(Offered::Resume(handover, directory))) => {
            start::resume(handover, &CommandLine { arguments, directory })
        }
        Ok(Some(Offered::Rehearsal(handover, directory))) => {
            upgrade::rehearse(&handover, &CommandLine { arguments, directory }).map(|()| 0)
        }
        // Without a directory (it was removed), only absolute paths are found.
        Ok(None) => run(CommandLine { arguments, directory: std::env::current_dir().unwrap_or_default() }),
        Err(error) => Err(error),
    };
    result.map(ExitCode::from).unwrap_or_else(|error| failed(&error))
}

fn failed(error: &Error) -> ExitCode {
    logging::report(error);
    ExitCode::from(error.exit_status())
}

/// Does what the command line asks for. Returns the exit status.
fn run(command_line: CommandLine) -> Result<u8, Error> {
    // Not after an upgrade: the former program of this process has done it, and signals may wait that it has blocked.
    reset::reset().map_err(|error| Error::sys("resetting what this process was started with", error))?;
    inherited::close_strangers()?;
    match config::parse(command_line)? {
        Command::Help => print!("{}", document::help()),
        Command::Version => println!("tproxy {}", env!("CARGO_PKG_VERSION")),
        Command::Flush(name) => flush(name.as_deref())?,
        Command::AfterCrash(config) => after_crash(&config)?,
        Command::PrintRules(config) => {
            let set = rules(&config, &resolver::look_up_all(config.names_in_rules())?)?;
            print!("{}", set.as_ref().map(printed).transpose()?.unwrap_or_default());
        }
        Command::Check(config) => check(&config)?,
        Command::Run(config) => return start::run(config),
    }
    Ok(0)
}

fn flush(name: Option<&str>) -> Result<(), Error> {
    config::check_privileges_for_rules("--flush", "remove")?;
    let mut living = instance_lock::living();
    living.retain(|(other, _)| name.is_none_or(|name| name == other));
    // Workers whose guardian was killed serve on, and so do their tables.
    nft::owners::end_all(|instance| {
        name.is_none_or(|name| name == instance) && !living.iter().any(|(other, _)| other == instance)
    });
    let mut firewall = Installation::find(None)?;
    // Where there can be no lock, no daemon has started either.
    let _lock = instance_lock::for_routing().ok();
    let done = match name {
        Some(name) => firewall.remove_remains(name).map(|()| None),
        None => firewall.flush_all().map(|counts| Some(removed(counts))),
    };
    match (done, living.first()) {
        (Ok(said), _) => said.iter().for_each(|said| println!("{said}")),
        (Err(error), Some((other, holder))) if nft::firewall::is_foreign(&error) => {
            let sentence = format!("the rules '{other}' belong to {holder}, and nobody else can remove them; stop it");
            return Err(Error::Taken(sentence));
        }
        (Err(error), _) => return Err(error),
    }
    for (other, holder) in &living {
        let sentence = format!("the rules '{other}' belong to {holder}, which will put them back; stop it first");
        eprintln!("tproxy: {}", logging::escaped(sentence));
    }
    Ok(())
}

/// What `--flush` has removed: chains of iptables, tables of nft, and policy routing.
fn removed([chains, tables, routes]: [usize; 3]) -> String {
    let counted = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let all: Vec<String> = counted(chains, "chain").into_iter().chain(counted(tables, "nft table")).collect();
    let rules = (!all.is_empty()).then(|| format!("{} removed", all.join(" and ")));
    let routes = (routes > 0).then(|| "policy routing removed".to_owned());
    match rules.into_iter().chain(routes).collect::<Vec<_>>().as_slice() {
        [] => "no rules of tproxy were there".into(),
        lines => lines.join("\n"),
    }
}

/// The rules as text, for the firewall that they would be installed with. Who may not look at the firewall gets what would
/// be installed where nobody has rules.
fn printed(set: &RuleSet) -> Result<String, Error> {
    let (kind, _) = Installation::find(None)?.choose(set, account::is_root())?;
    match kind {
        FirewallKind::Iptables => Ok(ruleset::print_rules(set)),
        FirewallKind::Nft => nft::firewall::print_rules(set),
    }
}

/// Does what `--fail` says with rules that point at nobody, because their daemon was killed.
fn after_crash(config: &Config) -> Result<(), Error> {
    config::check_privileges_for_rules("--after-crash", "change")?;
    if let Some(holder) = instance_lock::holders_that_stay(&config.name) {
        return Err(Error::Taken(format!("the rules '{}' belong to {holder}, which serves them", config.name)));
    }
    nft::owners::end_all(|name| name == config.name);
    let mut firewall = Installation::find(None)?;
    let _lock = instance_lock::for_routing().ok();
    if config.process.fail == FailMode::Open {
        return firewall.remove_remains(&config.name);
    }
    // A table of nft rejects by itself what it redirects no more. Without rules nothing has crashed that had any: a start
    // that fails leaves none.
    if !firewall.has_rules_of_iptables(&config.name)? {
        return Ok(());
    }
    // While a name does not resolve the rules stay as they are, and the kernel refuses what they redirect.
    let known = resolver::look_up_all(config.names_in_rules())?;
    let relayed: Vec<RedirectionId> = config.relayed().map(|(id, _, _)| id).collect();
    let gate = |id| if relayed.contains(&id) { Gate::Rejected } else { Gate::Normal };
    match rules(config, &known)? {
        Some(set) => {
            let set = RuleSet { firewall: FirewallChoice::Iptables, ..set.with_gates(gate) };
            firewall.install(&set, true)
        }
        None => firewall.remove(&config.name),
    }
}

type Addresses = HashMap<String, Vec<IpAddr>>;

/// The rules, with the addresses that the names have now.
fn rules(config: &Config, known: &Addresses) -> Result<Option<RuleSet>, Error> {
    // An upstream that was not looked up is taken to resolve: only whether it has an address matters for the rules.
    let unknown = || vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let addresses = |name: &str| known.get(name).cloned().unwrap_or_else(unknown);
    let listening = |id: RedirectionId| config.redirections[id.index()].addresses();
    let known = Known { addresses: &addresses, listening: &listening };
    families::check(config, &known)?
        .iter()
        .for_each(|sentence| eprintln!("tproxy: warning: {}", logging::escaped(sentence)));
    config.rules(&known)
}

fn check(config: &Config) -> Result<(), Error> {
    let known = resolver::look_up_all(config.names())?;
    let rules = rules(config, &known)?;
    if let Some(set) = &rules {
        let addresses = |name: &str| known.get(name).cloned().unwrap_or_default();
        let now = Known { addresses: &addresses, listening: &|id| config.redirections[id.index()].addresses() };
        let mut warnings = warnings::of_rules(config, set, &now);
        if account::is_root() {
            let firewall = Installation::find(None)?;
            let (kind, _) = firewall.choose(set, true)?;
            firewall.try_out(set, kind)?;
            warnings.extend(firewall.lacking(set).unwrap_or_default());
        }
        warnings.into_iter().for_each(|what| eprintln!("tproxy: warning: {}", logging::escaped(what)));
    }
    for redirection in &config.redirections {
        for address in redirection.addresses() {
            println!("listen on {address}");
        }
        let mut via = "";
        match (&redirection.target, &redirection.listen) {
            (Target::Relay(service), listen) => {
                via = via::text(&service.via);
                if let Listen::Passed(name) = listen {
                    println!(
                        "listen on what is passed{}",
                        name.as_deref().map(|name| format!(" as {name}")).unwrap_or_default()
                    );
                }
                if service.destination == Destination::Original {
                    println!("relay to the original destination{via}");
                }
            }
            (Target::Local(Some(port)), _) => println!("redirect to port {port} of this host"),
            (Target::Local(None), _) => println!("redirect to the same port of this host"),
            (Target::Kernel(_), _) => {}
        }
        let verb = if matches!(redirection.target, Target::Kernel(_)) { "forward" } else { "relay" };
        for host in redirection.hosts() {
            for address in host.addresses(|name| known.get(name).cloned().unwrap_or_default()) {
                println!("{verb} to {host} at {}{via}", service::shown(&address));
            }
        }
    }
    print!("{}", rules.as_ref().map(printed).transpose()?.unwrap_or_default());
    Ok(())
}
