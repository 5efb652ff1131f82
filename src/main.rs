//! The tproxy program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Result<Vec<String>, _> = std::env::args_os().skip(1).map(|word| word.into_string()).collect();
    let result = match arguments {
        Ok(arguments) => tproxy::commands::run(&arguments),
        Err(word) => Err(tproxy::error::Error::Usage(format!("{word:?} given, UTF-8 text wanted"))),
    };
    result.map(ExitCode::from).unwrap_or_else(|error| {
        eprintln!("tproxy: {error}");
        ExitCode::from(error.exit_status())
    })
}
