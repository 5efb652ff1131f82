//! Load of every kind with faults of every kind, for `SOAK_SECONDS` (60) from `SOAK_SEED`: `make soak`.
//!
//! Every byte is checked. A connection may be lost only by a fault that explains it, and what it got before must be the
//! beginning of what was sent. In the end everything is as it was in the beginning.

use super::HEAVY;
use super::inject::{Call, Faults, Role, SHORT};
use super::scene::{ECHO, Holdings, MOOSE, Scene, attempt};
use lab::daemon::Daemon;
use lab::dice::Dice;
use lab::origin::{Origin, hex};
use lab::pattern::{Cut, Pattern};
use lab::peers::Peer;
use lab::transfer::{self, Manners, Order, Outcome, Transfer};
use lab::{AtEnd, alone, clients, number_from_env, process, report, rules, wait};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Threads that load.
const THREADS: u64 = 6;
/// Connections that are mostly silent.
const IDLE: usize = 20;
/// Nobody may wait longer than this for the next byte.
const LONGEST_STALL: Duration = Duration::from_secs(12);

/// Only what comes from the client: the proxies on cow ask moose through the same gateway. A server that writes to a client
/// which has reset its connection, and reads nothing meanwhile, keeps the rest of the upload waiting until `--fin-timeout`.
fn table(log: &str) -> String {
    let limit = "--fin-timeout 5";
    format!(
        "-r nobody -l {log} --verify 2\n\
         -s 12970 {limit} -R '-i eth1 --dport 9' cow 9\n\
         -s 12971 {limit} -R '-i eth1 --dport 7' cow 7\n\
         -s 12972 {limit} --via http -R '-i eth1 --dport 80' cow 3128\n\
         -s 12973 {limit} --via socks5 -R '-i eth1 --dport 10' cow 1080\n"
    )
}

/// What a fault may do to a connection that overlaps with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing but a delay.
    Delays,
    /// One that has not got a byte yet may be reset.
    Refuses,
    /// It may be reset.
    Resets,
    /// It may end in any way: the kernel closes what a dead process had.
    Kills,
}

/// A fault, and how long it lasted.
#[derive(Clone, Debug)]
struct Fault {
    begin: Instant,
    end: Instant,
    name: &'static str,
    /// What the name does not say.
    detail: String,
    effect: Effect,
}

/// What the load has done and met.
#[derive(Default)]
struct Record {
    connections: AtomicU64,
    bytes: AtomicU64,
    stall: Mutex<Duration>,
    lost: Mutex<Vec<Loss>>,
}

/// A connection that was cut off.
#[derive(Debug)]
#[expect(dead_code, reason = "what it was is read in panic messages only")]
struct Loss {
    what: String,
    began: Instant,
    ended: Instant,
    bytes: u64,
    cut: ErrorKind,
}

impl Loss {
    fn is_explained_by(&self, fault: &Fault) -> bool {
        // What a fault has done may show a moment later.
        let overlap = self.began <= fault.end + Duration::from_millis(500) && fault.begin <= self.ended;
        overlap
            && match fault.effect {
                Effect::Delays => false,
                Effect::Refuses => self.bytes == 0 && self.cut != ErrorKind::UnexpectedEof,
                Effect::Resets => self.cut != ErrorKind::UnexpectedEof,
                Effect::Kills => true,
            }
    }
}

impl Record {
    /// Does something with one connection and enters what came of it. Whether it was served.
    fn enter(&self, what: impl FnOnce() -> (String, Outcome)) -> bool {
        let began = Instant::now();
        let (what, outcome) = what();
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(outcome.bytes, Ordering::Relaxed);
        match outcome.cut {
            // On purpose.
            Some(ErrorKind::Other) => true,
            Some(cut) => {
                let loss = Loss { what, began, ended: Instant::now(), bytes: outcome.bytes, cut };
                self.lost.lock().expect("record").push(loss);
                false
            }
            None => {
                let mut stall = self.stall.lock().expect("record");
                *stall = stall.max(outcome.stall);
                true
            }
        }
    }
}

