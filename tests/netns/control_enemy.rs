//! The control process in the hands of an attacker: what it may say to the guardian, and what it gets.
#![cfg(target_arch = "x86_64")]

use super::confinement::Enemy;
use super::system_log::Syslog;
use super::{HEAVY, MOOSE, STAND_IN, Scene};
use lab::controller;
use lab::tempdir::TempDir;
use lab::{alone, process, report, rules, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};
use tproxy::testing::message::SIZE;
use tproxy::testing::{FromControl, RedirectionId, UpstreamOrder};

/// One thing or another, but for what would end or renew everything, which it may ask for as well.
fn rave(enemy: &mut Enemy, file: RawFd) {
    let random = enemy.random();
    let number = (random >> 32) as u32;
    let (id, enable) = (RedirectionId((random >> 8) as u16 % 3), random % 32 < 16);
    let order = UpstreamOrder::ALL[(random >> 24) as usize % UpstreamOrder::ALL.len()];
    let named = |name: &str| FromControl::Upstream { number, order, name: name.to_owned() };
    let mut noise = enemy.noise();
    match random % 16 {
        0 => enemy.say(&FromControl::Ready.encode(), &[]),
        1 | 2 => enemy.say(&FromControl::Unheard.encode(), &[]),
        3 => enemy.say(&FromControl::Reopen(number).encode(), &[]),
        4 => enemy.say(&FromControl::Verbose { number, on: enable }.encode(), &[]),
        5 | 6 => enemy.say(&FromControl::Redirection { number, id, enable }.encode(), &[]),
        7 => enemy.say(&named("cow:80").encode(), &[]),
        8 => enemy.say(&named("\u{1b}[2J; reboot").encode(), &[]),
        9 => enemy.say(&FromControl::Ready.encode(), &[file; 100]),
        10 => enemy.say(&noise[..random as usize / 16 % SIZE], &[file]),
        11 => enemy.say(&[3; 20_000], &[]),
        kind => {
            // Numbers that are in their range.
            noise[0] = if kind % 2 == 0 { 8 } else { 9 };
            noise[8..12].fill(0);
            noise[16..23].fill(0);
            enemy.say(&noise, &[]);
        }
    }
}

#[test]
fn an_enemy_in_the_place_of_the_control_process_gets_what_its_messages_allow_and_no_more() {
    const SPAN: Duration = Duration::from_secs(5);
    let Some(scene) = Scene::new() else { return };
    let (directory, syslog) = (TempDir::new(), Syslog::new());
    let socket = directory.file("c.sock");
    let _alone = alone(&HEAVY);
    let args = [STAND_IN, &["--control", &socket]].concat();
    let mut daemon = scene.launch(&args).with_devices_in(&syslog.directory.path).ready();
    let control = daemon.family.one("tproxy-control");
    wait::until_true("it answers", || controller::run(&socket, "health").status == 0);
    let (guardian, worker) = (daemon.family.guardian(), daemon.family.worker());
    let running = rules::saved(&scene.lab.gateway);
    let mut enemy = Enemy::instead_of(control);
    let file = fs::File::open("/etc/hosts").expect("file");
    let figures = || (process::descriptor_count(guardian), process::anonymous_memory(guardian));
    let before = process::at_rest(figures);
    let (begin, ticks) = (Instant::now(), process::cpu_ticks(guardian));
    // It reads no answer.
    process::signal(control, Signal::SIGSTOP);
    let mut most = (0, 0);
    while begin.elapsed() < SPAN {
        (0..1000).for_each(|_| rave(&mut enemy, file.as_raw_fd()));
        let (descriptors, memory) = figures();
        most = (descriptors.max(most.0), memory.max(most.1));
    }
    let busy = (process::cpu_ticks(guardian) - ticks) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    let more = (most.0.saturating_sub(before.0), most.1.saturating_sub(before.1));
    report(&format!(
        "an enemy in the place of the control process: {} messages found room; guardian: {:.1} % of a processor, at \
         most {} descriptors and {} bytes more",
        enemy.taken,
        100.0 * busy,
        more.0,
        more.1
    ));
    assert!(enemy.taken > 1000, "{}", enemy.taken);
    assert!(more.0 < 32 && more.1 < 24 << 20, "{more:?}");
    // What does not read is killed, and what begins anew knows what was ordered meanwhile.
    process::signal(control, Signal::SIGKILL);
    wait::until_true("another one", || daemon.family.named("tproxy-control").iter().any(|pid| *pid != control));
    wait::until_true("it answers", || {
        controller::run(&socket, "upstream enable cow:80").status == 0
            && controller::run(&socket, "redirection enable 1").status == 0
    });
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(rules::saved(&scene.lab.gateway), running);
    assert_eq!((daemon.family.guardian(), daemon.family.worker()), (guardian, worker), "the same processes");
    wait::until_true("no descriptor more", || process::descriptor_count(guardian) <= before.0);
    let log = daemon.journal.text();
    assert!(!log.contains("panicked") && !log.contains('\u{1b}'), "{log}");
    assert_eq!(daemon.stop(), 0);
}
