//! tproxy beside other proxies. `make bench` runs scripts/bench, which makes the namespaces and runs this program in the
//! client's.
//!
//! ```text
//!   client 10.1.0.2 ---- 10.1.0.1 gateway 10.2.0.1 ---- 10.2.0.2 server
//!   clients                  REDIRECT, contestants               origin
//! ```

mod canvas;
mod clients;
mod commands;
mod contestant;
mod drawn;
mod environment;
mod figures;
mod load;
mod origin;
mod plot;
mod protocol;
mod report;
mod resources;
mod rounds;
mod settings;
mod strace;
mod targets;
mod web_server;
mod works;
mod wrk;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::contestant::Contestant;
use crate::figures::Measured;
use crate::report::Conditions;
use crate::rounds::Runner;
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
    let mut contestants = contestant::all(lab.other.is_some());
    let works = settings.works(&contestants)?;
    raise_open_files()?;
    let web_server = settings.web_server(&works)?;
    let origin = origin::start(lab, web_server).map_err(|error| format!("origin: {error}"))?;
    let environment = environment::describe(effort);
    eprintln!("{environment}");
    let mut measured = Vec::new();
    for work in works {
        let mut runner = Runner { lab, origin: &origin, contestants: &mut contestants, effort: *effort };
        let records = runner.measure(&work);
        measured.push(Measured { work, records });
    }
    contestants.iter_mut().for_each(Contestant::stop);
    let tables = report::write(&measured, &contestants, &settings.conditions);
    println!("{tables}");
    match &settings.out {
        Some(directory) => {
            let picture = plot::draw(&measured, &contestants);
            publish(directory, &settings.conditions, &format!("{environment}\n\n{tables}"), &picture)
        }
        None => Ok(()),
    }
}

/// Writes the tables and the picture into a directory. In the text they replace those of the same conditions, between
/// two marks.
fn publish(directory: &Path, conditions: &Conditions, tables: &str, picture: &str) -> Result<(), String> {
    let name = conditions.name();
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (text_path, picture_path) = (directory.join("BENCHMARKS.md"), directory.join(format!("benchmarks-{name}.svg")));
    let before = fs::read_to_string(&text_path).unwrap_or_default();
    let marks = before.split_once(&begin).and_then(|(above, rest)| Some((above, rest.split_once(&end)?.1)));
    let (above, below) = marks.unwrap_or((&before, "\n"));
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
    let picture_link = format!("![CPU time of each work](benchmarks-{name}.svg)");
    let text = format!("{above}{begin}\n{picture_link}\n\n{}\n\n{end}{below}", tables.trim_end());
    write(&text_path, &text)?;
    write(&picture_path, picture)?;
    eprintln!("wrote {} and {}", text_path.display(), picture_path.display());
    Ok(())
}

/// This process has thousands of connections open, and the contestants inherit its limit.
fn raise_open_files() -> Result<(), String> {
    let error_text = |error| format!("the limit of open files: {error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(error_text)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(OPEN_FILES), hard.max(OPEN_FILES)).map_err(error_text)
}

/// A connection takes two open files, in this process (client and origin) as in a contestant. The other half is for
/// pipes and everything else.
const OPEN_FILES: u64 = 20_000;
