//! The whole table: reject, local services, the kernel's own forwarding, many redirections in one daemon, several
//! upstreams, several workers, reload and upgrade without loss.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{HEAVY, MOOSE, MOOSE6, Scene};
use lab::daemon::Daemon;
use lab::pattern::{Cut, Pattern, Sum, sum_of};
use lab::peers::Peer;
use lab::servers::Server;
use lab::tempdir::TempDir;
use lab::{AtEnd, clients, process, report, rules, wait};

/// A directory with a configuration file, removed at the end.
struct File {
    directory: TempDir,
    path: String,
}

impl File {
    fn new(text: &str) -> File {
        let directory = TempDir::new();
        let path = directory.write("table.conf", text);
        File { directory, path }
    }

    fn write(&self, text: &str) {
        self.directory.write("table.conf", text);
    }
}

/// Waits until the daemon has one worker and it is not `old`.
fn other_worker(daemon: &Daemon, old: &[i32]) -> Vec<i32> {
    wait::until("other workers", || {
        let now = workers(daemon);
        (!now.is_empty() && now.iter().all(|pid| !old.contains(pid))).then_some(now)
    })
}

fn workers(daemon: &Daemon) -> Vec<i32> {
    let all = process::children(daemon.pid()).into_iter();
    all.filter(|pid| process::comm(*pid).as_deref() == Some("tproxy-worker")).collect()
}

#[test]
fn who_is_rejected_is_refused_at_once_and_the_others_are_served() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&[
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "-X",
        "-s 10.1.0.2 --dport 81",
        "--reject",
        "-d moose --dport 81",
        "--reject",
        "-d fd00:2::5 --dport 81",
        "-R",
        "-d moose --dport 80:81",
        "-R",
        "-d fd00:2::5 --dport 80",
        "cow",
        "80",
    ]);
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(scene.page(MOOSE6), "cow");
    // Exempt before the reject: goes to moose itself, where nobody listens on 81.
    let _moose = scene.lab.moose.enter(|| Server::page("10.2.0.5:81", "moose81"));
    assert_eq!(scene.page("10.2.0.5:81"), "moose81");
    let begin = Instant::now();
    let refused = scene.lab.client.connect("[fd00:2::5]:81").expect_err("rejected");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(begin.elapsed() < Duration::from_secs(1), "not at once");
    drop(daemon);
}

#[test]
fn local_services_are_split_by_source_and_ports_are_kept() {
    let Some(scene) = Scene::new() else { return };
    let inside = scene.lab.gateway.enter(|| Server::page("[::]:1113", "inside"));
    let same = scene.lab.gateway.enter(|| Server::page("[::]:80", "gateway"));
    let file = File::new(
        "--local 1113 -R '-s 10.1.0.0/24 --dport 113' -R '-s fd00:1::/64 --dport 113'\n\
         --local same -R '-d moose --dport 80' -R '-d fd00:2::5 --dport 80'\n",
    );
    let mut daemon = scene.relay(&["-d", "-c", &file.path]);
    assert_eq!(scene.page("10.2.0.5:113"), "inside");
    assert_eq!(scene.page("[fd00:2::5]:113"), "inside");
    assert_eq!(scene.page(MOOSE), "gateway");
    assert_eq!(scene.page(MOOSE6), "gateway");
    assert!(workers(&daemon).is_empty(), "rules need no worker");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
    drop((inside, same));
}

#[test]
fn a_local_port_on_which_nobody_listens_is_told() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&["-d", "--local", "1113", "-R", "-d moose --dport 113"]);
    daemon.journal.wait_for("nobody listens on port 1113");
    assert_eq!(daemon.journal.count("nobody listens on port 1113"), 1);
}

#[test]
fn the_kernel_forwards_and_the_answer_comes_back() {
    let Some(scene) = Scene::new() else { return };
    let before = rules::saved(&scene.lab.gateway);
    for (to, upstream) in [(MOOSE, "10.3.0.3"), (MOOSE6, "fd00:3::3")] {
        let host = if to == MOOSE { "10.2.0.5" } else { "fd00:2::5" };
        let mut daemon = scene.relay(&["-d", "--kernel", "-R", &format!("-d {host} --dport 80"), upstream, "80"]);
        assert_eq!(scene.page(to), "cow");
        assert_eq!(daemon.stop(), 0);
        assert_eq!(scene.page(to), "moose");
        assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
    }
    let after = rules::saved(&scene.lab.gateway);
    assert_eq!(before, after);
}

