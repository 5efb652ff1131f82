//! `--via http`: requests on their way to a proxy, cut and stalled in every way.

use super::*;
use lab::origin::Origin;
use lab::speaker::{ORIGINAL, Stage, Tongue, behind_a_balancer, hear_head, introduced, line_of, original, stranger};
use std::io::{BufRead, BufReader};

const HELLO: &[u8] = include_bytes!("../fixtures/openssl.hello");

/// Where clients of the web go: a URL need not name this port.
fn web() -> SocketAddr {
    "192.0.2.7:80".parse().expect("address")
}

/// A web server in the place of the proxy, which tells how it was asked.
fn with_origin(options: &str) -> (Origin, LoopbackRelay) {
    let address = local(free_port());
    let origin = Origin::start(&address.to_string());
    let relay = behind_a_balancer(&format!("--via http {options}"), address);
    (origin, relay)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: moose\r\n\r\n")
}

/// A request with a long head, so that a thousand of them fill all that is on the way.
fn long_get(host: &str, number: usize) -> String {
    format!("GET {host}/{number} HTTP/1.1\r\nHost: moose\r\nX: {:x>15000}\r\n\r\n", "")
}

/// Reads the head of an answer, and then its body, whose length it tells.
fn hear_answer(from: &mut impl BufRead) -> String {
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut answer).expect("an answer") > 0, "the connection ended after {answer:?}");
    }
    let (_, rest) = answer.split_once("Content-Length: ").expect("a length");
    let length = rest.split("\r\n").next().and_then(|digits| digits.parse().ok()).expect("a length");
    let mut body = vec![0; length];
    from.read_exact(&mut body).expect("the body");
    answer + str::from_utf8(&body).expect("text")
}

/// An answer of ours, whole.
fn is_whole(answer: &[u8], status: &str) -> bool {
    let mut reader = BufReader::new(answer);
    answer.starts_with(status.as_bytes()) && hear_answer(&mut reader).len() == answer.len()
}

/// The targets and the bodies' lengths of all that was asked for.
fn asked(origin: &Origin) -> Vec<String> {
    origin.seen().iter().map(|seen| format!("{} {} {}", seen.method, seen.target, seen.body.bytes)).collect()
}

#[test]
fn a_head_may_be_as_long_as_the_option_says_and_not_longer() {
    for (options, most) in
        [("", 16_384), ("--max-head 65536", 65_536), ("--max-head 1048576", 1 << 20), ("--max-head 1024", 1024)]
    {
        let (origin, relay) = with_origin(options);
        let head = |size: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: moose\r\nAuthorization: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: moose\r\nAuthorization: {}\r\n\r\n", "x".repeat(size - frame))
        };
        // As a whole, in segments, and others before and behind it.
        for piece in [usize::MAX, 1448, 100] {
            let mut client = introduced(&relay, web());
            let all = [get("/before"), head(most), head(most - 1), get("/behind")].concat();
            let mut writer = client.try_clone().expect("clone");
            let sending = std::thread::spawn(move || {
                all.as_bytes().chunks(piece.min(all.len())).for_each(|piece| writer.write_all(piece).expect("write"));
                writer.shutdown(Shutdown::Write).expect("half-close");
            });
            let (answers, error) = read_all(&mut client);
            assert_eq!((String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count(), error), (4, None));
            sending.join().expect("client");
            let lengths: Vec<_> = origin
                .seen()
                .iter()
                .rev()
                .take(4)
                .map(|seen| seen.header("Authorization").map_or(0, str::len))
                .collect();
            assert_eq!((lengths[0], lengths[1] + 1, lengths[2], lengths[3]), (0, lengths[2], head_value(most), 0));
        }
        let mut client = introduced(&relay, web());
        let _ = client.write_all(head(most + 1).as_bytes());
        let (answer, _) = read_all(&mut client);
        assert!(is_whole(&answer, "HTTP/1.1 431 "), "{options}: {}", answer.escape_ascii());
        assert_eq!(line_of(&relay, &client).ending, "bad request: a head that is too long");
    }
}

