//! `headwater check`: read a configuration as `serve` would, and show what it amounts to.

use std::io::{ErrorKind, Write};

use crate::commands::serve::ServeArgs;
use crate::operations::config::Config;
use crate::operations::limits;

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print a configuration file with every option, its default and its meaning
    #[arg(long)]
    pub print_sample: bool,
    /// Print the options as they are in effect, as TOML
    #[arg(long)]
    pub print_config: bool,
}

pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text(args)?.as_bytes()) {
        // Whoever reads has seen enough, as head(1) has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn text(args: &CheckArgs) -> anyhow::Result<String> {
    if args.print_sample {
        return Ok(Config::sample_file());
    }
    let config = args.serve.load()?;
    if args.print_config {
        return Ok(toml::to_string(&config)?);
    }
    let mut text = String::from("the configuration is good; its limits:\n");
    let fixed = limits::FIXED.iter().copied();
    for (name, value, beyond) in limits::configured(&config).into_iter().chain(fixed) {
        text += &format!("  {name:<32} {value:>16}  {beyond}\n");
    }
    Ok(text)
}
