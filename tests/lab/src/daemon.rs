//! The program under test, started in the foreground or as the daemon it is.

use crate::journal::Journal;
use crate::netns::Net;
use crate::process::{self, Family};
use crate::rules;
use crate::wait;
use nix::sys::signal::Signal;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketAddrUnix, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Longest time that a start, a stop or a refusal may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(45);

/// The path of the program under test. Cargo puts it beside the directory of the test binaries;
/// `CARGO_BIN_EXE_tproxy` names it too, but only while those are compiled.
pub fn program() -> String {
    let test = std::env::current_exe().expect("the path of this test");
    let program = test.ancestors().nth(2).expect("a build directory").join("tproxy");
    assert!(program.is_file(), "{} is not there: cargo test builds it", program.display());
    program.display().to_string()
}

/// A command line of tproxy, before it runs.
pub struct Launch {
    wrapper: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    uid: Option<u32>,
    program: String,
}

/// What a command left behind that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A tproxy in the foreground. All its processes end when it is dropped.
pub struct Daemon {
    child: Child,
    /// Guardian, worker, resolver.
    pub family: Family,
    /// What it wrote to its standard error.
    pub journal: Journal,
}

impl Launch {
    /// tproxy with these arguments.
    pub fn new(args: &[&str]) -> Launch {
        Launch {
            wrapper: Vec::new(),
            args: args.iter().map(ToString::to_string).collect(),
            env: Vec::new(),
            uid: None,
            program: program(),
        }
    }

    /// tproxy with arguments split at blanks, for those that need no quotes.
    pub fn line(args: &str) -> Launch {
        Launch::new(&args.split_whitespace().collect::<Vec<_>>())
    }

    /// One more argument, taken as it is.
    pub fn arg(mut self, arg: impl ToString) -> Launch {
        self.args.push(arg.to_string());
        self
    }

    /// Runs it in a network namespace, where `/etc/netns/NAME/*` stand in for `/etc/*`.
    pub fn within(mut self, net: &Net) -> Launch {
        self.wrapper.splice(0..0, ["ip", "netns", "exec", &net.name].map(String::from));
        self
    }

    /// Limits its open files, soft and hard.
    pub fn open_files(mut self, limit: u32) -> Launch {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        self.wrapper.extend(["sh", "-c", &script].map(String::from));
        self
    }

    /// Limits the size of the files that it writes, in blocks of 512 bytes.
    pub fn file_size(mut self, limit: u32) -> Launch {
        let script = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
        self.wrapper.extend(["sh", "-c", &script].map(String::from));
        self
    }

    /// Starts it with the descriptors 0, 1 and 2 closed, as some init programs do.
    pub fn without_standard_streams(mut self) -> Launch {
        self.wrapper.extend(["sh", "-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"].map(String::from));
        self
    }

    /// Starts it from a shell that has run this script, with what the script leaves it.
    pub fn after(mut self, script: &str) -> Launch {
        self.wrapper.extend(["sh", "-ec", &format!("{script}; exec \"$0\" \"$@\"")].map(String::from));
        self
    }

    /// Tells it that its standard error is the journal of systemd, as a unit's is (systemd.exec(5)).
    pub fn with_journal(mut self) -> Launch {
        let script = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec \"$0\" \"$@\"";
        self.wrapper.extend(["sh", "-c", script].map(String::from));
        self
    }

    /// Gives it a `/dev` of its own, in which `log` is the socket that the test has made in `directory`.
    /// Only after [`Launch::within`], whose mounts are private.
    pub fn with_devices_in(mut self, directory: &Path) -> Launch {
        let directory = directory.display();
        let script = format!(
            "for d in null zero random urandom; do : > {directory}/$d; mount --bind /dev/$d {directory}/$d; done; \
             mount --rbind {directory} /dev; exec \"$0\" \"$@\""
        );
        self.wrapper.extend(["sh", "-ec", &script].map(String::from));
        self
    }