/// The length of the one long value in a head of this length.
fn head_value(head: usize) -> usize {
    head - "GET / HTTP/1.1\r\nHost: moose\r\nAuthorization: \r\n\r\n".len()
}

#[test]
fn requests_in_single_bytes_are_rewritten_one_and_all() {
    let (origin, relay) = with_origin("");
    let mut client = introduced(&relay, web());
    let requests = [
        get("/one"),
        "POST /two HTTP/1.1\r\nHost: moose:8080\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\nab".to_owned(),
        "PUT /three HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00A;b=c\r\n0123456789\r\n0\r\nT: x\r\n\r\n"
            .to_owned(),
        get("/four"),
    ];
    requests.concat().bytes().for_each(|byte| client.write_all(&[byte]).expect("write"));
    client.shutdown(Shutdown::Write).expect("half-close");
    let (answers, error) = read_all(&mut client);
    assert_eq!((String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count(), error), (4, None));
    let wanted = [
        "GET http://moose/one 0",
        "POST http://moose:8080/two 20",
        "PUT http://192.0.2.7/three 15",
        "GET http://moose/four 0",
    ];
    assert_eq!(asked(&origin), wanted);
    let line = line_of(&relay, &client);
    assert_eq!((line.down, line.ending.as_str()), (answers.len() as u64, "finished"));
}

#[test]
fn a_head_that_does_not_end_in_time_is_not_waited_for_however_it_drips() {
    let stage = Stage::new("--handshake-timeout 1 --via http");
    let mut stopped = stage.client();
    let mut dripping = stage.client();
    let mut patient = stage.client();
    let start = Instant::now();
    // A request that was answered does not give the next one more time.
    let mut later = stage.client();
    let proxies: Vec<TcpStream> = (0..4).map(|_| stage.proxy()).collect();
    later.write_all((get("/one") + "GET /tw").as_bytes()).expect("write");
    stopped.write_all(b"GET / HTTP/1.1\r\nHost: mo").expect("write");
    let mut writer = dripping.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        for byte in b"GET /a/long/path/that/takes/its/time HTTP/1.1\r\n" {
            // The rhythm of the client is the subject of the test.
            std::thread::sleep(Duration::from_millis(60));
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    for client in [&mut stopped, &mut dripping, &mut later] {
        // It is the writer of the dripping one that may get to know of the reset.
        assert_eq!(read_all(client).0, b"");
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(3), "took {took:?}");
        assert_eq!(stage.line(client).ending, "handshake timed out");
    }
    sending.join().expect("client");
    // Who has not begun with a request may take any time.
    assert!(start.elapsed() > Duration::from_secs(1));
    patient.write_all(get("/late").as_bytes()).expect("write");
    patient.shutdown(Shutdown::Write).expect("half-close");
    let answered = proxies.into_iter().any(|mut proxy| {
        let (got, _) = read_all(&mut proxy);
        got.starts_with(b"GET http://moose:443/late ") && proxy.write_all(b"answer").is_ok()
    });
    assert!(answered);
    assert_eq!(read_all(&mut patient), (b"answer".to_vec(), None));
}

#[test]
fn a_client_may_take_its_time_between_two_requests() {
    let stage = Stage::new("--handshake-timeout 1 --via http");
    let (mut client, mut proxy) = stage.pair();
    for path in ["/one", "/two"] {
        client.write_all(get(path).as_bytes()).expect("write");
        assert!(hear_head(&mut proxy).starts_with(&format!("GET http://moose:443{path} ")));
        // The pause is the subject of the test.
        std::thread::sleep(Duration::from_millis(1500));
    }
    drop(proxy);
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut client), (Vec::new(), None));
    assert_eq!(stage.line(&client).ending, "finished");
}

