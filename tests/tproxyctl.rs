//! tproxyctl, against a daemon that the test plays and against a real one: what it sends, what it prints, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::daemon::LoopbackRelay;
use lab::servers::Server;
use lab::tempdir::TempDir;
use lab::wait::PATIENCE;

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
    let document = "{\"error\":\"permission denied\"}\n";
    for (words, answer, printed) in
        [("reload", "error: permission denied\n", ""), ("--json reload", document, document)]
    {
        let (output, _) = Daemon::answering(answer).asked(words);
        assert_eq!(shown(&output), (1, printed.to_owned(), "tproxyctl: permission denied\n".to_owned()));
    }
}

#[test]
fn a_program_that_wants_json_gets_each_error_as_a_document() {
    let directory = TempDir::new();
    let missing = directory.file("none.sock");
    for (words, status, wanted) in [
        (["-S", &missing, "--json", "show", "workers"], 2, "there is no such socket"),
        (["-S", &missing, "show", "nothing", "--json"], 64, "invalid command 'show nothing'"),
    ] {
        let (ended, printed, said) = shown(&tproxyctl(&words));
        assert_eq!((ended, printed.lines().count()), (status, 1), "{printed}");
        assert!(
            printed.starts_with("{\"error\":\"") && printed.ends_with("\"}\n") && printed.contains(wanted),
            "{printed}"
        );
        assert!(said.starts_with("tproxyctl: ") && said.contains(wanted), "{said}");
    }
    // A part of an answer is not followed by another document.
    let part = "{\"connections\":[\n{\"id\"";
    let (output, _) = Daemon::answering(part).asked("--json show connections");
    let (status, printed, _) = shown(&output);
    assert_eq!((status, printed.as_str()), (2, part));
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
fn monitor_goes_on_when_another_process_answers() {
    let directory = TempDir::new();
    let socket = directory.file("web.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let daemon = std::thread::spawn(move || {
        for answer in ["1 monitor: serving\n2 upgrade\n", "3 monitor: serving\n4 worker ended\n"] {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut line = String::new();
            BufReader::new(stream.try_clone().expect("clone")).read_line(&mut line).expect("a line");
            stream.write_all(answer.as_bytes()).expect("answer");
        }
    });
    let (status, printed, said) = shown(&tproxyctl(&["-S", &socket, "monitor"]));
    assert_eq!(printed, "1 monitor: serving\n2 upgrade\n3 monitor: serving\n4 worker ended\n");
    assert!(status == 2 && said.ends_with(": the instance has ended\n"), "{status} {said}");
    daemon.join().expect("the daemon");
}

#[test]
fn monitor_ends_with_the_instance() {
    let (output, sent) = Daemon::answering("12:00 monitor serving\n12:01 stopping\n").asked("monitor");
    let (status, printed, said) = shown(&output);
    assert_eq!((sent.as_str(), status, printed.lines().count()), ("monitor\n", 2, 2));
    assert!(said.ends_with(": the instance has ended\n"), "{said}");
}

/// As in an example of the manual page: a script waits for one event, and goes on.
#[test]
fn monitor_ends_when_its_reader_has_seen_enough() {
    let directory = TempDir::new();
    let socket = directory.file("web.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let script = format!("{} -S {socket} monitor | grep -m 1 drained", env!("CARGO_BIN_EXE_tproxyctl"));
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shell = shell.spawn().expect("bash");
    let (mut stream, _) = listener.accept().expect("accept");
    stream.write_all(b"12:00 monitor: serving\n12:01 upstream drained: cow:80\n").expect("events");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    // There is no event after that.
    stream.read_to_end(&mut Vec::new()).expect("the end of tproxyctl");
    let output = shell.wait_with_output().expect("bash");
    assert_eq!(shown(&output), (0, "12:01 upstream drained: cow:80\n".to_owned(), String::new()));
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

/// A daemon for `top`: it answers command after command, and notes those that change something.
struct Steered {
    directory: TempDir,
    changes: Arc<Mutex<Vec<String>>>,
}

/// What it answers to.
const DOCUMENTS: [(&str, &str); 3] = [
    (
        "json show summary",
        r#"{"instance":"web","health":"serving","health_reason":null,"uptime":7500,"open":3,"limit":7500,"workers":2,
        "draining":0,"pipes":0,"accept_pauses":0,"rules":"in place","accepted":1000,"bytes_up":5000,"bytes_down":6000,
        "reasons":{"finished":990,"idle":7}}"#,
    ),
    (
        "json show upstreams",
        r#"{"upstreams":[{"redirection":1,"upstream":"cow:80","state":"up","check":"passing","open":3,"connected":1000,
        "failed":0,"connect_time":0.002,"connect_time_last_minute":0.004},
        {"redirection":1,"upstream":"moose:80","state":"down","check":"failing","open":0,"connected":0,"failed":12,
        "connect_time":null,"connect_time_last_minute":null}]}"#,
    ),
    (
        "json show connections",
        r#"{"connections":[
        {"id":"1-1","client":"10.1.0.2:1001","original":"10.9.0.9:80","bytes_up":10,"bytes_down":SLOW,"age":10},
        {"id":"1-2","client":"10.1.0.3:1002","original":"10.9.0.9:80","bytes_up":10,"bytes_down":FAST,"age":10},
        {"id":"1-3","client":"10.1.0.3:1003","original":"10.9.0.9:80","bytes_up":10,"bytes_down":500,"age":10}]}"#,
    ),
];

