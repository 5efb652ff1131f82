//! `--via connect` and `--via socks5` with real proxies, and with stubborn ones.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::HEAVY;
use super::via::{Office, text};
use lab::netns::Net;
use lab::pattern::{Cut, Pattern, Sum, sum_of};
use lab::peers::{self, PASSWORD, Peer, USER};
use lab::servers::Server;
use lab::{alone, clients, process, raise_open_files, report, wait};

const CONNECT: &str = "--via connect cow 3128";
const SOCKS: &str = "--via socks5 cow 1080";

/// A kind of proxy, and how tproxy speaks to it.
type Kind = (fn(&Net) -> Peer, &'static str);

/// The proxies that serve everybody.
const OPEN: &[Kind] =
    &[(Peer::squid, CONNECT), (Peer::danted, SOCKS), (Peer::microsocks, SOCKS), (Peer::tinyproxy, CONNECT)];

/// The proxies that want a password.
const GUARDED: &[Kind] = &[
    (Peer::squid_with_password, CONNECT),
    (Peer::danted_with_password, SOCKS),
    (Peer::microsocks_with_password, SOCKS),
];

/// A web server with TLS on moose, and the words that make curl trust it alone.
fn secret_server(office: &Office) -> (Peer, [String; 2]) {
    let server = Peer::nginx_tls(
        &office.lab.moose,
        "DNS:moose.example,DNS:moose6.example,DNS:only-the-proxy-knows.example,IP:10.2.0.5,IP:fd00:2::5",
    );
    let trust = ["--cacert".to_owned(), server.file("certificate.pem")];
    (server, trust)
}

/// What curl gets over https.
fn secret(office: &Office, trust: &[String; 2], more: &[&str]) -> String {
    office.curl(&[&[trust[0].as_str(), trust[1].as_str()], more].concat())
}

#[test]
fn https_goes_by_address_without_sni_and_by_name_with_it() {
    let Some(office) = Office::new() else { return };
    let (_server, trust) = secret_server(&office);
    let squid = Peer::squid(&office.lab.cow);
    let mut daemon = office.relay("443", CONNECT);
    let page = secret(&office, &trust, &["https://moose.example/"]);
    assert_eq!(page, "secret of moose.example moose.example");
    squid.wait_for("CONNECT 10.2.0.5:443 200");
    secret(&office, &trust, &["https://moose6.example/"]);
    squid.wait_for("CONNECT [fd00:2::5]:443 200");
    assert!(!squid.log().contains("example"), "{}", squid.log());
    assert!(daemon.journal.wait_connections(2).iter().all(|line| line.ending == "finished"));
    assert_eq!(daemon.stop(), 0);
    let _daemon = office.relay("443", &format!("--sni {CONNECT}"));
    secret(&office, &trust, &["https://moose.example/"]);
    squid.wait_for("CONNECT moose.example:443 200");
    secret(&office, &trust, &["https://moose6.example/"]);
    squid.wait_for("CONNECT moose6.example:443 200");
    // An address is no server name (RFC 6066, 3): curl sends none.
    assert_eq!(secret(&office, &trust, &["https://10.2.0.5/"]), "secret of  10.2.0.5");
    secret(&office, &trust, &["https://[fd00:2::5]/"]);
    // It logs a connection after its end.
    for address in ["10.2.0.5", "[fd00:2::5]"] {
        let line = format!("CONNECT {address}:443");
        wait::until_true("both logged", || squid.count(&line) >= 2);
        assert_eq!(squid.count(&line), 2, "{}", squid.log());
    }
}

#[test]
fn every_proxy_connects_both_families_by_address_and_by_name() {
    let Some(office) = Office::new() else { return };
    let (_server, trust) = secret_server(&office);
    office.lab.cow.hosts("10.2.0.5 moose only-the-proxy-knows.example\n10.3.0.3 cow\n");
    for (proxy, way) in OPEN {
        let _proxy = proxy(&office.lab.cow);
        let mut daemon = office.relay("443", way);
        for host in ["moose.example", "moose6.example", "10.2.0.5", "[fd00:2::5]"] {
            assert!(secret(&office, &trust, &[&format!("https://{host}/")]).starts_with("secret of "), "{way} {host}");
        }
        assert_eq!(daemon.stop(), 0);
        let _daemon = office.relay("443", &format!("--sni {way}"));
        // Nobody has this address: only who is told the name gets there.
        let resolve = ["--resolve", "only-the-proxy-knows.example:443:10.2.0.77"];
        let page = secret(&office, &trust, &[&resolve[..], &["https://only-the-proxy-knows.example/"]].concat());
        assert_eq!(page, "secret of only-the-proxy-knows.example only-the-proxy-knows.example", "{way}");
        assert!(secret(&office, &trust, &["https://[fd00:2::5]/"]).starts_with("secret of "), "{way}");
    }
}

#[test]
fn a_proxy_that_is_reached_over_ipv6_connects_both_families() {
    let Some(office) = Office::new() else { return };
    let (_server, trust) = secret_server(&office);
    for (proxy, way) in OPEN {
        let _proxy = proxy(&office.lab.cow);
        let daemon = office.relay("443", &way.replace("cow", "fd00:3::3"));
        for host in ["moose.example", "moose6.example"] {
            assert!(secret(&office, &trust, &[&format!("https://{host}/")]).starts_with("secret of "), "{way} {host}");
        }
        let lines = daemon.journal.wait_connections(2);
        assert!(lines.iter().all(|line| line.upstream.starts_with("[fd00:3::3]:")), "{way}: {lines:?}");
        let originals: Vec<&str> = lines.iter().map(|line| line.original.as_str()).collect();
        assert_eq!(originals, ["10.2.0.5:443", "[fd00:2::5]:443"], "{way}");
    }
}

#[test]
fn a_host_header_is_a_name_too() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", &format!("--sni {CONNECT}"));
    assert!(office.curl(&["http://moose.example/page"]).starts_with("GET /page "));
    squid.wait_for("CONNECT moose.example:80 200");
    assert!(origin.last().header("Via").is_none(), "a tunnel is not a proxy: {:?}", origin.last());
}

