//! A worker answers the control process, and does what an administrator says about upstreams.

use super::Worker;
use crate::control::command::UpstreamOrder;
use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::listing::{FromDesk, ToDesk};

impl Worker<'_> {
    /// Answers one question.
    pub(super) fn serve_desk(&mut self) {
        let answer = match self.desk.question() {
            None => return,
            Some(FromDesk::List { tag, first }) => {
                let (connections, next) = self.connections.list(first);
                ToDesk::List { tag, next, connections }
            }
            Some(FromDesk::Kill { tag, first, which }) => {
                let (count, next) = self.connections.kill(first, &which);
                ToDesk::Killed { tag, next, count }
            }
            Some(FromDesk::Checked { redirection, address, failing }) => {
                return self.checked(redirection, address, failing);
            }
        };
        self.desk.say(&answer);
    }

    fn checked(&mut self, id: RedirectionId, address: CompactAddr, failing: bool) {
        if self.config.relayed().any(|(one, _, _)| one == id) {
            self.connections.dialer().redirections.checked(id, address.socket_addr(), failing);
        }
    }

    /// An administrator has taken an upstream out, or back.
    pub(super) fn order_upstream(&mut self, name: &str, order: UpstreamOrder) {
        for (id, redirection, _) in self.config.relayed() {
            for (number, _) in redirection.hosts().iter().enumerate().filter(|(_, host)| host.to_string() == name) {
                let is_out = order != UpstreamOrder::Enable;
                self.connections.dialer().redirections.upstreams(id).take_out(number, is_out);
            }
        }
    }
}
