//! tproxy beside its peers. `scripts/bench` builds the namespaces and runs this inside the client's; `make bench` does
//! all that.
//!
//! ```text
//!   client 10.1.0.2 ---- 10.1.0.1 gateway 10.2.0.1 ---- 10.2.0.2 server
//!   load                          REDIRECT, contestants          origin
//! ```

mod about;
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
mod settings;
mod strace;
mod wire;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::contestant::Contestant;
use crate::goals::Played;
use crate::rounds::Stage;
use crate::settings::Settings;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    let Settings { lab, effort, .. } = &settings;
    let mut contestants = contestant::all();
    contestants.retain(|one| one.name != "other" || lab.other.is_some());
    let sections = settings.sections(&contestants)?;
    raise_open_files()?;
    let origin = origin::start(&lab.server, settings.file()?.as_deref()).map_err(|error| format!("origin: {error}"))?;
    let about = about::sentence(effort);
    eprintln!("{about}");
    let mut played = Vec::new();
    for section in sections {
        let mut stage = Stage { lab, origin: &origin, contestants: &mut contestants, effort: *effort };
        let records = stage.play(&section);
        played.push(Played { section, records });
    }
    contestants.iter_mut().for_each(Contestant::stop);
    let tables = report::write(&played, &goals::outcomes(&played, &contestants), &contestants);
    println!("{tables}");
    match &settings.out {
        Some(directory) => publish(directory, &about, &tables, &plot::draw(&played, &contestants)),
        None => Ok(()),
    }
}

/// What stands above this line in the file stays when the tables are written anew.
const MARK: &str = "<!-- What follows is written by make bench OUT=docs. -->\n";

/// Puts tables and picture into a directory.
fn publish(directory: &Path, about: &str, tables: &str, drawn: &str) -> Result<(), String> {
    let (text, picture) = (directory.join("BENCHMARKS.md"), directory.join("benchmarks.svg"));
    let before = fs::read_to_string(&text).unwrap_or_default();
    let above = before.split_once(MARK).map_or("", |(above, _)| above);
    let put = |path: &Path, text: &str| fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
    put(&text, &format!("{above}{MARK}\n{about}\n\n![the costs](benchmarks.svg)\n\n{}\n", tables.trim_end()))?;
    put(&picture, drawn)?;
    eprintln!("{} and {} are written", text.display(), picture.display());
    Ok(())
}

/// Both ends of thousands of connections are in this process, and its children inherit the limit.
fn raise_open_files() -> Result<(), String> {
    let say = |error| format!("the limit of open files: {error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(say)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(ENOUGH), hard.max(ENOUGH)).map_err(say)
}

/// Open files: two for each connection, here as in a contestant, and as many again for pipes and others.
const ENOUGH: u64 = 20_000;