#[test]
fn a_thousand_requests_in_one_write_are_answered_in_order_by_a_proxy_that_is_slow() {
    const COUNT: usize = 1000;
    let stage = Stage::new("--handshake-timeout 1 --via http");
    let (mut client, mut proxy) = (introduced(&stage.relay, web()), stage.proxy());
    let pid = stage.relay.daemon.relaying_pid();
    let memory = process::anonymous_memory(pid);
    let all: String = (0..COUNT).map(|number| long_get("", number)).collect();
    let mut writer = client.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        writer.write_all(all.as_bytes()).expect("requests");
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    let answering = std::thread::spawn(move || {
        // Longer than a head may take: it is not the client who is slow. The pause is the subject of the test.
        std::thread::sleep(Duration::from_millis(1500));
        for number in 0..COUNT {
            let wanted = long_get("http://moose", number);
            let mut got = vec![0; wanted.len()];
            proxy.read_exact(&mut got).unwrap_or_else(|error| panic!("request {number}: {error}"));
            assert!(got == wanted.as_bytes(), "request {number} came as {}", String::from_utf8_lossy(&got));
            let page = format!("page {number}");
            write!(proxy, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()).expect("answer");
        }
        assert_eq!(read_all(&mut proxy), (Vec::new(), None));
    });
    let mut reader = BufReader::new(client.try_clone().expect("clone"));
    let mut most = 0;
    for number in 0..COUNT {
        assert!(hear_answer(&mut reader).ends_with(&format!("page {number}")), "answer {number}");
        most = most.max(process::anonymous_memory(pid));
    }
    answering.join().expect("proxy");
    sending.join().expect("client");
    assert_eq!(read_all(&mut client), (Vec::new(), None));
    let held = most.saturating_sub(memory);
    assert!(held < 256 * 1024, "{held} bytes of memory for one connection");
    assert_eq!(stage.line(&client).ending, "finished");
}

