//! `tproxyctl`: sends commands to the control socket of a running tproxy, and shows the answers. docs/CONTROL.md has the
//! protocol.

mod arguments;
mod client;
mod completions;
mod document;
mod failure;
mod instances;
mod json;
mod subcommands;
mod top;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use crate::ctl::arguments::{Asked, CtlRequest, Which};
use crate::ctl::client::Client;
use crate::ctl::failure::CtlFailure;
use crate::logging;

/// The program. Writes an error to standard error.
pub fn main() -> ExitCode {
    let result = run(std::env::args_os().skip(1).collect());
    result.map(ExitCode::from).unwrap_or_else(|failure| {
        eprintln!("tproxyctl: {}", logging::escaped(failure.to_string()));
        ExitCode::from(failure.exit_status())
    })
}

/// The files that are made from the table of commands, as [`crate::cli::generated`] has those of the options.
pub fn generated_ctl() -> Vec<(&'static str, String)> {
    vec![
        ("man/tproxyctl.8", document::manual_commands()),
        ("scripts/completions/tproxyctl.bash", completions::bash()),
        ("scripts/completions/_tproxyctl", completions::zsh()),
        ("scripts/completions/tproxyctl.fish", completions::fish()),
    ]
}

/// What stands around generated text in the manual page.
pub const CTL_MARKS: (&str, &str) =
    (".\\\" COMMANDS: made from src/ctl/subcommands.rs by `make man`, do not edit\n", ".\\\" END COMMANDS\n");

fn run(words: Vec<OsString>) -> Result<u8, CtlFailure> {
    match arguments::parse(words)? {
        Asked::Help => print(&document::help()),
        Asked::Version => print(&format!("tproxyctl {}\n", env!("CARGO_PKG_VERSION"))),
        Asked::Command(request) => answer(&request),
    }
}

fn print(text: &str) -> Result<u8, CtlFailure> {
    client::write(&mut io::stdout(), text.as_bytes()).map(|_| 0)
}

fn answer(request: &CtlRequest) -> Result<u8, CtlFailure> {
    if request.is("top") {
        top::run(&|| connect(&request.which, request.patience()))?;
        return Ok(0);
    }
    let mut client = connect(&request.which, request.patience())?;
    client.ask(&request.line())?;
    if request.is("health") {
        return health(&mut client, request.json);
    }
    match request.is("monitor") {
        true => client.follow(&mut io::stdout())?,
        false => client.copy_answer(&mut io::stdout())?,
    }
    Ok(0)
}

fn connect(which: &Which, patience: Option<Duration>) -> Result<Client, CtlFailure> {
    match which {
        Which::Path(path) => Client::connect(path, patience),
        Which::Instance(name) => Client::connect(&instances::path(name)?, patience),
        Which::TheOnly => instances::connect_the_only(patience),
    }
}

/// Prints the health, and makes it an exit status: 0 serving, 1 not.
fn health(client: &mut Client, json: bool) -> Result<u8, CtlFailure> {
    // An answer that is no health is none.
    let line = client.first_line().map_err(|failure| CtlFailure::NoAnswer(failure.to_string()))?;
    let text = String::from_utf8_lossy(&line);
    let named = if json {
        json::parse(&text).and_then(|document| document.text("health").map(str::to_owned)).unwrap_or_default()
    } else {
        text.trim_end().split(':').next().unwrap_or_default().to_owned()
    };
    let status = match named.as_str() {
        "serving" => 0,
        "draining" | "withdrawn" => 1,
        _ => return Err(CtlFailure::NoAnswer(format!("the answer is not about health: {}", text.trim_end()))),
    };
    print(&text)?;
    Ok(status)
}
