//! The workers of an instance: they die and are replaced.

use std::os::fd::AsRawFd;
use std::time::Instant;

use super::Instance;
use crate::config::FailMode;
use crate::daemon::children::{Ended, Role};
use crate::daemon::generation::{self, Generation};
use crate::daemon::listener_watch::ListenerWatch;
use crate::daemon::respawn::Verdict;

impl Instance {
    /// A worker of the serving generation, a pool resolver, or the names' resolver has ended.
    pub(crate) fn ended(&mut self, ended: &Ended) {
        let Ended { pid, role, how, .. } = *ended;
        match role {
            Role::Worker { slot, .. } => {
                let place = self.serving.as_mut().and_then(|serving| serving.slots.get_mut(slot));
                match place.filter(|place| place.worker == Some(pid)) {
                    Some(place) => {
                        place.worker = None;
                        self.worker_died(slot, &format!("{pid} {how}"));
                    }
                    // Its last message gave the slot to another one.
                    None => self.draining_worker_ended(ended),
                }
            }
            Role::Draining => self.draining_worker_ended(ended),
            Role::Resolver if self.names.resolver() == Some(pid) => {
                log::warn!("resolver {pid} {how}: another one is started when it is needed");
                self.names.lost();
            }
            Role::PoolResolver => {
                for slot in self.serving.iter_mut().flat_map(|serving| &mut serving.slots) {
                    slot.resolvers.retain(|resolver| *resolver != pid);
                }
                self.pool_refill.soon(self.serving.as_ref());
            }
            Role::TableOwner => self.rules.iter_mut().for_each(|rules| rules.owner_ended(pid, how)),
            Role::Rules => self.rules.iter_mut().for_each(|rules| rules.ended(pid, how, &self.children)),
            Role::Control => self.control.ended(pid, &how),
            Role::Resolver | Role::Rehearsal => {}
        }
    }

    fn draining_worker_ended(&mut self, &Ended { pid, how, .. }: &Ended) {
        if how.is_well() {
            return log::info!("worker {pid} {how}");
        }
        self.control.deaths += 1;
        log::warn!("worker {pid} {how}: its connections are lost");
    }

    pub(super) fn worker_died(&mut self, slot: usize, which: &str) {
        self.control.deaths += 1;
        let Some(serving) = &mut self.serving else { return };
        match serving.slots[slot].respawn.death(Instant::now()) {
            Verdict::AtOnce => {
                log::warn!("worker {which}: another one is started; its connections are lost");
                self.start_worker(slot);
            }
            Verdict::GiveUp => {
                let what = match serving.config.process.fail {
                    FailMode::Open => "the redirection is withdrawn, clients reach their original destinations",
                    FailMode::Closed => "the redirection becomes a reject",
                };
                log::error!("worker {which}: no worker can be kept alive; {what}");
            }
            Verdict::Later => log::error!("worker {which}: still no worker can be kept alive"),
        }
    }

    /// Puts a worker into a slot, or does what a failure to do so demands.
    pub(super) fn start_worker(&mut self, slot: usize) {
        let Some(serving) = &mut self.serving else { return };
        if let Err(error) = serving.start_worker(slot, &self.names, &self.control.orders, &mut self.children) {
            log::error!("starting a worker: {error}");
            return self.worker_died(slot, "could not be started");
        }
        self.listeners_have_changed();
        self.pool_refill.soon(self.serving.as_ref());
    }

    /// A socket that no longer listens was made so by a process that shares it, and that is the worker: it drains, and its
    /// successor gets another socket.
    pub(super) fn replace_deaf_workers(&mut self) {
        for slot in self.serving.as_ref().map_or(Vec::new(), Generation::deaf_slots) {
            let worker = self.serving.as_mut().and_then(|serving| serving.slots[slot].worker.take());
            if let Some(worker) = worker {
                log::error!("worker {worker} has stopped a socket from listening: another one is started");
                generation::retire(worker, &mut self.children);
                self.start_worker(slot);
            }
        }
    }

    /// A worker lives and does not answer. What it serves hangs as well.
    pub(super) fn replace_silent_worker(&mut self, slot: usize) {
        let worker = self.serving.as_mut().and_then(|serving| serving.slots[slot].worker.take());
        if let Some(worker) = worker {
            log::error!(
                "worker {worker} does not answer and is killed: another one is started; its connections are lost"
            );
            // It is counted when it has ended.
            self.children.kill(worker);
            self.children.drain(worker);
            self.start_worker(slot);
        }
    }

    /// Has empty slots filled, and missing resolvers started: the former program of this process had not done so yet.
    pub(crate) fn fill_slots(&mut self) {
        let slots = self.serving.iter_mut().flat_map(|serving| &mut serving.slots);
        slots.filter(|slot| slot.worker.is_none()).for_each(|slot| slot.respawn.next = Some(Instant::now()));
        self.pool_refill.soon(self.serving.as_ref());
    }

    /// After a series of deaths: either another worker is to be tried, or the one that was tried has survived.
    pub(super) fn respawn(&mut self, slot: usize, now: Instant) {
        let Some(serving) = &mut self.serving else { return };
        let place = &mut serving.slots[slot];
        if place.respawn.next.is_none_or(|next| now < next) {
            return;
        }
        if place.worker.is_none() {
            self.start_worker(slot);
        } else if place.respawn.survived() {
            log::warn!("a worker is alive again: the redirection is put back");
        }
    }

    /// Looks at the listening sockets of the serving generation, and asks to be told when one stops listening.
    pub(super) fn watch_listeners(&mut self) {
        self.replace_deaf_workers();
        let Some(serving) = &self.serving else { return };
        let watch = ListenerWatch::new(serving.listeners.sockets())
            .and_then(|watch| self.children.listen_for(watch.as_raw_fd()).map(|()| watch));
        self.listener_watch = watch.inspect_err(|error| log::error!("watching the listening sockets: {error}")).ok();
    }

    /// A listening socket may have stopped listening, or there are others now.
    pub(crate) fn listeners_have_changed(&mut self) {
        self.listener_watch = None;
    }
}
