//! Which control sockets there are.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ctl::client::Client;
use crate::ctl::failure::CtlFailure;

/// Where instances have their sockets by default.
const DIRECTORY: &str = "/run/tproxy";

/// The socket of an instance.
pub(super) fn path(name: &str) -> Result<PathBuf, CtlFailure> {
    if name.is_empty() || name.contains('/') {
        return Err(CtlFailure::Usage(format!("-i: invalid value '{name}': expected the name of an instance")));
    }
    Ok(Path::new(DIRECTORY).join(format!("{name}.sock")))
}

/// Connects to the only instance that runs.
pub(super) fn connect_the_only(patience: Option<Duration>) -> Result<Client, CtlFailure> {
    let found = sockets(Path::new(DIRECTORY))?;
    match &found[..] {
        [] => Err(CtlFailure::NoAnswer(format!(
            "{DIRECTORY}: no control socket is there: no tproxy runs, or it has another one, which -S names"
        ))),
        [one] => Client::connect(one, patience),
        _ => the_only_living(&found, patience),
    }
}

/// An instance that was killed leaves its socket behind.
fn the_only_living(found: &[PathBuf], patience: Option<Duration>) -> Result<Client, CtlFailure> {
    let try_one = |path: &PathBuf| (path.clone(), Client::connect(path, patience));
    let mut living: Vec<_> = found.iter().map(try_one).filter(|(_, result)| result.is_ok()).collect();
    match living.len() {
        0 => Err(CtlFailure::NoAnswer(format!("nobody listens on the sockets in {DIRECTORY}: {}", names(found)))),
        1 => living.remove(0).1,
        _ => {
            let paths: Vec<PathBuf> = living.into_iter().map(|(path, _)| path).collect();
            Err(CtlFailure::Usage(format!("several instances run; choose one with -i: {}", names(&paths))))
        }
    }
}

fn names(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    paths.iter().filter_map(name).collect::<Vec<_>>().join(", ")
}

fn sockets(directory: &Path) -> Result<Vec<PathBuf>, CtlFailure> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(|error| CtlFailure::NoAnswer(format!("{}: {error}", directory.display())))?,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|it| it == "sock")).collect();
    found.sort();
    Ok(found)
}
