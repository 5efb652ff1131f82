//! `--via connect` and `--via socks5`: the dialogue with the proxy, and what the client sends and sees meanwhile.

use super::*;
use lab::speaker::{ORIGINAL, Stage, Tongue, behind_a_balancer, introduced, original};

const TONGUES: [Tongue; 2] = Tongue::BOTH;

/// Lets both sides say something, and ends the connection.
fn talk_and_end(client: &mut TcpStream, proxy: &mut TcpStream) {
    client.write_all(b"question").expect("write");
    let mut question = [0; 8];
    proxy.read_exact(&mut question).expect("read");
    assert_eq!(&question, b"question");
    proxy.write_all(b"answer").expect("write");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"answer");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(proxy), (Vec::new(), None));
    proxy.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(client), (Vec::new(), None));
}

/// Does something while the relay sees nothing of it, so that it sees all of it at once.
fn behind_its_back(stage: &Stage, act: impl FnOnce()) {
    let pid = stage.relay.daemon.relaying_pid();
    process::signal(pid, Signal::SIGSTOP);
    act();
    process::signal(pid, Signal::SIGCONT);
}

#[test]
fn a_connection_that_was_not_redirected_has_nowhere_to_go() {
    let server = Server::silent(LOCAL);
    for via in ["http", "connect", "socks5"] {
        let relay = LoopbackRelay::start(&format!("--via {via}"), server.address);
        let mut client = relay.connect();
        expect_reset(&mut client);
        let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
        assert_eq!((line.ending.as_str(), line.upstream.as_str()), ("loop", "-"), "{via}");
        relay.daemon.journal.wait_for("loop: ");
    }
}

#[test]
fn an_answer_in_single_bytes_is_understood_and_the_payload_behind_it_comes_first() {
    for tongue in TONGUES {
        let stage = Stage::new(tongue.option());
        let (mut client, mut proxy) = stage.pair();
        assert_eq!(tongue.hear_request(&mut proxy), ORIGINAL);
        let (last, others) = tongue.consent().split_last().expect("an answer");
        others.iter().for_each(|byte| proxy.write_all(&[*byte]).expect("write"));
        proxy.write_all(&[&[*last], &b"wel"[..]].concat()).expect("write");
        proxy.write_all(b"come").expect("write");
        let mut welcome = [0; 7];
        client.read_exact(&mut welcome).expect("read");
        assert_eq!(&welcome, b"welcome", "{tongue:?}");
        talk_and_end(&mut client, &mut proxy);
        let line = stage.line(&client);
        assert_eq!((line.up, line.down, line.ending.as_str()), (8, 13, "finished"), "{line:?}");
        assert_eq!(line.original, ORIGINAL);
    }
}

#[test]
fn payload_that_comes_with_the_answer_is_delivered_whatever_follows_it() {
    let pattern = Pattern { seed: 41, bytes: 50_000 };
    let mut payload = Vec::new();
    pattern.send(&mut payload, Cut::Bulk).expect("a vector takes all");
    for tongue in TONGUES {
        for abrupt in [false, true] {
            let stage = Stage::new(tongue.option());
            let (mut client, mut proxy) = stage.pair();
            tongue.hear_request(&mut proxy);
            behind_its_back(&stage, || {
                proxy.write_all(&[tongue.consent(), &payload].concat()).expect("write");
                wait_acknowledged(&proxy);
                if abrupt { reset(proxy) } else { drop(proxy) }
            });
            let (got, error) = read_all(&mut client);
            assert_eq!(got.len(), payload.len(), "{tongue:?}, {abrupt}");
            assert!(got == payload, "{tongue:?}, {abrupt}: other bytes");
            assert_eq!(error, abrupt.then_some(ErrorKind::ConnectionReset), "{tongue:?}");
            drop(client.shutdown(Shutdown::Write));
            let line = stage.line(&client);
            let ending = if abrupt { "reset by upstream" } else { "finished" };
            assert_eq!((line.down, line.ending.as_str()), (50_000, ending), "{tongue:?}");
        }
    }
}

#[test]
fn what_the_client_sends_before_the_answer_waits_and_arrives_in_order() {
    let pattern = Pattern { seed: 42, bytes: MIB };
    for tongue in TONGUES {
        let stage = Stage::new(tongue.option());
        let (mut client, mut proxy) = stage.pair();
        let sending = std::thread::spawn(move || {
            pattern.send(&mut client, Cut::OneThenFull).expect("early data");
            client.shutdown(Shutdown::Write).expect("half-close");
            client
        });
        tongue.hear_request(&mut proxy);
        proxy.set_nonblocking(true).expect("nonblocking");
        wait::holds_for(
            Duration::from_millis(100),
            "the payload waits for the proxy",
            || matches!(proxy.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock),
        );
        proxy.set_nonblocking(false).expect("blocking");
        proxy.write_all(tongue.consent()).expect("write");
        assert_eq!(sum_of(&mut proxy).expect("early data"), pattern.sum(), "{tongue:?}");
        proxy.write_all(b"all of it").expect("write");
        drop(proxy);
        let mut client = sending.join().expect("sender");
        assert_eq!(read_all(&mut client), (b"all of it".to_vec(), None));
        let line = stage.line(&client);
        assert_eq!((line.up, line.down, line.ending.as_str()), (MIB, 9, "finished"), "{tongue:?}");
    }
}