#[test]
fn what_is_wrong_is_told_after_the_answers_to_what_was_right() {
    let (origin, relay) = with_origin("");
    let mut client = introduced(&relay, web());
    let wrong = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    client.write_all([&get("/1"), &get("/2"), wrong, &get("/3")].concat().as_bytes()).expect("write");
    let mut reader = BufReader::new(client.try_clone().expect("clone"));
    for number in 1..=2 {
        let answer = hear_answer(&mut reader);
        assert!(answer.contains(&format!("GET http://moose/{number} ")), "{answer}");
    }
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("an end");
    assert!(is_whole(&rest, "HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(asked(&origin), ["GET http://moose/1 0", "GET http://moose/2 0"]);
    let line = line_of(&relay, &client);
    assert_eq!(line.ending, "bad request: more than one Host");
}

#[test]
fn requests_that_wait_for_a_slow_proxy_are_not_lost_when_a_wrong_one_follows() {
    const COUNT: usize = 1000;
    let stage = Stage::new("--via http");
    let (mut client, mut proxy) = (introduced(&stage.relay, web()), stage.proxy());
    let all: String = (0..COUNT).map(|number| long_get("", number)).collect();
    let wanted: String = (0..COUNT).map(|number| long_get("http://moose", number)).collect();
    let mut writer = client.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        writer.write_all([all.as_bytes(), b"\r\n\rwrong"].concat().as_slice()).expect("requests");
        wait_acknowledged(&writer);
    });
    // The pause is the subject of the test: everything on the way is full.
    std::thread::sleep(Duration::from_millis(300));
    let (got, error) = read_all(&mut proxy);
    assert_eq!((got.len(), error), (wanted.len(), None));
    assert!(got == wanted.as_bytes());
    sending.join().expect("client");
    proxy.write_all(b"answers").expect("write");
    drop(proxy);
    let (got, error) = read_all(&mut client);
    assert_eq!(error, None);
    assert!(got.starts_with(b"answers") && is_whole(&got[7..], "HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&got));
}

#[test]
fn a_first_request_that_is_wrong_gets_a_whole_answer_whatever_follows_it() {
    let stage = Stage::new("--via http");
    let unread = vec![b'x'; 100 * 1024];
    let long = ["GET / HTTP/1.1\r\nX: ", &"x".repeat(20_000)].concat();
    let table: [(&[u8], &str, &str); 3] = [
        (b"\x16\x03\x01\x02\x00\x01", "HTTP/1.1 400 ", "bad request: not HTTP"),
        (b"GET / HTTP/1.1\nHost: moose\n\n", "HTTP/1.1 400 ", "bad request: a bare LF"),
        (long.as_bytes(), "HTTP/1.1 431 ", "bad request: a head that is too long"),
    ];
    for (words, status, ending) in table {
        for more in [&b""[..], &unread] {
            let mut client = stage.client();
            client.write_all(&[words, more].concat()).expect("write");
            let mut proxy = stage.proxy();
            let (answer, error) = read_all(&mut client);
            assert!(is_whole(&answer, status), "{ending}: {}", String::from_utf8_lossy(&answer));
            // With unread bytes the kernel ends it in its own way.
            assert!(error.is_none() || !more.is_empty() || words.len() > 16_384, "{ending}: {error:?}");
            let line = stage.line(&client);
            assert_eq!((line.ending.as_str(), line.up, line.down), (ending, 0, answer.len() as u64));
            assert_eq!(read_all(&mut proxy).0, b"", "nothing of it came to the proxy");
        }
    }
}

#[test]
fn a_head_that_ends_in_the_middle_is_told_so_and_one_that_breaks_off_is_a_reset() {
    let stage = Stage::new("--via http");
    let (mut client, mut proxy) = stage.pair();
    client.write_all(b"GET / HTT").expect("write");
    client.shutdown(Shutdown::Write).expect("half-close");
    let (answer, error) = read_all(&mut client);
    assert!(is_whole(&answer, "HTTP/1.1 400 ") && error.is_none(), "{error:?}");
    assert_eq!(stage.line(&client).ending, "bad request: it ends in the middle");
    assert_eq!(read_all(&mut proxy).0, b"");
    for first in ["", &get("/first")] {
        let (mut client, mut proxy) = stage.pair();
        let address = client.local_addr().expect("address");
        client.write_all([first, "GET / HTT"].concat().as_bytes()).expect("write");
        if !first.is_empty() {
            hear_head(&mut proxy);
        }
        wait_acknowledged(&client);
        reset(client);
        assert_eq!(read_all(&mut proxy), (Vec::new(), Some(ErrorKind::ConnectionReset)));
        assert_eq!(stage.relay.daemon.journal.wait_connection_of(address).ending, "reset by client");
    }
}

#[test]
fn a_large_body_waits_for_a_proxy_that_stalls_and_the_next_request_is_rewritten() {
    let body = Pattern { seed: 61, bytes: 100 * MIB };
    let stage = Stage::new("--handshake-timeout 1 --via http");
    let (mut client, proxy) = (introduced(&stage.relay, web()), stage.proxy());
    let mut writer = client.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        write!(writer, "POST /body HTTP/1.1\r\nHost: moose\r\nContent-Length: {}\r\n\r\n", body.bytes).expect("head");
        body.send(&mut writer, Cut::Bulk).expect("body");
        writer.write_all(get("/next").as_bytes()).expect("next");
    });
    let mut reader = BufReader::new(proxy);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).expect("head");
    }
    assert!(head.starts_with("POST http://moose/body HTTP/1.1\r\nHost: moose\r\n"), "{head}");
    let got = sum_with_pause(&mut (&mut reader).take(body.bytes), MIB, Duration::from_millis(1200)).expect("body");
    assert_eq!(got, body.sum());
    let mut next = vec![0; get("http://moose/next").len()];
    reader.read_exact(&mut next).expect("next");
    assert_eq!(next, get("http://moose/next").as_bytes());
    sending.join().expect("client");
    write!(reader.get_mut(), "HTTP/1.1 204 No Content\r\n\r\n").expect("answer");
    drop(reader);
    assert_eq!(read_all(&mut client), (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), None));
}

