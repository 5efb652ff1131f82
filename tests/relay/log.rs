//! The log: one line per connection, files that are opened again, the dump.

use super::*;

#[test]
fn the_line_of_a_connection_has_its_fields_in_order() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("upstream");
    client.write_all(&[1; 78]).expect("write");
    upstream.read_exact(&mut [0; 78]).expect("read");
    upstream.write_all(&[2; 1024]).expect("write");
    client.read_exact(&mut [0; 1024]).expect("read");
    let outgoing = upstream.peer_addr().expect("peer");
    drop(upstream);
    let from = client.local_addr().expect("address");
    drop(client);
    let line = relay.daemon.journal.wait_connection_of(from);
    assert_eq!((line.up, line.down, line.ending.as_str()), (78, 1024, "finished"));
    assert_eq!(line.local, outgoing.to_string());
    assert_eq!(line.upstream, server.address.to_string());
    assert!(line.original == "-" || line.original == relay.address.to_string(), "{line:?}");
    assert!(line.seconds < 5.0, "{line:?}");
    assert!(line.before.ends_with("]:") && line.before.starts_with("tproxy"), "{line:?}");
}

#[test]
fn the_first_line_says_where_it_listens() {
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start("", server.address);
    relay.daemon.journal.wait_for(&format!(
        "ready: listening on {}; relaying to {}",
        relay.address,
        server.address.ip()
    ));
}

#[test]
fn every_connection_has_one_line_and_a_number_of_its_own() {
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start("", server.address);
    for _ in 0..50 {
        assert_eq!(clients::fetch(relay.address).expect("fetch"), "page");
    }
    let lines = relay.daemon.journal.wait_connections(50);
    let ids: std::collections::BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    assert_eq!((lines.len(), ids.len()), (50, 50));
    assert!(lines.iter().all(|line| line.ending == "finished"), "{lines:?}");
}

#[test]
fn hangup_reopens_the_access_log() {
    reopens_the_access_log(Signal::SIGHUP);
}

#[test]
fn the_signal_for_log_files_reopens_the_access_log() {
    reopens_the_access_log(Signal::SIGURG);
}

fn reopens_the_access_log(signal: Signal) {
    let directory = TempDir::new();
    let (file, old) = (directory.path.join("access.log"), directory.path.join("access.log.1"));
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start(&format!("-l {}", file.display()), server.address);
    let lines = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_string).collect::<Vec<_>>()
    };
    clients::fetch(relay.address).expect("fetch");
    wait::until_true("the first line is in the file", || lines(&file).len() == 1);
    std::fs::rename(&file, &old).expect("rename");
    relay.daemon.signal(signal);
    wait::until_true("the file is there again", || file.exists());
    clients::fetch(relay.address).expect("fetch");
    wait::until_true("the second line is in the new file", || lines(&file).len() == 1);
    assert_eq!(lines(&old).len(), 1, "the renamed file has got no more");
    let text = &lines(&file)[0];
    let stamp = text.split(' ').next().expect("timestamp");
    assert!(stamp.len() == 24 && stamp.ends_with('Z') && &stamp[10..11] == "T", "timestamp of {text:?}");
    assert!(lab::journal::ConnectionLine::parse(text).is_some_and(|line| line.ending == "finished"), "{text:?}");
}

#[test]
fn user_signal_dumps_counters_and_connections() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    round_trip(&mut client, b"hello").expect("echo");
    relay.daemon.signal(Signal::SIGUSR1);
    relay.daemon.journal.wait_for(&client.local_addr().expect("address").to_string());
    round_trip(&mut client, b"unharmed").expect("echo");
}

#[test]
fn the_journal_gets_the_severity_of_each_line_and_no_second_name() {
    let (port, silent) = (free_port(), free_port());
    let daemon = Launch::line(&format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {silent}")).with_journal().ready();
    assert!(daemon.journal.wait_for("ready: ").starts_with("<6>ready: "), "{}", daemon.journal.text());
    let _ = clients::fetch(local(port));
    daemon.journal.wait_for("<6>#1-1 127.0.0.1:");
    daemon.journal.wait_for("<4>cannot reach the upstream");
    assert_eq!(daemon.journal.count("tproxy["), 0, "{}", daemon.journal.text());
}

#[test]
fn a_stream_that_is_not_the_journal_gets_names_and_no_severity() {
    let port = free_port();
    let launch = Launch::line(&format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 1")).env("JOURNAL_STREAM", "8:4711");
    let daemon = launch.ready();
    let ready = daemon.journal.wait_for("ready: ");
    assert!(ready.starts_with("tproxy[") && ready.contains("]: ready: "), "{ready}");
}

#[test]
fn a_start_that_fails_is_an_error_in_the_journal() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port();
    let finished = Launch::line(&format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 1")).with_journal().run();
    assert!(finished.status != 0 && finished.stderr.starts_with("<3>"), "{finished:?}");
    assert!(!finished.stderr.contains("tproxy: "), "{finished:?}");
}

#[test]
fn a_name_that_another_process_chose_cannot_reach_the_terminal() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;
    let directory = TempDir::new();
    for (name, shown) in [
        (&b"\x1b[2J\x1b]0;x\x07"[..], "\\x1b[2J\\x1b]0;x\\x07"),
        (b"a\ntproxy: b", "a\\x0atproxy: b"),
        ("\u{9b}31m\u{202e}".as_bytes(), "\\x9b31m\\u{202e}"),
        (b"\xff\x9b1m", "\u{fffd}\u{fffd}1m"),
    ] {
        let path = directory.path.join(std::ffi::OsStr::from_bytes(name));
        process::copy_program("/bin/sleep", &path);
        let listener = std::net::TcpListener::bind(LOCAL).expect("listen");
        let port = listener.local_addr().expect("address").port();
        let holder = |mut command: std::process::Command| {
            command.arg0("sleep").arg("60").stdin(std::os::fd::OwnedFd::from(listener)).spawn().expect("spawn")
        };
        let mut holder = holder(std::process::Command::new(&path));
        for options in [&["-d"][..], &[]] {
            let port = port.to_string();
            let words = [options, &["-b", "127.0.0.1", "-s", &port, "127.0.0.1", "9"]].concat();
            let refused = Launch::new(&words).run();
            let expected = format!("{shown} (process {})", holder.id());
            assert!(refused.stderr.contains(&expected), "{words:?}: {:?}", refused.stderr);
            assert!(!refused.stderr.trim_end().contains(char::is_control), "{words:?}: {:?}", refused.stderr);
        }
        holder.kill().and_then(|()| holder.wait()).expect("end");
    }
}
