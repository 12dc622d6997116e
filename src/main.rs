//! argv in, exit code out.

fn main() -> std::process::ExitCode {
    hardtack::cli::main()
}
