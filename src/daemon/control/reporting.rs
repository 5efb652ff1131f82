//! What has happened is told to those who follow, and to the workers.

use super::Control;
use crate::control::description::Status;
use crate::control::document::Field;
use crate::control::picture::CheckedAddress;
use crate::daemon::control::checks::{CheckResult, CountedCheck};
use crate::daemon::control::event::{self, ControlEvent};
use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::listing::FromDesk;

impl Control {
    /// Tells all who follow.
    pub(super) fn report(&mut self, event: &ControlEvent) {
        let lines = [event.line(false), event.line(true)];
        for place in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[place] {
                client.push_event(&lines[usize::from(client.json)], event::missed);
                self.advance(place);
            }
        }
    }

    /// Takes a new status, and reports what is different.
    pub(super) fn take_status(&mut self, status: Status) {
        let before = std::mem::replace(&mut self.picture.status, status);
        // The first one of this process: nothing has happened.
        if before.rules.is_empty() {
            return;
        }
        let events = event::differences(&before, &self.picture.status);
        events.iter().for_each(|event| self.report(event));
    }

    /// Reports upstreams whose last connection has ended since an administrator drained them.
    pub(super) fn report_drained(&mut self) {
        let drained = event::drained(&self.picture);
        let fresh: Vec<String> = drained.iter().filter(|name| !self.desks.drained.contains(*name)).cloned().collect();
        self.desks.drained = drained;
        for name in fresh {
            let field = ("upstream", Field::text(name.as_str()));
            self.report(&ControlEvent::new("upstream drained", name, vec![field]));
        }
    }

    /// An address of an upstream fails, or answers again.
    pub(super) fn health_of(&mut self, id: RedirectionId, address: std::net::SocketAddr, up: bool) {
        let has = |addresses: &[std::net::SocketAddr]| {
            addresses.iter().any(|one| one.ip() == address.ip() && (one.port() == address.port() || one.port() == 0))
        };
        let upstream = self.picture.upstreams().find(|(one, upstream)| *one == id && has(&upstream.addresses));
        let name = upstream.map_or_else(|| address.to_string(), |(_, upstream)| upstream.name.clone());
        let event = if up { "upstream up" } else { "upstream down" };
        let fields = vec![
            ("redirection", Field::Number(id.index() as u64 + 1)),
            ("upstream", Field::text(name.as_str())),
            ("address", Field::text(address.to_string())),
        ];
        self.report(&ControlEvent::new(event, format!("{name} ({address}) of redirection {id}"), fields));
    }

    /// Counts results of checks. The workers are told what is different.
    pub(super) fn conclude(&mut self, ended: Vec<CheckResult>) {
        for result in ended {
            let Some(counted) = self.checks.count(result) else { continue };
            let CountedCheck { id, address, name, text, time, rises, falls, decides } = counted;
            let entry = self.picture.checks.entry((id, address));
            let known = entry.or_insert(CheckedAddress { is_failing: false, result: String::new(), time });
            (known.result, known.time) = (text.clone(), time);
            let before = known.is_failing;
            known.is_failing = if before { !rises } else { falls };
            let failing = known.is_failing;
            if decides || failing != before {
                // Also if nothing is new here: workers may know better from a process that was in the place of this one.
                self.desks.tell_all(&FromDesk::Checked {
                    redirection: id,
                    address: CompactAddr::from(address),
                    failing,
                });
            }
            if failing == before {
                continue;
            }
            if failing {
                log::warn!("upstream {name} ({address}) of redirection {id} is down: check: {text}");
            } else {
                log::info!("upstream {name} ({address}) of redirection {id} is up again: check: {text}");
            }
            self.health_of(id, address, !failing);
        }
    }
}
