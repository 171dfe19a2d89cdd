//! `headwater check`: read a configuration as `serve` would, and show what it amounts to.

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
    if args.print_sample {
        print!("{}", Config::sample_file());
        return Ok(());
    }
    let config = args.serve.load()?;
    if args.print_config {
        print!("{}", toml::to_string(&config)?);
        return Ok(());
    }
    println!("the configuration is good; its limits:");
    let fixed = limits::FIXED.iter().copied();
    for (name, value, beyond) in limits::configured(&config).into_iter().chain(fixed) {
        println!("  {name:<32} {value:>16}  {beyond}");
    }
    Ok(())
}