impl Steered {
    fn new() -> Steered {
        let steered = Steered { directory: TempDir::new(), changes: Arc::default() };
        let listener = UnixListener::bind(steered.directory.file("web.sock")).expect("bind");
        let changes = Arc::clone(&steered.changes);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("accept");
                let mut fast = 90_000;
                for line in BufReader::new(stream.try_clone().expect("clone")).lines().map_while(Result::ok) {
                    if line == "prompt" {
                        let _ = writeln!(stream);
                        continue;
                    }
                    let known = DOCUMENTS.iter().find(|(command, _)| *command == line);
                    let answer = known
                        .map(|(_, answer)| {
                            fast += 1000;
                            let answer = answer.replace('\n', "").replace("FAST", &fast.to_string());
                            answer.replace("SLOW", &(fast / 10).to_string())
                        })
                        .unwrap_or_else(|| {
                            changes.lock().expect("changes").push(line);
                            "ok done".to_owned()
                        });
                    let _ = write!(stream, "{answer}\n\n");
                }
            }
        });
        steered
    }
}

/// A terminal with a program in it.
struct Terminal {
    server: String,
}

impl Terminal {
    fn with(script: &str) -> Option<Terminal> {
        if Command::new("tmux").arg("-V").output().is_err() {
            assert!(std::env::var("TPROXY_MUST_NETNS").is_err(), "tmux is not installed");
            lab::report("SKIPPED: tmux is not installed");
            return None;
        }
        let terminal = Terminal { server: lab::process::unique("tproxyctl") };
        // The shell stays when the program has ended.
        let script = format!("{script}; echo \"status $?\"; exec cat");
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &script]);
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.server]).args(words).output().expect("tmux");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen has all these texts. Returns it.
    fn shows(&self, wanted: &[&str]) -> String {
        let mut last = String::new();
        let found = lab::wait::try_until(Duration::from_secs(20), || {
            last = self.screen();
            wanted.iter().all(|text| last.contains(text)).then_some(())
        });
        assert!(found.is_some(), "{wanted:?} is not on the screen:\n{last}");
        last
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}

