//! `--via http`: requests that ask the proxy for another protocol or a tunnel, and what follows them.

use super::*;
use lab::speaker::{Stage, hear_head};

const WEBSOCKET: &str =
    "GET http://moose/socket HTTP/1.1\r\nHost: moose\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const TLS: &str = "GET http://moose/ HTTP/1.1\r\nHost: moose\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\n";
const HTTP2: &str =
    "GET http://moose/ HTTP/1.1\r\nHost: moose\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n";
const CONNECT: &str = "CONNECT moose:443 HTTP/1.1\r\nHost: moose:443\r\n\r\n";
const QUESTIONS: [&str; 4] = [WEBSOCKET, TLS, HTTP2, CONNECT];

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// What grants a request.
fn consent(question: &str) -> &'static str {
    if question == CONNECT { ESTABLISHED } else { SWITCHING }
}

/// Each of these says no, and where its body ends.
const REFUSALS: [&str; 7] = [
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nforbidden",
    "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n\r\n101\r\n0\r\nX: y\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "HTTP/1.0 500 \r\ncontent-length:0\r\n\r\n",
    "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 40\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n\r\n\r\n",
    "HTTP/1.1 407 x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nno",
];

/// The request behind a question, as a client sends it and as it must arrive.
fn forged() -> (String, String) {
    let request = |url: &str| format!("GET {url}/next HTTP/1.1\r\nHost: moose\r\nX-Forwarded-For: 1.2.3.4\r\n");
    (request("") + "\r\n", request("http://moose:443") + "X-Forwarded-For: 127.0.0.1\r\n\r\n")
}

fn stage() -> Stage {
    Stage::new("--via http --forwarded x-forwarded-for")
}

/// As the proxy gets a request that has its URL already.
fn told(request: &str) -> String {
    request.replacen("\r\n\r\n", "\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n", 1)
}

fn say(stream: &mut TcpStream, words: impl AsRef<[u8]>) {
    stream.write_all(words.as_ref()).expect("write");
}

fn expect(stream: &mut TcpStream, words: impl AsRef<[u8]>) {
    let words = words.as_ref();
    let mut got = vec![0; words.len()];
    stream.read_exact(&mut got).unwrap_or_else(|error| panic!("{error}, wanted {}", words.escape_ascii()));
    assert_eq!(got.escape_ascii().to_string(), words.escape_ascii().to_string());
}

/// A connection whose request has come to the proxy.
fn asked(stage: &Stage, question: &str, behind: impl AsRef<[u8]>) -> (TcpStream, TcpStream) {
    let (mut client, mut proxy) = stage.pair();
    say(&mut client, [question.as_bytes(), behind.as_ref()].concat());
    expect(&mut proxy, told(question));
    (client, proxy)
}

#[test]
fn requests_behind_a_question_that_is_refused_are_requests() {
    let stage = stage();
    let (sent, arrives) = forged();
    for question in QUESTIONS {
        for refusal in REFUSALS {
            // Behind the question in one write, and after the answer.
            for at_once in [true, false] {
                let (mut client, mut proxy) = asked(&stage, question, if at_once { &sent } else { "" });
                say(&mut proxy, refusal);
                expect(&mut client, refusal);
                if !at_once {
                    say(&mut client, &sent);
                }
                expect(&mut proxy, &arrives);
            }
        }
    }
}

#[test]
fn nothing_behind_a_question_arrives_before_the_answer() {
    let stage = stage();
    let (sent, arrives) = forged();
    for question in QUESTIONS {
        let (mut client, mut proxy) = asked(&stage, question, &sent);
        let mut interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2);
        say(&mut proxy, &interim);
        expect(&mut client, &interim);
        // The time in which nothing may come is the subject of the test.
        proxy.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let error = proxy.read(&mut [0]).expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        proxy.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        say(&mut proxy, EMPTY.replace("200 OK", "404 x"));
        interim = EMPTY.replace("200 OK", "404 x");
        expect(&mut client, interim);
        expect(&mut proxy, &arrives);
    }
}

