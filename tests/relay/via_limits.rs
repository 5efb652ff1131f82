//! Connections through a proxy, what they hold, how long they may, and what they leave behind: nothing.

use super::*;
use lab::servers::FullServer;
use lab::speaker::{Stage, Tongue, behind_a_balancer, header, hear_head, introduced, line_of, original, stranger};
use lab::{number_from_env, raise_open_files};

/// Whether nothing has come on a connection, not even its end.
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("nonblocking");
    let silent = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("blocking");
    silent
}

/// A connection that is refused: after it the relay has all that it ever has when it is idle.
fn warm_up(relay: &LoopbackRelay) {
    let mut client = relay.connect();
    client.write_all(b"no header").expect("write");
    expect_reset(&mut client);
    line_of(relay, &client);
}

/// One word each way.
fn exchange(client: &mut TcpStream, proxy: &mut TcpStream) {
    let mut word = [0];
    client.write_all(b"?").expect("write");
    proxy.read_exact(&mut word).expect("read");
    proxy.write_all(b"!").expect("write");
    client.read_exact(&mut word).expect("read");
}

#[test]
fn who_has_not_said_enough_counts_among_the_connections() {
    let server = Server::echo(LOCAL);
    let relay = behind_a_balancer("-m 2 --handshake-timeout 1", server.address);
    let (mut first, mut second) = (relay.connect(), relay.connect());
    second.write_all(b"PROXY TCP4").expect("write");
    let mut third = introduced(&relay, original());
    let start = Instant::now();
    third.write_all(b"third").expect("write");
    let mut word = [0; 5];
    third.read_exact(&mut word).expect("served when there is room");
    assert_eq!(&word, b"third");
    assert!(start.elapsed() > Duration::from_millis(700), "took {:?}", start.elapsed());
    for client in [&mut first, &mut second] {
        expect_reset(client);
        assert_eq!(line_of(&relay, client).ending, "handshake timed out");
    }
}

#[test]
fn at_a_stop_those_who_are_not_through_yet_may_get_through_for_a_while() {
    let mut stage = Stage::new("--drain 1 --via connect");
    let (mut guest, introduction) = stranger(&stage.relay, original());
    let (mut asking, mut asked) = stage.pair();
    let (mut silent, (mut unheard, mut unanswering)) = (stage.relay.connect(), stage.pair());
    hear_head(&mut asked);
    hear_head(&mut unanswering);
    stage.relay.daemon.signal(Signal::SIGTERM);
    let start = Instant::now();
    stage.relay.daemon.journal.wait_for("stopping: 4 connections");
    guest.write_all(&introduction).expect("header");
    let mut greeted = stage.proxy();
    Tongue::Connect.accept(&mut greeted);
    asked.write_all(Tongue::Connect.consent()).expect("consent");
    exchange(&mut guest, &mut greeted);
    exchange(&mut asking, &mut asked);
    for client in [&mut guest, &mut asking, &mut silent, &mut unheard] {
        expect_reset(client);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "took {took:?}");
    }
    for proxy in [&mut greeted, &mut asked, &mut unanswering] {
        expect_reset(proxy);
    }
    assert_eq!(stage.relay.daemon.wait(), 0);
    for client in [&guest, &asking, &silent, &unheard] {
        assert_eq!(stage.line(client).ending, "stopped");
    }
}

#[test]
fn a_client_that_goes_while_the_proxy_is_being_connected_is_noticed() {
    let server = FullServer::new();
    let relay = behind_a_balancer("--via connect", server.address);
    warm_up(&relay);
    let pid = relay.daemon.relaying_pid();
    let before = process::resting_descriptor_count(pid);
    let client = introduced(&relay, original());
    let address = client.local_addr().expect("address");
    wait::until_true("the attempt has begun", || process::descriptor_count(pid) == before + 2);
    reset(client);
    assert_eq!(relay.daemon.journal.wait_connection_of(address).ending, "reset by client");
}

