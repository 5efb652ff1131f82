//! The files that the daemon opens as root: what others put in their places is not opened, followed, replaced or trusted.

use super::*;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

/// What stands in a directory under these names: nothing that a log or a pid file may be.
fn traps(directory: &TempDir) -> Vec<PathBuf> {
    let at = |name: &str| directory.path.join(name);
    directory.write("target", "untouched");
    symlink(at("target"), at("link")).expect("link");
    symlink(at("nothing"), at("broken")).expect("link");
    nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).expect("fifo");
    fs::create_dir(at("directory")).expect("directory");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("socket");
    let mut traps = vec![at("link"), at("broken"), at("fifo"), at("directory"), at("socket")];
    // The numbers of /dev/zero.
    if nix::unistd::Uid::effective().is_root()
        && mknod(&at("zero"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).is_ok()
    {
        traps.push(at("zero"));
    }
    traps
}

fn expect_untouched(directory: &TempDir) {
    assert_eq!(fs::read_to_string(directory.path.join("target")).expect("target"), "untouched");
    assert!(!directory.path.join("nothing").exists());
}

/// A relay in one process, and one with a guardian.
fn kinds(port: u16, option: &str, path: &str) -> [Launch; 2] {
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 9 {option} {path}");
    [Launch::line(&line), Launch::line(&format!("{line} -w 2"))]
}

#[test]
fn an_access_log_is_a_file_or_nothing_is_opened() {
    let directory = TempDir::new();
    let mut traps = traps(&directory);
    let second = directory.path.join("second");
    fs::hard_link(directory.path.join("target"), &second).expect("second name");
    traps.push(second);
    for path in traps {
        let path = path.display().to_string();
        for launch in kinds(free_port(), "-l", &path) {
            let refused = launch.run();
            assert_eq!(refused.status, 64, "{path}: {refused:?}");
            let expected = format!("tproxy: -l: invalid value '{path}': expected a regular file with one name");
            assert!(refused.stderr.starts_with(&expected) && refused.stderr.lines().count() == 1, "{refused:?}");
        }
    }
    expect_untouched(&directory);
    for launch in kinds(free_port(), "-l", "/dev/null") {
        assert_eq!(launch.ready().stop(), 0);
    }
}

