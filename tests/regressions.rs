//! Bugs that were found, each with the shortest way to it. What the model of the kernel found (tests/properties/model.rs)
//! is played to it again; the rest happens to the daemon.

// The simulation belongs to the model's tests. Here it is used in part.
#[allow(dead_code)]
#[path = "properties/model/simulation.rs"]
mod simulation;

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use lab::clients::reset;
use lab::daemon::LoopbackRelay;
use lab::servers::Server;
use lab::wait;
use simulation::Act::{Connect, End, Nibble, Reset, Room, Say, SayUrgently};
use simulation::Op::{Now, Rumour, Soon, Work};
use simulation::scene::Scene;
use simulation::{Op, Setup, play};
use tproxy::testing::Peer::{Client, Upstream};

/// A good request, and behind it a wrong one.
const GOOD_THEN_WRONG: Scene = Scene::Http { talk: 4, tunnel: None, checks: false };

/// A request with a body of a hundred bytes, and behind it a wrong one.
const BODY_THEN_WRONG: Scene = Scene::Http { talk: 6, tunnel: None, checks: false };

/// What is not HTTP, for a proxy that can be asked for a tunnel.
const NOT_HTTP: Scene = Scene::Http { talk: 10, tunnel: Some(0), checks: false };

fn holds(setup: &Setup, ops: &[Op]) {
    assert_eq!(play(setup, &[&[Now(Connect), Work, Work, Work], ops].concat()).map(drop), Ok(()));
}

/// In front of urgent data splice(2) returns 0 if the peer has ended behind it; all from there on was lost.
#[test]
fn an_end_behind_urgent_data_is_not_taken_for_one_before_it() {
    let ops = [Now(Say(Client, 1, 16_384)), Rumour(Upstream), Work, Now(SayUrgently(Client, 1448)), Now(End(Client))];
    holds(&Setup::new(Scene::Plain), &[&[Work, Work][..], &ops].concat());
}

/// And ECONNRESET if the peer has reset, though what came before the reset can still be read.
#[test]
fn what_came_before_a_reset_is_delivered_though_some_of_it_is_urgent() {
    let urgent = [Now(Say(Client, 1, 300_000)), Now(SayUrgently(Client, 3)), Soon(4, Reset(Client))];
    holds(&Setup::new(Scene::Plain), &[&[Rumour(Client)], &urgent[..]].concat());
    let said = [Now(SayUrgently(Client, 1)), Now(Say(Upstream, 1, 300_000)), Work, Now(SayUrgently(Upstream, 3)), Work];
    holds(&Setup::new(Scene::Plain), &[&said[..], &[Now(Reset(Upstream)), Now(End(Client))]].concat());
}

/// The log counted nothing of a message of which a part was written before the connection failed.
#[test]
fn what_was_written_before_a_write_failed_is_counted() {
    for calls in 1..9 {
        let ops = [Now(Nibble(Client, 3)), Now(Say(Upstream, 1, 100)), Soon(calls, Reset(Client))];
        holds(&Setup::new(Scene::Plain), &ops);
    }
}

/// What the proxy had no room for was dropped when the next request was wrong, and the end was told in the middle.
#[test]
fn a_wrong_request_does_not_cut_the_one_before_it() {
    for room in [1, 30] {
        holds(&Setup::new(BODY_THEN_WRONG), &[Now(Room(Upstream, room)), Now(Say(Client, 1, 4096))]);
        holds(&Setup::new(GOOD_THEN_WRONG), &[Now(Room(Upstream, room)), Now(Say(Client, 1, 4096))]);
    }
}

/// The model waited for a dialogue with the proxy that nobody had reason to begin: a read that passes over an urgent
/// byte, before an event has told of it, leaves nothing of what the client has said.
#[test]
fn an_urgent_byte_alone_that_is_passed_over_begins_nothing() {
    holds(&Setup::new(NOT_HTTP), &[Rumour(Client), Now(SayUrgently(Client, 1)), Work]);
    holds(&Setup::new(NOT_HTTP), &[Soon(1, SayUrgently(Client, 1)), Rumour(Client), Work, Work]);
}

/// The relay went through the proxy with it and ended in good order, as if the client had.
#[test]
fn a_client_that_has_reset_gets_no_tunnel() {
    holds(&Setup::new(NOT_HTTP), &[Now(Say(Client, 1, 2)), Now(Reset(Client))]);
}

/// The attempt failed, and the log had it that the client had reset the connection.
#[test]
fn a_client_that_was_told_the_end_is_not_told_of_a_refusal() {
    holds(&Setup::new(GOOD_THEN_WRONG), &[Now(End(Upstream))]);
}

/// What was held for a peer that does not read was held until `--idle-timeout`, or for ever, when the other peer had
/// reset the connection: the event that told so changed which patience counts, and nobody set the deadline anew.
#[test]
fn a_reset_is_passed_on_in_time_to_a_peer_that_does_not_read() {
    let stuck = Setup { stalls: true, fin: Some(7), ..Setup::new(Scene::Plain) };
    holds(&stuck, &[Now(Room(Upstream, 1)), Now(Say(Client, 1, 3)), Work, Now(Reset(Client))]);

    let (server, accepted) = Server::handing_over("127.0.0.1:0");
    let relay = LoopbackRelay::start("--fin-timeout 1 --idle-timeout 0", server.address);
    let client = relay.connect();
    let address = client.local_addr().expect("address");
    let deaf = accepted.recv().expect("upstream");
    client.set_nonblocking(true).expect("nonblocking");
    let chunk = vec![7; 1 << 16];
    let mut last = Instant::now();
    wait::until_true("the way to the upstream is full and stays so", || {
        match (&client).write(&chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            written => last = written.map(|_| Instant::now()).expect("write"),
        }
        last.elapsed() > Duration::from_millis(500)
    });
    reset(client);
    assert_eq!(relay.daemon.journal.wait_connection_of(address).ending, "reset by client");
    wait::until_true("the upstream hears of it", || {
        deaf.take_error().expect("SO_ERROR").is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
    });
}