#[test]
fn a_client_that_has_said_all_before_the_answer_loses_nothing() {
    let pattern = Pattern { seed: 43, bytes: MIB };
    for (tongue, words) in [(Tongue::Connect, &b"last words"[..]), (Tongue::Socks5, b"")] {
        let stage = Stage::new(tongue.option());
        let (mut client, mut proxy) = stage.pair();
        behind_its_back(&stage, || {
            client.write_all(words).expect("write");
            client.shutdown(Shutdown::Write).expect("half-close");
            wait_acknowledged(&client);
        });
        tongue.accept(&mut proxy);
        assert_eq!(read_all(&mut proxy), (words.to_vec(), None), "{tongue:?}");
        let sending = std::thread::spawn(move || pattern.send(&mut proxy, Cut::Bulk).expect("answer"));
        assert_eq!(sum_of(&mut client).expect("answer"), pattern.sum(), "{tongue:?}");
        sending.join().expect("sender");
        assert_eq!(stage.line(&client).ending, "finished");
    }
}

#[test]
fn a_client_that_resets_before_the_answer_frees_the_proxy() {
    for tongue in TONGUES {
        let stage = Stage::new(tongue.option());
        let (mut client, mut proxy) = stage.pair();
        tongue.hear_request(&mut proxy);
        let address = client.local_addr().expect("address");
        client.write_all(b"early").expect("write");
        reset(client);
        let (got, error) = read_all(&mut proxy);
        assert_eq!((got.len(), error), (0, Some(ErrorKind::ConnectionReset)), "{tongue:?}");
        let line = stage.relay.daemon.journal.wait_connection_of(address);
        assert_eq!((line.up, line.down, line.ending.as_str()), (0, 0, "reset by client"), "{tongue:?}");
    }
}