#[test]
fn kernel_forwarding_that_is_off_is_named_and_nothing_is_installed() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.sysctl(&["net.ipv4.ip_forward=0"]);
    let done = scene.launch(&["-d", "--kernel", "-R", "-d moose --dport 80", "10.3.0.3", "80"]).run();
    assert_eq!(done.status, 64, "{}", done.stderr);
    assert!(done.stderr.contains("net.ipv4.ip_forward"), "{}", done.stderr);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn a_kernel_upstream_is_followed_when_its_name_moves() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.hosts("10.2.0.5 moose\n10.3.0.9 cow\n");
    let daemon = scene.relay(&["-d", "--kernel", "-R", "-d moose --dport 80", "cow", "80"]);
    scene.lab.gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\n");
    daemon.signal(Signal::SIGHUP);
    wait::until_true("the new address", || scene.page(MOOSE) == "cow");
}

#[test]
fn the_first_upstream_that_can_be_reached_serves() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&[
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "-R",
        "-d moose --dport 80",
        "10.3.0.3",
        "81",
        "10.3.0.3",
        "80",
    ]);
    for _ in 0..20 {
        assert_eq!(scene.page(MOOSE), "cow");
    }
    assert_eq!(daemon.journal.count("upstream 10.3.0.3:81 is down"), 1, "{}", daemon.journal.text());
    let _late = scene.lab.cow.enter(|| Server::page("[::]:81", "first again"));
    wait::until_true("the first upstream again", || scene.page(MOOSE) == "first again");
    daemon.journal.wait_for("upstream 10.3.0.3:81 is up again");
}

#[test]
fn round_robin_spreads_and_fallback_goes_to_the_original() {
    let Some(scene) = Scene::new() else { return };
    let other = scene.lab.cow.enter(|| Server::page("[::]:81", "other"));
    let mut daemon = scene.relay(&[
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "--balance",
        "round-robin",
        "-R",
        "-d moose --dport 80",
        "10.3.0.3",
        "80",
        "10.3.0.3",
        "81",
    ]);
    let pages: Vec<String> = (0..10).map(|_| scene.page(MOOSE)).collect();
    assert_eq!(pages.iter().filter(|page| *page == "cow").count(), 5, "{pages:?}");
    daemon.stop();
    drop(other);
    let _daemon = scene.relay(&[
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "--fallback",
        "-R",
        "-d moose --dport 80",
        "10.3.0.3",
        "82",
    ]);
    assert_eq!(scene.page(MOOSE), "moose");
}

#[test]
fn two_workers_share_the_clients_and_replace_each_other() {
    let Some(scene) = Scene::new() else { return };
    let daemon =
        scene.relay(&["-d", "-w", "2", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"]);
    let first = workers(&daemon);
    assert_eq!(first.len(), 2);
    for round in 0..60 {
        if round % 20 == 10 {
            process::signal(workers(&daemon)[0], Signal::SIGKILL);
        }
        assert_eq!(scene.page(MOOSE), "cow", "round {round}");
    }
    wait::until_true("two workers again", || workers(&daemon).len() == 2);
}

#[test]
fn unreachable_upstreams_withdraw_the_redirection_until_they_answer() {
    let Some(mut scene) = Scene::new() else { return };
    let daemon = scene.relay(&[
        "-d",
        "--upstream-grace",
        "1",
        "-s",
        "12970",
        "-r",
        "nobody",
        "-R",
        "-d moose --dport 80",
        "cow",
        "80",
    ]);
    assert_eq!(scene.page(MOOSE), "cow");
    drop(scene.cow.take());
    // Clients that are relayed are reset until the grace is over; then they reach moose itself.
    wait::until_true("the withdrawal", || scene.page(MOOSE) == "moose");
    scene.cow = Some(scene.lab.cow.enter(|| Server::page("[::]:80", "cow")));
    wait::until_true("the redirection again", || scene.page(MOOSE) == "cow");
    assert_eq!(daemon.journal.count("is withdrawn"), 1, "{}", daemon.journal.text());
    assert_eq!(daemon.journal.count("is put back"), 1, "{}", daemon.journal.text());
}

#[test]
fn a_reload_changes_the_table_and_a_bad_file_changes_nothing() {
    let Some(scene) = Scene::new() else { return };
    let file = File::new("-r nobody\n-s 12970 -R '-d moose --dport 80' cow 80\n");
    let mut daemon = scene.relay(&["-d", "-c", &file.path]);
    assert_eq!(scene.page(MOOSE), "cow");
    let former = workers(&daemon);
    let installed = rules::saved(&scene.lab.gateway);

    file.write("-s 70000 cow 80\n");
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("invalid value '70000': expected a port");
    assert_eq!(workers(&daemon), former);
    file.write("-r nobody\n-s 12970 -R '-d moose --dport 80 -m no-such-match' cow 80\n");
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for(&rules::unknown_match("no-such-match"));
    daemon.journal.wait_for("; nothing has changed");
    wait::until_true("the former worker alone", || workers(&daemon) == former);
    assert_eq!(rules::saved(&scene.lab.gateway), installed);
    assert_eq!(scene.page(MOOSE), "cow");

    file.write("-r nobody\n-s 12970 -R '-d moose --dport 80' moose 80\n-s 12971 -R '-d moose --dport 81' cow 80\n");
    daemon.signal(Signal::SIGHUP);
    other_worker(&daemon, &former);
    wait::until_true("the new upstream", || scene.page(MOOSE) == "moose");
    assert_eq!(scene.page("10.2.0.5:81"), "cow");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

/// Number from the environment, for longer runs by hand.
fn number(name: &str, default: u64) -> u64 {
    lab::number_from_env(name, default)
}

/// Fetches pages at `rate` a second from a few threads until `stop`; counts them, and those that are not cow's.
fn steady_load(scene: &Scene, rate: u32, stop: &AtomicBool) -> (usize, usize) {
    const THREADS: u32 = 8;
    let (asked, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let begin = Instant::now();
    scene.lab.client.enter(|| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (asked, failed) = (&asked, &failed);
                scope.spawn(move || {
                    for turn in 0.. {
                        let due = begin + Duration::from_secs(1) * (turn * THREADS + thread) / rate;
                        // The rhythm of the load, not a wait for readiness.
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let page = clients::fetch(MOOSE.parse().expect("address"));
                        asked.fetch_add(1, Ordering::Relaxed);
                        failed.fetch_add(usize::from(!page.is_ok_and(|page| page == "cow")), Ordering::Relaxed);
                    }
                });
            }
        });
    });
    (asked.into_inner(), failed.into_inner())
}

