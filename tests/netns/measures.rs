//! Figures that are ratios: two ways to do the same, in turn on the same machine, so that what else it does hits both.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{HEAVY, MOOSE, Scene, Server};
use lab::daemon::Daemon;
use lab::netns::Net;
use lab::{alone, clients, process, report};

/// The middle one.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// How many bytes a second come through a connection, once what waited in it is through.
fn throughput(stream: &mut TcpStream, warm_up: Duration, span: Duration) -> f64 {
    let mut buffer = vec![0; 256 * 1024];
    let mut read_for = |span: Duration| {
        let (begin, mut bytes) = (Instant::now(), 0);
        while begin.elapsed() < span {
            bytes += stream.read(&mut buffer).expect("read");
        }
        bytes as f64 / begin.elapsed().as_secs_f64()
    };
    read_for(warm_up);
    read_for(span)
}

#[test]
fn kernel_forwarding_is_as_fast_as_the_same_rule_added_by_hand() {
    const PAIRS: usize = 11;
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let endless = |mut stream: TcpStream| while stream.write_all(&[7; 128 * 1024]).is_ok() {};
    let _source = scene.lab.cow.enter(|| Server::threaded("[::]:9", endless));
    let daemon = scene.relay(&["-d", "--kernel", "-R", "-d moose --dport 9", "10.3.0.3", "9"]);
    // The same for port 10.
    for rule in [
        "PREROUTING -p tcp -d 10.2.0.5 --dport 10 -j DNAT --to-destination 10.3.0.3:9",
        "POSTROUTING -p tcp -d 10.3.0.3 --dport 9 -m conntrack --ctstate DNAT --ctorigdstport 10 -j MASQUERADE",
    ] {
        let words: Vec<&str> = ["iptables", "-w", "-t", "nat", "-A"].into_iter().chain(rule.split(' ')).collect();
        scene.lab.gateway.run(&words);
    }
    let [mut ours, mut by_hand] =
        ["10.2.0.5:9", "10.2.0.5:10"].map(|to| scene.lab.client.connect(to).expect("connect"));
    let (warm_up, span) = (Duration::from_millis(30), Duration::from_millis(150));
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    let fair = |ratios: &[f64]| (0.8..1.25).contains(&median(ratios.to_vec()));
    // A machine that is busy with something else needs more of them.
    for pair in 0..4 * PAIRS {
        if pair >= PAIRS && fair(&ratios) {
            break;
        }
        let measure = |stream: &mut TcpStream| throughput(stream, warm_up, span);
        // Whoever is first in a pair must not always be the same.
        let (a, b) = if pair % 2 == 0 {
            let a = measure(&mut ours);
            (a, measure(&mut by_hand))
        } else {
            let b = measure(&mut by_hand);
            (measure(&mut ours), b)
        };
        rates.push(a * 8.0 / 1e9);
        ratios.push(a / b);
    }
    let ratio = median(ratios.clone());
    report(&format!("measures: --kernel {:.1} Gbit/s, {ratio:.3} of the same rule by hand", median(rates)));
    assert!(fair(&ratios), "{ratio}");
    drop(daemon);
}

/// Lets this thread, and those that it starts, run on these processors only; gives those on which it could before.
fn run_on(set: &CpuSet) -> CpuSet {
    let before = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    sched_setaffinity(Pid::from_raw(0), set).expect("affinity");
    before
}

/// Fetches pages for `span` from four threads on the processors of `set`; gives how many a second.
fn request_rate(client: &Net, to: &str, set: &CpuSet, span: Duration) -> f64 {
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let to = to.parse().expect("an address");
    let begin = Instant::now();
    client.enter(|| {
        run_on(set);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        assert_eq!(clients::fetch(to).expect("page"), "cow");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // The length of the measurement.
            std::thread::sleep(span);
            over.store(true, Ordering::Relaxed);
        });
    });
    count.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

/// Seconds of processor time that the workers have used so far.
fn worker_time(daemon: &Daemon) -> f64 {
    daemon.family.named("tproxy-worker").iter().map(|pid| process::cpu_ticks(*pid)).sum::<u64>() as f64 / 100.0
}

/// What makes the load (clients and servers) has the first processor, the workers have all of them. On two processors
/// that leaves one for the workers, and a second worker can only win what the load leaves of the first.
#[test]
fn two_workers_against_one() {
    const PAIRS: usize = 3;
    let everywhere = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    let first = (0..CpuSet::count()).find(|cpu| everywhere.is_set(*cpu).unwrap_or(false)).expect("a processor");
    let mut load = CpuSet::new();
    load.set(first).expect("a processor");
    run_on(&load);
    let scene = Scene::new();
    run_on(&everywhere);
    let Some(scene) = scene else { return };
    let _alone = alone(&HEAVY);
    let one = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"]);
    let two = scene.relay(&["-d", "-w", "2", "-s", "12971", "-r", "nobody", "-R", "-d moose --dport 81", "cow", "80"]);
    let span = Duration::from_millis(700);
    let measure = |to: &str| request_rate(&scene.lab.client, to, &load, span);
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (a, b) = (measure(MOOSE), measure("10.2.0.5:81"));
        rates.push(a);
        ratios.push(b / a);
    }
    let busy = |daemon: &Daemon| 100.0 * worker_time(daemon) / (PAIRS as f64 * span.as_secs_f64());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    report(&format!(
        "measures: {processors} processors, the load on one of them: -w 1 {:.0} connections a second, worker {:.0} % busy; \
         -w 2 {:.2} times that, workers {:.0} % busy",
        median(rates),
        busy(&one),
        median(ratios),
        busy(&two)
    ));
    // Both of the two have worked.
    let ticks: Vec<u64> = two.family.named("tproxy-worker").iter().map(|pid| process::cpu_ticks(*pid)).collect();
    assert!(ticks.len() == 2 && ticks.iter().all(|ticks| *ticks > 0), "{ticks:?}");
}
