//! The worker's side of `--host-check`: resolver processes that are asked for names which clients claim to ask for. They
//! are not the guardian's resolver, so that nobody who asks for strange names keeps it from following the upstreams.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::daemon::message::{Answer, Question, SIZE};
use crate::sys::channel::{Channel, Received};
use crate::traffic::wake::Wake;

/// How many resolvers a worker has: so many slow names can be asked for before others wait.
pub const ASKERS: usize = 4;

/// The resolvers of a worker.
#[derive(Debug, Default)]
pub struct Askers {
    all: Vec<Option<Asker>>,
}

#[derive(Debug)]
struct Asker {
    line: Channel,
    asked: Option<Box<str>>,
}

impl Askers {
    /// Another resolver, which the guardian has started.
    pub fn add(&mut self, line: Channel, registry: &Registry) -> io::Result<()> {
        let place = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        let token = Token::from(Wake::Line(place as u32 + 1));
        registry.register(&mut SourceFd(&line.as_raw_fd()), token, Interest::READABLE)?;
        let asker = Some(Asker { line, asked: None });
        match self.all.get_mut(place) {
            Some(free) => *free = asker,
            None => self.all.push(asker),
        }
        Ok(())
    }

    /// Whether a question can be asked now.
    pub fn is_idle(&self) -> bool {
        self.all.iter().flatten().any(|asker| asker.asked.is_none())
    }

    /// Asks for the addresses of `name`.
    pub fn ask(&mut self, name: Box<str>) {
        let Some(asker) = self.all.iter_mut().flatten().find(|asker| asker.asked.is_none()) else { return };
        // One that cannot be told is gone, and whoever waits for the answer does not wait for ever.
        if asker.line.send(&Question { name: name.to_string() }.encode(), None).is_ok() {
            asker.asked = Some(name);
        }
    }

    /// Takes the answer that has come over the line of this number.
    pub fn hear(&mut self, line: u32) -> Option<(Box<str>, Vec<IpAddr>)> {
        let place = self.all.get_mut((line as usize).checked_sub(1)?)?;
        let asker = place.as_mut()?;
        let mut buffer = [0; SIZE];
        match asker.line.receive(&mut buffer) {
            Ok(Received::Message(count, _)) => {
                let addresses = match Answer::decode(&buffer[..count]) {
                    Some(Answer::Addresses(addresses)) => addresses,
                    _ => Vec::new(),
                };
                Some((asker.asked.take()?, addresses))
            }
            Ok(Received::Nothing) => None,
            Ok(Received::Closed) | Err(_) => {
                let asked = asker.asked.take();
                *place = None;
                Some((asked?, Vec::new()))
            }
        }
    }
}
