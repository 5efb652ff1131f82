//! What the process that starts tproxy has set for itself: it changes nothing.

use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Ends the shell of [`Launch::after`] in this command, which starts tproxy.
fn through(command: &str) -> String {
    format!("exec {command} \"$0\" \"$@\"")
}

fn lives(daemon: &Daemon, port: u16) {
    assert_eq!(clients::fetch(local(port)).expect("fetch"), "page");
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    daemon.family.next_worker(worker);
    assert_eq!(clients::fetch(local(port)).expect("fetch"), "page");
}

#[test]
fn signals_that_the_parent_ignores_or_blocks_keep_their_effect() {
    let server = Server::page(LOCAL, "page");
    let all = "--ignore-signal=HUP,INT,QUIT,USR1,USR2,ALRM,TERM,CHLD,TSTP,TTIN,TTOU,XCPU,XFSZ,VTALRM,PROF,PWR";
    let blocked = all.replace("ignore", "block");
    for script in ["trap '' CHLD".to_owned(), through(&format!("env {all}")), through(&format!("env {blocked}"))] {
        let port = free_port();
        let line = format!("-b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
        let mut daemon = Launch::line(&format!("-d -r nobody {line}")).after(&script).ready();
        lives(&daemon, port);
        assert_eq!(daemon.stop(), 0, "{script}");
        // In the background, where a shell waits for the daemon.
        let (done, family) = Launch::line(&format!("-r nobody {line}")).after(&script).start();
        assert_eq!(done.status, 0, "{script}: {done:?}");
        let guardian = family.guardian();
        process::signal(guardian, Signal::SIGTERM);
        family.wait_gone();
    }
}

#[test]
fn descriptors_of_the_parent_are_not_kept() {
    let directory = TempDir::new();
    let lock = directory.write("lock", "");
    let server = Server::page(LOCAL, "page");
    for kind in ["", "-w 2"] {
        let line = format!("-d -b 127.0.0.1 -s {} {kind} 127.0.0.1 {}", free_port(), server.address.port());
        let mut daemon = Launch::line(&line).after(&format!("exec 7<{lock} 9>>{lock}")).ready();
        for pid in daemon.family.pids() {
            assert!(!process::descriptors(pid).contains(&lock), "{pid}: {:?}", process::descriptors(pid));
        }
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn limits_of_the_parent_end_no_worker_and_no_process_leaves_a_core() {
    let server = Server::page(LOCAL, "page");
    for limits in ["ulimit -f 8; ulimit -c unlimited", "ulimit -Sf 1; ulimit -St 1; ulimit -c unlimited"] {
        let port = free_port();
        let line = format!("-d -w 2 -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
        let mut daemon = Launch::line(&line).after(limits).ready();
        for pid in daemon.family.pids() {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
            assert!(core.split_whitespace().nth(4) == Some("0"), "{pid}: {core}");
        }
        daemon.signal(Signal::SIGUSR2);
        daemon.journal.wait_for("upgraded to");
        assert_eq!(clients::fetch(local(port)).expect("fetch"), "page");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_umask_of_zero_opens_no_file_to_others_and_a_strict_one_is_kept() {
    let directory = TempDir::new();
    for (umask, mode) in [("0", 0o640), ("022", 0o640), ("077", 0o600)] {
        let (log, pidfile) = (directory.file(&format!("log{umask}")), directory.file("pid"));
        let line = format!("-d -b 127.0.0.1 -s {} -l {log} -P {pidfile} 127.0.0.1 9", free_port());
        let mut daemon = Launch::line(&line).after(&format!("umask {umask}")).ready();
        let bits = |path: &str| fs::metadata(path).expect("metadata").mode() & 0o7777;
        assert_eq!((bits(&log), bits(&pidfile)), (mode, 0o644), "umask {umask}");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_start_in_a_directory_that_is_gone_needs_absolute_paths() {
    let directory = TempDir::new();
    let gone = format!("mkdir {0}; cd {0}; rmdir {0}", directory.file("gone"));
    let line = format!("-b 127.0.0.1 -s {} 127.0.0.1 9", free_port());
    for option in ["-l", "-P", "-c"] {
        let words = if option == "-c" { "-d".to_owned() } else { format!("-d {line}") };
        let refused = Launch::line(&words).arg(option).arg("file").after(&gone).run();
        assert_eq!(refused.status, 64, "{refused:?}");
        let expected =
            format!("tproxy: {option}: invalid value 'file': expected an absolute path, because the directory");
        assert!(refused.stderr.starts_with(&expected) && refused.stderr.lines().count() == 1, "{refused:?}");
    }
    let mut daemon = Launch::line(&format!("-d {line}")).after(&gone).ready();
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", daemon.pid())).expect("cwd"), std::path::Path::new("/"));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn an_odd_environment_changes_nothing_or_is_one_sentence() {
    let server = Server::page(LOCAL, "page");
    let line = |port: u16| format!("-d -w 2 -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let harmless = [
        through("env -i"),
        through("env -i PATH="),
        "export PATH= TZ=:/no/such/zone LISTEN_FDS=7 LISTEN_PID=1 LISTEN_FDNAMES=a:b".to_owned(),
        "export LISTEN_FDS=7 LISTEN_PID=x".to_owned(),
        "export LISTEN_FDS=0 LISTEN_PID=$$ LISTEN_FDNAMES=a".to_owned(),
        "export NOTIFY_SOCKET=relative JOURNAL_STREAM=x:y:z TPROXY_UPGRADE=x".to_owned(),
        "export NOTIFY_SOCKET=/no/such/socket WATCHDOG_USEC=1".to_owned(),
        "export TPROXY_UPGRADE='resume 99 /'".to_owned(),
        "export TPROXY_UPGRADE='rehearse 0 /'".to_owned(),
        "export NOTIFY_SOCKET=@ TPROXY_UPGRADE='resume x /'".to_owned(),
    ];
    for script in harmless {
        let port = free_port();
        let family = "TPROXY_TEST_FAMILY=\"$TPROXY_TEST_FAMILY\"";
        let script = script.replace("env -i", &format!("env -i {family}"));
        let mut daemon = Launch::line(&line(port)).after(&script).ready();
        assert_eq!(clients::fetch(local(port)).expect("fetch"), "page", "{script}");
        assert_eq!(daemon.stop(), 0);
        assert!(daemon.journal.count("NOTIFY_SOCKET") <= 1, "{script}: {}", daemon.journal.text());
    }
    let table = [
        ("export LISTEN_FDS=x LISTEN_PID=$$", "LISTEN_FDS: invalid value 'x': expected a number of sockets"),
        ("export LISTEN_FDS=-1 LISTEN_PID=$$", "LISTEN_FDS: invalid value '-1': expected a number of sockets"),
        ("export LISTEN_FDS=99999 LISTEN_PID=$$", "LISTEN_FDS: invalid value '99999': expected a number of sockets"),
        ("export LISTEN_FDS=1 LISTEN_PID=$$; exec 3<&-", "descriptor 3, which was passed as a socket, is not open"),
        (
            "export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web; exec 3</",
            "descriptor 3 ('web'), which was passed as a \
          socket, is no socket: expected a TCP socket",
        ),
        (
            "export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=:web; exec 3</ 4</",
            "descriptor 3, which was passed as a \
          socket, is no socket: expected a TCP socket",
        ),
    ];
    for (script, expected) in table {
        let refused = Launch::line(&line(free_port())).after(script).run();
        assert_ne!(refused.status, 0, "{refused:?}");
        assert!(refused.stderr.contains(expected) && refused.stderr.lines().count() == 1, "{script}: {refused:?}");
    }
}
