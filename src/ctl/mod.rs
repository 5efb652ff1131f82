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
use std::io::{self, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use crate::control::document::{Field, Row};
use crate::ctl::arguments::{Asked, CtlRequest, Which};
use crate::ctl::client::Client;
use crate::ctl::failure::CtlFailure;
use crate::logging;

/// The program. Writes an error to standard error, and as a document to standard output where one is expected.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is_json = words.iter().any(|word| word == "--json");
    let mut out = CtlOutput { to: io::stdout(), written: false };
    let result = run(words, &mut out);
    result.map(ExitCode::from).unwrap_or_else(|failure| {
        let sentence = failure.to_string();
        if is_json && !out.written {
            // If that fails, the other line says enough.
            let _ = client::write(&mut out, Row(vec![("error", Field::text(sentence.as_str()))]).document().as_bytes());
        }
        eprintln!("tproxyctl: {}", logging::escaped(sentence));
        ExitCode::from(failure.exit_status())
    })
}

/// Standard output.
struct CtlOutput {
    to: Stdout,
    /// Something of an answer is there.
    written: bool,
}

impl Write for CtlOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written = true;
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl AsFd for CtlOutput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }
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

fn run(words: Vec<OsString>, out: &mut CtlOutput) -> Result<u8, CtlFailure> {
    match arguments::parse(words)? {
        Asked::Help => print(&document::help(), out),
        Asked::Version => print(&format!("tproxyctl {}\n", env!("CARGO_PKG_VERSION")), out),
        Asked::Command(request) => answer(&request, out),
    }
}

fn print(text: &str, out: &mut CtlOutput) -> Result<u8, CtlFailure> {
    client::write(out, text.as_bytes()).map(|_| 0)
}

fn answer(request: &CtlRequest, out: &mut CtlOutput) -> Result<u8, CtlFailure> {
    if request.is("top") {
        top::run(&|| connect(&request.which, request.patience()))?;
        return Ok(0);
    }
    let mut client = connect(&request.which, request.patience())?;
    if request.is("monitor") {
        return client.follow(&request.line(), request.patience(), out).map(|()| 0);
    }
    client.ask(&request.line())?;
    if request.is("health") {
        return health(&mut client, request.json, out);
    }
    client.copy_answer(out).map(|()| 0)
}

fn connect(which: &Which, patience: Option<Duration>) -> Result<Client, CtlFailure> {
    match which {
        Which::Path(path) => Client::connect(path, patience),
        Which::Instance(name) => Client::connect(&instances::path(name)?, patience),
        Which::TheOnly => instances::connect_the_only(patience),
    }
}

/// Prints the health, and makes it an exit status: 0 serving, 1 not.
fn health(client: &mut Client, json: bool, out: &mut CtlOutput) -> Result<u8, CtlFailure> {
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
    print(&text, out)?;
    Ok(status)
}