#[test]
fn the_right_password_opens_and_a_wrong_one_is_told_in_the_log() {
    let Some(office) = Office::new() else { return };
    let (_server, trust) = secret_server(&office);
    let (right, wrong) = (office.auth_file(USER, PASSWORD), office.auth_file(USER, "wrong"));
    for (proxy, way) in GUARDED {
        let proxy = proxy(&office.lab.cow);
        let mut daemon = office.relay("443", &format!("--auth-file {right} {way}"));
        assert!(secret(&office, &trust, &["https://moose.example/"]).starts_with("secret of "), "{way}");
        assert_eq!(daemon.stop(), 0);
        let known = daemon.journal.text();
        for more in [format!("--auth-file {wrong} {way}"), way.to_string()] {
            let mut daemon = office.relay("443", &more);
            clients::expect_connect_reset(office.lab.client.connect("10.2.0.5:443"));
            let ending = daemon.journal.wait_connections(1).remove(0).ending;
            assert!(ending.starts_with("refused by proxy: "), "{more}: {ending}");
            assert!(*way != CONNECT || ending.contains(" 407 "), "{more}: {ending}");
            report(&format!("{more}: {ending}"));
            assert_eq!(daemon.stop(), 0);
            let said = known.clone() + &daemon.journal.text();
            assert!(!said.contains("Sesame") && !said.contains("wrong:") && !said.contains(":wrong"), "{said}");
        }
        drop(proxy);
    }
}

#[test]
fn a_refusal_resets_the_client_and_names_the_reason() {
    let Some(office) = Office::new() else { return };
    for (proxy, way) in OPEN {
        let _proxy = proxy(&office.lab.cow);
        let daemon = office.relay("99", way);
        for to in ["10.2.0.5:99", "[fd00:2::5]:99"] {
            clients::expect_connect_reset(office.lab.client.connect(to));
        }
        let lines = daemon.journal.wait_connections(2);
        let reason = if *way == CONNECT { " 403 " } else { "refused" };
        for line in &lines {
            assert!(line.ending.strip_prefix("refused by proxy: ").is_some_and(|why| why.contains(reason)), "{line:?}");
            assert_eq!((line.up, line.down), (0, 0), "{line:?}");
        }
        report(&format!("{way}: {}", lines[0].ending));
    }
}