#[test]
fn top_shows_a_screen_of_80_by_24_and_steers() {
    let daemon = Steered::new();
    let changes = || daemon.changes.lock().expect("changes").clone();
    let program = env!("CARGO_BIN_EXE_tproxyctl");
    let script = format!("LC_ALL=C.UTF-8 {program} -S {} top", daemon.directory.file("web.sock"));
    let Some(terminal) = Terminal::with(&script) else { return };

    let screen = terminal.shows(&["tproxy web  serving", "up 2h05m", "open 3 of 7.50k", "cow:80", "10s, most"]);
    for text in
        ["accepted 1.00k   failed 7   workers 2", "rules in place", "moose:80", "down", "4.0 ms", "? help  q quit"]
    {
        assert!(screen.contains(text), "{text}:\n{screen}");
    }
    // The busiest connection and the busiest source come first.
    let row = |text: &str| {
        screen.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}:\n{screen}"))
    };
    assert!(row("1-2 ") < row("1-1 ") && row("1-1 ") < row("1-3 "), "{screen}");
    assert!(row("10.1.0.3 ") < row("10.1.0.2 "), "{screen}");
    assert_eq!(screen.lines().count(), 24, "{screen}");

    // A question that is not answered with yes does nothing.
    terminal.press(&["d"]);
    terminal.shows(&["disable the upstream cow:80? y/n"]);
    terminal.press(&["n"]);
    terminal.shows(&["nothing was done"]);
    assert_eq!(changes(), [""; 0]);
    for (keys, question, key, done) in [
        (&["Down", "n"][..], "drain the upstream moose:80? y/n", "y", "upstream drain moose:80"),
        (&["c", "k"], "reset the connection 1-2 of 10.1.0.3:1002? y/n", "y", "kill 1-2"),
        (&["s", "k"], "reset all 2 connections of 10.1.0.3? y/n", "Y", "kill source 10.1.0.3"),
    ] {
        terminal.press(keys);
        terminal.shows(&[question]);
        terminal.press(&[key]);
        terminal.shows(&[&format!("{done}: ok done")]);
        assert_eq!(changes().last().map(String::as_str), Some(done));
    }

    // Sorted by age, the other way round; only what has a text.
    terminal.press(&["c", "o", "o", "r"]);
    terminal.shows(&["^AGE"]);
    terminal.press(&["/"]);
    terminal.press(&["-l", "1.0.2"]);
    let screen = terminal.shows(&["filter: 1.0.2_", "1-1 "]);
    assert!(!screen.contains("1-3 "), "{screen}");
    terminal.press(&["Escape"]);
    terminal.shows(&["1-3 ", "? help  q quit"]);
    terminal.press(&["?"]);
    terminal.shows(&["disable, drain, enable the selected upstream"]);
    terminal.press(&["x", "z"]);
    assert!(!terminal.shows(&["ORIGINAL"]).is_empty());

    terminal.tmux(&["resize-window", "-x", "130", "-y", "30"]);
    terminal.shows(&["STATE"]);
    terminal.press(&["q"]);
    terminal.shows(&["status 0"]);
}

#[test]
fn top_needs_no_colour() {
    let daemon = Steered::new();
    let program = env!("CARGO_BIN_EXE_tproxyctl");
    let script = format!("LC_ALL=C NO_COLOR=1 {program} -S {} top", daemon.directory.file("web.sock"));
    let Some(terminal) = Terminal::with(&script) else { return };
    terminal.shows(&["moose:80", "10s, most"]);
    let screen = terminal.tmux(&["capture-pane", "-p", "-e"]);
    let parts = screen.split("\x1b[").skip(1).filter_map(|rest| Some(rest.split_once('m')?.0));
    let numbers: Vec<u32> = parts.flat_map(|part| part.split(';')).filter_map(|number| number.parse().ok()).collect();
    assert!(numbers.contains(&7), "nothing is highlighted:\n{screen}");
    // 39 and 49 are the terminal's own colours.
    let colour = numbers.iter().find(|number| **number >= 30 && !matches!(number, 39 | 49));
    assert_eq!(colour, None, "{screen}");
    assert!(screen.is_ascii(), "{screen}");
    terminal.press(&["C-c"]);
    terminal.shows(&["status 0"]);
}

#[test]
fn top_needs_a_terminal() {
    let daemon = Steered::new();
    let (status, _, said) = shown(&tproxyctl(&["-S", &daemon.directory.file("web.sock"), "top"]));
    assert_eq!((status, said.lines().count()), (64, 1), "{said}");
    assert!(said.starts_with("tproxyctl: top needs a terminal"), "{said}");
}

// ---- With a real daemon ----

/// A tproxy on loopback with a control socket.
struct Real {
    relay: LoopbackRelay,
    socket: String,
    _directory: TempDir,
}

impl Real {
    fn new(upstream: &Server) -> Real {
        let directory = TempDir::new();
        let socket = directory.file("real.sock");
        let relay = LoopbackRelay::start(&format!("--control {socket}"), upstream.address);
        Real { relay, socket, _directory: directory }
    }

    /// Status, output and error of a command.
    fn asked(&self, words: &str) -> (i32, String, String) {
        shown(&tproxyctl(&[&["-S", &self.socket], &words.split(' ').collect::<Vec<_>>()[..]].concat()))
    }
}

