//! Clients that mean harm: what they do to a connection that was there before them, to one that comes while they are
//! there, and what is left when they have gone.

use super::{HEAVY, MOOSE, MOOSE6, Scene, Server};
use lab::attack::{Innocent, Trips, begin_from, connect_from, send_urgent};
use lab::daemon::Daemon;
use lab::netns::Net;
use lab::{alone, clients, process, raise_open_files, report, wait};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Whose connection is watched, and where the others come from.
const INNOCENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 66));

/// moose's services: one sends back what it gets, one never says or reads a thing, one sends as much as there is room for.
const ECHO: u16 = 7;
const SILENT: u16 = 9;
const GENEROUS: u16 = 19;

/// The longest that an attack may hold up somebody else's connection: far more than on a machine that has nothing else
/// to do, far less than what a client takes for a dead connection.
const STALL: Duration = Duration::from_secs(1);

/// How long an attack goes on that does so until it is stopped.
const SPAN: Duration = Duration::from_millis(1200);

/// One of moose's services.
fn moose(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 2, 0, 5], port))
}

/// The machines, with a client of two addresses and the services on moose.
struct Siege {
    scene: Scene,
    _servers: [Server; 3],
}

/// Takes connections, fills them with bytes until there is no room for more, and keeps them.
fn generous(at: &str) -> Server {
    let kept = Mutex::new(Vec::new());
    Server::inline(at, 1, move |mut stream| {
        stream.set_nonblocking(true).expect("non-blocking");
        while stream.write(&[7; 65536]).is_ok() {}
        kept.lock().expect("kept").push(stream);
    })
}

/// Stands for 127.0.0.1 of whoever gets the client's packets.
const THEIR_LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// Makes packets of the client that are for 127.0.0.1 and do not come from there: what a neighbour of the gateway can send
/// that has a mind to. No kernel does so by itself, so they get and lose this address behind the kernel's back.
fn forge_loopback(client: &Net) {
    client.run(&["nft", "add", "table", "ip", "forge"]);
    for (chain, hook, rule) in [
        ("out", "postrouting priority 300", format!("ip daddr {THEIR_LOOPBACK} ip daddr set 127.0.0.1")),
        ("in", "prerouting priority -300", format!("ip saddr 127.0.0.1 ip saddr set {THEIR_LOOPBACK}")),
    ] {
        client.run(&["nft", &format!("add chain ip forge {chain} {{ type filter hook {hook}; }}")]);
        client.run(&["nft", &format!("add rule ip forge {chain} {rule}")]);
    }
}

impl Siege {
    fn new() -> Option<Siege> {
        let scene = Scene::new()?;
        raise_open_files();
        scene.lab.client.run(&["ip", "addr", "add", &format!("{ATTACKER}/24"), "dev", "eth0"]);
        forge_loopback(&scene.lab.client);
        for net in [&scene.lab.client, &scene.lab.gateway, &scene.lab.moose] {
            net.sysctl(&["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"]);
        }
        let servers = scene.lab.moose.enter(|| {
            let at = |port: u16| format!("10.2.0.5:{port}");
            [Server::echo(&at(ECHO)), Server::silent(&at(SILENT)), generous(&at(GENEROUS))]
        });
        Some(Siege { scene, _servers: servers })
    }

    fn client(&self) -> &Net {
        &self.scene.lab.client
    }

    /// tproxy on the gateway between the client and moose's services.
    fn relay(&self, options: &str) -> Daemon {
        let options: Vec<&str> = options.split_whitespace().collect();
        let ours = ["-d", "-l", "/dev/null", "-s", "8081", "-r", "nobody", "-t"];
        let services = ["-R", "-m multiport --dports 7,9,19"];
        self.scene.relay(&[&ours[..], &services, &options].concat())
    }

    /// Somebody's connection to moose's echo.
    fn innocent(&self) -> Innocent {
        Innocent::new(self.client().enter(|| connect_from(INNOCENT, moose(ECHO))).expect("connect"))
    }
}

/// An attack, what tproxy is started with, and what must hold while it lasts.
struct Attack {
    name: &'static str,
    options: &'static str,
    /// Done in the client's namespace; gives the connections that are to be held for a while, and how often it did what
    /// it does.
    act: fn() -> (Vec<TcpStream>, usize),
    /// Looked at while the connections are held.
    meanwhile: fn(&Siege, &Daemon),
}

