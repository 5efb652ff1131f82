//! The tproxyctl program.

fn main() -> std::process::ExitCode {
    tproxy::tproxyctl()
}
