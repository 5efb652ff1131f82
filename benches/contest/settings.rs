//! The settings from the environment. scripts/bench explains them.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::contestant::{Contestant, Lab, Role};
use crate::environment;
use crate::report::Conditions;
use crate::rounds::Effort;
use crate::web_server::WebServer;
use crate::works::{self, Choice, Work};

#[derive(Debug)]
pub struct Settings {
    pub lab: Lab,
    pub effort: Effort,
    /// The directory for the tables and the picture.
    pub out: Option<PathBuf>,
    only: String,
    who: String,
    choice: Choice,
    pub conditions: Conditions,
}

impl Settings {
    pub fn read() -> Result<Settings, String> {
        let quick = setting("QUICK", 0)? != 0;
        let seconds = setting("SECONDS_EACH", if quick { 0.3 } else { 1.0 })?;
        let web_server = match setting("ORIGIN", "blocks".to_owned())?.as_str() {
            "blocks" => false,
            "nginx" => true,
            other => return Err(format!("ORIGIN={other}: expected blocks or nginx")),
        };
        let choice = Choice {
            many: setting("CONNECTIONS", if quick { 500 } else { 5000 })?,
            web_server,
            drawn: setting("DRAWN", if quick { 2 } else { 12 })?,
            seed: setting("SEED", 1)?,
        };
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
            choice,
            conditions: Conditions { congestion: environment::congestion_control(), web_server, seed: choice.seed },
        })
    }

    /// The works to measure, each with the contestants that take part.
    pub fn works(&self, contestants: &[Contestant]) -> Result<Vec<Work>, String> {
        let mut works = match self.only.as_str() {
            "" => works::standard(contestants, self.choice)?,
            only => works::selected(only, contestants, self.choice)?,
        };
        let names: Vec<&str> = self.who.split([' ', ',']).filter(|name| !name.is_empty()).collect();
        let known: Vec<&str> = contestants.iter().map(|one| one.name.as_str()).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            return Err(format!("WHO={unknown}: no such contestant; there are: {}", known.join(" ")));
        }
        let is_build = |name: &str| {
            let found = contestants.iter().find(|one| one.name == name);
            found.is_some_and(|one| matches!(one.role, Role::Tproxy | Role::OtherBuild))
        };
        for work in &mut works {
            work.entries.retain(|entry| match (names.as_slice(), &self.lab.other) {
                ([], None) => true,
                ([], Some(_)) => is_build(&entry.contestant),
                (names, _) => names.contains(&entry.contestant.as_str()),
            });
        }
        works.retain(|work| !work.entries.is_empty());
        if works.is_empty() {
            return Err(format!("WHO={}: these take part in none of the works of ONLY={}", self.who, self.only));
        }
        Ok(works)
    }

    /// The web server with the objects of these works, if one is the origin.
    pub fn web_server(&self, works: &[Work]) -> Result<Option<WebServer>, String> {
        if !self.choice.web_server {
            return Ok(None);
        }
        let server = WebServer::start(&self.lab)?;
        let sizes = works.iter().flat_map(|work| &work.entries).flat_map(|entry| entry.load.sizes());
        // A byte is fetched to see whether a contestant relays.
        server.offer(sizes.chain([1]))?;
        Ok(Some(server))
    }
}

fn lab() -> Result<Lab, String> {
    let must = |name: &str| {
        env::var(name).map_err(|_| "run 'make bench'; this program needs the network of scripts/bench".to_owned())
    };
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
        Ok(text) if !text.is_empty() => text.parse().map_err(|_| format!("{name}={text}: expected a number")),
        _ => Ok(default),
    }
}