#[test]
fn whatever_is_behind_a_question_that_is_granted_arrives_as_it_is() {
    let stage = stage();
    for question in QUESTIONS {
        let words = [forged().0.as_bytes(), b"\0\xff\r\n\n GET"].concat();
        let (mut client, mut proxy) = asked(&stage, question, &words);
        for byte in consent(question).bytes() {
            say(&mut proxy, [byte]);
        }
        say(&mut proxy, "HTTP/1.1 404 x\r\nContent-Length: x\r\n\r\n\0");
        expect(&mut proxy, &words);
        expect(&mut client, [consent(question), "HTTP/1.1 404 x\r\nContent-Length: x\r\n\r\n\0"].concat());
        say(&mut client, &words);
        expect(&mut proxy, &words);
        drop(client);
        assert_eq!(read_all(&mut proxy).0, b"");
    }
}

#[test]
fn a_body_behind_a_question_goes_on_before_the_answer() {
    let stage = stage();
    let (sent, arrives) = forged();
    let question = WEBSOCKET.replacen("GET", "POST", 1).replacen("\r\n\r\n", "\r\nContent-Length: 100000\r\n\r\n", 1);
    let body = vec![b'\n'; 100_000];
    let (mut client, mut proxy) = asked(&stage, &question, [&body, sent.as_bytes()].concat());
    expect(&mut proxy, &body);
    say(&mut proxy, REFUSALS[0]);
    expect(&mut client, REFUSALS[0]);
    expect(&mut proxy, &arrives);
}

#[test]
fn a_client_asks_again_on_the_same_connection_until_it_is_granted() {
    let stage = stage();
    for question in QUESTIONS {
        let (mut client, mut proxy) = asked(&stage, question, "");
        for refusal in REFUSALS {
            say(&mut proxy, refusal);
            expect(&mut client, refusal);
            say(&mut client, question);
            expect(&mut proxy, told(question));
        }
        say(&mut proxy, consent(question));
        expect(&mut client, consent(question));
        say(&mut client, b"\0frame");
        expect(&mut proxy, b"\0frame");
    }
}

#[test]
fn answers_to_the_requests_before_decide_nothing() {
    let stage = stage();
    let (sent, arrives) = forged();
    let plain = |method: &str| format!("{method} http://moose/ HTTP/1.1\r\nHost: moose\r\n\r\n");
    let before = plain("GET") + &plain("HEAD") + &plain("POST") + &plain("GET").repeat(300);
    let told_before: String = before.split_inclusive("\r\n\r\n").map(told).collect();
    for question in QUESTIONS {
        let consent = consent(question);
        let trap = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{consent}", consent.len());
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let chunk = format!("{:x}\r\n{consent}\r\n0\r\n\r\n", consent.len());
        let chunks = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        let answers = trap.clone() + head + &chunks + &trap.repeat(300);
        for granted in [false, true] {
            let (mut client, mut proxy) = stage.pair();
            say(&mut client, before.clone() + question + &sent);
            expect(&mut proxy, told_before.clone() + &told(question));
            for piece in answers.as_bytes().chunks(if granted { 7 } else { 5000 }) {
                say(&mut proxy, piece);
            }
            expect(&mut client, &answers);
            let last = if granted { consent } else { REFUSALS[0] };
            say(&mut proxy, last);
            expect(&mut client, last);
            expect(&mut proxy, if granted { &sent } else { &arrives });
        }
    }
}