/// One connection of some kind.
fn connection(dice: &mut Dice) -> (String, Outcome) {
    let orders = [Order::AtOnce, Order::AfterEnd, Order::EndFirst];
    let (seed, order) = (dice.roll(1 << 40), dice.pick(&orders));
    let mut run = |to: &'static str, bits, manners: Manners| {
        let transfer = Transfer::new(seed, dice.size(bits), dice.size(bits), order);
        (format!("{to}, {transfer:?}, {manners:?}"), attempt(to, &transfer, manners))
    };
    let small = Manners::default();
    match seed % 100 {
        0..30 => run(MOOSE, 15, small),
        30..45 => run(MOOSE, 23, small),
        45..55 => run("[fd00:2::5]:9", 22, small),
        55..62 => run(MOOSE, 22, Manners { pause: Some((seed % 300_000, Duration::from_millis(seed % 500))), ..small }),
        62..70 => run(MOOSE, 22, Manners { reset_after: Some(seed % 300_000), ..small }),
        70..76 => ("a word and away".to_string(), word_and_away(dice.roll(3))),
        76..86 => ("through squid".to_string(), post(Pattern { seed, bytes: dice.size(19) })),
        86..98 => socks(seed, dice),
        _ => run(MOOSE, 26, small),
    }
}

/// A transfer through the SOCKS proxy, which ends both halves of a connection with the first one.
fn socks(seed: u64, dice: &mut Dice) -> (String, Outcome) {
    let transfer = Transfer::new(seed, dice.size(21), dice.size(21), Order::EndOnce);
    (format!("through microsocks, {transfer:?}"), attempt("10.2.0.5:10", &transfer, Manners::default()))
}

/// Connects, says a byte or nothing, and goes.
fn word_and_away(kind: u64) -> Outcome {
    let outcome = |cut| Outcome { bytes: 0, cut, stall: Duration::ZERO };
    match clients::connect(ECHO.parse().expect("an address")) {
        Ok(mut stream) => {
            // Whoever does not wait for the answer does not learn whether it has come.
            let _ = if kind == 0 { Ok(()) } else { stream.write_all(b"?") };
            if kind == 2 {
                clients::reset(stream);
            }
            outcome(None)
        }
        Err(error) => outcome(Some(error.kind())),
    }
}

