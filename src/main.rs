//! The tproxy program.

fn main() -> std::process::ExitCode {
    tproxy::main()
}
