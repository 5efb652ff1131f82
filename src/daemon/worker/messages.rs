//! What a worker and the guardian say to each other.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Worker;
use crate::daemon::message::{SIZE, ToGuardian, ToWorker};
use crate::logging;
use crate::sys::channel::{Channel, Received};
use crate::traffic::counters::CounterLine;
use crate::traffic::totals::Totals;

impl Worker<'_> {
    pub(super) fn say(&mut self, word: ToGuardian) {
        // A message that is lost does no harm: the important ones are repeated, and a dead guardian is noticed elsewhere.
        if let Some(line) = &self.guardian
            && let Err(error) = line.send(&word.encode(), None)
        {
            log::debug!("telling the guardian: {error}");
        }
    }

    pub(super) fn take_orders(&mut self) {
        let mut buffer = [0; SIZE];
        while let Some(line) = &self.guardian {
            match line.receive_with_descriptors(&mut buffer) {
                Ok((Received::Message(count), descriptors)) => self.take_order(&buffer[..count], descriptors),
                Ok((Received::Nothing, _)) => return,
                Ok((Received::Closed, _)) | Err(_) => {
                    log::warn!("the guardian is gone: serving on without it; the rules stay until the next start");
                    self.guardian = None;
                    self.connections.dialer().stock.cut_off();
                    self.connections.sockets_have_come();
                }
            }
        }
    }

    fn take_order(&mut self, message: &[u8], mut descriptors: Vec<OwnedFd>) {
        match ToWorker::decode(message) {
            Some(ToWorker::Addresses { name, addresses }) => self.readdress(&name, &addresses),
            Some(ToWorker::Reset) => self.reset_all(),
            Some(ToWorker::Ping) => self.show_life(),
            Some(ToWorker::Sockets(kind)) => {
                self.connections.dialer().stock.add(kind, descriptors);
                self.connections.sockets_have_come();
            }
            Some(ToWorker::Upstream { name, order }) => self.order_upstream(&name, order),
            Some(ToWorker::Verbose(on)) => logging::set_verbose(on),
            Some(ToWorker::Stop(seconds)) => self.stop_within(Duration::from_secs(seconds.into())),
            Some(
                order @ (ToWorker::AccessLog | ToWorker::PooledResolver(_) | ToWorker::SystemLog | ToWorker::Desk),
            ) => match (order, descriptors.pop()) {
                (ToWorker::AccessLog, Some(file)) => self.connections.access_log().reopen(File::from(file)),
                (ToWorker::PooledResolver(pid), Some(line)) => self.add_resolver(pid, line),
                (ToWorker::SystemLog, Some(connection)) => logging::go_on_in(connection),
                (ToWorker::Desk, Some(channel)) => self.desk.open(Channel::from(channel), self.poll.registry()),
                _ => log::debug!("an order without its descriptor"),
            },
            None => log::debug!("an order that means nothing"),
        }
    }

    /// Asks the guardian for sockets before there are none.
    pub(super) fn ask_for_sockets(&mut self) {
        let now = self.connections.time();
        if let Some(counts) = self.connections.dialer().stock.request(now) {
            self.say(ToGuardian::Sockets(counts));
        }
    }

    fn show_life(&mut self) {
        self.say(ToGuardian::Alive);
    }

    fn add_resolver(&mut self, pid: u32, line: OwnedFd) {
        if let Err(error) = self.resolvers.add(pid, Channel::from(line), self.poll.registry()) {
            log::error!("a resolver cannot be used: {error}");
        }
    }

    pub(super) fn take_answer(&mut self, number: u32) {
        if let Some((name, addresses)) = self.resolvers.hear(number) {
            self.connections.resolved(&name, &addresses);
        }
    }

    /// Gives these addresses to every upstream of that name.
    fn readdress(&mut self, name: &str, addresses: &[IpAddr]) {
        for (line, redirection, _) in self.config.relayed() {
            for (number, host) in redirection.hosts().iter().enumerate().filter(|(_, host)| host.name.as_str() == name)
            {
                let addresses = host.addresses(|_| addresses.to_vec());
                self.connections.dialer().redirections.readdress(line, number, addresses);
            }
        }
    }

    /// Tells the guardian, which reads the counters, that the question has arrived. Without a guardian they go to the log.
    pub(super) fn tell_counters(&mut self) {
        match &self.guardian {
            Some(_) => self.say(ToGuardian::Answered),
            None => {
                let mut totals = Totals::default();
                totals.add_living(0, &self.connections.counters().read());
                log::info!("counters: {}", CounterLine(&totals));
            }
        }
    }
}