#[test]
fn a_tunnel_that_is_idle_holds_little() {
    // What the first of them make the worker touch is not theirs alone.
    const COUNT: usize = 4000;
    raise_open_files();
    for tongue in Tongue::BOTH {
        // What is laid out for as many connections as there may be is not the connections'.
        let stage = Stage::new(&format!("-m 4010 {}", tongue.option()));
        let one = || {
            let (mut client, mut proxy) = stage.pair();
            tongue.accept(&mut proxy);
            exchange(&mut client, &mut proxy);
            (client, proxy)
        };
        drop((one(), one()));
        stage.relay.daemon.journal.wait_connections(2);
        let pid = stage.relay.daemon.relaying_pid();
        let measure = || (process::descriptor_count(pid), process::anonymous_memory(pid));
        let (descriptors, memory) = measure();
        let pairs: Vec<_> = (0..COUNT).map(|_| one()).collect();
        let (more_descriptors, more_memory) = measure();
        let bytes = more_memory.saturating_sub(memory) as f64 / COUNT as f64;
        report(&format!("via: {COUNT} idle tunnels, {tongue:?}: {bytes:.0} bytes each"));
        // The line of a connection comes before its sockets are closed: those of the first two may have been counted.
        let each = more_descriptors - descriptors;
        assert!((2 * COUNT - 4..=2 * COUNT).contains(&each), "{each} descriptors for {COUNT} tunnels");
        assert!(bytes <= 300.0, "{bytes} bytes of user memory per idle tunnel");
        drop(pairs);
        wait::until_true("descriptors return", || process::descriptor_count(pid) <= descriptors);
    }
}

/// A request for a host, of a client that was going to this address.
fn claim(relay: &LoopbackRelay, host: &str, original: &str) -> TcpStream {
    let mut client = introduced(relay, original.parse().expect("address"));
    write!(client, "GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("write");
    client
}

/// A name of this host in one of many ways to write it.
fn spelled(number: usize) -> String {
    let letter =
        |(place, letter): (usize, char)| if number >> place & 1 == 1 { letter.to_ascii_uppercase() } else { letter };
    "localhost".chars().enumerate().map(letter).collect()
}

/// The URL that the proxy is asked for.
fn url(stage: &Stage) -> String {
    let head = hear_head(&mut stage.proxy());
    head.split(' ').nth(1).expect("a target").to_string()
}

#[test]
fn a_host_is_believed_only_if_it_is_where_the_client_was_going() {
    let stage = Stage::new("--via http --host-check");
    let family = &stage.relay.daemon.family;
    for (host, original, wanted) in [
        ("localhost", "127.0.0.1:80", "http://localhost/"),
        ("localhost", "127.0.0.2:80", "http://127.0.0.2/"),
        ("localhost:8080", "127.0.0.1:80", "http://127.0.0.1/"),
        ("localhost", "127.0.0.1:8080", "http://localhost:8080/"),
        ("127.0.0.2", "127.0.0.2:80", "http://127.0.0.2/"),
        ("127.0.0.1", "127.0.0.2:80", "http://127.0.0.2/"),
        ("no.such.host.invalid", "127.0.0.2:80", "http://127.0.0.2/"),
    ] {
        let _client = claim(&stage.relay, host, original);
        assert_eq!(url(&stage), wanted, "{host} for {original}");
    }
    // A name is another one when it is written in another way, and has to be asked for again.
    let resolvers = || family.named("tproxy-resolver");
    let mut killed = Vec::new();
    let others = |killed: &[i32]| {
        wait::until("four that have not been killed", || {
            Some(resolvers()).filter(|pids| pids.len() == 4 && pids.iter().all(|pid| !killed.contains(pid)))
        })
    };
    let mut kill_all = |all: Vec<i32>| {
        all.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
        killed.extend(all);
        others(&killed)
    };
    let mut four = kill_all(others(&[]));
    let _client = claim(&stage.relay, "Localhost", "127.0.0.1:80");
    assert_eq!(url(&stage), "http://Localhost/");
    // Who is killed while it is being asked has no answer, and the request is not lost. They may not have been asked yet, and
    // then it is a successor who is asked.
    let unanswered = (16..20).any(|number| {
        four.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
        let _clients = [2 * number, 2 * number + 1].map(|number| claim(&stage.relay, &spelled(number), "127.0.0.1:80"));
        let mut waiting = [stage.proxy(), stage.proxy()];
        waiting.iter_mut().for_each(|proxy| assert!(is_silent(proxy), "it waits for the answer"));
        four = kill_all(std::mem::take(&mut four));
        let heads = waiting.each_mut().map(hear_head);
        assert!(heads.iter().all(|head| head.starts_with("GET http://")), "{heads:?}");
        heads.iter().any(|head| head.starts_with("GET http://127.0.0.1/ "))
    });
    assert!(unanswered, "nobody was killed while it was being asked");
    let _client = claim(&stage.relay, "locAlhost", "127.0.0.1:80");
    assert_eq!(url(&stage), "http://locAlhost/");
}

#[test]
fn a_name_server_that_does_not_answer_is_not_waited_for_longer_than_three_seconds() {
    let stage = Stage::new("--handshake-timeout 1 --via http --host-check");
    let family = &stage.relay.daemon.family;
    let resolvers =
        wait::until("four resolvers", || Some(family.named("tproxy-resolver")).filter(|pids| pids.len() == 4));
    resolvers.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    let start = Instant::now();
    let _client = claim(&stage.relay, "localhost", "127.0.0.1:80");
    assert_eq!(url(&stage), "http://127.0.0.1/");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(2500) && took < Duration::from_secs(6), "took {took:?}");
}