/// What a long transfer sends, in pieces.
fn pieces() -> impl Iterator<Item = Pattern> {
    (0..16).map(|seed| Pattern { seed, bytes: 1 << 18 })
}

/// The sum of all pieces.
fn uploaded() -> Sum {
    let mut all = Vec::new();
    for piece in pieces() {
        piece.send(&mut all, Cut::Bulk).expect("memory");
    }
    sum_of(&mut &all[..]).expect("memory")
}

/// Sends all pieces, one whenever `progress` has come as far, while it reads what comes back; gives the sum of that.
fn long_transfer(mut client: TcpStream, progress: &AtomicUsize, end: usize) -> Sum {
    let mut reader = client.try_clone().expect("clone");
    let reading = std::thread::spawn(move || sum_of(&mut reader));
    for (part, piece) in pieces().enumerate() {
        piece.send(&mut client, Cut::Bulk).expect("upload");
        let far = (part + 1) * end / 16;
        wait::until_within(Duration::from_secs(120), "progress", || {
            (progress.load(Ordering::Relaxed) >= far).then_some(())
        });
    }
    client.shutdown(std::net::Shutdown::Write).expect("half-close");
    reading.join().expect("reader").expect("download")
}

#[test]
fn reloads_and_upgrades_under_load_lose_nothing() {
    let Some(scene) = Scene::new() else { return };
    let _alone = HEAVY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (reloads, upgrades) = (number("TPROXY_RELOADS", 100) as usize, number("TPROXY_UPGRADES", 10) as usize);
    let down = Pattern { seed: 1, bytes: 8 << 20 };
    let (_server, sums) = scene.lab.cow.enter(|| Server::exchange("[::]:9", down, Cut::Bulk));
    let directory = TempDir::new();
    let (pidfile, path) = (directory.file("pid"), directory.file("table.conf"));
    let table = "-s 12970 -R '-d moose --dport 80' cow 80\n-s 12971 -R '-d moose --dport 9' cow 9\n";
    fs::write(&path, format!("-r nobody -P {pidfile}\n{table}")).expect("file");
    let daemon = scene.relay(&["-d", "-c", &path]);
    let guardian = || fs::read_to_string(&pidfile).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let (stop, progress) = (AtomicBool::new(false), AtomicUsize::new(0));
    let long: Vec<_> = (0..50).map(|_| scene.lab.client.connect("10.2.0.5:9").expect("connect")).collect();
    let begin = Instant::now();
    let (asked, failed) = std::thread::scope(|scope| {
        let end = AtEnd(&stop);
        let load = scope.spawn(|| steady_load(&scene, 700, &stop));
        let transfers: Vec<_> =
            long.into_iter().map(|client| scope.spawn(|| long_transfer(client, &progress, reloads))).collect();
        let mut longest = Duration::ZERO;
        for round in 0..reloads {
            let begin = Instant::now();
            let (count, now) = (daemon.journal.count("reloaded:"), guardian().expect("pid file"));
            process::signal(now, Signal::SIGHUP);
            wait::until_true("a reload", || daemon.journal.count("reloaded:") > count);
            if upgrades > 0 && round % (reloads / upgrades).max(1) == 0 {
                let count = daemon.journal.count("upgraded to");
                process::signal(now, Signal::SIGUSR2);
                wait::until_true("an upgrade", || daemon.journal.count("upgraded to") > count);
            }
            longest = longest.max(begin.elapsed());
            progress.store(round + 1, Ordering::Relaxed);
        }
        let changing = begin.elapsed();
        for transfer in transfers {
            assert_eq!(transfer.join().expect("transfer"), down.sum(), "download");
        }
        drop(end);
        let (asked, failed) = load.join().expect("load");
        report(&format!("table: all changes {changing:.1?}, the longest {longest:.0?}"));
        (asked, failed)
    });
    let seconds = begin.elapsed().as_secs_f64();
    for _ in 0..50 {
        let got = sums.recv().expect("server").expect("upload");
        assert_eq!(got, uploaded());
    }
    report(&format!(
        "table: {reloads} reloads, {upgrades} upgrades in {seconds:.1} s: {asked} requests ({:.0} a second), \
         {failed} failed; 50 transfers whole",
        asked as f64 / seconds
    ));
    assert_eq!(failed, 0);
    assert!(asked >= 10 * reloads, "no load: {asked}");
    let guardian = guardian().expect("pid file");
    process::signal(guardian, Signal::SIGTERM);
    wait::until_true("the end", || !process::alive(guardian));
    assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
}

