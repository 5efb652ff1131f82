//! What a relay costs outside the kernel, as a count that is the same on every machine.

use super::*;
use lab::takeover::instructions;

/// How often each thing is done; what it costs is the average.
const TIMES: u64 = 20;

/// Fails when `count` instructions for each of [`TIMES`] is more than a quarter above what it was when it was last
/// found good.
fn guard(what: &str, count: u64, good: u64) {
    let each = count / TIMES;
    println!("instructions: {each} for {what}");
    assert!(each > good / 2, "{what}: {each} instructions, {good} before: it was not all seen");
    assert!(cfg!(debug_assertions) || each <= good * 5 / 4, "{what}: {each} instructions, {good} before");
}

#[test]
fn a_small_request_costs_few_instructions() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let mut exchange = || round_trip(&mut client, &[7; 200]).expect("echo");
    exchange();
    let count = instructions(relay.daemon.relaying_pid(), || (0..TIMES).for_each(|_| exchange()));
    guard("a small request", count, 3_300);
}

#[test]
fn a_connection_costs_few_instructions() {
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start("", server.address);
    let fetch = || assert_eq!(clients::fetch(relay.address).expect("fetch"), "page");
    fetch();
    let count = instructions(relay.daemon.relaying_pid(), || (0..TIMES).for_each(|_| fetch()));
    guard("a connection", count, 17_400);
}
