//! Those who carry connections from the client to the origin, set up as their own documentation says for throughput.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::gauge::family;
use crate::wire::{Asked, SOCKS_PORT, WEB_PORT};

/// The origin's address, which is what the client asks for; every contestant has a port of its own there.
pub const ORIGIN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 2));

/// More connections than any load has, and few enough for a common limit of 20,000 open files.
const CONNECTIONS: usize = 6_000;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Lab {
    pub gateway: String,
    pub server: String,
    /// For configuration files and what the contestants say.
    pub directory: PathBuf,
    pub tproxy: PathBuf,
    /// Another build of it, to be compared with.
    pub other: Option<PathBuf>,
}

impl Lab {
    /// A command in the gateway's namespace.
    fn gateway(&self, words: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.gateway]).args(words).stdin(Stdio::null());
        command
    }
}

/// What a contestant is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What the others are measured against: no proxy at all.
    Floor,
    /// tproxy, in one of its ways.
    Ours,
    /// Whom it is compared with.
    Rival,
}

/// One of them; the process runs from [`Contestant::start`] on.
#[derive(Debug)]
pub struct Contestant {
    pub name: &'static str,
    pub title: &'static str,
    pub role: Role,
    /// More connections than this would take a day.
    pub most: usize,
    port: u16,
    setup: Setup,
    child: Option<Child>,
}

/// How it comes to carry what goes to its port.
#[derive(Debug, Clone, Copy)]
enum Setup {
    /// It is the port of the origin.
    Nothing,
    /// The kernel does it.
    Dnat,
    /// tproxy installs its rules itself; these are options besides the usual ones.
    Tproxy(&'static [&'static str]),
    /// The other build of tproxy.
    OtherTproxy,
    /// A proxy, and the rule that takes connections to it.
    Proxy(fn(&Path, u16) -> io::Result<Vec<String>>),
}

/// All of them, in the order of the tables.
pub fn all() -> Vec<Contestant> {
    let mut port = WEB_PORT;
    let mut one = |name, title, role, setup| {
        let contestant = Contestant { name, title, role, most: CONNECTIONS, port, setup, child: None };
        port += 1;
        contestant
    };
    let mut all = vec![
        one("direct", "no proxy", Role::Floor, Setup::Nothing),
        one("dnat", "kernel DNAT", Role::Floor, Setup::Dnat),
        one("tproxy", "**tproxy**", Role::Ours, Setup::Tproxy(&[])),
        one("other", "tproxy, other build", Role::Ours, Setup::OtherTproxy),
        one("haproxy-splice", "HAProxy, splice", Role::Rival, Setup::Proxy(haproxy_splicing)),
        one("haproxy", "HAProxy", Role::Rival, Setup::Proxy(haproxy_copying)),
        one("nginx", "nginx stream", Role::Rival, Setup::Proxy(nginx)),
        one("rinetd", "rinetd", Role::Rival, Setup::Proxy(rinetd)),
        one("redsocks", "redsocks, SOCKS5", Role::Rival, Setup::Proxy(redsocks)),
        one("socat", "socat", Role::Rival, Setup::Proxy(socat)),
        one("tproxy-w2", "tproxy -w 2", Role::Ours, Setup::Tproxy(&["-w", "2"])),
        one("tproxy-kernel", "tproxy --kernel", Role::Ours, Setup::Tproxy(&["--kernel"])),
        one("tproxy-socks5", "tproxy --via socks5", Role::Ours, Setup::Tproxy(&["--via", "socks5"])),
    ];
    for contestant in &mut all {
        if contestant.name == "socat" {
            // A process for each.
            contestant.most = 200;
        }
    }
    all
}

impl Contestant {
    /// Where the client connects to.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(ORIGIN, self.port)
    }

    /// The process at the head of its family.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it if it does not run, and waits until it answers.
    pub fn start(&mut self, lab: &Lab) -> Result<(), String> {
        if let Some(child) = &mut self.child
            && child.try_wait().is_ok_and(|ended| ended.is_none())
        {
            return Ok(());
        }
        let (log, words) = (lab.directory.join(format!("{}.log", self.name)), self.words(lab)?);
        if let Some(words) = words {
            let say = |error: io::Error| format!("{}: {error}", words[0]);
            let file = fs::File::create(&log).map_err(say)?;
            let mut command = lab.gateway(&words);
            command.stdout(file.try_clone().map_err(say)?).stderr(file);
            self.child = Some(command.spawn().map_err(say)?);
        }
        self.wait_ready().map_err(|error| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            format!("{} does not answer: {error}; it said: {said}", self.name)
        })
    }

    /// AddrPair all its processes.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pids = family(child.id());
        let deadline = Instant::now() + Duration::from_secs(5);
        send(child.id(), Signal::SIGTERM);
        while child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                pids.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What to run in the gateway's namespace, if anything; its rule is in place afterwards.
    fn words(&self, lab: &Lab) -> Result<Option<Vec<String>>, String> {
        let (port, say) = (self.port, |error: io::Error| format!("{}: {error}", self.name));
        Ok(match self.setup {
            Setup::Nothing => None,
            Setup::Dnat => {
                rule(lab, &format!("PREROUTING -p tcp --dport {port} -j DNAT --to-destination {ORIGIN}:{WEB_PORT}"))?;
                rule(
                    lab,
                    &format!("POSTROUTING -p tcp -m conntrack --ctstate DNAT --ctorigdstport {port} -j MASQUERADE"),
                )?;
                None
            }
            Setup::Tproxy(options) => Some(tproxy(lab, &lab.tproxy, port, options)),
            Setup::OtherTproxy => lab.other.as_ref().map(|program| tproxy(lab, program, port, &[])),
            Setup::Proxy(configure) => {
                rule(lab, &format!("PREROUTING -p tcp --dport {port} -j REDIRECT --to-ports {port}"))?;
                Some(configure(&lab.directory, port).map_err(say)?)
            }
        })
    }

    fn wait_ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match ask(self.address()) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.to_string()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// One that has gone is no failure.
fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// One small request.
fn ask(to: SocketAddr) -> io::Result<()> {
    use io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&Asked::Object { size: 1, close: true }.request())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let whole = answer.len() == Asked::head(1, true).len() + 1;
    if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Sees to it that a rule is there, once.
fn rule(lab: &Lab, rule: &str) -> Result<(), String> {
    let iptables = |action: &str| {
        let words = format!("iptables -w -t nat {action} {rule}").split(' ').map(str::to_owned).collect::<Vec<_>>();
        lab.gateway(&words).output().is_ok_and(|done| done.status.success())
    };
    if iptables("-C") || iptables("-A") { Ok(()) } else { Err(format!("iptables did not take: {rule}")) }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn tproxy(lab: &Lab, program: &Path, port: u16, options: &[&str]) -> Vec<String> {
    let mut all = vec![program.display().to_string()];
    let upstream = if options.contains(&"socks5") { SOCKS_PORT } else { WEB_PORT };
    all.extend(words("-d --drain 0"));
    if !options.contains(&"--kernel") {
        let log = lab.directory.join(format!("access-{port}.log"));
        all.extend(words(&format!("-s {port} -r nobody -m {CONNECTIONS} -l {}", log.display())));
    }
    all.extend(options.iter().map(|option| option.to_string()));
    all.extend(["-R".to_owned(), format!("-d {ORIGIN} --dport {port}"), ORIGIN.to_string(), upstream.to_string()]);
    all
}

/// Writes a configuration file, and returns the command line that names it.
fn configured(directory: &Path, name: &str, command: &str, text: &str) -> io::Result<Vec<String>> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    Ok(words(&format!("{command} {}", path.display())))
}

fn haproxy_splicing(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    haproxy(directory, port, "option splice-request\n    option splice-response\n")
}

fn haproxy_copying(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    haproxy(directory, port, "")
}

fn haproxy(directory: &Path, port: u16, options: &str) -> io::Result<Vec<String>> {
    let text = format!(
        "global
    nbthread 1
    maxconn {CONNECTIONS}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    {options}
listen contest
    bind 0.0.0.0:{port}
    server origin {ORIGIN}:{WEB_PORT}
"
    );
    configured(directory, &format!("haproxy-{port}.cfg"), "haproxy -db -f", &text)
}

fn nginx(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    let here = directory.display();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes 1;
pid {here}/nginx.pid;
error_log {here}/nginx.log;
events {{ worker_connections {most}; }}
stream {{
    server {{
        listen {port} backlog=4096;
        proxy_timeout 1h;
        proxy_pass {ORIGIN}:{WEB_PORT};
    }}
}}
",
        most = 2 * CONNECTIONS,
    );
    configured(directory, "nginx.conf", &format!("nginx -e {here}/nginx.log -c"), &text)
}

fn rinetd(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    configured(directory, "rinetd.conf", "rinetd -f -c", &format!("0.0.0.0 {port} {ORIGIN} {WEB_PORT}\n"))
}

/// It has no way of relaying without a proxy, so the origin is a SOCKS5 proxy for it: the dialogue at the beginning of
/// each connection comes on top.
fn redsocks(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    let text = format!(
        "base {{ log_debug = off; log_info = off; daemon = off; redirector = iptables; }}
redsocks {{
    local_ip = 0.0.0.0; local_port = {port}; listenq = 4096;
    ip = {ORIGIN}; port = {SOCKS_PORT}; type = socks5;
}}
"
    );
    configured(directory, "redsocks.conf", "redsocks -c", &text)
}

fn socat(_: &Path, port: u16) -> io::Result<Vec<String>> {
    let listen = format!("TCP4-LISTEN:{port},fork,reuseaddr,backlog=4096,nodelay");
    Ok(words(&format!("socat -b 65536 {listen} TCP4:{ORIGIN}:{WEB_PORT},nodelay")))
}