#[test]
fn a_real_daemon_is_shown_and_steered() {
    let upstream = Server::echo("127.0.0.1:0");
    let mut real = Real::new(&upstream);
    let name = upstream.address.to_string();
    let mut client = real.relay.connect();
    lab::clients::round_trip(&mut client, b"hello").expect("an echo");
    let (status, printed, said) = real.asked("health");
    assert_eq!((status, printed.as_str(), said.as_str()), (0, "serving\n", ""));
    for (words, wanted) in [
        ("show summary", "open: 1\n"),
        ("show redirections", "relay"),
        ("show upstreams", &name),
        ("show connections", &name),
        ("show workers", "serving"),
        ("show config", "# tproxy -d -b 127.0.0.1 -s "),
        ("show rules", "none"),
    ] {
        let (status, printed, said) = real.asked(words);
        assert_eq!((status, said.as_str()), (0, ""), "{words}");
        assert!(printed.contains(wanted), "{words}: {printed}");
        let (status, document, _) = real.asked(&format!("--json {words}"));
        assert!(status == 0 && document.starts_with('{') && document.ends_with("}\n"), "{words}: {document}");
    }
    let (_, printed, _) = real.asked("show connections port 1");
    assert_eq!(printed.lines().count(), 1, "only the heading: {printed}");

    for words in ["verbose on", "verbose off", "reopen", "reload", &format!("upstream disable {name}")] {
        let (status, printed, said) = real.asked(words);
        assert_eq!((status, said.as_str()), (0, ""), "{words}");
        assert!(printed.starts_with("ok"), "{words}: {printed}");
    }
    let (_, printed, _) = real.asked("show upstreams");
    assert!(printed.contains("disabled"), "{printed}");
    assert_eq!(real.asked(&format!("upstream enable {name}")).0, 0);
    for words in ["upstream drain nobody:1", "kill 9-9", "redirection disable 9"] {
        let (status, printed, said) = real.asked(words);
        assert_eq!((status, printed.as_str(), said.lines().count()), (1, "", 1), "{words}: {said}");
        assert!(said.starts_with("tproxyctl: "), "{said}");
    }
    assert_eq!(real.asked("kill source 127.0.0.1").0, 0);
    lab::clients::expect_reset(&mut client);

    assert_eq!(real.asked("stop --drain 0").0, 0);
    real.relay.daemon.wait();
    assert_eq!(real.asked("health").0, 2);
}

#[test]
fn spliced_bytes_are_some_of_those_that_arrived() {
    let upstream = Server::threaded("127.0.0.1:0", |mut stream| while stream.write_all(&[0; 65536]).is_ok() {});
    let real = Real::new(&upstream);
    let client = real.relay.connect();
    // It takes nothing, and a pipe is left full.
    let shows = |line: &str| real.asked("show summary").1.lines().any(|one| one == line);
    lab::wait::until_true("a pipe that is full", || shows("pipes: 1"));
    lab::clients::reset(client);
    lab::wait::until_true("the end", || shows("open: 0"));
    let (_, summary, _) = real.asked("show summary");
    let value = |name: &str| -> u64 {
        let line = summary.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok()).expect("a number")
    };
    let (spliced, down) = (value("bytes_spliced"), value("bytes_down"));
    assert!(0 < spliced && spliced <= down, "{spliced} of {down}");
}

#[test]
fn top_shows_a_real_daemon() {
    let upstream = Server::echo("127.0.0.1:0");
    let real = Real::new(&upstream);
    let mut client = real.relay.connect();
    lab::clients::round_trip(&mut client, b"hello").expect("an echo");
    let peer = client.local_addr().expect("address").to_string();
    let script = format!("LC_ALL=C.UTF-8 {} -S {} top", env!("CARGO_BIN_EXE_tproxyctl"), real.socket);
    let Some(terminal) = Terminal::with(&script) else { return };
    terminal.shows(&["serving", &upstream.address.to_string(), &peer, "accepted 1 "]);
    terminal.press(&["c", "k"]);
    terminal.shows(&[&format!("of {peer}? y/n")]);
    terminal.press(&["y"]);
    lab::clients::expect_reset(&mut client);
    // The instance ends, and the view says so and stays.
    assert_eq!(real.asked("stop --drain 0").0, 0);
    terminal.shows(&["tproxy does not run", &upstream.address.to_string()]);
    terminal.press(&["q"]);
    terminal.shows(&["status 0"]);
}
