//! The contestants: what carries connections from the client to the origin. commands.rs has their configurations.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands;
use crate::protocol::{Request, WEB_PORT, head_length};
use crate::resources::process_tree;

/// The origin's address. The client connects to this address, and to a port that belongs to one contestant.
pub const ORIGIN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 2));

/// Connections that a contestant is configured for. No load has more, and the limit of open files allows these.
pub const CONNECTIONS: usize = 6_000;

/// The network and the programs, as scripts/bench has prepared them.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Names of namespaces.
    pub gateway: String,
    pub server: String,
    /// For configuration files and logs.
    pub directory: PathBuf,
    pub tproxy: PathBuf,
    /// Another build of tproxy to compare with.
    pub other: Option<PathBuf>,
}

impl Lab {
    fn in_gateway(&self, words: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.gateway]).args(words).stdin(Stdio::null());
        command
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// No proxy: what the network costs by itself.
    Baseline,
    /// tproxy with some options.
    Tproxy,
    /// The same, of the other build.
    OtherBuild,
    /// A program that tproxy is compared with.
    Peer,
}

#[derive(Debug)]
pub struct Contestant {
    pub name: String,
    /// Its name in the tables.
    pub title: String,
    pub role: Role,
    pub max_connections: usize,
    port: u16,
    setup: Setup,
    /// Runs from [`Contestant::start`] on.
    child: Option<Child>,
}

/// What carries the connections to its port.
#[derive(Debug, Clone, Copy)]
enum Setup {
    /// Nothing; the origin listens on the port.
    Direct,
    /// A DNAT rule.
    Dnat,
    /// tproxy, which installs its rules itself. These are its options besides the usual ones.
    Tproxy(&'static [&'static str]),
    /// A program that writes its configuration and returns its command line; a REDIRECT rule goes with it.
    Peer(Configure),
    /// The same, with rules that bring the answers to sockets with addresses of clients.
    AsClient(Configure),
}

type Configure = fn(&Path, u16) -> io::Result<Vec<String>>;

/// tproxy's variants: name, title, options.
const VARIANTS: [(&str, &str, &[&str]); 9] = [
    ("tproxy", "**tproxy**", &[]),
    ("tproxy-w2", "tproxy -w 2", &["-w", "2"]),
    ("tproxy-source", "tproxy --source client", &["--source", "client"]),
    ("tproxy-intercept", "tproxy --intercept tproxy", &["--intercept", "tproxy"]),
    ("tproxy-both", "tproxy --intercept tproxy --source client", &["--intercept", "tproxy", "--source", "client"]),
    ("tproxy-kernel", "tproxy --kernel", &["--kernel"]),
    ("tproxy-socks5", "tproxy --via socks5", &["--via", "socks5"]),
    ("tproxy-connect", "tproxy --via connect", &["--via", "connect"]),
    ("tproxy-http", "tproxy --via http", &["--via", "http"]),
];

/// All contestants in the order of the tables. With `other`, each variant of tproxy exists in both builds.
pub fn all(other: bool) -> Vec<Contestant> {
    let mut all: Vec<Contestant> = Vec::new();
    let mut add = |name: &str, title: &str, role, setup| {
        // socat starts a process for each connection.
        let max_connections = if name == "socat" { 200 } else { CONNECTIONS };
        let port = WEB_PORT + all.len() as u16;
        let (name, title) = (name.to_owned(), title.to_owned());
        all.push(Contestant { name, title, role, max_connections, port, setup, child: None });
    };
    // The first one has the port on which the origin listens.
    add("direct", "no proxy", Role::Baseline, Setup::Direct);
    add("dnat", "kernel DNAT", Role::Baseline, Setup::Dnat);
    for (name, title, options) in VARIANTS {
        add(name, title, Role::Tproxy, Setup::Tproxy(options));
        if other {
            let title = format!("{}, other build", title.replace("**", ""));
            add(&other_name(name), &title, Role::OtherBuild, Setup::Tproxy(options));
        }
    }
    add("haproxy-splice", "HAProxy, splice", Role::Peer, Setup::Peer(commands::haproxy_splicing));
    add("haproxy", "HAProxy", Role::Peer, Setup::Peer(commands::haproxy_copying));
    add("nginx", "nginx stream", Role::Peer, Setup::Peer(commands::nginx));
    add("rinetd", "rinetd", Role::Peer, Setup::Peer(commands::rinetd));
    add("redsocks", "redsocks, SOCKS5", Role::Peer, Setup::Peer(commands::redsocks_socks5));
    add("socat", "socat", Role::Peer, Setup::Peer(commands::socat));
    let as_client = "HAProxy, source usesrc clientip";
    add("haproxy-source", as_client, Role::Peer, Setup::AsClient(commands::haproxy_as_client));
    let as_client = "nginx stream, proxy_bind transparent";
    add("nginx-source", as_client, Role::Peer, Setup::AsClient(commands::nginx_as_client));
    add("haproxy-http", "HAProxy, mode http", Role::Peer, Setup::Peer(commands::haproxy_http));
    add("redsocks-connect", "redsocks, http-connect", Role::Peer, Setup::Peer(commands::redsocks_connect));
    add("redsocks-http", "redsocks, http-relay", Role::Peer, Setup::Peer(commands::redsocks_http));
    all
}