#[test]
fn when_the_proxy_is_down_clients_go_where_they_were_going_if_asked_for() {
    let Some(office) = Office::new() else { return };
    let _servers = mail_servers(&office);
    for more in ["--sni --via connect", "--via socks5"] {
        let mut daemon = office.relay("25", &format!("--fallback {more} cow 3128"));
        office.lab.client.enter(|| time_to_banner("10.2.0.5:25"));
        assert_eq!(daemon.journal.wait_connections(1)[0].upstream, "10.2.0.5:25", "{more}");
        assert_eq!(daemon.stop(), 0);
    }
}

/// A server that speaks first, on the ports 25 and 26 of moose.
fn mail_servers(office: &Office) -> [Server; 2] {
    ["[::]:25", "[::]:26"].map(|at| {
        office.lab.moose.enter(|| {
            Server::threaded(at, |mut stream| {
                let _ = stream.set_nodelay(true);
                let _ = stream.write_all(BANNER);
                // Until the client is gone.
                let _ = stream.read(&mut [0]);
            })
        })
    })
}

const BANNER: &[u8] = b"220 moose ESMTP\r\n";

fn time_to_banner(to: &str) -> Duration {
    let begin = Instant::now();
    let mut stream = clients::connect(to.parse().expect("an address")).expect("connect");
    let mut banner = [0; BANNER.len()];
    stream.read_exact(&mut banner).expect("the banner");
    assert_eq!(banner, BANNER);
    begin.elapsed()
}

/// A delay that comes from waiting for something is there every time. A busy machine's is not: the quickest tenth tells.
fn quick(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 10]
}

#[test]
fn a_server_that_speaks_first_is_not_delayed() {
    let _alone = alone(&HEAVY);
    let Some(office) = Office::new() else { return };
    let _servers = mail_servers(&office);
    // With --sni we may wait for what the client says first, but not for long, since this one says nothing.
    for (more, bound) in [("", Duration::from_millis(5)), ("--sni ", Duration::from_millis(250))] {
        // But for tinyproxy, which takes longer itself.
        for (proxy, way) in &OPEN[..3] {
            let _proxy = proxy(&office.lab.cow);
            let _daemon = office.relay("25", &format!("{more}{way}"));
            let rounds = if more.is_empty() { 51 } else { 5 };
            let (direct, through): (Vec<_>, Vec<_>) = office
                .lab
                .client
                .enter(|| (0..rounds).map(|_| (time_to_banner("10.2.0.5:26"), time_to_banner("10.2.0.5:25"))).unzip());
            let (direct, through) = (quick(direct), quick(through));
            report(&format!("banner {more}{way}: direct {direct:?}, through the proxy {through:?}"));
            assert!(through < direct + bound, "{more}{way}: {direct:?} direct, {through:?} through the proxy");
        }
    }
}

/// Sends `out` and takes as many bytes as `wanted` at the same time.
fn swap(stream: &TcpStream, out: Pattern, wanted: u64) -> std::io::Result<Sum> {
    let reader = stream.try_clone()?;
    let reading = std::thread::spawn(move || sum_of(&mut reader.take(wanted)));
    out.send(&mut &*stream, Cut::Bulk)?;
    reading.join().expect("reader")
}

#[test]
fn streams_pass_a_tunnel_unharmed_in_both_directions_at_once() {
    let _alone = alone(&HEAVY);
    let Some(office) = Office::new() else { return };
    let (up, down) = (Pattern { seed: 1, bytes: 64 << 20 }, Pattern { seed: 2, bytes: 48 << 20 });
    for (proxy, way) in OPEN {
        let (_server, accepted) = office.lab.moose.enter(|| Server::handing_over("[::]:7"));
        let _proxy = proxy(&office.lab.cow);
        let daemon = office.relay("7", way);
        let stream = office.lab.client.connect("10.2.0.5:7").expect("connect");
        let client = stream.local_addr().expect("address");
        let serving = std::thread::spawn(move || {
            let stream = accepted.recv_timeout(clients::IO_PATIENCE).expect("accepted");
            // The connection is kept until the client ends it: not every proxy hands on the end of one direction alone.
            (swap(&stream, down, up.bytes), stream)
        });
        assert_eq!(swap(&stream, up, down.bytes).expect("the download"), down.sum(), "{way}");
        let (got, kept) = serving.join().expect("server");
        assert_eq!(got.expect("the upload"), up.sum(), "{way}");
        drop((stream, kept));
        let line = daemon.journal.wait_connection_of(client);
        assert_eq!((line.up, line.down), (up.bytes, down.bytes), "{way}: {line:?}");
    }
}