/// A request with a body through the HTTP proxy; the page says what the web server has got.
fn post(body: Pattern) -> Outcome {
    let begin = Instant::now();
    let asked = || -> io::Result<String> {
        let mut stream = clients::connect("10.2.0.5:80".parse().expect("an address"))?;
        let size = body.bytes;
        let head =
            format!("POST /soak HTTP/1.1\r\nHost: 10.2.0.5\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        body.send(&mut stream, Cut::Bulk)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, page)) = answer.split_once("\r\n\r\n") else { return Err(ErrorKind::UnexpectedEof.into()) };
        match head.starts_with("HTTP/1.1 200") && page.ends_with('\n') {
            true => Ok(page.to_string()),
            false if head.starts_with("HTTP/1.1 200") => Err(ErrorKind::UnexpectedEof.into()),
            // The proxy has lost the web server.
            false => Err(ErrorKind::ConnectionReset.into()),
        }
    };
    match asked() {
        Ok(page) => {
            let sum = body.sum();
            assert!(page.ends_with(&format!(" {} {}\n", sum.bytes, hex(&sum.hash))), "{page} for {body:?}");
            Outcome { bytes: body.bytes, cut: None, stall: begin.elapsed() }
        }
        Err(error) => Outcome { bytes: 0, cut: Some(error.kind()), stall: Duration::ZERO },
    }
}

/// Connections that now and then say a word.
fn keep_idle_ones(record: &Record, over: &AtomicBool, mut dice: Dice) {
    let to: SocketAddr = ECHO.parse().expect("an address");
    let mut open: Vec<Option<(TcpStream, Instant)>> = (0..IDLE).map(|_| None).collect();
    while !over.load(Ordering::Relaxed) {
        let place = dice.roll(IDLE as u64) as usize;
        let (stream, began, bytes) = match open[place].take() {
            Some((stream, began)) => (Ok(stream), began, 1),
            None => (clients::connect(to), Instant::now(), 0),
        };
        // An empty word would have no answer, and the connection count as one that has got a byte.
        let word = vec![dice.roll(256) as u8; 1 + dice.size(13) as usize];
        let asked = Instant::now();
        match stream.and_then(|mut stream| clients::round_trip(&mut stream, &word).map(|()| stream)) {
            Ok(stream) => {
                open[place] = Some((stream, began));
                let stall = asked.elapsed();
                record.enter(|| (String::new(), Outcome { bytes: word.len() as u64, cut: None, stall }));
            }
            Err(error) => record.lost.lock().expect("record").push(Loss {
                what: "a mostly silent one".to_string(),
                began,
                ended: Instant::now(),
                bytes,
                cut: error.kind(),
            }),
        }
        // Their rhythm.
        std::thread::sleep(Duration::from_millis(dice.roll(50)));
    }
}

/// Failures of system calls that nobody may feel, and those that cost connections. No send does less than asked:
/// microsocks wants each of its questions answered in one segment.
const UNFELT: &[(Call, i32, u32)] = &[
    (Call::Accept4, libc::EMFILE, 10),
    (Call::Accept4, libc::ECONNABORTED, 2),
    (Call::Recv, libc::EAGAIN, 4),
    (Call::Recv, SHORT, 4),
    (Call::Recv, libc::EINTR, 4),
    (Call::Send, libc::EAGAIN, 4),
    (Call::Splice, libc::EAGAIN, 4),
    (Call::Splice, SHORT, 4),
    (Call::Pipe2, libc::ENFILE, 1),
    (Call::EpollWait, libc::EINTR, 3),
];
const COSTLY: &[(Call, i32, u32)] = &[
    (Call::Connect, libc::EADDRNOTAVAIL, 5),
    (Call::Socket, libc::ENFILE, 5),
    (Call::EpollCtl, libc::ENOMEM, 10),
    (Call::Recv, libc::ECONNRESET, 100),
    (Call::Splice, libc::EPIPE, 200),
];

/// Whoever makes the faults.
struct Imp<'a> {
    scene: &'a Scene,
    daemon: &'a Daemon,
    faults: &'a Faults,
    log: &'a str,
    dice: Dice,
    rotated: u64,
    injected: u64,
}

impl Imp<'_> {
    /// Does one thing, and undoes it.
    fn act(&mut self) -> Fault {
        let (begin, mut detail) = (Instant::now(), String::new());
        let (name, effect) = match self.dice.roll(16) {
            0..2 => self.kill("tproxy-worker", Effect::Kills),
            2 => self.kill("tproxy-resolver", Effect::Delays),
            3..5 => self.hang_up("reload"),
            5 => self.rotate(),
            6..9 => self.pause(),
            9..11 => self.pull_a_cable(),
            11..14 => {
                detail = self.inject(UNFELT);
                ("a failed call that nobody may feel", Effect::Delays)
            }
            _ => {
                detail = self.inject(COSTLY);
                ("a failed call that costs connections", Effect::Resets)
            }
        };
        Fault { begin, end: Instant::now(), name, detail, effect }
    }

    fn kill(&mut self, who: &'static str, effect: Effect) -> (&'static str, Effect) {
        let pids = self.daemon.family.named(who);
        if let Some(pid) = (!pids.is_empty()).then(|| self.dice.pick(&pids)) {
            process::signal(pid, Signal::SIGKILL);
            wait::until_true("it is dead", || !process::alive(pid));
        }
        (who, effect)
    }

    fn hang_up(&self, name: &'static str) -> (&'static str, Effect) {
        self.daemon.signal(Signal::SIGHUP);
        (name, Effect::Delays)
    }

    fn rotate(&mut self) -> (&'static str, Effect) {
        self.rotated += 1;
        fs::rename(self.log, format!("{}.{}", self.log, self.rotated % 3)).expect("rename");
        fs::write(self.log, "").expect("log");
        self.hang_up("a log turned over")
    }

    fn pause(&mut self) -> (&'static str, Effect) {
        let who = self.dice.pick(&["tproxy", "tproxy-worker", "tproxy-resolver"]);
        let pids = self.daemon.family.named(who);
        pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
        std::thread::sleep(Duration::from_millis(200));
        pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGCONT));
        ("a stopped process", Effect::Delays)
    }

    fn pull_a_cable(&mut self) -> (&'static str, Effect) {
        let cable = self.dice.pick(&["eth1", "eth3"]);
        self.scene.lab.gateway.run(&["ip", "link", "set", cable, "down"]);
        std::thread::sleep(Duration::from_millis(200));
        self.scene.lab.gateway.run(&["ip", "link", "set", cable, "up"]);
        ("a pulled cable", Effect::Refuses)
    }

    /// Has one of these calls fail for a while; gives which, and the error.
    fn inject(&mut self, kinds: &[(Call, i32, u32)]) -> String {
        let (call, error, every) = self.dice.pick(kinds);
        self.faults.strike(Role::Worker, call, error, every);
        std::thread::sleep(Duration::from_millis(300));
        self.faults.heal(call);
        self.injected += self.faults.hits(call);
        format!("{call:?}, {error}")
    }
}

