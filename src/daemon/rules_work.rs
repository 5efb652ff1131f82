//! One piece of work on the rules, done in a process of its own (`tproxy-rules`).

use std::fs::File;
use std::time::Instant;

use nix::unistd::Pid;

use crate::daemon::instance_lock;
use crate::daemon::table_owner::OwnerLink;
use crate::error::Error;
use crate::rules::installation::Installation;
use crate::rules::nft::firewall::TableOwner;
use crate::rules::ruleset::RuleSet;
use crate::rules::snapshot::Snapshot;

/// In front of a snapshot: others had changed the rules.
pub(crate) const RESTORED: &str = "restored\n";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Make the tables hold these rules.
    Install(RuleSet),
    /// Look whether they still hold these, and put them back if not.
    Verify(RuleSet),
    /// Take the jumps away: no new connection is redirected.
    Unhook,
    /// Take everything away.
    Remove,
}

/// A process that works on the rules.
#[derive(Debug)]
pub(crate) struct Job {
    pub pid: Pid,
    pub task: Task,
    /// Where it leaves its result.
    pub result: File,
    pub since: Instant,
    /// When it was killed.
    pub killed: Option<Instant>,
    /// The owner of the nft table has ended meanwhile: when the rules are to be put back.
    pub lost_owner: Option<Instant>,
}

/// Does the work, in a process of its own. Returns what is installed then.
pub(crate) fn run(
    task: &Task,
    instance: &str,
    snapshot: &str,
    untried: bool,
    link: Option<OwnerLink>,
) -> Result<String, Error> {
    let mut firewall = Installation::find(link.as_ref().map(|link| link as &dyn TableOwner))?;
    let snapshot =
        Snapshot::from_text(snapshot).ok_or_else(|| Error::Failed("the rules' snapshot is broken".into()))?;
    let shares = snapshot.routing.is_some()
        || matches!(task, Task::Install(target) | Task::Verify(target) if target.routing.is_some());
    let _lock = shares.then(instance_lock::for_routing).transpose()?;
    firewall.resume(snapshot);
    match task {
        Task::Install(target) => {
            firewall.install(target, untried)?;
            log::debug!("rules installed with {}", firewall.description());
            if untried {
                warn_of_drops(&firewall, target);
            }
        }
        Task::Verify(target) => {
            let hidden_before = firewall.hidden();
            let changed = firewall.verify()?;
            report_hidden(&hidden_before, &firewall.hidden());
            if !changed.is_empty() {
                log::warn!("rules were changed by another program and are put back: {}", changed.join(", "));
                firewall.install(target, false)?;
                return Ok(format!("{RESTORED}{}", firewall.snapshot().to_text()));
            }
        }
        Task::Unhook => firewall.unhook(instance)?,
        Task::Remove => firewall.remove(instance)?,
    }
    Ok(firewall.snapshot().to_text())
}

/// Tells which rules of the administrator's are missing without which nothing that is redirected arrives.
fn warn_of_drops(firewall: &Installation<'_>, set: &RuleSet) {
    match firewall.lacking(set) {
        Ok(lacking) => lacking.iter().for_each(|what| log::warn!("{what}")),
        Err(error) => log::debug!("looking for rules that drop: {error}"),
    }
}

/// Tells, once, that rules can no longer be verified, or can be again.
fn report_hidden(before: &str, now: &str) {
    if before != now && now.is_empty() {
        log::info!("{before}: iptables-save shows it again, and its rules are verified");
    } else if before != now {
        log::error!(
            "{now}: iptables-save cannot show it any more, because rules were added with nft for which iptables has no \
             words; our rules in it stay and are not verified"
        );
    }
}