#[test]
fn a_body_behind_many_requests_that_grow_stays_in_order() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new();
    let file = directory.file("auth");
    std::fs::write(&file, format!("{0}:{0}\n", "x".repeat(250))).expect("auth file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let (origin, relay) = with_origin(&format!("--auth-file {file}"));
    let body = Pattern { seed: 65, bytes: 60_000 };
    let mut client = introduced(&relay, web());
    let mut all = get("/small").repeat(40).into_bytes();
    all.extend(format!("POST /body HTTP/1.1\r\nHost: moose\r\nContent-Length: {}\r\n\r\n", body.bytes).bytes());
    body.send(&mut all, Cut::Bulk).expect("a vector takes all");
    client.write_all(&all).expect("write");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut client).1, None);
    assert_eq!((origin.seen().len(), origin.last().body), (41, body.sum()));
}

#[test]
fn chunks_of_every_size_pass_as_they_are() {
    let (origin, relay) = with_origin("");
    let pattern = Pattern { seed: 62, bytes: 4 * MIB };
    let mut data = Vec::new();
    pattern.send(&mut data, Cut::Bulk).expect("a vector takes all");
    let mut request = b"PUT /chunks HTTP/1.1\r\nHost: moose\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = &data[..];
    for size in [1, 2, 15, 4096, 16_384, 16_385, 70_000, 200_000].into_iter().cycle() {
        let (chunk, more) = rest.split_at(size.min(rest.len()));
        write!(request, "{:x};x=y\r\n", chunk.len()).expect("a vector takes all");
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
    request.extend_from_slice(b"0\r\nDigest: none\r\n\r\n");
    request.extend_from_slice(get("/after").as_bytes());
    for size in [request.len(), 1448, 16_384] {
        let mut client = introduced(&relay, web());
        let (mut writer, request) = (client.try_clone().expect("clone"), request.clone());
        let sending = std::thread::spawn(move || {
            request.chunks(size).for_each(|piece| writer.write_all(piece).expect("write"));
            writer.shutdown(Shutdown::Write).expect("half-close");
        });
        let (answers, error) = read_all(&mut client);
        sending.join().expect("client");
        assert_eq!(error, None, "{}", String::from_utf8_lossy(&answers));
        let seen = origin.seen();
        let [.., chunks, after] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((chunks.target.as_str(), &chunks.body), ("http://moose/chunks", &pattern.sum()), "cut by {size}");
        assert_eq!(after.target, "http://moose/after");
    }
}

#[test]
fn after_an_upgrade_both_ways_are_plain() {
    let (up, down) = (Pattern { seed: 63, bytes: 10 * MIB }, Pattern { seed: 64, bytes: 10 * MIB });
    let stage = Stage::new("--via http");
    let (mut client, mut proxy) = (introduced(&stage.relay, web()), stage.proxy());
    client
        .write_all(b"GET /socket HTTP/1.1\r\nHost: moose\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .expect("write");
    assert!(hear_head(&mut proxy).starts_with("GET http://moose/socket "));
    proxy.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").expect("write");
    hear_head(&mut client);
    let send = |mut to: TcpStream, pattern: Pattern| {
        std::thread::spawn(move || {
            pattern.send(&mut to, Cut::Bulk).expect("send");
            to.shutdown(Shutdown::Write).expect("half-close");
        })
    };
    let sending = [send(client.try_clone().expect("clone"), up), send(proxy.try_clone().expect("clone"), down)];
    let hearing = std::thread::spawn(move || sum_with_pause(&mut proxy, MIB, Duration::from_millis(200)));
    assert_eq!(sum_of(&mut client).expect("download"), down.sum());
    assert_eq!(hearing.join().expect("reader").expect("upload"), up.sum());
    sending.into_iter().for_each(|thread| thread.join().expect("sender"));
    assert_eq!(stage.line(&client).ending, "finished");
}

#[test]
fn a_client_that_has_asked_and_ended_gets_the_whole_answer() {
    let page = Pattern { seed: 65, bytes: 8 * MIB };
    let stage = Stage::new("--via http");
    let (mut client, mut proxy) = (introduced(&stage.relay, web()), stage.proxy());
    client.write_all(b"GET /long HTTP/1.0\r\n\r\n").expect("write");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut proxy), (b"GET http://192.0.2.7/long HTTP/1.0\r\n\r\n".to_vec(), None));
    let sending = std::thread::spawn(move || page.send(&mut proxy, Cut::Bulk).expect("page"));
    let got = sum_with_pause(&mut client, MIB, Duration::from_millis(200)).expect("page");
    assert_eq!(got, page.sum());
    sending.join().expect("proxy");
    assert_eq!(stage.line(&client).ending, "finished");
}