#[test]
fn soak() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let span = Duration::from_secs(number_from_env("SOAK_SECONDS", 60));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let seed = number_from_env("SOAK_SEED", now.as_millis() as u64);
    report(&format!("soak: {span:?}, SOAK_SEED={seed}"));

    let gateway = &scene.lab.gateway;
    // The addresses of a port whose cable is pulled are to stay, as those of IPv4 do.
    gateway.sysctl(&["net.ipv6.conf.all.keep_addr_on_down=1", "net.ipv6.conf.eth1.keep_addr_on_down=1"]);
    gateway.sysctl(&["net.ipv6.conf.eth3.keep_addr_on_down=1"]);
    let origin = scene.lab.moose.enter(|| Origin::start("[::]:80"));
    let far = scene.lab.moose.enter(|| transfer::serve("[::]:10", &scene.ledger));
    let (squid, socks) = (Peer::squid(&scene.lab.cow), Peer::microsocks(&scene.lab.cow));

    let clean = rules::saved(gateway);
    let log = scene.file("access.log");
    let faults = Faults::new();
    let mut daemon = faults.preload(scene.launch_table(&table(&log))).ready();
    let running = rules::saved(gateway);
    scene.assert_serves("before");
    let (guardian, before) = (daemon.family.guardian(), Holdings::at_rest(daemon.family.worker()));
    let guardian_before = Holdings::at_rest(guardian);

    let (record, over) = (Record::default(), AtomicBool::new(false));
    let begin = Instant::now();
    let (happened, injected) = std::thread::scope(|scope| {
        let _end = AtEnd(&over);
        for thread in 0..THREADS {
            let (record, over, client) = (&record, &over, &scene.lab.client);
            scope.spawn(move || {
                let mut dice = Dice(seed ^ (thread + 1).wrapping_mul(0x1234_5678_9abc_def1));
                client.enter(move || {
                    while !over.load(Ordering::Relaxed) {
                        if !record.enter(|| connection(&mut dice)) {
                            // Whoever is refused does not come again at once.
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                });
            });
        }
        scope.spawn(|| scene.lab.client.enter(|| keep_idle_ones(&record, &over, Dice(seed ^ 0x55))));
        let mut imp = Imp {
            scene: &scene,
            daemon: &daemon,
            faults: &faults,
            log: &log,
            dice: Dice(seed),
            rotated: 0,
            injected: 0,
        };
        let mut happened = Vec::new();
        while begin.elapsed() < span {
            // Their rhythm.
            std::thread::sleep(Duration::from_millis(100 + imp.dice.roll(900)));
            happened.push(imp.act());
        }
        (happened, imp.injected)
    });

    let stall = *record.stall.lock().expect("record");
    let lost = record.lost.into_inner().expect("record");
    let bytes = record.bytes.into_inner() + scene.ledger.bytes.load(Ordering::Relaxed);
    let mut kinds = BTreeMap::new();
    happened.iter().for_each(|fault| *kinds.entry(fault.name).or_insert(0) += 1);
    report(&format!(
        "soak: {} connections and {} MiB checked in {:.0?}; {} faults ({kinds:?}), {injected} calls failed; {} \
         connections refused and {} lost, the longest stall {stall:.1?}",
        record.connections.into_inner(),
        bytes >> 20,
        begin.elapsed(),
        happened.len(),
        lost.iter().filter(|loss| loss.bytes == 0).count(),
        lost.iter().filter(|loss| loss.bytes > 0).count(),
    ));
    let ends = |line: &String| line.contains(" was killed by ") || line.contains(" ended with status ");
    let strange: Vec<String> =
        daemon.journal.lines().into_iter().filter(|l| ends(l) && !l.contains("SIGKILL")).collect();
    assert!(strange.is_empty() && daemon.journal.count("internal error") == 0, "{strange:#?}");
    scene.ledger.assert_right();
    let unexplained: Vec<&Loss> =
        lost.iter().filter(|loss| !happened.iter().any(|fault| loss.is_explained_by(fault))).collect();
    let at = |instant: Instant| format!("{:.3}", instant.saturating_duration_since(begin).as_secs_f64());
    let told: Vec<String> =
        happened.iter().map(|f| format!("{} to {}: {} {}", at(f.begin), at(f.end), f.name, f.detail)).collect();
    let losses = unexplained.iter().take(20);
    let losses: Vec<String> = losses.map(|l| format!("{} to {}: {l:?}", at(l.began), at(l.ended))).collect();
    assert!(unexplained.is_empty(), "no fault explains {}: {losses:#?}\n{told:#?}", unexplained.len());
    let killed = |at: &Instant| {
        let kills = happened.iter().filter(|fault| fault.effect == Effect::Kills);
        kills.into_iter().any(|kill| kill.begin <= *at && *at <= kill.end + Duration::from_secs(5))
    };
    // What a proxy between us and the server makes of a reset is its own affair.
    let behind_proxy = |what: &str| what.contains("order: EndOnce");
    let truncated: Vec<String> = (scene.ledger.truncated().into_iter())
        .filter(|(instant, what)| !killed(instant) && !behind_proxy(what))
        .map(|(instant, what)| format!("{}: {what}", at(instant)))
        .collect();
    assert!(truncated.is_empty(), "cut off, and it looked like a regular end: {truncated:#?}\n{told:#?}");
    assert!(stall < LONGEST_STALL, "somebody waited {stall:?} for a byte");

    // All is as it was.
    drop((squid, socks));
    wait::until_true("nothing is under way", || {
        let family = &daemon.family;
        family.named("tproxy-worker").len() == 1 && family.named("tproxy-rules").is_empty()
    });
    scene.assert_serves("after all that");
    let worker = daemon.family.worker();
    before.wait_returned(worker, "the worker");
    guardian_before.wait_returned(guardian, "the guardian");
    let (after, guardian_after) = (Holdings::of(worker), Holdings::of(guardian));
    assert!(after.memory <= before.memory + (2 << 20), "memory of the worker: {before:?}, {after:?}");
    assert!(guardian_after.memory <= guardian_before.memory + (1 << 20), "{guardian_before:?}, {guardian_after:?}");
    assert_eq!(daemon.family.guardian(), guardian);
    assert_eq!(rules::saved(gateway), running);
    // The connection tracking may have more: nobody repeats a reset that was sent while a cable was pulled.
    wait::until_true("no connection is left on the gateway", || gateway.sockets_in("established") == 0);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::saved(gateway), clean);
    report(&format!(
        "soak: worker {before:?} before, {after:?} after; guardian {guardian_before:?} before, {guardian_after:?} after; \
         {} requests through squid",
        origin.seen().len()
    ));
    drop(far);
}
