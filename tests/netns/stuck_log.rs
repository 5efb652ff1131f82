//! A standard error that nobody reads: guardian, workers and the process that works on the rules go on.

use super::*;
use lab::clients;
use lab::daemon::{free_port, program};
use lab::netns::Net;
use lab::rules;
use lab::sink::{Sink, lost};
use lab::tempdir::TempDir;
use lab::wait;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::process::Command;

/// More lines than a pipe of one page holds, from each of several processes.
const MANY: usize = 400;

#[test]
fn nobody_reads_and_the_whole_family_goes_on() {
    let Some(scene) = Scene::new() else { return };
    let mut sink = Sink::pipe();
    let mut daemon = scene.launch(&[STAND_IN, &["-v", "-w", "3"]].concat()).spawn_into(sink.stdio());
    wait::until_true("the page of cow", || scene.page(MOOSE) == "cow");
    for _ in 0..MANY {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    // A change of the rules, new workers, and what they say about it.
    let former = daemon.family.named("tproxy-worker");
    daemon.signal(Signal::SIGHUP);
    wait::until_true("other workers", || {
        let workers = daemon.family.named("tproxy-worker");
        workers.len() == 3 && workers.iter().all(|worker| !former.contains(worker))
    });
    assert_eq!(scene.page(MOOSE), "cow");
    let mut lines = Vec::new();
    // The workers that lost most have ended meanwhile. The guardian tells it for them.
    wait::until_true("as many lines as there were, told or lost", || {
        lines.extend(sink.lines());
        let seen = lines.iter().filter(|line| line.ends_with(" finished")).count();
        seen + lines.iter().filter_map(|line| lost(line)).sum::<usize>() >= MANY
    });
    assert!(lines.iter().any(|line| line.starts_with("tproxy[") && lost(line).is_some()), "{lines:#?}");
    let torn = |line: &&String| !line.starts_with("tproxy") || line.matches("]: ").count() == 0;
    assert_eq!(lines.iter().find(|line| torn(line)), None);
    for _ in 0..MANY {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// Runs it as another user than the one to whom its standard error belongs, as su(1) and s6-setuidgid do.
fn of_another_user(mut sink: Sink) {
    let Some(_root) = Net::alone() else { return };
    let (directory, port) = (TempDir::new(), free_port());
    let copy = directory.file("tproxy");
    assert!(Command::new("cp").args([&program(), &copy]).status().expect("cp").success());
    let server = Server::page("127.0.0.1:0", "page");
    let line = format!("-d -w 2 -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let mut daemon = Launch::line(&line).by_user(65534, &copy).spawn_into(sink.stdio());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until_true("the page", || clients::fetch(address).is_ok_and(|page| page == "page"));
    for _ in 0..3 * MANY {
        assert_eq!(clients::fetch(address).expect("fetch"), "page");
    }
    assert!(sink.is_blocking());
    let mut lines = Vec::new();
    wait::until_true("a worker that tells what was lost", || {
        lines.extend(sink.lines());
        lines.iter().any(|line| lost(line).is_some())
    });
    let torn = |line: &&String| line.matches("]: ").count() == 0 || line.matches("tproxy").count() != 1;
    assert_eq!(lines.iter().find(|line| torn(line)), None);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn a_pipe_of_another_user_holds_up_nothing() {
    of_another_user(Sink::pipe());
}

#[test]
fn a_terminal_of_another_user_holds_up_nothing() {
    of_another_user(Sink::terminal());
}
