use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::rc::Rc;

use super::*;
use crate::protocol::addr_pair::AddrPair;
use crate::protocol::request::Rewriting;
use crate::protocol::tunnel::Dialect;
use crate::relay::http_filter::HttpFilter;
use crate::relay::io::{Fill, PipeIo, PipePool, PipeSize};
use crate::relay::timeouts::Timeouts;
use crate::relay::tunnel::{Tunnel, TunnelHandshake};

/// A socket that does as the test tells.
#[derive(Default, Debug)]
struct Puppet {
    /// What it reads; then there is nothing, or the end.
    said: RefCell<VecDeque<Vec<u8>>>,
    has_ended: Cell<bool>,
    /// What was sent to it, and for how many bytes more it has room.
    heard: RefCell<Vec<u8>>,
    room: Cell<usize>,
    is_deaf: Cell<bool>,
    was_told_the_end: Cell<bool>,
}

impl Puppet {
    fn says(&self, words: &[u8]) {
        self.said.borrow_mut().push_back(words.to_vec());
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.borrow()).into_owned()
    }
}

impl Socket for Puppet {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.said.borrow_mut().pop_front() {
            Some(words) => {
                buffer[..words.len()].copy_from_slice(&words);
                Ok(words.len())
            }
            None if self.has_ended.get() => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_deaf.get() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let count = bytes.len().min(self.room.get());
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - count);
        self.heard.borrow_mut().extend_from_slice(&bytes[..count]);
        Ok(count)
    }
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let said = self.said.borrow();
        let Some(words) = said.front() else { return Err(ErrorKind::WouldBlock.into()) };
        buffer[..words.len()].copy_from_slice(words);
        Ok(words.len())
    }
    fn discard(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer)
    }
    fn send_before_end(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }
    fn finish(&self) -> io::Result<()> {
        self.was_told_the_end.set(true);
        Ok(())
    }
    fn acknowledge(&self) -> io::Result<()> {
        Ok(())
    }
    fn unacknowledged(&self) -> io::Result<usize> {
        Ok(0)
    }
}

/// There are no pipes here.
#[derive(Debug)]
enum Never {}

impl PipeIo for Never {
    type Socket = Puppet;

    fn held(&self) -> usize {
        match *self {}
    }
    fn fill(&mut self, _from: &Puppet, _max: usize) -> io::Result<Fill> {
        match *self {}
    }
    fn drain(&mut self, _to: &Puppet) -> io::Result<Option<usize>> {
        match *self {}
    }
    fn store(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        match *self {}
    }
}

#[derive(Debug)]
struct Nobody;

#[derive(Debug)]
enum Puppets {}

impl Io for Puppets {
    type Socket = Puppet;
    type Pipe = Never;
    type Pool = Nobody;
}

impl PipePool for Nobody {
    type Pipe = Never;
    fn lend(&mut self, _: PipeSize) -> Option<Never> {
        None
    }
    fn give_back(&mut self, pipe: Never) {
        match pipe {}
    }
    fn is_scarce(&mut self) -> bool {
        false
    }
}

type PuppetRelay = Relay<Puppets>;

/// A relay whose upstream has answered, with room for any number of bytes on both sides.
fn relay(layer: ProxyLayer) -> PuppetRelay {
    let puppet = || Puppet { room: Cell::new(usize::MAX), ..Puppet::default() };
    let mut relay = Relay::connecting(Side::new(puppet()), Side::new(puppet()), Some(Box::new(layer)), 0);
    relay.connected(0);
    relay
}

fn addrs() -> AddrPair {
    AddrPair { client: ([10, 1, 0, 2], 40_000).into(), original: ([10, 2, 0, 5], 80).into() }
}

/// Both sides have something to tell, and the relay has as many turns as it wants.
fn run(relay: &mut PuppetRelay, shared: &mut Shared<Puppets>, now: Tick) -> Progress {
    for side in [&mut relay.client, &mut relay.upstream] {
        (side.can_read, side.can_write) = (true, true);
        side.hung_up = side.socket.has_ended.get();
    }
    loop {
        match relay.advance(shared, now) {
            Progress::Again => {}
            step => return step,
        }
    }
}