#[test]
fn what_is_not_http_goes_through_a_tunnel_in_order_by_its_name_if_wanted() {
    for (options, target) in [("", ORIGINAL), ("--sni", "cow.example.com:443")] {
        let stage = Stage::new(&format!("--via http --via-fallback connect {options}"));
        let pattern = Pattern { seed: 66, bytes: MIB };
        // Cut within the name, and before anything tells what it is.
        for size in [1000, 140, 1] {
            let (mut client, mut proxy) = stage.pair();
            let mut writer = client.try_clone().expect("clone");
            let sending = std::thread::spawn(move || {
                HELLO.chunks(size).for_each(|piece| writer.write_all(piece).expect("write"));
                pattern.send(&mut writer, Cut::Bulk).expect("more");
                writer.shutdown(Shutdown::Write).expect("half-close");
            });
            assert_eq!(Tongue::Connect.hear_request(&mut proxy), target, "cut by {size}");
            proxy.write_all(&[Tongue::Connect.consent(), b"welcome"].concat()).expect("consent");
            let mut hello = vec![0; HELLO.len()];
            proxy.read_exact(&mut hello).expect("hello");
            assert_eq!(hello, HELLO, "cut by {size}");
            assert_eq!(sum_of(&mut proxy).expect("more"), pattern.sum());
            sending.join().expect("client");
            drop(proxy);
            assert_eq!(read_all(&mut client), (b"welcome".to_vec(), None));
            let line = stage.line(&client);
            assert_eq!((line.up, line.ending.as_str()), (MIB + HELLO.len() as u64, "finished"));
        }
    }
}

#[test]
fn a_word_that_is_no_request_and_has_no_end_goes_through_the_tunnel_when_nothing_follows() {
    let stage = Stage::new("--via http --via-fallback connect --sni");
    for words in [&b"QUIT"[..], &HELLO[..20]] {
        let (mut client, mut proxy) = stage.pair();
        client.write_all(words).expect("write");
        client.shutdown(Shutdown::Write).expect("half-close");
        Tongue::Connect.accept(&mut proxy);
        assert_eq!(read_all(&mut proxy), (words.to_vec(), None));
        proxy.write_all(b"bye").expect("write");
        drop(proxy);
        assert_eq!(read_all(&mut client), (b"bye".to_vec(), None));
        assert_eq!(stage.line(&client).ending, "finished");
    }
}

#[test]
fn a_tunnel_for_what_is_not_http_can_be_refused_too() {
    let stage = Stage::new("--handshake-timeout 1 --via http --via-fallback connect");
    let (mut refused, mut proxy) = stage.pair();
    refused.write_all(HELLO).expect("write");
    hear_head(&mut proxy);
    proxy.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").expect("write");
    let (mut unheard, mut silent) = stage.pair();
    unheard.write_all(HELLO).expect("write");
    hear_head(&mut silent);
    expect_reset(&mut refused);
    assert_eq!(stage.line(&refused).ending, "refused by proxy: HTTP/1.1 403 Forbidden");
    expect_reset(&mut unheard);
    assert_eq!(stage.line(&unheard).ending, "handshake timed out");
}

#[test]
fn requests_behind_the_header_of_a_balancer_are_rewritten_in_its_segment_too() {
    let (origin, relay) = with_origin("--forwarded both");
    let (mut client, introduction) = stranger(&relay, original());
    client.write_all(&[&introduction, get("/").as_bytes()].concat()).expect("write");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert!(read_all(&mut client).0.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let seen = origin.last();
    assert_eq!(seen.target, "http://moose:443/");
    assert_eq!(seen.header("Forwarded"), Some("for=127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-For"), Some("127.0.0.1"));
}