    /// Gives it a `/usr/sbin` of its own, in which what `directory` holds stands for what is there; an empty file hides
    /// it. The true ones are in `directory/true`. Only after [`Launch::within`], whose mounts are private.
    pub fn with_programs_in(mut self, directory: &Path) -> Launch {
        let directory = directory.display();
        let script = format!(
            "cd {directory}; mkdir -p true; mount --bind /usr/sbin true; view=$(mktemp -d -p .); \
             ln -s {directory}/true/* $view; for f in *; do [ ! -f $f ] || ln -sf {directory}/$f $view; done; \
             for f in *; do [ ! -f $f ] || [ -s $f ] || rm $view/$f; done; \
             mount --bind $view /usr/sbin; cd /; exec \"$0\" \"$@\""
        );
        self.wrapper.extend(["sh", "-ec", &script].map(String::from));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// Runs it as another user, from a copy of the binary: a build directory need not be open to that user.
    pub fn by_user(mut self, uid: u32, program: &str) -> Launch {
        self.uid = Some(uid);
        self.program = program.to_string();
        self
    }

    fn command(&self, family: &Family) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.program.clone());
        let has = |names: &[&str]| self.args.iter().any(|arg| names.contains(&arg.as_str()));
        if has(&["-R", "-X", "--reject", "-c"]) && !has(&["--firewall", "--flush"]) {
            words.extend(rules::firewall().map(|name| format!("--firewall={name}")));
        }
        words.extend(self.args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.env.iter().cloned()).envs([family.entry()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid).current_dir("/");
        }
        command
    }

    /// Starts it and waits for nothing.
    pub fn spawn(self) -> Daemon {
        let family = Family::new();
        let mut child = begin(self.command(&family));
        let journal = Journal::default();
        journal.follow(child.stderr.take().expect("stderr"));
        journal.follow(child.stdout.take().expect("stdout"));
        Daemon { child, family, journal }
    }

    /// Starts it with this standard error, which the test reads itself, or does not.
    pub fn spawn_into(self, stderr: impl Into<Stdio>) -> Daemon {
        let family = Family::new();
        let child = self.command(&family).stdout(Stdio::null()).stderr(stderr).spawn().expect("spawn");
        Daemon { child, family, journal: Journal::default() }
    }

    /// Starts it in the foreground (`-d` is among the arguments) and waits until it says that it is ready.
    pub fn ready(self) -> Daemon {
        let mut daemon = self.spawn();
        let said = wait::try_until(COMMAND_PATIENCE, || {
            let line = daemon.journal.lines().into_iter().find(|line| line.contains("ready: "));
            line.map(Ok).or_else(|| daemon.child.try_wait().expect("wait").map(Err))
        });
        match said {
            Some(Ok(_)) => daemon,
            Some(Err(status)) => panic!("tproxy ended while starting ({status}):\n{}", daemon.journal.text()),
            None => panic!("tproxy did not become ready:\n{}", daemon.journal.text()),
        }
    }

    /// Runs it to its end; with the processes that it left running, if it became a daemon.
    pub fn start(self) -> (Finished, Family) {
        let family = Family::new();
        let mut child = begin(self.command(&family));
        let (out, err) = (Journal::default(), Journal::default());
        out.follow(child.stdout.take().expect("stdout"));
        err.follow(child.stderr.take().expect("stderr"));
        let status = wait::try_until(COMMAND_PATIENCE, || child.try_wait().expect("wait"));
        let Some(status) = status else {
            let _ = child.kill();
            panic!("tproxy {:?} did not return to the shell; stderr:\n{}", self.args, err.text());
        };
        // A daemon that keeps its starter's stderr open makes `ssh host service tproxy start` hang.
        wait::until_true("tproxy lets go of the starter's stdout and stderr", || out.ended() && err.ended());
        (Finished { status: code(status), stdout: out.text(), stderr: err.text() }, family)
    }

    /// Runs it to its end, leaving nothing.
    pub fn run(self) -> Finished {
        self.start().0
    }
}

/// Starts a program. A copy that was just written may still be open in a child that another test has forked meanwhile, until
/// that child executes its own program.
fn begin(mut command: Command) -> Child {
    wait::until("a program that nobody writes", || match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
        child => Some(child.expect("spawn")),
    })
}

/// The exit status, or 128 and the number of the signal, as a shell says it.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

impl Daemon {
    /// The process that was started.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// The process that relays: the worker, or the only one.
    pub fn relaying_pid(&self) -> i32 {
        self.family.named("tproxy-worker").first().copied().unwrap_or_else(|| self.pid())
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> i32 {
        let status = wait::try_until(COMMAND_PATIENCE, || self.child.try_wait().expect("wait"));
        status.map(code).unwrap_or_else(|| panic!("tproxy did not end:\n{}", self.journal.text()))
    }

    /// Whether it is still running.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Asks it to stop (twice: without draining) and waits for the end of all its processes.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        let status = wait::try_until(Duration::from_millis(1500), || self.child.try_wait().expect("wait"));
        let status = status.map(code).unwrap_or_else(|| {
            self.signal(Signal::SIGTERM);
            self.wait()
        });
        self.family.wait_gone();
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::report(&format!("the log of the daemon under test:\n{}", self.journal.text()));
        }
        self.family.end();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay on loopback for tests without rules and without root.
pub struct LoopbackRelay {
    /// The running program.
    pub daemon: Daemon,
    /// Where it listens.
    pub address: SocketAddr,
}

impl LoopbackRelay {
    /// Starts `tproxy -d -b 127.0.0.1 -s PORT options HOST PORT`.
    pub fn start(options: &str, upstream: SocketAddr) -> LoopbackRelay {
        LoopbackRelay::start_to(options, &format!("{} {}", upstream.ip(), upstream.port()))
    }

    /// The same with the upstream as words, which may be a name or nothing.
    pub fn start_to(options: &str, upstream: &str) -> LoopbackRelay {
        let port = free_port();
        let daemon = Launch::line(&format!("-d -b 127.0.0.1 -s {port} {options} {upstream}")).ready();
        LoopbackRelay { daemon, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// A client's connection to it.
    pub fn connect(&self) -> TcpStream {
        crate::clients::connect_before_reset(self.address)
    }
}

/// A port on which nobody listens, for this test alone. Below the range of ports that the kernel hands out, so that no
/// connection's own end can take it between here and its use.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // A test binary keeps its ports to its end: others that run at the same time find their reservations taken.
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    for _ in 0..20_000 {
        let port = 11_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 21_000;
        let name = SocketAddrUnix::from_abstract_name(format!("tproxy-test-port-{port}")).expect("a name");
        let Ok(reservation) = UnixListener::bind_addr(&name) else { continue };
        let v4 = TcpListener::bind(("0.0.0.0", port));
        let v6 = TcpListener::bind(("::1", port));
        if v4.is_ok() && v6.is_ok() {
            RESERVED.lock().expect("reservations").push(reservation);
            return port;
        }
    }
    panic!("no free port");
}
