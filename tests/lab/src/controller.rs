//! tproxyctl, as an administrator runs it.

use std::process::Command;

/// How a command has ended, and what it printed.
#[derive(Debug)]
pub struct Controlled {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs tproxyctl with the instance that has this socket. Words are separated by blanks.
pub fn run(socket: &str, words: &str) -> Controlled {
    let program = format!("{}ctl", crate::daemon::program());
    let output = Command::new(program).args(["-S", socket]).args(words.split(' ')).output().expect("tproxyctl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Controlled {
        status: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

impl Controlled {
    /// What it printed, if it has done what it was asked for.
    pub fn succeeded(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }
}