/// A proxy of our own making on cow's port 3128: it reads the request, and does then what the test wants.
fn proxy_that(office: &Office, act: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
    office.lab.cow.enter(|| {
        Server::threaded("[::]:3128", move |mut stream| {
            let _ = stream.set_nodelay(true);
            read_head(&mut stream);
            act(stream);
        })
    })
}

/// Reads up to an empty line and not a byte more, or to the end.
fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
}

#[test]
fn bytes_that_come_with_the_answer_are_delivered() {
    let Some(office) = Office::new() else { return };
    let _proxy = proxy_that(&office, |mut stream| {
        let _ = stream.write_all(b"HTTP/1.0 200 Connection established\r\nProxy-agent: test\r\n\r\n220 early\r\n");
    });
    let _daemon = office.relay("25", CONNECT);
    let mut stream = office.lab.client.connect("10.2.0.5:25").expect("connect");
    assert_eq!(clients::read_all(&mut stream), (b"220 early\r\n".to_vec(), None));
}

#[test]
fn early_data_of_the_client_keeps_its_order_and_its_end() {
    let Some(office) = Office::new() else { return };
    let (early, late) = (Pattern { seed: 3, bytes: 300_000 }, Pattern { seed: 4, bytes: 3_000_000 });
    let (go, wait) = channel::<()>();
    let (tell, told) = channel();
    let pair = std::sync::Mutex::new((wait, tell));
    let _proxy = proxy_that(&office, move |mut stream| {
        let pair = pair.lock().expect("channels");
        let _ = pair.0.recv();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let _ = pair.1.send(sum_of(&mut stream));
        let _ = stream.write_all(b"after the end");
    });
    for more in ["", "--sni "] {
        let mut daemon = office.relay("7", &format!("{more}{CONNECT}"));
        let mut stream = office.lab.client.connect("10.2.0.5:7").expect("connect");
        let mut all = Vec::new();
        early.send(&mut all, Cut::Bulk).expect("a vector takes all");
        stream.write_all(&all).expect("early");
        go.send(()).expect("proxy");
        let mut more_data = Vec::new();
        late.send(&mut more_data, Cut::Bulk).expect("a vector takes all");
        stream.write_all(&more_data).expect("late");
        stream.shutdown(Shutdown::Write).expect("end");
        all.extend(more_data);
        let got = told.recv_timeout(clients::IO_PATIENCE).expect("report").expect("the proxy's side");
        assert_eq!(got, sum_of(&mut &all[..]).expect("sum"), "{more}");
        assert_eq!(clients::read_all(&mut stream), (b"after the end".to_vec(), None), "{more}");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_client_that_ends_before_the_proxy_answers_is_still_answered() {
    let Some(office) = Office::new() else { return };
    let _proxy = proxy_that(&office, |mut stream| {
        // The pause is the subject of the test, not a way to wait for something.
        std::thread::sleep(Duration::from_millis(300));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let sum = sum_of(&mut stream).map(|sum| sum.bytes);
        let _ = stream.write_all(format!("{sum:?}").as_bytes());
    });
    let _daemon = office.relay("7", CONNECT);
    let mut stream = office.lab.client.connect("10.2.0.5:7").expect("connect");
    stream.write_all(b"question").expect("send");
    stream.shutdown(Shutdown::Write).expect("end");
    assert_eq!(clients::read_all(&mut stream), (b"Ok(8)".to_vec(), None));
}

/// What a proxy is called here, what it does, and how the connection ends.
type Stubborn = (&'static str, fn(TcpStream), &'static str);

#[test]
fn a_proxy_that_does_not_answer_as_it_should_is_given_up() {
    let Some(office) = Office::new() else { return };
    let answers: &[Stubborn] = &[
        ("silent", |mut stream| drop(stream.read(&mut [0])), "handshake timed out"),
        ("gone", drop, "refused by proxy: "),
        ("no HTTP", |mut stream| drop(stream.write_all(b"220 moose ESMTP\r\n\r\n")), "refused by proxy: "),
        ("endless", |mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {}, "refused by proxy: "),
        ("refusing", |mut stream| drop(stream.write_all(b"HTTP/1.1 503 Busy \x1b[31m\r\n\r\n")), "refused by proxy: "),
    ];
    for (name, act, ending) in answers {
        let _proxy = proxy_that(&office, act);
        let daemon = office.relay("25", &format!("--handshake-timeout 1 {CONNECT}"));
        clients::expect_connect_reset(office.lab.client.connect("10.2.0.5:25"));
        let line = daemon.journal.wait_connections(1).remove(0);
        assert!(line.ending.starts_with(ending), "{name}: {line:?}");
        assert!(!line.ending.contains('\x1b'), "{name}: {line:?}");
        assert!(line.seconds < 3.0, "{name}: {line:?}");
    }
}

#[test]
fn a_client_that_resets_during_the_handshake_is_noticed() {
    let Some(office) = Office::new() else { return };
    let (sender, receiver) = channel();
    let sender = std::sync::Mutex::new(sender);
    let _proxy = proxy_that(&office, move |mut stream| {
        let _ = stream.set_read_timeout(Some(clients::IO_PATIENCE));
        let sender = sender.lock().expect("sender");
        // It has been asked.
        let _ = sender.send(Ok(0));
        let _ = sender.send(stream.read(&mut [0]));
    });
    let daemon = office.relay("25", CONNECT);
    let stream = office.lab.client.connect("10.2.0.5:25").expect("connect");
    assert!(receiver.recv_timeout(clients::IO_PATIENCE).is_ok_and(|asked| asked.is_ok()));
    clients::reset(stream);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "reset by client");
    let end = receiver.recv_timeout(clients::IO_PATIENCE).expect("the proxy's side");
    assert!(
        !matches!(&end, Ok(1)) && !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "{end:?}"
    );
}

#[test]
fn a_browser_sees_the_secret_through_squid() {
    let _alone = alone(&HEAVY);
    let Some(office) = Office::new() else { return };
    let (_server, _) = secret_server(&office);
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("443", &format!("--sni {CONNECT}"));
    let done = peers::browse(&office.lab.client, &office.files.file("profile"), "https://moose.example/");
    let page = text(&done.stdout);
    assert!(page.contains("secret of moose.example moose.example"), "{page}{}", text(&done.stderr));
    squid.wait_for("CONNECT moose.example:443 200");
}

/// What the worker's memory grows by for an idle connection after `heads` heads were read and answered by the proxy.
fn memory_of_an_idle_connection(office: &Office, way: &str, heads: usize) -> u64 {
    let kept = std::sync::Mutex::new(Vec::new());
    let _proxy = office.lab.cow.enter(|| {
        Server::inline("[::]:3128", 1, move |mut stream| {
            for _ in 0..heads {
                read_head(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            kept.lock().expect("kept").push(stream);
        })
    });
    let daemon = office.relay("80", way);
    let worker = daemon.family.worker();
    let open = |count: usize| -> Vec<TcpStream> {
        office.lab.client.enter(|| {
            let address = "10.2.0.5:80".parse().expect("address");
            let one = |_| {
                let mut stream = clients::connect(address).expect("connect");
                stream.write_all(b"GET / HTTP/1.1\r\nHost: moose\r\n\r\n").expect("send");
                read_head(&mut stream);
                stream
            };
            (0..count).map(one).collect()
        })
    };
    // As many again: what is made once, on the way to so many, is no part of one.
    let warm = open(MANY);
    let before = process::anonymous_memory(worker);
    let all = open(MANY);
    let grown = process::anonymous_memory(worker).saturating_sub(before);
    drop((warm, all));
    grown / MANY as u64
}

/// So many connections that what one of them costs can be told, and what a worker takes once (some 90 KiB) cannot.
const MANY: usize = 4000;

#[test]
fn an_idle_connection_through_a_proxy_costs_little() {
    let _alone = alone(&HEAVY);
    raise_open_files();
    // With HTTP it has to be remembered where in which request the client is, and the proxy in which answer.
    for (way, heads, bound) in [
        ("cow 3128", 1, 300),
        (CONNECT, 2, 300),
        ("--sni --via connect cow 3128", 2, 300),
        ("--via http cow 3128", 1, 544),
    ] {
        // Machines of its own for each: a daemon with so many connections takes a while to end.
        let Some(office) = Office::new() else { return };
        let bytes = memory_of_an_idle_connection(&office, way, heads);
        report(&format!("an idle connection {way}: {bytes} bytes"));
        assert!(bytes <= bound, "{way}: {bytes} bytes");
    }
}