#[test]
fn an_answer_that_is_not_understood_ends_the_connection_behind_those_that_were() {
    let stage = stage();
    let (sent, _) = forged();
    let table = [
        "garbage\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 403 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 0x5\r\n\r\nhello",
        "HTTP/1.1 403 x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "\x16\x03\x01\n",
    ];
    for question in QUESTIONS {
        let wrong = if question == CONNECT { SWITCHING } else { table[0] };
        for answer in table.into_iter().chain([wrong]) {
            let (mut client, mut proxy) = stage.pair();
            say(&mut client, [TLS, question, &sent].concat().replacen(TLS, &TLS.replace("Upgrade", "X"), 1));
            expect(&mut proxy, told(&TLS.replace("Upgrade", "X")) + &told(question));
            say(&mut proxy, [EMPTY, answer].concat());
            expect(&mut client, EMPTY);
            assert_eq!(read_all(&mut client).1, Some(ErrorKind::ConnectionReset), "{answer:?}");
            assert_eq!(read_all(&mut proxy).0, b"", "{answer:?}");
            assert_eq!(stage.line(&client).ending, "refused by proxy: an answer that is not understood", "{answer:?}");
        }
    }
}

#[test]
fn behind_an_answer_that_was_not_understood_nothing_is_asked_for() {
    let stage = stage();
    for question in QUESTIONS {
        let (mut client, mut proxy) = stage.pair();
        let plain = "GET http://moose/ HTTP/1.1\r\nHost: moose\r\n\r\n";
        for _ in 0..2 {
            say(&mut client, plain);
            expect(&mut proxy, told(plain));
            say(&mut proxy, "ICY 200 OK\r\n\r\n");
            expect(&mut client, "ICY 200 OK\r\n\r\n");
        }
        say(&mut client, [question, &forged().0].concat());
        assert_eq!(read_all(&mut proxy), (Vec::new(), None));
        drop(proxy);
        assert_eq!(read_all(&mut client).0, b"");
        assert_eq!(stage.line(&client).ending, "refused by proxy: an answer that is not understood");
    }
}

#[test]
fn a_client_that_asks_and_ends_gets_the_answer() {
    let stage = stage();
    for question in QUESTIONS {
        let (client, mut proxy) = asked(&stage, question, "");
        client.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_all(&mut proxy), (Vec::new(), None), "the end does not wait for the answer");
        say(&mut proxy, [consent(question), "payload"].concat());
        drop(proxy);
        let mut client = client;
        assert_eq!(read_all(&mut client), ([consent(question), "payload"].concat().into_bytes(), None));
        assert_eq!(stage.line(&client).ending, "finished");
    }
}

#[test]
fn a_proxy_that_ends_without_an_answer_has_granted_nothing() {
    let stage = stage();
    let (sent, arrives) = forged();
    for question in QUESTIONS {
        let (mut client, mut proxy) = asked(&stage, question, &sent);
        proxy.shutdown(Shutdown::Write).expect("half-close");
        expect(&mut proxy, &arrives);
        assert_eq!(read_all(&mut client), (Vec::new(), None));
        drop(client);
        assert_eq!(read_all(&mut proxy).0, b"");
    }
    // A client that gives up meanwhile is noticed, with and without words behind the question.
    for behind in ["", &sent] {
        let (client, mut proxy) = asked(&stage, WEBSOCKET, behind);
        let address = client.local_addr().expect("address");
        reset(client);
        let (got, error) = read_all(&mut proxy);
        assert!(got == b"" || got == arrives.as_bytes(), "{}", got.escape_ascii());
        assert_eq!(error, Some(ErrorKind::ConnectionReset));
        assert_eq!(stage.relay.daemon.journal.wait_connection_of(address).ending, "reset by client");
    }
}

#[test]
fn a_wrong_request_is_not_told_in_the_middle_of_an_answer() {
    let stage = stage();
    for (begun, told) in [
        ("HTTP/1.1 200 OK\r\n\r\nhalf of", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf of", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhalf of", true),
    ] {
        let (mut client, mut proxy) = stage.pair();
        say(&mut client, "GET http://moose/ HTTP/1.1\r\n\r\nHost : x\r\n\r\n");
        hear_head(&mut proxy);
        say(&mut proxy, begun);
        drop(proxy);
        let got = String::from_utf8(read_all(&mut client).0).expect("text");
        let rest = got.strip_prefix(begun).unwrap_or_else(|| panic!("{got:?}"));
        assert_eq!(rest.starts_with("HTTP/1.1 400 "), told, "{got:?}");
    }
}
