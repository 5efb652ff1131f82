//! What each kind of command line leads to.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::{self, Command, Config};
use crate::daemon::resolver;
use crate::daemon::start;
use crate::error::Error;
use crate::options;
use crate::rules::firewall::Firewall;
use crate::rules::rule::{self, Family};
use crate::sys::account;
use crate::traffic::service::Destination;

/// Does what the command line asks for. Returns the exit status.
pub fn run(arguments: &[String]) -> Result<u8, Error> {
    match config::parse(arguments)? {
        Command::Help => print!("{}", options::help()),
        Command::Version => println!("tproxy {}", env!("CARGO_PKG_VERSION")),
        Command::Flush(name) => flush(name.as_deref())?,
        Command::PrintRules(config) => print!("{}", rules(&config)?),
        Command::Check(config) => check(&config)?,
        Command::Run(config) => return start::run(config),
    }
    Ok(0)
}

fn flush(name: Option<&str>) -> Result<(), Error> {
    if !account::is_root() {
        return Err(Error::Privilege("--flush: rules can be removed by root only".into()));
    }
    let mut firewall = Firewall::find()?;
    match name {
        Some(name) => firewall.remove(name)?,
        None => match firewall.flush_all()? {
            0 => println!("no rules of tproxy were there"),
            1 => println!("1 chain removed"),
            chains => println!("{chains} chains removed"),
        },
    }
    Ok(())
}

/// The rules as text, with the names resolved now.
fn rules(config: &Config) -> Result<String, Error> {
    let mut known: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for name in config.names_in_rules() {
        known.insert(name.to_owned(), look_up(name)?);
    }
    let families = config.service.addresses().iter().map(|address| Family::of(&address.ip())).collect();
    let set = config.rules(families, &|name| known.get(name).cloned().unwrap_or_default())?;
    Ok(set.as_ref().map(rule::print_rules).unwrap_or_default())
}

fn look_up(name: &str) -> Result<Vec<IpAddr>, Error> {
    resolver::look_up(name).map_err(|why| Error::Failed(format!("cannot resolve '{name}': {why}")))
}

fn check(config: &Config) -> Result<(), Error> {
    let rules = rules(config)?;
    for address in config.service.addresses() {
        println!("listen on {address}");
    }
    match &config.service.destination {
        Destination::Original => println!("relay to the original destination"),
        Destination::Host { host, port } => {
            for ip in look_up(host)? {
                println!("relay to {host}:{port} at {}", std::net::SocketAddr::new(ip, *port));
            }
        }
    }
    print!("{rules}");
    Ok(())
}