/// How a proxy treats a connection once it was asked, and how that ends in the log.
type Fate = (Tongue, fn(TcpStream), &'static str);

fn say(mut proxy: TcpStream, words: &[u8]) -> TcpStream {
    // A relay that has given up does not take the rest.
    let _ = proxy.write_all(words);
    proxy
}

/// Says it again and again until the relay has had enough.
fn flood(mut proxy: TcpStream, words: &[u8]) {
    let flood = words.repeat(1000);
    while proxy.write_all(&flood).is_ok() {}
}

const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nNo!\n";

#[test]
fn a_proxy_that_does_not_consent_resets_the_client_and_the_log_has_its_words() {
    const FATES: &[Fate] = &[
        (Tongue::Connect, drop, "refused by proxy: closed without an answer"),
        (Tongue::Socks5, drop, "refused by proxy: closed without an answer"),
        (Tongue::Connect, reset, "refused by proxy: closed without an answer"),
        (Tongue::Socks5, reset, "refused by proxy: closed without an answer"),
        (Tongue::Connect, |proxy| drop(say(proxy, b"HTTP/1.1 2")), "refused by proxy: closed without an answer"),
        (Tongue::Connect, |proxy| drop(say(proxy, FORBIDDEN)), "refused by proxy: HTTP/1.1 403 Forbidden"),
        (Tongue::Connect, |proxy| reset(say(proxy, FORBIDDEN)), "refused by proxy: HTTP/1.1 403 Forbidden"),
        (Tongue::Socks5, |proxy| drop(say(proxy, &[5, 5])), "refused by proxy: SOCKS: connection refused"),
        (Tongue::Socks5, |proxy| reset(say(proxy, &[5, 2, 0, 1])), "refused by proxy: SOCKS: connection not allowed"),
        (Tongue::Socks5, |proxy| drop(say(proxy, FORBIDDEN)), "refused by proxy: the answer is not SOCKS 5"),
        (Tongue::Connect, |proxy| drop(say(proxy, b"220 cow\r\n")), "refused by proxy: the answer is not HTTP/1"),
        (Tongue::Connect, |proxy| flood(proxy, &[b'x'; 64]), "refused by proxy: the answer is not HTTP/1"),
        (
            Tongue::Connect,
            |proxy| flood(say(proxy, b"HTTP/1.1 200 OK\r\n"), b"X: y\r\n"),
            "refused by proxy: the head of the answer is too long",
        ),
        (
            Tongue::Connect,
            |proxy| flood(proxy, b"HTTP/1.1 102 Processing\r\n\r\n"),
            "refused by proxy: the answer is too long",
        ),
    ];
    let stages = TONGUES.map(|tongue| Stage::new(tongue.option()));
    for (number, (tongue, act, ending)) in FATES.iter().enumerate() {
        let stage = &stages[usize::from(*tongue == Tongue::Socks5)];
        let (mut client, mut proxy) = stage.pair();
        client.write_all(b"early").expect("write");
        tongue.hear_request(&mut proxy);
        // The relay sees the answer and the end together.
        behind_its_back(stage, || act_within_a_moment(*act, proxy));
        expect_reset(&mut client);
        let line = stage.line(&client);
        assert!(line.ending.starts_with(ending), "{number}: {line:?}");
        assert_eq!((line.up, line.down), (0, 0), "{number}: {line:?}");
        assert!(line.seconds < 5.0, "{number}: {line:?}");
    }
    for stage in &stages {
        stage.relay.daemon.signal(Signal::SIGUSR1);
        let counters = stage.relay.daemon.journal.wait_for("counters: ");
        assert!(counters.contains(" 0 unreachable, ") && !counters.contains(" 0 refused, "), "{counters}");
    }
}

/// A flood does not end before the relay goes on.
fn act_within_a_moment(act: fn(TcpStream), proxy: TcpStream) {
    let acting = std::thread::spawn(move || act(proxy));
    wait::try_until(Duration::from_millis(50), || acting.is_finished().then_some(()));
}

#[test]
fn a_proxy_that_cannot_be_reached_resets_the_client() {
    let nobody = local(free_port());
    for tongue in TONGUES {
        let relay = behind_a_balancer(tongue.option(), nobody);
        let mut client = introduced(&relay, original());
        expect_reset(&mut client);
        let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
        assert!(line.ending.starts_with("connect failed: "), "{line:?}");
        assert_eq!((line.original.as_str(), line.upstream), (ORIGINAL, nobody.to_string()));
    }
}

#[test]
fn a_proxy_that_says_nothing_or_never_enough_is_given_up_in_time() {
    let stages = TONGUES.map(|tongue| Stage::new(&format!("--handshake-timeout 1 {}", tongue.option())));
    let mut pairs: Vec<_> = stages.iter().flat_map(|stage| [stage.pair(), stage.pair()]).collect();
    let start = Instant::now();
    // Bytes that come in time do not give the proxy more of it.
    let mut slow: Vec<_> = [1, 3].map(|at: usize| pairs[at].1.try_clone().expect("clone")).into();
    let answers = [FORBIDDEN, b"\x05"];
    let dripping = std::thread::spawn(move || {
        for index in 0..40 {
            for (proxy, answer) in slow.iter_mut().zip(answers) {
                if let Some(byte) = answer.get(index).filter(|_| index < 12) {
                    let _ = proxy.write_all(&[*byte]);
                }
            }
            // The rhythm of the proxy is the subject of the test.
            std::thread::sleep(Duration::from_millis(100));
            if start.elapsed() > Duration::from_millis(1600) {
                return;
            }
        }
    });
    for (client, _) in &mut pairs {
        expect_reset(client);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "took {took:?}");
    }
    for (number, (client, _)) in pairs.iter().enumerate() {
        assert_eq!(stages[number / 2].line(client).ending, "handshake timed out", "{number}");
    }
    dripping.join().expect("proxy");
}

#[test]
fn after_the_handshake_its_time_does_not_count() {
    let stage = Stage::new("--handshake-timeout 1 --via connect");
    let (mut client, mut proxy) = stage.pair();
    Tongue::Connect.accept(&mut proxy);
    client.set_read_timeout(Some(Duration::from_millis(1400))).expect("timeout");
    // The pause is the subject of the test.
    let silence = client.read(&mut [0]).expect_err("nobody has said anything");
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(clients::IO_PATIENCE)).expect("timeout");
    talk_and_end(&mut client, &mut proxy);
    assert_eq!(stage.line(&client).ending, "finished");
}

#[test]
fn when_the_proxy_is_dead_the_client_goes_where_it_was_going_as_it_is() {
    let nobody = local(free_port());
    let words = b"GET /page HTTP/1.1\r\nHost: moose\r\n\r\n";
    for way in ["--via http", "--via connect", "--via socks5", "--proxy-protocol v1", "--proxy-protocol v2"] {
        let (server, accepted) = Server::handing_over(LOCAL);
        let relay = behind_a_balancer(&format!("--fallback {way}"), nobody);
        let mut client = introduced(&relay, server.address);
        client.write_all(words).expect("write");
        client.shutdown(Shutdown::Write).expect("half-close");
        let mut there = accepted.recv_timeout(clients::IO_PATIENCE).expect("a connection to where it was going");
        assert_eq!(read_all(&mut there), (words.to_vec(), None), "{way}");
        there.write_all(b"the page").expect("write");
        drop(there);
        assert_eq!(read_all(&mut client), (b"the page".to_vec(), None), "{way}");
        let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
        assert_eq!((line.upstream, line.ending.as_str()), (server.address.to_string(), "finished"), "{way}");
    }
}