#[test]
fn a_name_in_the_first_bytes_waits_for_its_answer_and_no_longer() {
    const HELLO: &[u8] = include_bytes!("../fixtures/openssl.hello");
    let stage = Stage::new("--sni --host-check --via connect");
    let resolvers = wait::until("four resolvers", || {
        Some(stage.relay.daemon.family.named("tproxy-resolver")).filter(|pids| pids.len() == 4)
    });
    resolvers.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    let start = Instant::now();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| introduced(&stage.relay, local(443))).collect();
    clients.iter_mut().for_each(|client| client.write_all(HELLO).expect("hello"));
    // One goes, and one ends; both were waiting.
    reset(clients.remove(0));
    clients[0].shutdown(Shutdown::Write).expect("half-close");
    for _ in 0..2 {
        let mut proxy = stage.proxy();
        assert_eq!(Tongue::Connect.hear_request(&mut proxy), "127.0.0.1:443");
        assert!(start.elapsed() > Duration::from_millis(2500), "took {:?}", start.elapsed());
        proxy.write_all(Tongue::Connect.consent()).expect("consent");
        let mut heard = vec![0; HELLO.len()];
        proxy.read_exact(&mut heard).expect("the hello");
        assert_eq!(heard, HELLO);
    }
    assert!(start.elapsed() < Duration::from_secs(6), "took {:?}", start.elapsed());
}

#[test]
fn who_sends_requests_without_end_does_not_hold_up_others() {
    let stage = Stage::new("--via http --host-check");
    let (mut hog, mut swallowing) = (introduced(&stage.relay, local(80)), stage.proxy());
    let (mut client, mut proxy) = (introduced(&stage.relay, local(80)), stage.proxy());
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&done);
    let sending = std::thread::spawn(move || {
        let requests = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            hog.write_all(requests.as_bytes()).expect("requests");
        }
    });
    let swallowing = std::thread::spawn(move || std::io::copy(&mut swallowing, &mut std::io::sink()));
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let start = Instant::now();
            client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("write");
            hear_head(&mut proxy);
            proxy.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("write");
            hear_head(&mut client);
            start.elapsed()
        })
        .collect();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    sending.join().expect("client");
    drop(stage);
    drop(swallowing.join().expect("proxy"));
    times.sort();
    // The slower ones may have waited for a processor.
    assert!(times[5] < Duration::from_millis(5), "{times:?}");
}

