//! A standard error that nobody reads, or that takes nothing more: it holds up no connection and no signal, and what was
//! lost is counted.

use super::*;
use lab::daemon::Daemon;
use lab::sink::{Sink, lost};
use std::fs::File;
use std::process::Stdio;

/// More lines than any sink holds.
const MANY: usize = 1200;

fn start(port: u16, server: SocketAddr, stderr: Stdio) -> Daemon {
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.port());
    let mut daemon = Launch::line(&line).spawn_into(stderr);
    wait::until_true("the port is open", || {
        assert!(daemon.running(), "it ended while starting");
        TcpStream::connect(local(port)).is_ok()
    });
    daemon
}

fn fetch_many(port: u16) {
    for number in 0..MANY {
        assert_eq!(clients::fetch(local(port)).expect("fetch"), "page", "client {number}");
    }
}

fn nobody_reads(mut sink: Sink) {
    let (server, port) = (Server::page(LOCAL, "page"), free_port());
    let mut daemon = start(port, server.address, sink.stdio());
    fetch_many(port);
    assert!(sink.is_blocking(), "it has made the shell's own descriptor non-blocking");
    // Reading makes room; nothing else happens that would be logged.
    let mut lines = Vec::new();
    wait::until_true("the number of lost lines", || {
        lines.extend(sink.lines());
        let told: usize = lines.iter().filter_map(|line| lost(line)).sum();
        let seen = lines.iter().filter(|line| line.contains(" #1-")).count();
        // One connection more was made to see whether the port is open.
        told > 0 && seen + told == MANY + 1
    });
    let whole = |line: &&String| line.starts_with("tproxy[") && line.matches("tproxy[").count() == 1;
    assert_eq!(lines.iter().find(|line| !whole(line)), None);
    fetch_many(port);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_nothing() {
    nobody_reads(Sink::pipe());
}

#[test]
fn a_fifo_that_nobody_reads_holds_up_nothing() {
    let directory = TempDir::new();
    let path = directory.file("fifo");
    nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let reader = File::options().read(true).write(true).open(&path).expect("open");
    nobody_reads(Sink::new(File::options().append(true).open(&path).expect("open"), reader));
}

#[test]
fn a_socket_that_nobody_reads_holds_up_nothing() {
    let (writer, reader) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    nobody_reads(Sink::new(writer, reader));
}

#[test]
fn a_terminal_that_nobody_reads_holds_up_nothing() {
    nobody_reads(Sink::terminal());
}

#[test]
fn a_terminal_that_is_stopped_holds_up_nothing() {
    let (mut sink, server, port) = (Sink::terminal(), Server::page(LOCAL, "page"), free_port());
    let mut daemon = start(port, server.address, sink.stdio());
    sink.reader.write_all(b"\x13").expect("Ctrl-S");
    // The terminal obeys a little later, and what has been written until then still comes.
    wait::until_true("a terminal that is stopped", || {
        assert_eq!(clients::fetch(local(port)).expect("fetch"), "page");
        wait::try_until(Duration::from_millis(200), || (!sink.lines().is_empty()).then_some(())).is_none()
    });
    for _ in 0..100 {
        assert_eq!(clients::fetch(local(port)).expect("fetch"), "page");
    }
    sink.reader.write_all(b"\x11").expect("Ctrl-Q");
    wait::until_true("the number of lost lines", || sink.lines().iter().any(|line| lost(line).is_some()));
    sink.reader.write_all(b"\x13").expect("Ctrl-S");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn a_reader_that_has_gone_holds_up_nothing() {
    let (sink, server, port) = (Sink::pipe(), Server::page(LOCAL, "page"), free_port());
    let mut daemon = start(port, server.address, sink.stdio());
    drop(sink);
    fetch_many(port);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn a_full_disk_holds_up_nothing() {
    let (server, port) = (Server::page(LOCAL, "page"), free_port());
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut daemon = start(port, server.address, full.into());
    fetch_many(port);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn a_limit_of_the_file_size_ends_no_process() {
    let (server, port, directory) = (Server::page(LOCAL, "page"), free_port(), TempDir::new());
    let stderr = directory.path.join("stderr");
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let mut daemon = Launch::line(&line).file_size(1).spawn_into(File::create(&stderr).expect("create"));
    wait::until_true("the port is open", || TcpStream::connect(local(port)).is_ok());
    fetch_many(port);
    assert!(daemon.running());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0);
    assert_eq!(std::fs::metadata(&stderr).expect("metadata").len(), 512);
}

#[test]
fn an_access_log_that_takes_nothing_more_counts_its_losses() {
    let (server, directory) = (Server::page(LOCAL, "page"), TempDir::new());
    let (file, old) = (directory.path.join("access.log"), directory.path.join("access.log.1"));
    let port = free_port();
    let line = format!("-d -l {} -b 127.0.0.1 -s {port} 127.0.0.1 {}", file.display(), server.address.port());
    let daemon = Launch::line(&line).file_size(1).ready();
    fetch_many(port);
    daemon.journal.wait_for("access log: File too large");
    std::fs::rename(&file, &old).expect("rename");
    daemon.signal(Signal::SIGHUP);
    wait::until_true("a file that takes lines", || {
        clients::fetch(local(port)).expect("fetch");
        file.exists() && daemon.journal.text().contains("it can be written again")
    });
    let text = daemon.journal.text();
    let number = |line: &str| line.split(" line").next()?.rsplit(' ').next()?.parse::<usize>().ok();
    let kept = std::fs::read_to_string(&old).expect("read").lines().filter(|line| line.ends_with("finished")).count();
    let lost = text.lines().filter(|line| line.contains("access log: ")).filter_map(number).sum::<usize>();
    assert!((MANY - kept..).contains(&lost) && lost > MANY / 2, "{kept} lines in the file, {lost} lost:\n{text}");
}