#[test]
fn all_scenarios_work_from_one_file() {
    let Some(scene) = Scene::new() else { return };
    let _local = scene.lab.gateway.enter(|| Server::page("[::]:1113", "ident"));
    let _same = scene.lab.gateway.enter(|| Server::page("[::]:88", "same"));
    let _odd = scene.lab.moose.enter(|| Server::page("[::]:85", "moose85"));
    let _outside = scene.lab.moose.enter(|| Server::page("[::]:86", "moose86"));
    let squid = Peer::squid(&scene.lab.cow);
    for (moose, to) in [("10.2.0.5", "10.2.0.5"), ("fd00:2::5", "[fd00:2::5]")] {
        let cow = if moose.contains(':') { "fd00:3::3" } else { "10.3.0.3" };
        let file = File::new(&format!(
            "-r nobody\n\
             -s 12970 -R '-d {moose} --dport 80' cow 80                 # S1\n\
             -s 12971 --reject '-d {moose} --dport 82' -R '-d {moose} --dport 81:82' cow 80  # S2\n\
             -s 12974 -X '-s {cow}' -R '-d {moose} --dport 86' --via http cow 3128           # S3\n\
             --local 1113 -R '-d {moose} --dport 113'                   # S4\n\
             --kernel -R '-d {moose} --dport 84' {cow} 80               # S5\n\
             --local same -R '-d {moose} --dport 88'                    # S6\n\
             -s 12972 -t -R '-d {moose} --dport 85'                     # S7\n\
             -s 12973 cow 80                                            # S8\n"
        ));
        let mut daemon = scene.relay(&["-d", "-c", &file.path]);
        assert_eq!(scene.page(&format!("{to}:80")), "cow", "S1");
        assert_eq!(scene.page(&format!("{to}:81")), "cow", "S2");
        let refused = scene.lab.client.connect(&format!("{to}:82")).expect_err("S2");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "S2");
        assert_eq!(scene.page(&format!("{to}:86")), "moose86", "S3");
        squid.wait_for(&format!("GET http://{to}:86/ 200"));
        assert_eq!(scene.page(&format!("{to}:113")), "ident", "S4");
        assert_eq!(scene.page(&format!("{to}:84")), "cow", "S5");
        assert_eq!(scene.page(&format!("{to}:88")), "same", "S6");
        assert_eq!(scene.page(&format!("{to}:85")), "moose85", "S7");
        assert_eq!(scene.page("10.1.0.1:12973"), "cow", "S8");
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0);
    }
}

#[test]
fn a_rule_put_ahead_of_ours_is_noticed_and_ours_goes_first_again() {
    if !rules::with_iptables("nobody can put a rule into a chain of a table that belongs to the daemon") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let daemon =
        scene.relay(&["-d", "--verify", "1", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "80"]);
    let gateway = &scene.lab.gateway;
    gateway.run(&["iptables", "-w", "-t", "nat", "-I", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "ACCEPT"]);
    daemon.journal.wait_for("has another rule before it");
    wait::until_true("the redirection again", || scene.page(MOOSE) == "cow");
    gateway.run(&["iptables", "-w", "-t", "nat", "-F"]);
    daemon.journal.wait_for("is gone");
    wait::until_true("the redirection again", || scene.page(MOOSE) == "cow");
}