/// A proxy that treats each connection as the port tells that it is asked for.
fn moody(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let port = head.split("192.0.2.7:").nth(1).and_then(|rest| rest.split(['/', ' ']).next()?.parse().ok());
    let consent = Tongue::Connect.consent();
    // Whoever has gone meanwhile is no concern of the proxy's.
    let mut say = |words: &[u8]| drop(stream.write_all(words));
    match port.map(|port: u16| port % 8) {
        Some(0) => say(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
        Some(1) => reset(stream),
        Some(2) => say(consent),
        Some(3) => {
            say(consent);
            reset(stream);
        }
        Some(4) => say(b"HTTP/1.1 2"),
        Some(5) => say(b"nonsense\r\n"),
        _ => {
            say(consent);
            let _ = std::io::copy(&mut stream.try_clone().expect("clone"), &mut stream);
        }
    }
}

/// A client with manners of its own. What it gets may be anything.
fn whimsical(mut client: TcpStream, introduction: &[u8], manners: usize) {
    const HELLO: &[u8] = include_bytes!("../fixtures/openssl.hello");
    let long = [b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n", &[b'x'; 40_000][..]].concat();
    let words: &[u8] = match manners {
        0 => b"",
        1 => b"no header",
        2 => &introduction[..9],
        _ => introduction,
    };
    let more: &[u8] = match manners {
        3 => b"GET / HTTP/1.1\r\nHo",
        4 => b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        5 => HELLO,
        _ if manners > 2 => &long,
        _ => b"",
    };
    // Who is reset meanwhile has an end like any other.
    let _ = client.write_all(&[words, more].concat());
    match manners {
        6 => reset(client),
        7 => drop(client),
        _ => {
            let _ = client.shutdown(Shutdown::Write);
            read_all(&mut client);
        }
    }
}

#[test]
fn thousands_of_connections_with_every_fate_leave_nothing_behind() {
    const THREADS: u64 = 4;
    let count = number_from_env("TPROXY_VIA_CONNECTIONS", 5000) / 2;
    let server = Server::threaded(LOCAL, moody);
    for options in ["--sni --via connect", "--via http --via-fallback connect"] {
        let relay = behind_a_balancer(options, server.address);
        warm_up(&relay);
        let pid = relay.daemon.relaying_pid();
        let sockets = || process::descriptor_count(pid) - process::pipe_ends(pid);
        let before = sockets();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let relay = &relay;
                scope.spawn(move || {
                    for number in (thread..count).step_by(THREADS as usize) {
                        let client = relay.connect();
                        let port = u16::try_from(8000 + number / 10 % 8).expect("a port");
                        let from = client.local_addr().expect("address");
                        let introduction = header(from, SocketAddr::from(([192, 0, 2, 7], port)));
                        whimsical(client, &introduction, (number % 10) as usize);
                    }
                });
            }
        });
        wait::until_true("all have ended", || relay.daemon.journal.connections().len() as u64 > count);
        wait::until_true("descriptors return", || sockets() <= before);
        assert!(process::pipe_ends(pid) <= 64, "{} ends of pipes at rest", process::pipe_ends(pid));
        relay.daemon.signal(Signal::SIGUSR1);
        let counters = relay.daemon.journal.wait_for("counters: ");
        assert!(counters.contains(&format!("{} accepted, 0 open", count + 1)), "{counters}");
        assert!(counters.contains(" 0 pipes lent"), "{counters}");
        let lines = relay.daemon.journal.connections();
        assert_eq!(lines.len() as u64, count + 1, "{options}");
        let endings = ["finished", "reset by client", "reset by upstream", "refused by proxy", "bad PROXY header"];
        for ending in endings {
            assert!(lines.iter().any(|line| line.ending.starts_with(ending)), "{options}: nobody was {ending}");
        }
    }
}
