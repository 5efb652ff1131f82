//! What is set in the environment; scripts/bench tells what is what.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::contestant::{Contestant, Lab};
use crate::origin;
use crate::plan::{self, Section};
use crate::rounds::Effort;

/// Everything that can be set.
#[derive(Debug)]
pub struct Settings {
    pub lab: Lab,
    pub effort: Effort,
    /// Where tables and picture are put.
    pub out: Option<PathBuf>,
    only: String,
    who: String,
    /// How many idle and slow connections there are.
    crowd: usize,
    /// Whether objects come from a file.
    sendfile: bool,
}

impl Settings {
    pub fn read() -> Result<Settings, String> {
        let quick = setting("QUICK", 0)? != 0;
        let seconds = setting("SECONDS_EACH", if quick { 0.3 } else { 1.0 })?;
        Ok(Settings {
            lab: lab()?,
            effort: Effort {
                rounds: setting("ROUNDS", if quick { 1 } else { 5 })?,
                window: Duration::try_from_secs_f64(seconds).map_err(|error| format!("SECONDS_EACH: {error}"))?,
                trace: setting("TRACE", 1)? != 0,
            },
            out: path("OUT"),
            only: setting("ONLY", String::new())?,
            who: setting("WHO", String::new())?,
            crowd: setting("CONNECTIONS", if quick { 500 } else { 5000 })?,
            sendfile: match setting("ORIGIN", "write".to_owned())?.as_str() {
                "write" => false,
                "sendfile" => true,
                other => return Err(format!("ORIGIN={other}: write or sendfile is wanted")),
            },
        })
    }

    /// What is to be measured.
    pub fn sections(&self, contestants: &[Contestant]) -> Result<Vec<Section>, String> {
        let mut sections = match self.only.as_str() {
            "" => plan::usual(contestants, self.crowd)?,
            only => plan::chosen(only, contestants, self.crowd)?,
        };
        let names: Vec<&str> = self.who.split([' ', ',']).filter(|name| !name.is_empty()).collect();
        for section in &mut sections {
            section.entries.retain(|entry| names.is_empty() || names.contains(&entry.who));
        }
        sections.retain(|section| !section.entries.is_empty());
        if sections.is_empty() {
            let known: Vec<&str> = contestants.iter().map(|one| one.name).collect();
            return Err(format!("WHO={}: none of them takes part; there are: {}", self.who, known.join(" ")));
        }
        Ok(sections)
    }

    /// The file from which objects come, if they do.
    pub fn file(&self) -> Result<Option<PathBuf>, String> {
        if !self.sendfile {
            return Ok(None);
        }
        let file = self.lab.directory.join("object");
        origin::write_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Some(file))
    }
}

fn lab() -> Result<Lab, String> {
    let must = |name: &str| env::var(name).map_err(|_| "this is started by scripts/bench; try 'make bench'".to_owned());
    Ok(Lab {
        gateway: must("BENCH_GATEWAY")?,
        server: must("BENCH_SERVER")?,
        directory: PathBuf::from(must("BENCH_DIRECTORY")?),
        tproxy: PathBuf::from(must("BENCH_TPROXY")?),
        other: path("BENCH_OTHER"),
    })
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn setting<T: FromStr>(name: &str, default: T) -> Result<T, String> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().map_err(|_| format!("{name}={text}: not what it should be")),
        _ => Ok(default),
    }
}