#[test]
fn a_fifo_in_place_of_the_access_log_stops_neither_the_reload_nor_the_signals() {
    let directory = TempDir::new();
    let file = directory.path.join("access.log");
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start(&format!("-w 2 -l {}", file.display()), server.address);
    fs::remove_file(&file).expect("remove");
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).expect("fifo");
    relay.daemon.signal(Signal::SIGHUP);
    relay.daemon.journal.wait_for("reload: -l: invalid value");
    assert_eq!(clients::fetch(relay.address).expect("fetch"), "page");
    let mut daemon = relay.daemon;
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_health_file_is_a_file_with_a_number_or_nothing_is_touched() {
    let directory = TempDir::new();
    let mut traps = traps(&directory);
    let (second, text) = (directory.path.join("second"), directory.path.join("text"));
    fs::hard_link(directory.path.join("target"), &second).expect("second name");
    directory.write("text", "17 sheep\n");
    traps.extend([second, text.clone()]);
    for path in traps {
        let path = path.display().to_string();
        let [_, guarded] = kinds(free_port(), "--health-file", &path);
        let refused = guarded.run();
        assert_eq!(refused.status, 64, "{path}: {refused:?}");
        let expected = format!("--health-file: invalid value '{path}': expected a ");
        assert!(refused.stderr.contains(&expected) && refused.stderr.lines().count() == 1, "{refused:?}");
    }
    expect_untouched(&directory);
    assert_eq!(fs::read_to_string(text).expect("text"), "17 sheep\n");
    for name in ["new", "left by a killed daemon"] {
        let path = directory.write(name, "0\n");
        if name == "new" {
            fs::remove_file(&path).expect("remove");
        }
        let line = format!("-d -b 127.0.0.1 -s {} 127.0.0.1 9 -w 2 --health-file", free_port());
        let mut words: Vec<&str> = line.split(' ').collect();
        words.push(&path);
        let mut daemon = Launch::new(&words).ready();
        wait::until_true("the number", || fs::read_to_string(&path).is_ok_and(|text| text == "0\n"));
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_pid_file_is_a_file_or_nothing_is_changed() {
    let directory = TempDir::new();
    let mut traps = traps(&directory);
    let null = directory.path.join("null");
    if nix::unistd::Uid::effective().is_root() && mknod(&null, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).is_ok() {
        traps.push(null.clone());
    }
    traps.push(directory.path.join("target"));
    for path in traps {
        let path = path.display().to_string();
        for launch in kinds(free_port(), "-P", &path) {
            let refused = launch.run();
            assert_eq!(refused.status, 64, "{path}: {refused:?}");
            let expected = format!("tproxy: -P: invalid value '{path}': expected a ");
            assert!(refused.stderr.starts_with(&expected) && refused.stderr.lines().count() == 1, "{refused:?}");
        }
    }
    expect_untouched(&directory);
    assert!(!null.exists() || fs::metadata(&null).expect("null").file_type().is_char_device());
}

#[test]
fn a_pid_file_follows_no_link_beside_it_and_is_writable_for_nobody_else() {
    let directory = TempDir::new();
    traps(&directory);
    let path = directory.file("pid");
    symlink(directory.path.join("target"), directory.path.join("pid.new")).expect("link");
    for launch in kinds(free_port(), "-P", &path) {
        let mut daemon = launch.after("umask 0").ready();
        assert_eq!(fs::read_to_string(&path).expect("pid file"), format!("{}\n", daemon.pid()));
        assert_eq!(fs::metadata(&path).expect("pid file").mode() & 0o7777, 0o644);
        assert_eq!(daemon.stop(), 0);
        assert!(!fs::exists(&path).expect("directory"));
    }
    expect_untouched(&directory);
}

#[test]
fn a_number_in_a_pid_file_is_a_daemon_only_if_that_process_keeps_the_file() {
    let directory = TempDir::new();
    let path = directory.file("pid");
    // A process that has only the name of ours, and one that is another instance of ours.
    let namesake = directory.path.join("tproxy");
    process::copy_program("/bin/sleep", &namesake);
    let mut namesake = std::process::Command::new(&namesake).arg("60").spawn().expect("sleep");
    let other = LoopbackRelay::start("", local(free_port()));
    let numbers = [namesake.id(), other.daemon.pid().unsigned_abs(), 1];
    for number in numbers {
        fs::write(&path, format!("{number}\n")).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("mode");
        // Whoever may read it may also lock it.
        let squatter = fs::File::open(&path).expect("open");
        let _lock = nix::fcntl::Flock::lock(squatter, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error);
        for launch in kinds(free_port(), "-P", &path) {
            let mut daemon = launch.ready();
            assert_eq!(fs::read_to_string(&path).expect("pid file"), format!("{}\n", daemon.pid()));
            let [second, _] = kinds(free_port(), "-P", &path);
            let refused = second.run();
            assert_eq!(refused.status, 69, "{refused:?}");
            let expected = format!("-P: {path}: tproxy is running already as process {}", daemon.pid());
            assert!(refused.stderr.contains(&expected), "{refused:?}");
            assert_eq!(daemon.stop(), 0);
        }
    }
    namesake.kill().and_then(|()| namesake.wait()).expect("end");
}

#[test]
fn an_upgrade_keeps_the_pid_file() {
    let directory = TempDir::new();
    let path = directory.file("pid");
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start(&format!("-w 2 -P {path}"), server.address);
    relay.daemon.signal(Signal::SIGUSR2);
    relay.daemon.journal.wait_for("upgraded to");
    let [second, _] = kinds(free_port(), "-P", &path);
    assert_eq!(second.run().status, 69);
    let mut daemon = relay.daemon;
    assert_eq!(daemon.stop(), 0);
    assert!(!fs::exists(&path).expect("directory"));
}

#[test]
fn root_reads_no_configuration_that_others_may_write() {
    if !nix::unistd::Uid::effective().is_root() {
        return report("SKIPPED: not root");
    }
    let directory = TempDir::new();
    let server = Server::page(LOCAL, "page");
    let text = format!("-b 127.0.0.1 -s {} 127.0.0.1 {}\n", free_port(), server.address.port());
    let file = directory.write("table.conf", &text);
    let mode = |path: &str, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    let within = directory.path.display().to_string();
    let mut daemon = Launch::new(&["-d", "-w", "2", "-c", &file]).ready();
    for (path, bad, good) in [(&file, 0o646, 0o644), (&within, 0o757, 0o755)] {
        mode(path, bad);
        for words in [&["-d"][..], &["--check"], &["--print-rules"]] {
            let refused = Launch::new(&[words, &["-c", &file]].concat()).run();
            assert_eq!(refused.status, 64, "{refused:?}");
            let expected = format!("tproxy: -c: invalid value '{file}': expected a file that only root may ");
            assert!(refused.stderr.starts_with(&expected), "{refused:?}");
        }
        let before = daemon.journal.count("nothing has changed");
        daemon.signal(Signal::SIGHUP);
        wait::until_true("a reload that fails", || daemon.journal.count("nothing has changed") > before);
        mode(path, good);
    }
    daemon.signal(Signal::SIGHUP);
    daemon.journal.wait_for("reloaded:");
    assert_eq!(daemon.stop(), 0);
}