/// What there is to tell of an attack.
struct Row {
    name: &'static str,
    /// How often it did what it does.
    acts: usize,
    /// How many of its connections were let in at once.
    held: isize,
    before: Trips,
    during: Trips,
    memory: isize,
}

/// Connections from the attacker to a service, all at once.
fn crowd(port: u16, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect_from(ATTACKER, moose(port)).expect("connect")).collect()
}

/// Attempts from three threads until the time is over; gives how many there were.
fn storm(attempt: impl Fn() + Sync) -> usize {
    let (count, end) = (AtomicUsize::new(0), Instant::now() + SPAN);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while Instant::now() < end {
                    attempt();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    count.into_inner()
}

/// Connections that are reset after `use_it`.
fn storm_of_resets(port: u16, use_it: impl Fn(&mut TcpStream) + Sync) -> usize {
    storm(|| {
        if let Ok(mut stream) = connect_from(ATTACKER, moose(port)) {
            use_it(&mut stream);
            clients::reset(stream);
        }
    })
}

/// The client's packets that answer the gateway's first one of a connection from the attacker are dropped.
fn drop_answers(siege: &Siege, verb: &str) {
    let rule = ["-p", "tcp", "-d", "10.1.0.66", "--tcp-flags", "SYN,ACK", "SYN,ACK", "-j", "DROP"];
    siege.client().run(&[&["iptables", "-w", verb, "INPUT"], &rule[..]].concat());
}

/// Somebody new gets an answer.
fn served(siege: &Siege) {
    siege.innocent().talk_for(Duration::ZERO);
    let mut client = siege.client().enter(|| connect_from(INNOCENT, moose(ECHO))).expect("connect");
    clients::round_trip(&mut client, b"served").expect("somebody new is served");
}

/// Somebody new is connected and gets no answer for now.
fn waits(siege: &Siege) {
    let mut client = siege.client().enter(|| connect_from(INNOCENT, moose(ECHO))).expect("the backlog takes it");
    client.write_all(b"?").expect("write");
    client.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    let error = client.read(&mut [0]).expect_err("all places are taken");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "waiting, not reset");
}

const FLOOD: &str = "flood beyond -m";
const LIMITED: &str = "the same, --max-per-source";
const HALF_OPEN: &str = "half-open connections";

fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: FLOOD,
            options: "-m 300",
            act: || {
                let all = crowd(SILENT, 2000);
                let count = all.len();
                (all, count)
            },
            meanwhile: |siege, daemon| {
                assert!(process::descriptor_count(daemon.family.worker()) < 2 * 300 + 100, "more than -m are let in");
                waits(siege);
            },
        },
        Attack {
            name: LIMITED,
            options: "-m 300 --max-per-source 50",
            act: || {
                let all: Vec<_> = (0..2000).filter_map(|_| connect_from(ATTACKER, moose(SILENT)).ok()).collect();
                (all, 2000)
            },
            meanwhile: |siege, daemon| {
                daemon.journal.wait_for("too many from this source: 10.1.0.66");
                served(siege);
            },
        },
        Attack {
            name: "slow writers",
            options: "",
            act: || {
                let mut all = crowd(SILENT, 500);
                let (end, mut count) = (Instant::now() + SPAN, 0);
                while Instant::now() < end {
                    for stream in &mut all {
                        stream.write_all(b".").expect("write");
                    }
                    count += all.len();
                }
                (all, count)
            },
            meanwhile: |siege, _| served(siege),
        },
        Attack {
            name: "readers with a closed window",
            options: "",
            act: || {
                let all = crowd(GENEROUS, 500);
                let count = all.len();
                (all, count)
            },
            meanwhile: |siege, _| served(siege),
        },
        Attack {
            name: "one byte, then silence",
            options: "",
            act: || {
                let mut all = crowd(SILENT, 3000);
                all.iter_mut().for_each(|stream| stream.write_all(b".").expect("write"));
                let count = all.len();
                (all, count)
            },
            meanwhile: |siege, _| served(siege),
        },
        Attack {
            name: HALF_OPEN,
            options: "",
            act: || {
                let all: Vec<_> = (0..5000).map(|_| begin_from(ATTACKER, moose(SILENT)).expect("SYN")).collect();
                let count = all.len();
                (all, count)
            },
            meanwhile: |siege, daemon| {
                assert!(process::descriptor_count(daemon.family.worker()) < 60, "what is half open is nothing yet");
                served(siege);
            },
        },
        Attack {
            name: "resets",
            options: "",
            act: || (Vec::new(), storm_of_resets(SILENT, |stream| drop(stream.write_all(b".")))),
            meanwhile: |siege, _| served(siege),
        },
        Attack {
            name: "resets in the middle of a stream",
            options: "",
            act: || (Vec::new(), storm_of_resets(GENEROUS, |stream| drop(stream.read(&mut [0; 20_000])))),
            meanwhile: |siege, _| served(siege),
        },
        Attack {
            name: "urgent data",
            options: "",
            act: || {
                let all = crowd(ECHO, 20);
                let (end, mut count) = (Instant::now() + SPAN, 0);
                while Instant::now() < end {
                    for mut stream in &all {
                        stream.write_all(b"before").expect("write");
                        send_urgent(stream).expect("urgent");
                        // The urgent byte comes back in its place.
                        let mut back = [0; 7];
                        stream.read_exact(&mut back).expect("echo");
                        assert_eq!(&back, b"before!");
                        count += 1;
                    }
                }
                (all, count)
            },
            meanwhile: |siege, _| served(siege),
        },
        Attack {
            name: "to the port itself, --only-redirected",
            options: "--only-redirected",
            act: || {
                let direct = SocketAddr::from(([10, 1, 0, 1], 8081));
                let attempt = || {
                    clients::expect_connect_reset(connect_from(ATTACKER, direct));
                };
                (Vec::new(), storm(attempt))
            },
            meanwhile: |siege, daemon| {
                daemon.journal.wait_for("not redirected: 10.1.0.66");
                served(siege);
            },
        },
        Attack {
            name: "to 127.0.0.1 through -t",
            options: "",
            act: || {
                let loopback = SocketAddr::from((THEIR_LOOPBACK, ECHO));
                let attempt = || {
                    clients::expect_connect_reset(connect_from(ATTACKER, loopback));
                };
                (Vec::new(), storm(attempt))
            },
            meanwhile: |siege, daemon| {
                daemon.journal.wait_for("wanted to go to 127.0.0.1:7, loopback address");
                served(siege);
            },
        },
    ]
}

/// What the worker has open, pipes that wait for the next stream not counted, and its memory.
fn holdings(worker: i32) -> (isize, isize) {
    let descriptors = process::descriptors(worker).iter().filter(|target| !target.starts_with("pipe:")).count();
    (descriptors as isize, process::anonymous_memory(worker) as isize)
}

/// Keeps the connections of an attack for the rest of its time, and looks at what must hold meanwhile.
fn withstand(siege: &Siege, daemon: &Daemon, attack: &Attack, idle: isize) -> (isize, usize) {
    let begin = Instant::now();
    let (all, acts) = siege.client().enter(attack.act);
    let of_the_attack = || (holdings(daemon.family.worker()).0 - idle) / 2;
    let held = wait::until("the worker has let in whom it lets in", || {
        let (before, ()) = (of_the_attack(), std::thread::sleep(Duration::from_millis(50)));
        (before == of_the_attack()).then_some(before)
    });
    (attack.meanwhile)(siege, daemon);
    // The length of the measurement.
    std::thread::sleep(SPAN.saturating_sub(begin.elapsed()));
    // An end alone would be kept for the service to have its say.
    all.into_iter().for_each(clients::reset);
    (held, acts)
}

fn under(siege: &Siege, attack: &Attack) -> Row {
    let daemon = siege.relay(attack.options);
    let worker = daemon.family.worker();
    let mut innocent = siege.innocent();
    // The first bytes of all, for which tables and buffers are made.
    innocent.talk_for(Duration::from_millis(100));
    let (pipe_ends, (descriptors, memory)) = process::at_rest(|| (process::pipe_ends(worker), holdings(worker)));
    let before = innocent.talk_for(Duration::from_millis(600));
    let half_open = attack.name == HALF_OPEN;
    if half_open {
        drop_answers(siege, "-I");
    }
    let (during, (held, acts)) = innocent.talk_during(|| withstand(siege, &daemon, attack, descriptors));
    if half_open {
        drop_answers(siege, "-D");
    }
    wait::until_true("the worker has nothing left of the attack", || holdings(worker).0 <= descriptors);
    served(siege);
    wait::until_true("nor of those who came later", || holdings(worker).0 <= descriptors);
    assert_eq!(daemon.family.worker(), worker, "the worker has lived through it");
    // 32 pipes, and 16 large ones, are kept for the next streams.
    assert!(process::pipe_ends(worker) <= pipe_ends + 96, "pipes");
    Row { name: attack.name, acts, held, before, during, memory: holdings(worker).1 - memory }
}

