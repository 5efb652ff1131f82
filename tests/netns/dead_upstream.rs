//! An upstream that answers nothing: it costs a client or two, not everyone, and it is used again once it answers.

use super::*;
use lab::clients;
use lab::wait;
use std::time::{Duration, Instant};

/// Where cow has a second server.
const DEAD: [&str; 2] = ["10.3.0.3", "81"];
const ALIVE: [&str; 2] = ["10.3.0.3", "80"];

/// A client that waited longer than this had to wait for the dead upstream.
const SLOW: Duration = Duration::from_millis(900);

/// What the tests need: the scene, and a second server on cow, called "primary", that can be cut off.
struct DeadUpstream {
    scene: Scene,
    _primary: Server,
}

impl DeadUpstream {
    fn new() -> Option<DeadUpstream> {
        let scene = Scene::new()?;
        let primary = scene.lab.cow.enter(|| Server::page("[::]:81", "primary"));
        Some(DeadUpstream { scene, _primary: primary })
    }

    /// Every packet to the port is dropped, as if the machine were off.
    fn die(&self) {
        self.scene.lab.cow.run(&["iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "81", "-j", "DROP"]);
    }

    fn live(&self) {
        self.scene.lab.cow.run(&["iptables", "-w", "-F", "INPUT"]);
    }

    fn relay(&self, more: &[&str], upstreams: &[[&str; 2]]) -> Daemon {
        let begin = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80"];
        self.scene.relay(&[&begin[..], more, &upstreams.concat()].concat())
    }

    /// Clients one after the other, four at a time, for so long: how long each waited, and its page.
    fn clients(&self, span: Duration) -> Vec<(Duration, String)> {
        let end = Instant::now() + span;
        let one_after_the_other = || {
            let mut all = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                let page = self.scene.page(MOOSE);
                all.push((begin.elapsed(), page));
                std::thread::sleep(Duration::from_millis(10));
            }
            all
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one_after_the_other)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("clients")).collect()
        })
    }
}

fn slow(clients: &[(Duration, String)]) -> usize {
    clients.iter().filter(|(waited, _)| *waited > SLOW).count()
}

/// All of them got the page, and most waited for nothing.
fn assert_served(clients: &[(Duration, String)], most_slow: usize) {
    assert!(clients.len() > 100, "{}", clients.len());
    assert_eq!(clients.iter().find(|(_, page)| page != "cow"), None);
    let slow: Vec<_> = clients.iter().filter(|(waited, _)| *waited > SLOW).collect();
    assert!(slow.len() <= most_slow, "of {} these waited: {slow:?}", clients.len());
}

#[test]
fn a_dead_primary_costs_no_client_after_the_first_ones() {
    let Some(lab) = DeadUpstream::new() else { return };
    let daemon = lab.relay(&["--connect-timeout", "1"], &[DEAD, ALIVE]);
    assert_eq!(lab.scene.page(MOOSE), "primary");
    lab.die();
    assert_eq!(lab.scene.page(MOOSE), "cow");
    // It is tried again after 2, 4 and 8 seconds.
    assert_served(&lab.clients(Duration::from_secs(12)), 0);
    assert_eq!(daemon.journal.count("is down"), 1, "{}", daemon.journal.text());
}

#[test]
fn clients_that_come_while_the_first_one_waits_are_served_by_the_next_upstream() {
    let Some(lab) = DeadUpstream::new() else { return };
    let _daemon = lab.relay(&["--connect-timeout", "8"], &[DEAD, ALIVE]);
    lab.die();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lab.scene.page(MOOSE));
        // An answer that has been missing for two seconds is not waited for by others.
        wait::holds_for(Duration::from_millis(2500), "the first one waits", || !first.is_finished());
        let clients = lab.clients(Duration::from_secs(3));
        assert!(begin.elapsed() < Duration::from_secs(7) && !first.is_finished());
        assert_served(&clients, 0);
        assert_eq!(first.join().expect("first"), "cow");
    });
}

#[test]
fn a_burst_of_failures_counts_as_one() {
    let Some(lab) = DeadUpstream::new() else { return };
    let daemon = lab.relay(&["--connect-timeout", "1"], &[DEAD, ALIVE]);
    lab.die();
    std::thread::scope(|scope| {
        (0..20).for_each(|_| _ = scope.spawn(|| assert_eq!(lab.scene.page(MOOSE), "cow")));
    });
    lab.live();
    let begin = Instant::now();
    // Without any client.
    daemon.journal.wait_for("upstream 10.3.0.3:81 is up again");
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    assert_eq!(lab.scene.page(MOOSE), "primary");
}

#[test]
fn a_dead_upstream_among_others_costs_few_clients_whatever_the_balance() {
    for balance in ["round-robin", "source"] {
        let Some(lab) = DeadUpstream::new() else { return };
        let _third = lab.scene.lab.cow.enter(|| Server::page("[::]:82", "cow"));
        let upstreams = [ALIVE, DEAD, ["10.3.0.3", "82"]];
        let _daemon = lab.relay(&["--connect-timeout", "1", "--balance", balance], &upstreams);
        lab.die();
        // The first four may meet it at the same time.
        let clients = lab.clients(Duration::from_secs(9));
        assert!(slow(&clients) <= 4, "{balance}: {}", slow(&clients));
        assert_served(&clients, 4);
    }
}

#[test]
fn each_worker_finds_out_for_itself_and_at_the_cost_of_few() {
    let Some(lab) = DeadUpstream::new() else { return };
    let _daemon = lab.relay(&["--connect-timeout", "1", "-w", "3"], &[DEAD, ALIVE]);
    lab.die();
    assert_served(&lab.clients(Duration::from_secs(10)), 12);
}

#[test]
fn a_dead_upstream_does_not_hold_up_the_fallback() {
    let Some(lab) = DeadUpstream::new() else { return };
    let daemon = lab.relay(&["--connect-timeout", "1", "--fallback"], &[DEAD]);
    lab.die();
    assert_eq!(lab.scene.page(MOOSE), "moose");
    let clients = lab.clients(Duration::from_secs(8));
    assert_eq!(clients.iter().find(|(_, page)| page != "moose"), None);
    assert_eq!(slow(&clients), 0);
    lab.live();
    daemon.journal.wait_for("upstream 10.3.0.3:81 is up again");
    assert_eq!(lab.scene.page(MOOSE), "primary");
}

#[test]
fn a_lone_upstream_is_tried_by_every_client() {
    let Some(lab) = DeadUpstream::new() else { return };
    let daemon = lab.relay(&["--connect-timeout", "1"], &[DEAD]);
    lab.die();
    clients::expect_reset(&mut lab.scene.lab.client.connect(MOOSE).expect("connect"));
    daemon.journal.wait_for("is down");
    lab.live();
    assert_eq!(lab.scene.page(MOOSE), "primary", "at once");
}
