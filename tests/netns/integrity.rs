//! 256 MiB each way through a real REDIRECT rule, hashed at both ends, with senders and readers of every kind.

use super::{HEAVY, Scene, Server};
use lab::pattern::{Cut, Pattern, sum_of, sum_with_pause};
use lab::{alone, report};
use std::net::Shutdown;
use std::time::{Duration, Instant};

const SIZE: u64 = 256 * 1024 * 1024;

/// Client and server send at the same time; the reader stops once for `pause`, on both sides of the relay.
fn both_ways(what: &str, bytes: u64, cut: Cut, pause: Duration) {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let (down, up) = (Pattern { seed: 1, bytes }, Pattern { seed: 2, bytes });
    let (_server, sums) = scene.lab.cow.enter(|| Server::exchange("[::]:9", down, cut));
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 9", "cow", "9"]);
    let client = scene.lab.client.connect("10.2.0.5:9").expect("connect");
    let begin = Instant::now();
    let mut writer = client.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        up.send(&mut writer, cut).expect("upload");
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    let got = sum_with_pause(&mut &client, bytes / 8, pause).expect("download");
    sending.join().expect("sender");
    let took = begin.elapsed();
    assert_eq!(got, down.sum(), "download");
    assert_eq!(sums.recv().expect("server").expect("upload"), up.sum(), "upload");
    let line = daemon.journal.wait_connections(1).remove(0);
    assert_eq!((line.up, line.down, line.ending.as_str()), (bytes, bytes, "finished"));
    report(&format!("integrity: {what}: {} MiB each way in {:.1} s", bytes >> 20, took.as_secs_f64()));
}

#[test]
fn a_fast_reader_gets_all() {
    both_ways("fast reader", SIZE, Cut::Bulk, Duration::ZERO);
}

#[test]
fn a_reader_that_stops_for_two_seconds_gets_all() {
    both_ways("reader stops for 2 s", SIZE, Cut::Bulk, Duration::from_secs(2));
}

#[test]
fn segments_of_1448_bytes_arrive_whole() {
    both_ways("1,448-byte segments", SIZE, Cut::Every(1448), Duration::ZERO);
}

#[test]
fn segments_of_1_and_1448_bytes_in_turn_arrive_whole() {
    both_ways(
        "1-byte and 1,448-byte segments in turn, reader stops for 2 s",
        SIZE,
        Cut::OneThenFull,
        Duration::from_secs(2),
    );
}

#[test]
fn segments_of_1_byte_arrive_whole() {
    // 256 MiB of them are 2^28 system calls each way, a quarter of an hour; TPROXY_ONE_BYTE_MIB=256 asks for it.
    let mib = lab::number_from_env("TPROXY_ONE_BYTE_MIB", 4);
    both_ways("1-byte segments", mib << 20, Cut::Every(1), Duration::from_millis(500));
}

#[test]
fn a_client_that_half_closes_before_the_answer_gets_all_of_it() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let (down, up) = (Pattern { seed: 3, bytes: SIZE }, Pattern { seed: 4, bytes: SIZE });
    let (_server, sums) = scene.lab.cow.enter(|| Server::answer_after_end("[::]:9", down));
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 9", "cow", "9"]);
    let mut client = scene.lab.client.connect("10.2.0.5:9").expect("connect");
    let begin = Instant::now();
    up.send(&mut client, Cut::Bulk).expect("upload");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(sum_of(&mut client).expect("download"), down.sum(), "download");
    assert_eq!(sums.recv().expect("server").expect("upload"), up.sum(), "upload");
    let line = daemon.journal.wait_connections(1).remove(0);
    assert_eq!((line.up, line.down, line.ending.as_str()), (SIZE, SIZE, "finished"));
    report(&format!(
        "integrity: half-close before the answer: 256 MiB each way in {:.1} s",
        begin.elapsed().as_secs_f64()
    ));
}

#[test]
fn a_stream_over_ipv6_arrives_whole() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let pattern = Pattern { seed: 5, bytes: SIZE / 4 };
    let (_server, sums) = scene.lab.cow.enter(|| Server::exchange("[::]:9", pattern, Cut::Bulk));
    let _daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "--dport 9", "fd00:3::3", "9"]);
    let mut client = scene.lab.client.connect("[fd00:2::5]:9").expect("connect");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(sum_of(&mut client).expect("download"), pattern.sum());
    assert_eq!(sums.recv().expect("server").expect("upload").bytes, 0);
}
