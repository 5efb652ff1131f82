//! Sockets and processes as the kernel lists them under /proc (proc(5)).
//!
//! A file that cannot be read counts as empty: the process has just ended, or the kernel has no IPv6.

use std::fs;
use std::net::IpAddr;

use nix::unistd::Pid;

use crate::sys::files::FileId;

/// `TCP_LISTEN` of net/tcp_states.h, as the tables show it.
const LISTEN: &str = "0A";

/// `TCP_CLOSE`, the state of a UDP socket that is not connected.
const UNCONNECTED: &str = "07";

/// A socket of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InetSocket {
    /// An IPv6 socket that takes IPv4 too counts as IPv6.
    pub is_ipv4: bool,
    pub ip: IpAddr,
    pub port: u16,
    pub inode: u64,
}

/// The TCP sockets that listen.
pub(crate) fn tcp_listeners() -> Vec<InetSocket> {
    inet_sockets("tcp", LISTEN)
}

/// The UDP sockets that receive from anybody.
pub(crate) fn udp_receivers() -> Vec<InetSocket> {
    inet_sockets("udp", UNCONNECTED)
}

/// The value of a setting of sysctl(8), for example `net.ipv4.ip_forward`; `None` if it cannot be read. A name with an
/// interface, which may have dots itself, has slashes: `net/ipv4/conf/eth0/forwarding`.
pub(crate) fn sysctl(name: &str) -> Option<String> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let value = fs::read(format!("/proc/sys/{path}")).ok()?;
    Some(String::from_utf8_lossy(&value).trim().to_owned())
}

/// Whether IPv6 is switched off on all interfaces (`disable_ipv6`). The kernel takes no IPv6 route for them then.
pub(crate) fn ipv6_is_off() -> bool {
    let entries = fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut interfaces = names.filter(|name| name != "all" && name != "default").peekable();
    let is_off = |name: String| sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6")).as_deref() == Some("1");
    interfaces.peek().is_some() && interfaces.all(is_off)
}

/// The ids of all processes.
pub(crate) fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)))
}

/// The name of a process; `None` if there is no such process.
pub(crate) fn name(pid: Pid) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}

/// The first word of the command line of a process, which ps(1) shows as its title; `None` if there is no such process.
pub(crate) fn title(pid: Pid) -> Option<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(words.split(|byte| *byte == 0).next()?).into_owned())
}

/// Whether a process is in the network namespace of this one. `thread-self`, since in tests a thread is in another
/// namespace than its process.
pub(crate) fn shares_network(pid: Pid) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    namespace(&pid.to_string()).is_some_and(|theirs| namespace("thread-self") == Some(theirs))
}

/// The effective user of a process; `None` if there is no such process. The owner of its directory is another one if the
/// process hides (`PR_SET_DUMPABLE`).
pub(crate) fn user(pid: Pid) -> Option<u32> {
    let status = read(&format!("/proc/{pid}/status"));
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The inodes of the sockets that a process holds. Only root sees those of other users' processes.
pub(crate) fn socket_inodes(pid: Pid) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// Whether a process has this file open. Only root sees the descriptors of other users' processes.
pub(crate) fn has_file(pid: Pid, id: FileId) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    // A process with many sockets: what is not a file by its name need not be looked at.
    let mut files =
        descriptors.map(|entry| entry.path()).filter(|path| fs::read_link(path).is_ok_and(|to| to.is_absolute()));
    files.any(|path| fs::metadata(path).is_ok_and(|about| FileId::of(&about) == id))
}

/// Whether another process traces this one, as a debugger does (proc(5), TracerPid).
pub(crate) fn is_traced(pid: Pid) -> bool {
    let status = read(&format!("/proc/{pid}/status"));
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

/// Names of processes may be any bytes.
fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn inet_sockets(protocol: &str, state: &str) -> Vec<InetSocket> {
    let mut sockets = inet_rows(&read(&format!("/proc/net/{protocol}")), state, true);
    sockets.extend(inet_rows(&read(&format!("/proc/net/{protocol}6")), state, false));
    sockets
}

/// The sockets of one table in this state. The columns: number, local address, remote address, state, ..., inode.
fn inet_rows(table: &str, state: &str, is_ipv4: bool) -> Vec<InetSocket> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (ip, port) = fields.nth(1)?.rsplit_once(':')?;
        let ip = address(ip)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        fields.nth(1).filter(|field| *field == state)?;
        Some(InetSocket { is_ipv4, ip, port, inode: fields.nth(5)?.parse().ok()? })
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// An address in groups of eight digits, each of which is a number in the order of this machine.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Some(IpAddr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 0100007F:0051 0200007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 20 4 30 10 -1
   2: bad line
   3: 00000000:32AA 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65534        0 4713 1 0000 100 0 0 10 0
";
    const UDP6: &str = "  sl  local_address  remote_address st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 9117: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 815 2 0000 0
";

    #[test]
    fn sockets_in_the_state_are_listed_with_port_and_inode() {
        let socket = |is_ipv4, ip: &str, port, inode| InetSocket { is_ipv4, ip: ip.parse().unwrap(), port, inode };
        assert_eq!(
            inet_rows(TCP, LISTEN, true),
            [socket(true, "127.0.0.1", 80, 4711), socket(true, "0.0.0.0", 12970, 4713)]
        );
        assert_eq!(inet_rows(TCP, "01", true), [socket(true, "127.0.0.1", 81, 4712)]);
        assert_eq!(inet_rows(UDP6, UNCONNECTED, false), [socket(false, "::1", 53, 815)]);
        assert_eq!(inet_rows("", LISTEN, true), []);
    }

    #[test]
    fn a_setting_is_read_by_either_form_of_its_name() {
        let value = sysctl("net.ipv4.conf.lo.forwarding");
        assert!(matches!(value.as_deref(), Some("0" | "1")), "{value:?}");
        assert_eq!(sysctl("net/ipv4/conf/lo/forwarding"), value);
        assert_eq!(sysctl("net.ipv4.no_such_setting"), None);
    }

    #[test]
    fn this_process_is_found_with_its_sockets() {
        let this = Pid::this();
        assert!(pids().any(|pid| pid == this));
        assert!(name(this).is_some());
        assert_eq!(user(this), Some(nix::unistd::Uid::effective().as_raw()));
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mine = socket_inodes(this);
        let found = |all: Vec<InetSocket>, port| {
            all.iter().any(|socket| socket.is_ipv4 && socket.port == port && mine.contains(&socket.inode))
        };
        assert!(found(tcp_listeners(), tcp.local_addr().unwrap().port()));
        assert!(found(udp_receivers(), udp.local_addr().unwrap().port()));
        let program = fs::File::open("/proc/self/exe").unwrap();
        let id = FileId::of(&program.metadata().unwrap());
        assert!(has_file(this, id));
        drop(program);
        assert!(!has_file(this, FileId { inode: id.inode + 1, ..id }));
    }
}
