//! tproxyctl against a daemon that a test plays: what it sends, what it prints, and how it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use lab::tempdir::TempDir;

/// A control socket that takes one connection, notes its line, and gives one answer.
struct Daemon {
    directory: TempDir,
    thread: JoinHandle<String>,
}

impl Daemon {
    fn answering(answer: &str) -> Daemon {
        let directory = TempDir::new();
        let listener = UnixListener::bind(directory.file("web.sock")).expect("bind");
        let answer = answer.to_owned();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut line = String::new();
            BufReader::new(stream.try_clone().expect("clone")).read_line(&mut line).expect("a line");
            stream.write_all(answer.as_bytes()).expect("answer");
            line
        });
        Daemon { directory, thread }
    }

    /// Runs tproxyctl with these words. Returns what it did and what the daemon was sent.
    fn asked(self, words: &str) -> (Output, String) {
        let socket = self.directory.file("web.sock");
        let output = tproxyctl(&[&["-S", &socket], &words.split(' ').collect::<Vec<_>>()[..]].concat());
        (output, self.thread.join().expect("the daemon"))
    }
}

fn tproxyctl(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tproxyctl")).args(words).output().expect("tproxyctl")
}

/// Exit status, standard output, standard error.
fn shown(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn answers_are_copied_and_the_status_says_success() {
    let long = format!("{}\n", "x".repeat(1_000_000));
    for (words, line, answer) in [
        ("show summary", "show summary\n", "instance: web\nopen: 5\n"),
        (
            "show connections client 10.0.0.1 --json",
            "json show connections client 10.0.0.1\n",
            "{\"connections\":[]}\n",
        ),
        ("stop --drain 5", "stop --drain 5\n", "ok stopping\n"),
        ("kill source 10.0.0.0/8", "kill source 10.0.0.0/8\n", "ok 3 connections\n"),
        ("show config", "show config\n", &long),
    ] {
        let (output, sent) = Daemon::answering(answer).asked(words);
        assert_eq!(sent, line);
        assert_eq!(shown(&output), (0, answer.to_owned(), String::new()), "{words}");
    }
}

#[test]
fn an_error_of_the_daemon_is_one_sentence_and_status_1() {
    for (words, answer) in
        [("reload", "error: permission denied\n"), ("--json reload", "{\"error\":\"permission denied\"}\n")]
    {
        let (output, _) = Daemon::answering(answer).asked(words);
        assert_eq!(shown(&output), (1, String::new(), "tproxyctl: permission denied\n".to_owned()));
    }
}

#[test]
fn health_is_an_exit_status() {
    for (words, answer, status) in [
        ("health", "serving\n", 0),
        ("health", "draining\n", 1),
        ("health", "withdrawn: redirection 2: no upstream answers\n", 1),
        ("health --json", "{\"health\":\"serving\",\"reason\":null}\n", 0),
        ("health --json", "{\"health\":\"withdrawn\",\"reason\":\"a\"}\n", 1),
    ] {
        let (output, _) = Daemon::answering(answer).asked(words);
        assert_eq!(shown(&output), (status, answer.to_owned(), String::new()));
    }
    for answer in ["", "error: too many clients\n", "sevring\n"] {
        let (output, _) = Daemon::answering(answer).asked("health");
        assert_eq!(shown(&output).0, 2, "{answer:?}");
    }
}

#[test]
fn what_breaks_off_is_no_answer() {
    let (output, _) = Daemon::answering("instance: web\nop").asked("show summary");
    let (status, printed, said) = shown(&output);
    assert_eq!((status, printed.as_str()), (2, "instance: web\nop"));
    assert!(said.ends_with(": the answer breaks off\n"), "{said}");
}

#[test]
fn monitor_ends_with_the_instance() {
    let (output, sent) = Daemon::answering("12:00 monitor serving\n12:01 stopping\n").asked("monitor");
    let (status, printed, said) = shown(&output);
    assert_eq!((sent.as_str(), status, printed.lines().count()), ("monitor\n", 2, 2));
    assert!(said.ends_with(": the instance has ended\n"), "{said}");
}

#[test]
fn without_an_answer_the_sentence_names_the_socket() {
    let directory = TempDir::new();
    let missing = directory.file("none.sock");
    // Nobody listens any more on the socket of one that was killed.
    let dead = directory.file("dead.sock");
    drop(UnixListener::bind(&dead).expect("bind"));
    for (socket, why) in [(&missing, "there is no such socket"), (&dead, "nobody listens on it")] {
        for words in [["show", "summary"].as_slice(), &["health"], &["monitor"]] {
            let (status, printed, said) = shown(&tproxyctl(&[&["-S", socket], words].concat()));
            assert_eq!((status, printed.as_str()), (2, ""), "{words:?}");
            assert!(said.starts_with(&format!("tproxyctl: {socket}: {why}")), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

/// The daemon is stopped, or its queue of connections is full.
#[test]
fn health_does_not_wait_for_ever() {
    let directory = TempDir::new();
    let path = directory.file("web.sock");
    let _silent = UnixListener::bind(&path).expect("bind");
    let (status, _, said) = shown(&tproxyctl(&["-S", &path, "health"]));
    assert_eq!(status, 2);
    assert!(said.ends_with(": no answer in time\n"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let daemon = Daemon::answering(&"line\n".repeat(1_000_000));
    let script = format!(
        "{} -S {} show connections | head -n 1",
        env!("CARGO_BIN_EXE_tproxyctl"),
        daemon.directory.file("web.sock")
    );
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().expect("bash");
    assert_eq!(shown(&output), (0, "line\n".to_owned(), String::new()));
}

/// What /run/tproxy holds, seen by a tproxyctl that has a /run of its own.
#[test]
fn the_only_instance_is_found_and_several_are_listed() {
    if !nix::unistd::Uid::effective().is_root() {
        lab::report("SKIPPED: not root, cannot have a /run of its own");
        return;
    }
    let directory = TempDir::new();
    let found = |words: &str| {
        let script = format!(
            "mount --bind {directory} /run && exec {} {words}",
            env!("CARGO_BIN_EXE_tproxyctl"),
            directory = directory.path.display()
        );
        shown(&Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().expect("unshare"))
    };
    let (status, _, said) = found("health");
    assert_eq!(status, 2);
    assert!(said.starts_with("tproxyctl: /run/tproxy: no control socket is there"), "{said}");

    let folder = directory.path.join("tproxy");
    std::fs::create_dir(&folder).expect("mkdir");
    let serve = |name: &str| {
        let listener = UnixListener::bind(folder.join(format!("{name}.sock"))).expect("bind");
        let name = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A look whether somebody listens asks nothing.
                let _ = stream.and_then(|mut stream| writeln!(stream, "instance: {name}"));
            }
        });
    };
    serve("web");
    drop(UnixListener::bind(folder.join("killed.sock")).expect("bind"));
    assert_eq!(found("show summary").1, "instance: web\n");
    serve("mail");
    let (status, _, said) = found("show summary");
    assert_eq!((status, said.as_str()), (64, "tproxyctl: several instances run; choose one with -i: mail, web\n"));
    assert_eq!(found("-i mail show summary").1, "instance: mail\n");
    let (status, _, said) = found("-i ../x show summary");
    assert_eq!(
        (status, said.as_str()),
        (64, "tproxyctl: -i: invalid value '../x': expected the name of an instance\n")
    );
}

#[test]
fn help_and_version_are_printed() {
    let (status, printed, said) = shown(&tproxyctl(&["--help"]));
    assert_eq!((status, said.as_str()), (0, ""));
    assert!(printed.starts_with("usage: tproxyctl "), "{printed}");
    assert_eq!(shown(&tproxyctl(&["-V"])).1, format!("tproxyctl {}\n", env!("CARGO_PKG_VERSION")));
    let (status, _, said) = shown(&tproxyctl(&["show", "sumary"]));
    assert_eq!(status, 64);
    assert!(said.starts_with("tproxyctl: invalid command 'show sumary': expected summary, "), "{said}");
}

/// What bash suggests for the last of these words.
fn completed(words: &[&str]) -> Vec<String> {
    let script = "source scripts/completions/tproxyctl.bash 2>&1; compopt() { :; }; COMP_WORDS=(\"$@\"); \
                  COMP_CWORD=$(($# - 1)); _tproxyctl 2>&1; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let done = Command::new("bash").args(["-c", script, "bash", "tproxyctl"]).args(words).output();
    let text = String::from_utf8(done.expect("bash").stdout).expect("text");
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands() {
    assert_eq!(completed(&["sh"]), ["show"]);
    assert_eq!(completed(&["--json", "show", "co"]), ["connections", "config"]);
    assert_eq!(completed(&["-i", "web", "upstream", "dr"]), ["drain"]);
    assert_eq!(completed(&["kill", ""]), ["source"]);
    assert_eq!(completed(&["stop", "--"]), ["--drain"]);
    assert_eq!(completed(&["show", "connections", "client", "10.0.0.1", "ol"]), ["older"]);
    assert_eq!(completed(&["--j"]), ["--json"]);
}
