//! A Debian system that really boots, in the network namespace of the gateway: a copy of a root directory that debootstrap
//! has made once, under systemd-nspawn.

use lab::netns::Net;
use lab::process;
use lab::wait;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What a gateway has beside the minimum.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,adduser,iptables,iproute2,logrotate,procps";

/// A booted system. It ends, and its files go, when it is dropped.
pub struct Machine {
    nspawn: Child,
    /// Its process 1, as this system numbers it.
    leader: i32,
    name: String,
    /// Where its files are.
    pub root: PathBuf,
}

/// What a command in the machine has said.
pub struct Said {
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
}

/// The directory for all of this: `boot` in the directory of the build.
fn home() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("a build directory");
    target.join("boot")
}

fn must(command: &mut Command) -> Output {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [done.stdout.as_slice(), &done.stderr].concat();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    done
}

/// The root directory that the machines are copies of, made if it is missing.
fn base() -> PathBuf {
    let (home, path) = (home(), home().join(SUITE));
    fs::create_dir_all(&home).expect("the directory for machines");
    let file = File::create(home.join("lock")).expect("lock");
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("lock");
    if !path.exists() {
        lab::report(&format!("boot: debootstrap makes {}", path.display()));
        let new = home.join(format!("{SUITE}.new"));
        let _ = fs::remove_dir_all(&new);
        let include = format!("--include={PACKAGES}");
        must(Command::new("debootstrap").args(["--variant=minbase", &include, SUITE]).arg(&new).arg(MIRROR));
        fs::rename(&new, &path).expect("rename");
    }
    path
}

impl Machine {
    /// Boots one whose network is `net`, and waits until it is up. `hosts` is what its `/etc/hosts` says besides.
    pub fn boot(net: &Net, hosts: &str) -> Machine {
        let base = base();
        let name = process::unique("tproxy-boot");
        let root = home().join(&name);
        must(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&base).arg(&root));
        let write = |file: &str, text: &str| fs::write(root.join(file), text).expect("a file of the machine");
        write("etc/hosts", &format!("127.0.0.1 localhost gateway\n::1 localhost\n{hosts}"));
        write("etc/hostname", "gateway\n");
        // It has no network of its own that it could wait for, and nobody logs in.
        for unit in ["console-getty.service", "e2scrub_reap.service", "apt-daily.timer", "apt-daily-upgrade.timer"] {
            let _ = std::os::unix::fs::symlink("/dev/null", root.join("etc/systemd/system").join(unit));
        }
        // It ends with this process, whatever becomes of this process.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"]);
        command.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"]);
        command.arg(format!("--machine={name}")).arg(format!("--network-namespace-path=/run/netns/{}", net.name));
        command.args(["--capability=CAP_NET_ADMIN,CAP_NET_RAW"]).arg("-D").arg(&root);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nspawn = command.spawn().expect("systemd-nspawn");
        let pid = i32::try_from(nspawn.id()).expect("a process id");
        let mut machine = Machine { nspawn, leader: 0, name, root };
        wait::until_within(Duration::from_secs(60), "the machine is up", || {
            // Another child of systemd-nspawn comes and goes first.
            machine.leader =
                process::children(pid).into_iter().find(|pid| process::comm(*pid).as_deref() == Some("systemd"))?;
            let said = machine.say(&["systemctl", "is-system-running"]).text;
            matches!(said.trim(), "running" | "degraded").then_some(())
        });
        machine
    }

    /// Runs a command as root in the machine.
    pub fn say(&self, words: &[&str]) -> Said {
        let leader = self.leader.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &leader, "--all", "--wd=/", "--"]).args(words).env_clear();
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        let done = command.stdin(Stdio::null()).output().expect("nsenter");
        let text = [done.stdout.as_slice(), &done.stderr].concat();
        Said { status: done.status.code().unwrap_or(-1), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// The same for one that must succeed. Gives what it said.
    pub fn run(&self, words: &[&str]) -> String {
        let said = self.say(words);
        assert_eq!(said.status, 0, "{}\n{words:?}: {}", self.journal(&["-n", "30"]), said.text);
        said.text
    }

    /// A script of sh that must succeed.
    pub fn script(&self, script: &str) -> String {
        self.run(&["sh", "-ec", script])
    }

    /// The journal, as journalctl(1) is asked for it.
    pub fn journal(&self, words: &[&str]) -> String {
        self.say(&[&["journalctl", "--no-pager", "-o", "cat"], words].concat()).text
    }

    /// Waits until the journal, as it is asked for, has `needle`.
    pub fn wait_journal(&self, words: &[&str], needle: &str) {
        let found = wait::try_until(wait::PATIENCE, || self.journal(words).contains(needle).then_some(()));
        assert!(found.is_some(), "no '{needle}' in {}", self.journal(&["-n", "60"]));
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "-p", name, unit]).trim().to_owned()
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Copies a file into the machine's `/root` and gives its path there.
    pub fn give(&self, file: &Path) -> String {
        let name = file.file_name().expect("a name");
        fs::copy(file, self.root.join("root").join(name)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        format!("/root/{}", name.to_string_lossy())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel ends all processes of a namespace with its process 1 (pid_namespaces(7)).
        if self.leader > 0 {
            process::signal(self.leader, Signal::SIGKILL);
        }
        let _ = wait::try_until(Duration::from_secs(10), || self.nspawn.try_wait().ok().flatten());
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        let _ = fs::remove_dir_all(&self.root);
        let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(&self.name));
    }
}
