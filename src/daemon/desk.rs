//! What the control process asks of a worker: pieces of the list of connections, connections to be reset, results of checks.
//!
//! One piece is given in a turn of the loop, and nothing is remembered between two turns, so neither a list of many
//! connections nor a reader that does not read holds up what is relayed.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::redirection::RedirectionId;
use crate::sys::channel::{Channel, Received};
use crate::traffic::listing::{FromDesk, ToDesk};
use crate::traffic::token::EventToken;

/// The number of the channel to the control process among those of a worker. Resolvers have small ones.
pub(crate) const DESK: u32 = u32::MAX;

/// Bytes of the longest question.
const QUESTION: usize = 64;

/// The channel to the control process.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    channel: Option<Channel>,
    /// There may be questions that have not been read.
    ready: bool,
}

impl Desk {
    /// Hears this channel from now on. The former one is closed first, and with it its place in the epoll set.
    pub(crate) fn open(&mut self, channel: Channel, registry: &Registry) {
        *self = Desk::default();
        let token = Token::from(EventToken::Channel(DESK));
        match registry.register(&mut SourceFd(&channel.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => *self = Desk { channel: Some(channel), ready: true },
            Err(error) => log::error!("the control process cannot be heard: {error}"),
        }
    }

    pub(crate) fn has_news(&mut self) {
        self.ready = true;
    }

    /// No event will tell of what was left for the next turn.
    pub(crate) fn has_work(&self) -> bool {
        self.ready
    }

    /// An address of an upstream has failed, or answers again.
    pub(crate) fn tell_health(&self, redirection: RedirectionId, address: SocketAddr, up: bool) {
        self.say(&ToDesk::Health { redirection, address: address.into(), up });
    }

    pub(crate) fn say(&self, message: &ToDesk) {
        // A control process that does not read misses what it does not take.
        if let Some(channel) = &self.channel
            && let Err(error) = channel.send(&message.encode(), None)
        {
            log::debug!("telling the control process: {error}");
        }
    }

    /// The next question.
    pub(crate) fn question(&mut self) -> Option<FromDesk> {
        let channel = self.channel.as_ref().filter(|_| self.ready)?;
        let mut buffer = [0; QUESTION];
        match channel.receive(&mut buffer) {
            Ok(Received::Message(count)) => FromDesk::decode(&buffer[..count]),
            Ok(Received::Nothing) => {
                self.ready = false;
                None
            }
            Ok(Received::Closed) | Err(_) => {
                (self.ready, self.channel) = (false, None);
                None
            }
        }
    }
}