/// The name of the same variant in the other build: `other`, `other-w2`.
pub fn other_name(name: &str) -> String {
    name.replacen("tproxy", "other", 1)
}

impl Contestant {
    /// The address that the client connects to.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(ORIGIN, self.port)
    }

    /// The process that was started; the others are its descendants.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it unless it runs, and waits until it relays a request.
    pub fn start(&mut self, lab: &Lab) -> Result<(), String> {
        if let Some(child) = &mut self.child
            && child.try_wait().is_ok_and(|ended| ended.is_none())
        {
            return Ok(());
        }
        let log = lab.directory.join(format!("{}.log", self.name));
        if let Some(words) = self.command(lab)? {
            let error_text = |error: io::Error| format!("{}: {error}", words[0]);
            let file = fs::File::create(&log).map_err(error_text)?;
            let mut command = lab.in_gateway(&words);
            command.stdout(file.try_clone().map_err(error_text)?).stderr(file);
            self.child = Some(command.spawn().map_err(error_text)?);
        }
        self.wait_ready().map_err(|error| {
            let output = fs::read_to_string(&log).unwrap_or_default();
            format!("{} does not answer: {error}; its output: {output}", self.name)
        })
    }

    /// Stops all its processes.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pids = process_tree(child.id());
        let deadline = Instant::now() + Duration::from_secs(5);
        send_signal(child.id(), Signal::SIGTERM);
        while child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                pids.iter().for_each(|pid| send_signal(*pid, Signal::SIGKILL));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its command line, unless it has no process. Its rule is installed afterwards.
    fn command(&self, lab: &Lab) -> Result<Option<Vec<String>>, String> {
        let (port, error_text) = (self.port, |error: io::Error| format!("{}: {error}", self.name));
        Ok(match self.setup {
            Setup::Direct => None,
            Setup::Dnat => {
                let to = format!("{ORIGIN}:{WEB_PORT}");
                add_rule(lab, &format!("PREROUTING -p tcp --dport {port} -j DNAT --to-destination {to}"))?;
                let translated = format!("-m conntrack --ctstate DNAT --ctorigdstport {port}");
                add_rule(lab, &format!("POSTROUTING -p tcp {translated} -j MASQUERADE"))?;
                None
            }
            Setup::Tproxy(options) => {
                let program = match (self.role, &lab.other) {
                    (Role::OtherBuild, Some(other)) => other,
                    _ => &lab.tproxy,
                };
                Some(commands::tproxy(&lab.directory, program, port, options).map_err(error_text)?)
            }
            Setup::Peer(configure) | Setup::AsClient(configure) => {
                if matches!(self.setup, Setup::AsClient(_)) {
                    route_answers(lab)?;
                }
                add_rule(lab, &format!("PREROUTING -p tcp --dport {port} -j REDIRECT --to-ports {port}"))?;
                Some(configure(&lab.directory, port).map_err(error_text)?)
            }
        })
    }

    fn wait_ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match fetch_one_byte(self.address()) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.to_string()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// A process that has ended meanwhile is no failure.
fn send_signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn fetch_one_byte(from: SocketAddr) -> io::Result<()> {
    use io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&from, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&Request::Object { size: 1, close: true }.bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if head_length(&answer).is_some_and(|head| answer.len() == head + 1) {
        return Ok(());
    }
    Err(io::Error::other(format!("expected a head and one byte: {:?}", String::from_utf8_lossy(&answer))))
}

/// Installs a rule unless it is there.
fn add_rule(lab: &Lab, rule: &str) -> Result<(), String> {
    add_rule_to(lab, "nat", rule)
}

fn add_rule_to(lab: &Lab, table: &str, rule: &str) -> Result<(), String> {
    let iptables = |action: &str| {
        let words = commands::words(&format!("iptables -w -t {table} {action} {rule}"));
        lab.in_gateway(&words).output().is_ok_and(|done| done.status.success())
    };
    if iptables("-C") || iptables("-A") { Ok(()) } else { Err(format!("iptables refused the rule: {rule}")) }
}

/// Brings answers to sockets that have addresses of clients, as the documentation of HAProxy and nginx advises.
fn route_answers(lab: &Lab) -> Result<(), String> {
    add_rule_to(lab, "mangle", "PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1")?;
    for words in ["ip rule add fwmark 1 lookup 100", "ip route replace local default dev lo table 100"] {
        let done = lab.in_gateway(&commands::words(words)).output();
        // The rule may be there already.
        done.map_err(|error| format!("{words}: {error}"))?;
    }
    Ok(())
}
