//! Network namespaces: a client, a gateway and two servers on one machine, gone when the test is over.
//!
//! ```text
//!   client 10.1.0.2 ---- 10.1.0.1 gateway 10.2.0.1 ---- 10.2.0.5 moose
//!     fd00:1::2          fd00:1::1        10.3.0.1 ---- 10.3.0.3 cow
//! ```

use crate::process::{signal, unique};
use crate::wait;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// One network namespace with a name of its own.
pub struct Net {
    /// Its name for ip-netns(8).
    pub name: String,
}

impl Net {
    /// A namespace in which nothing but loopback is up; `None`, loudly, where there can be none, which is a failure if
    /// TPROXY_MUST_NETNS is 1.
    pub fn alone() -> Option<Net> {
        is_available().then(Net::new)
    }

    fn new() -> Net {
        let net = Net { name: unique("tp") };
        must(&["ip", "netns", "add", &net.name]);
        net.run(&["ip", "link", "set", "lo", "up"]);
        net
    }

    /// Runs a command inside and gives what it printed; panics if it fails.
    pub fn run(&self, words: &[&str]) -> String {
        let mut all = vec!["ip", "netns", "exec", &self.name];
        all.extend(words);
        must(&all)
    }

    /// The same; `None` if it fails.
    pub fn try_run(&self, words: &[&str]) -> Option<String> {
        output(&[&["ip", "netns", "exec", &self.name], words].concat())
    }

    /// Runs a closure in a thread inside; its sockets, and the threads it starts, belong to the namespace for ever.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/var/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = fs::File::open(&path).expect("namespace");
                setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A client's connection from inside.
    pub fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("an address");
        self.enter(|| crate::clients::connect(to))
    }

    /// Asks a page server from inside.
    pub fn fetch(&self, from: &str) -> std::io::Result<String> {
        crate::clients::ask(self.connect(from)?)
    }

    /// Sets kernel parameters inside, `name=value`.
    pub fn sysctl(&self, settings: &[&str]) {
        let mut words = vec!["sysctl", "-q", "-w"];
        words.extend(settings);
        self.run(&words);
    }

    /// What `/etc/hosts` says to programs started inside. Written in place: a running one sees the change.
    pub fn hosts(&self, text: &str) {
        self.etc("hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{text}"));
        // Names that are not in the file fail at once instead of asking a server that cannot be reached.
        self.etc("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n");
    }

    fn etc(&self, file: &str, text: &str) {
        let directory = self.etc_directory();
        fs::create_dir_all(&directory).expect("/etc/netns");
        fs::write(directory.join(file), text).expect("a file in /etc/netns");
    }

    fn etc_directory(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }

    /// How many TCP sockets inside are in a state, as ss(8) names it.
    pub fn sockets_in(&self, state: &str) -> usize {
        self.run(&["ss", "-Htan", "state", state]).lines().count()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let pids = || output(&["ip", "netns", "pids", &self.name]).unwrap_or_default();
        wait::try_until(Duration::from_secs(5), || {
            let text = pids();
            let all: Vec<i32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            // The threads of this process that still serve inside are not to be killed: they end with their sockets.
            let own = i32::try_from(std::process::id()).unwrap_or(0);
            let others: Vec<i32> = all.into_iter().filter(|pid| *pid != own).collect();
            others.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
            others.is_empty().then_some(())
        });
        let _ = output(&["ip", "netns", "del", &self.name]);
        let _ = fs::remove_dir_all(self.etc_directory());
    }
}

/// The four machines of the picture above.
pub struct Lab {
    /// Who asks.
    pub client: Net,
    /// Where tproxy runs.
    pub gateway: Net,
    /// The server that is asked: 10.2.0.5, fd00:2::5.
    pub moose: Net,
    /// The server that answers instead: 10.3.0.3, fd00:3::3.
    pub cow: Net,
}

