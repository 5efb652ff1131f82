//! Workers and resolvers are executed: they share neither the layout of the guardian's memory nor what is in it.
#![cfg(target_arch = "x86_64")]

use super::{MOOSE, STAND_IN, Scene};
use lab::tempdir::TempDir;
use lab::{process, wait};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

/// Where the program, its heap, its stack and its C library are in a process.
fn layout(pid: i32) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let first = |what: &str| {
        let line = maps.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in {maps}"));
        line.split('-').next().expect("an address").to_owned()
    };
    ["/tproxy", "[heap]", "[stack]", "libc.so"].map(first).into()
}

/// Whether a process has these bytes anywhere in its memory.
fn has_in_memory(pid: i32, wanted: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("memory");
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).expect("an address"));
        let mut bytes = vec![0; (to - from) as usize];
        let count = memory.read_at(&mut bytes, from).unwrap_or(0);
        bytes[..count].windows(wanted.len()).any(|window| window == wanted)
    })
}

fn command_line(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("cmdline").replace('\0', " ").trim_end().to_owned()
}

#[test]
fn no_child_has_the_layout_of_the_guardian_or_of_another_child() {
    let Some(scene) = Scene::new() else { return };
    let mut daemon = scene.relay(&[&["-w", "2", "--via", "http", "--host-check"], STAND_IN].concat());
    wait::until_true("all resolvers", || daemon.family.named("tproxy-resolver").len() == 9);
    let mut all = daemon.family.named("tproxy-resolver");
    all.extend(daemon.family.named("tproxy-worker"));
    all.push(daemon.family.guardian());
    let addresses: BTreeSet<String> = all.iter().flat_map(|pid| layout(*pid)).collect();
    assert_eq!(addresses.len(), 4 * all.len(), "no address twice");
    let killed = daemon.family.named("tproxy-worker")[0];
    let former = layout(killed);
    process::signal(killed, Signal::SIGKILL);
    wait::until_true("another worker", || !process::alive(killed) && daemon.family.named("tproxy-worker").len() == 2);
    for pid in daemon.family.named("tproxy-worker") {
        assert!(layout(pid).is_disjoint(&former), "a successor is laid out anew");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn children_are_called_by_what_they_are_for_and_hold_what_they_need() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let log = directory.file("access.log");
    let mut daemon =
        scene.relay(&[&["-w", "2", "-l", &log, "--max-per-source", "9", "--control", "none"], STAND_IN].concat());
    let (workers, resolver) = (daemon.family.named("tproxy-worker"), daemon.family.resolver());
    assert_eq!(command_line(resolver), "tproxy: resolver");
    let kinds = |pid: i32| {
        let mut all = process::descriptors(pid);
        all.iter_mut().for_each(|target| target.truncate(target.find([':', '[']).unwrap_or(target.len())));
        all.sort_unstable();
        all
    };
    // Standard error, what it reads and writes (nothing), and its channel.
    let stderr = kinds(resolver).into_iter().find(|kind| kind != "/dev/null" && kind != "socket").expect("stderr");
    assert_eq!(kinds(resolver), ["/dev/null", "/dev/null", &stderr, "socket"]);
    for worker in workers {
        assert_eq!(command_line(worker), "tproxy: worker");
        let held = kinds(worker);
        let count = |kind: &str| held.iter().filter(|held| *held == kind).count();
        // A listener for each family, the channel, and the routing table.
        assert_eq!((count("socket"), count(&log), count("/dev/null")), (4, 1, 2), "{held:?}");
        // Nothing that could be executed or mapped.
        assert!(!held.iter().any(|held| held.contains("memfd") || held.ends_with("/tproxy")), "{held:?}");
    }
    assert_eq!(scene.page(MOOSE), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_password_of_a_proxy_is_not_in_the_memory_of_a_resolver() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let path = directory.file("secret");
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).expect("file");
    std::io::Write::write_all(&mut file, b"squid:sesame-open-thyself\n").expect("write");
    let proxy = ["--via", "http", "--host-check", "--auth-file", &path];
    let mut daemon = scene.relay(&[&proxy[..], STAND_IN].concat());
    wait::until_true("all resolvers", || daemon.family.named("tproxy-resolver").len() == 5);
    let password = b"sesame-open-thyself";
    assert!(has_in_memory(daemon.family.worker(), password), "a worker needs it");
    for resolver in daemon.family.named("tproxy-resolver") {
        assert!(!has_in_memory(resolver, password), "process {resolver}");
        // Nor anything else of the configuration.
        assert!(!has_in_memory(resolver, b"--auth-file"), "process {resolver}");
    }
    // Whoever replaces a worker has the password that was read when the configuration was.
    fs::remove_file(&path).expect("remove");
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    let next = daemon.family.next_worker(worker);
    wait::until_true("the next one is ready", || process::status_field(next, "Seccomp") == "2");
    assert!(has_in_memory(next, password));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn children_can_be_started_when_the_program_is_gone_from_the_disk() {
    let Some(scene) = Scene::new() else { return };
    let directory = TempDir::new();
    let program = directory.file("tproxy");
    process::copy_program(env!("CARGO_BIN_EXE_tproxy"), &program);
    let daemon = scene.launch(STAND_IN).by_user(0, &program).ready();
    for replaced in [false, true] {
        fs::remove_file(&program).expect("remove");
        if replaced {
            fs::write(&program, "#!/bin/sh\nexit 7\n").expect("write");
        }
        let (worker, resolver) = (daemon.family.worker(), daemon.family.resolver());
        process::signal(worker, Signal::SIGKILL);
        process::signal(resolver, Signal::SIGKILL);
        daemon.family.next_worker(worker);
        assert_eq!(scene.page(MOOSE), "cow");
        wait::until_true("another resolver", || {
            daemon.family.named("tproxy-resolver").iter().any(|pid| *pid != resolver)
        });
        if !replaced {
            fs::write(&program, "").expect("write");
        }
    }
}

#[test]
fn nobody_becomes_a_child_by_the_variable_of_children() {
    let program = env!("CARGO_BIN_EXE_tproxy");
    for value in ["", "cow", "0", "9", "-1", "99999999999"] {
        let done = Command::new(program).arg("--version").env("TPROXY_CHILD", value).output().expect("run");
        assert_eq!(done.status.code(), Some(64), "{value}");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.starts_with("tproxy: TPROXY_CHILD is set;") && said.lines().count() == 1, "{said}");
    }
}
