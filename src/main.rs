//! The `headwater` program: parse the command line, call the command, print the error.

use std::process::ExitCode;

use clap::Parser;
use headwater::commands::{Command, run};

/// The origin of live streams: encoders push in, readers follow while the bytes are still arriving.
#[derive(Parser)]
#[command(name = "headwater", version, arg_required_else_help = true, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater: {error:#}");
            ExitCode::FAILURE
        }
    }
}