impl Lab {
    /// Builds it; `None` under the same conditions as [`Net::alone`].
    pub fn new() -> Option<Lab> {
        if !is_available() {
            return None;
        }
        let lab = Lab { client: Net::new(), gateway: Net::new(), moose: Net::new(), cow: Net::new() };
        lab.gateway.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        link(&lab.client, &lab.gateway, "1", "1", "2");
        link(&lab.moose, &lab.gateway, "2", "1", "5");
        link(&lab.cow, &lab.gateway, "3", "1", "3");
        // A table that was never used is not mentioned by iptables-save, a used one stays for ever: use them all now,
        // so that "before" and "after" can be compared.
        for family in ["iptables", "ip6tables"] {
            for (table, chain) in
                [("nat", "PREROUTING"), ("filter", "INPUT"), ("mangle", "PREROUTING"), ("raw", "PREROUTING")]
            {
                lab.gateway.run(&[family, "-w", "-t", table, "-A", chain, "-j", "ACCEPT"]);
                lab.gateway.run(&[family, "-w", "-t", table, "-D", chain, "-j", "ACCEPT"]);
            }
        }
        lab.gateway.hosts("10.2.0.5 moose\n10.3.0.3 cow\n");
        Some(lab)
    }
}

/// A cable between a machine and the gateway: 10.SUBNET.0.0/24 and fd00:SUBNET::/64.
fn link(machine: &Net, gateway: &Net, subnet: &str, at_gateway: &str, at_machine: &str) {
    let port = format!("eth{subnet}");
    let (here, there) = (machine.name.as_str(), gateway.name.as_str());
    must(&["ip", "link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", &port, "netns", there]);
    for (net, device, host) in [(machine, "eth0", at_machine), (gateway, port.as_str(), at_gateway)] {
        net.run(&["ip", "addr", "add", &format!("10.{subnet}.0.{host}/24"), "dev", device]);
        net.run(&["ip", "addr", "add", &format!("fd00:{subnet}::{host}/64"), "dev", device, "nodad"]);
        net.run(&["ip", "link", "set", device, "up"]);
    }
    machine.run(&["ip", "route", "add", "default", "via", &format!("10.{subnet}.0.{at_gateway}")]);
    machine.run(&["ip", "-6", "route", "add", "default", "via", &format!("fd00:{subnet}::{at_gateway}")]);
}

/// Whether namespaces with rules can be had. Says so if not, and fails if TPROXY_MUST_NETNS is 1.
fn is_available() -> bool {
    let Err(reason) = available() else { return true };
    let must = std::env::var("TPROXY_MUST_NETNS").is_ok_and(|value| value == "1");
    assert!(!must, "TPROXY_MUST_NETNS=1, but there are no namespaces: {reason}");
    crate::report(&format!("SKIPPED: {reason}"));
    false
}

/// Why namespaces with rules cannot be had here.
fn available() -> Result<(), String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err("not root: no network namespaces".to_string());
    }
    for tool in ["ip", "ss", "sysctl", "iptables-save", "ip6tables-save", "nft"] {
        if output(&["sh", "-c", &format!("command -v {tool}")]).is_none() {
            return Err(format!("{tool} is not installed"));
        }
    }
    let probe = unique("tp-probe");
    let made = output(&["ip", "netns", "add", &probe]).is_some();
    let rules = made && output(&["ip", "netns", "exec", &probe, "iptables", "-w", "-t", "nat", "-S"]).is_some();
    let _ = output(&["ip", "netns", "del", &probe]);
    if rules { Ok(()) } else { Err("this kernel or container allows no namespaces with rules".to_string()) }
}

/// Runs a command; `None` if it fails.
fn output(words: &[&str]) -> Option<String> {
    let done = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).to_string())
}

/// Runs a command; panics with its words if it fails.
fn must(words: &[&str]) -> String {
    let done = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words:?} failed ({}): {said}", done.status);
    String::from_utf8_lossy(&done.stdout).to_string()
}
