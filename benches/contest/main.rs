//! tproxy beside its peers. `scripts/bench` builds the namespaces and runs this inside the client's; `make bench` does
//! all that.
//!
//! ```text
//!   client 10.1.0.2 ---- 10.1.0.1 gateway 10.2.0.1 ---- 10.2.0.2 server
//!   load                          REDIRECT, contestants          origin
//! ```

mod contestant;
mod figures;
mod gauge;
mod goals;
mod load;
mod origin;
mod plan;
mod plot;
mod report;
mod rounds;
mod strace;
mod wire;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::thread::available_parallelism;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::contestant::{Contestant, Lab};
use crate::goals::Played;
use crate::rounds::{Effort, Stage};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is set in the environment; scripts/bench tells what is what.
fn setting<T: FromStr>(name: &str, default: T) -> Result<T, String> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().map_err(|_| format!("{name}={text}: not what it should be")),
        _ => Ok(default),
    }
}

fn lab() -> Result<Lab, String> {
    let must = |name: &str| env::var(name).map_err(|_| "this is started by scripts/bench; try 'make bench'".to_owned());
    Ok(Lab {
        gateway: must("BENCH_GATEWAY")?,
        server: must("BENCH_SERVER")?,
        directory: PathBuf::from(must("BENCH_DIRECTORY")?),
        tproxy: PathBuf::from(must("BENCH_TPROXY")?),
    })
}

fn run() -> Result<(), String> {
    let lab = lab()?;
    let quick = setting("QUICK", 0)? != 0;
    let seconds = setting("SECONDS_EACH", if quick { 0.3 } else { 1.5 })?;
    let effort = Effort {
        rounds: setting("ROUNDS", if quick { 1 } else { 5 })?,
        window: Duration::from_secs_f64(seconds),
        trace: setting("TRACE", 1)? != 0,
    };
    let crowd = setting("CROWD", if quick { 500 } else { 5000 })?;
    let (only, who) = (setting("ONLY", String::new())?, setting("WHO", String::new())?);
    let mut contestants = contestant::all();
    let mut sections = match only.as_str() {
        "" => plan::usual(&contestants, crowd)?,
        only => plan::chosen(only, &contestants, crowd)?,
    };
    if !who.is_empty() {
        sections
            .iter_mut()
            .for_each(|section| section.entries.retain(|entry| who.split([' ', ',']).any(|name| name == entry.who)));
    }
    raise_open_files()?;
    let file = lab.directory.join("object");
    let sendfile = match setting("ORIGIN", String::new())?.as_str() {
        "" | "write" => None,
        "sendfile" => Some(file.as_path()),
        other => return Err(format!("ORIGIN={other}: write or sendfile is wanted")),
    };
    if sendfile.is_some() {
        origin::write_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let origin = origin::start(&lab.server, sendfile).map_err(|error| format!("the origin: {error}"))?;
    let about = about(&effort);
    eprintln!("{about}");
    let mut played = Vec::new();
    for section in sections {
        let mut stage = Stage { lab: &lab, origin: &origin, contestants: &mut contestants, effort };
        let records = stage.play(&section);
        played.push(Played { section, records });
    }
    contestants.iter_mut().for_each(Contestant::stop);
    publish(&about, &played, &contestants)
}

/// What stands above this line in the file stays when the tables are written anew.
const MARK: &str = "<!-- What follows is written by make bench OUT=docs. -->\n";

/// Tables on the terminal, and with the picture in the directory that was asked for.
fn publish(about: &str, played: &[Played], contestants: &[Contestant]) -> Result<(), String> {
    let tables = report::write(played, &goals::outcomes(played, contestants), contestants);
    println!("{tables}");
    let directory = PathBuf::from(setting("OUT", String::new())?);
    if directory.as_os_str().is_empty() {
        return Ok(());
    }
    let (text, picture) = (directory.join("BENCHMARKS.md"), directory.join("benchmarks.svg"));
    let before = fs::read_to_string(&text).unwrap_or_default();
    let above = before.split_once(MARK).map_or("", |(above, _)| above);
    let put = |path: &Path, text: &str| fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
    put(&text, &format!("{above}{MARK}\n{about}\n\n![the costs](benchmarks.svg)\n\n{}\n", tables.trim_end()))?;
    put(&picture, &plot::draw(played, contestants))?;
    eprintln!("{} and {} are written", text.display(), picture.display());
    Ok(())
}

/// What a reader has to know of the run.
fn about(effort: &Effort) -> String {
    let cpus = available_parallelism().map_or(1, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown")
        .to_owned();
    let first = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let (kernel, load) = (first("/proc/sys/kernel/osrelease"), first("/proc/loadavg"));
    let congestion = first("/proc/sys/net/ipv4/tcp_congestion_control");
    let peers = [("haproxy", "-v"), ("nginx", "-v"), ("rinetd", "-v"), ("redsocks", "-v"), ("socat", "-V")];
    let peers: Vec<String> = peers.into_iter().map(|(name, flag)| format!("{name} {}", version(name, flag))).collect();
    format!(
        "{cpus} CPUs ({model}), Linux {kernel}, congestion control {congestion}, load average before {load}; {} rounds, \
         {} s each; {}.",
        effort.rounds,
        effort.window.as_secs_f64(),
        peers.join(", "),
    )
}

/// The first word with a point between digits that a program says of itself.
fn version(program: &str, flag: &str) -> String {
    let Ok(done) = Command::new(program).arg(flag).output() else { return "?".to_owned() };
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    let plain = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let is_version = |word: &String| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    said.split_whitespace().map(plain).find(is_version).unwrap_or_else(|| "?".to_owned())
}

/// Both ends of thousands of connections are in this process, and its children inherit the limit.
fn raise_open_files() -> Result<(), String> {
    let say = |error| format!("the limit of open files: {error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(say)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(ENOUGH), hard.max(ENOUGH)).map_err(say)
}

/// Open files: two for each connection, here as in a contestant, and as many again for pipes and others.
const ENOUGH: u64 = 20_000;