#[test]
fn requests_that_are_held_back_are_delivered_before_a_wrong_one_ends_them() {
    let mut relay = relay(ProxyLayer::HttpFilter(HttpFilter::new(addrs(), Rc::new(Rewriting::default()), None)));
    let mut shared = Shared::new(Nobody);
    relay.upstream.socket.room.set(10);
    relay.client.socket.says(b"GET /1 HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n\r\n\rwrong");
    assert!(matches!(run(&mut relay, &mut shared, 0), Progress::Waiting));
    assert_eq!(relay.upstream.socket.heard(), "GET http:/");
    assert!(!relay.upstream.socket.was_told_the_end.get());
    relay.upstream.socket.room.set(usize::MAX);
    assert!(matches!(run(&mut relay, &mut shared, 0), Progress::Waiting));
    let requests = "GET http://10.2.0.5/1 HTTP/1.0\r\n\r\nGET http://10.2.0.5/2 HTTP/1.0\r\n\r\n";
    assert_eq!(relay.upstream.socket.heard(), requests);
    assert!(relay.upstream.socket.was_told_the_end.get());
    relay.upstream.socket.says(b"answers");
    relay.upstream.socket.has_ended.set(true);
    assert!(matches!(run(&mut relay, &mut shared, 0), Progress::Done(CloseReason::BadRequest(_))));
    assert!(relay.client.socket.heard().starts_with("answersHTTP/1.1 400 "), "{}", relay.client.socket.heard());
}

#[test]
fn a_first_request_that_is_wrong_leaves_nothing_to_wait_for() {
    let mut relay = relay(ProxyLayer::HttpFilter(HttpFilter::new(addrs(), Rc::new(Rewriting::default()), None)));
    relay.client.socket.says(b"GET / HTTP/1.0\n\n");
    assert!(matches!(run(&mut relay, &mut Shared::new(Nobody), 0), Progress::Done(CloseReason::BadRequest(_))));
    assert!(relay.client.socket.heard().starts_with("HTTP/1.1 400 "));
    assert_eq!(relay.upstream.socket.heard(), "");
}

#[test]
fn a_head_is_not_slow_while_it_is_the_proxy_that_does_not_read() {
    let timeouts = Timeouts { connect: 100, handshake: 10, idle: Some(1000), fin: None };
    let mut relay = relay(ProxyLayer::HttpFilter(HttpFilter::new(addrs(), Rc::new(Rewriting::default()), None)));
    let mut shared = Shared::new(Nobody);
    relay.client.socket.says(b"GET /1 HT");
    run(&mut relay, &mut shared, 5);
    assert_eq!(relay.due(&timeouts), Some(15));
    relay.upstream.socket.room.set(10);
    relay.client.socket.says(b"TP/1.0\r\n\r\nGET /2");
    run(&mut relay, &mut shared, 7);
    assert_eq!(relay.due(&timeouts), Some(1007));
    relay.upstream.socket.room.set(usize::MAX);
    run(&mut relay, &mut shared, 500);
    assert_eq!(relay.due(&timeouts), Some(510));
    assert!(matches!(relay.expire(&timeouts, 510), Progress::Done(CloseReason::HandshakeTimeout)));
}

#[test]
fn a_proxy_that_does_not_listen_is_heard_all_the_same() {
    let tunnel = Tunnel { dialect: Dialect::Connect, credentials: None, by_name: false };
    let mut relay = relay(ProxyLayer::TunnelHandshake(TunnelHandshake::new(&tunnel, addrs().original, None)));
    relay.upstream.socket.is_deaf.set(true);
    relay.upstream.socket.says(b"HTTP/1.1 503 Too many connections\r\n\r\n");
    let step = run(&mut relay, &mut Shared::new(Nobody), 0);
    let Progress::Done(CloseReason::ProxyRefused(words)) = step else { panic!("{step:?}") };
    assert_eq!(words, "HTTP/1.1 503 Too many connections");
}

#[test]
fn an_answer_without_end_is_not_listened_to_for_ever() {
    let tunnel = Tunnel { dialect: Dialect::Connect, credentials: None, by_name: false };
    let mut relay = relay(ProxyLayer::TunnelHandshake(TunnelHandshake::new(&tunnel, addrs().original, None)));
    (0..1000).for_each(|_| relay.upstream.socket.says(b"HTTP/1.1 102 Processing\r\n\r\n"));
    let step = run(&mut relay, &mut Shared::new(Nobody), 0);
    let Progress::Done(CloseReason::ProxyRefused(words)) = step else { panic!("{step:?}") };
    assert_eq!(words, "the answer is too long");
}