#[test]
fn no_attack_holds_up_a_connection_that_was_there_before() {
    let Some(siege) = Siege::new() else { return };
    let _alone = alone(&HEAVY);
    let rows: Vec<Row> = attacks().iter().map(|attack| under(&siege, attack)).collect();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let line = |row: &Row| {
        let (before, during) = (milliseconds(row.before.p99()), milliseconds(row.during.p99()));
        let (longest, kib) = (milliseconds(row.during.longest()), row.memory / 1024);
        let Row { name, acts, held, .. } = row;
        format!("  {name:38} {acts:6} {held:6} {before:8.2} {during:8.2} {longest:8.1} {kib:+6}\n")
    };
    report(&format!(
        "hostile: what was done, how many connections of it were held at once, round trips of 200 bytes of an innocent \
         connection in ms (p99 before, p99 during, the longest), and KiB more than before when all was over\n\
         \x20 {:38} {:>6} {:>6} {:>8} {:>8} {:>8} {:>6}\n{}",
        "attack",
        "acts",
        "held",
        "before",
        "during",
        "longest",
        "KiB",
        rows.iter().map(line).collect::<String>()
    ));
    for row in &rows {
        // Others' work on this machine is not the attack's.
        let bound = STALL + 10 * row.before.p99();
        assert!(row.during.longest() < bound, "{}: {:?}", row.name, row.during.longest());
        assert!(row.during.count() > 10, "{}: only {} round trips", row.name, row.during.count());
        // 3,000 connections have had a place in a table each; what is left of that is for the next ones.
        assert!(row.memory < 2 * 1024 * 1024, "{}: {} bytes of memory are left", row.name, row.memory);
    }
    let held = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.held);
    assert_eq!(held(FLOOD), Some(299), "as many as -m allows beside the innocent one");
    assert_eq!(held(LIMITED), Some(50), "as many as --max-per-source allows");
}

#[test]
fn a_client_does_not_reach_the_gateway_itself_through_it_and_the_gateway_does() {
    let Some(siege) = Siege::new() else { return };
    let gateway = &siege.scene.lab.gateway;
    let (_server, accepted) = gateway.enter(|| Server::handing_over("[::]:7"));
    let daemon = siege.scene.relay(&["-d", "-s", "8081", "-r", "nobody", "-t", "-O", "-R", "--dport 7"]);
    let own = ["10.1.0.1:7", "10.2.0.1:7", "[fd00:1::1]:7", "[fd00:3::1]:7"].map(|to| (to, "address of this host"));
    let forged = format!("{THEIR_LOOPBACK}:7");
    for (to, ground) in [&own[..], &[("127.0.0.1:7", "loopback address")]].concat() {
        clients::expect_connect_reset(siege.client().connect(if to == "127.0.0.1:7" { &forged } else { to }));
        let line =
            wait::until("the line", || daemon.journal.connections().into_iter().find(|line| line.original == to));
        assert_eq!((line.ending, line.upstream.as_str()), (format!("forbidden: {ground}"), "-"), "{to}");
    }
    accepted.try_recv().expect_err("nobody has reached the gateway");
    served(&siege);
    for to in ["127.0.0.1:7", "10.1.0.1:7", "[::1]:7"] {
        let _client = gateway.connect(to).expect("connect");
        accepted.recv_timeout(clients::IO_PATIENCE).expect("the gateway's own connection");
    }
}

#[test]
fn where_only_redirected_clients_may_come_those_of_both_families_are_served() {
    let Some(scene) = Scene::new() else { return };
    let daemon =
        scene.relay(&["-d", "--only-redirected", "-s", "12970", "-r", "nobody", "-R", "--dport 80", "cow", "80"]);
    assert_eq!([scene.page(MOOSE), scene.page(MOOSE6)], ["cow", "cow"]);
    for direct in ["10.1.0.1:12970", "[fd00:1::1]:12970"] {
        clients::expect_connect_reset(scene.lab.client.connect(direct));
        let found = || daemon.journal.connections().into_iter().find(|line| line.original == direct);
        assert_eq!(wait::until("the line", found).ending, "not redirected");
    }
}
