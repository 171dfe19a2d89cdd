//! `headwater migrate`: the configuration of a predecessor as ours, on standard output. Each has a file of
//! its own, `migrate_…`, which knows what its words meant.

use std::path::PathBuf;

use super::{migrate_multistreaming, migrate_restreamer, migrate_variables};

#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(subcommand)]
    pub from: Predecessor,
}

/// Whose configuration it is.
#[derive(Debug, clap::Subcommand)]
pub enum Predecessor {
    /// Turn the environment variables of ws-stream-server into a configuration, on standard output
    WsStreamServer(VariablesArgs),
    /// The same for its coordinator
    WsStreamCoordinator(VariablesArgs),
    /// Turn the JSON file of restreamer into a configuration, also the one of 2017
    Restreamer(FileArgs),
    /// Print the configuration that does what MultiStreamingServer does, which has none
    Multistreaming,
}

#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// File of the predecessor
    #[arg(value_name = "FILE", default_value = "restreamer.json")]
    pub file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct VariablesArgs {
    /// File with the variables
    #[arg(value_name = "FILE", default_value = ".env")]
    pub file: PathBuf,
    /// Let the environment of this command win over the file, as the original does; the file may then
    /// be absent
    #[arg(long)]
    pub environment: bool,
}

pub fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    match &args.from {
        Predecessor::WsStreamServer(args) => migrate_variables::migrate_server(args),
        Predecessor::WsStreamCoordinator(args) => migrate_variables::migrate_coordinator(args),
        Predecessor::Restreamer(args) => migrate_restreamer::migrate(args),
        Predecessor::Multistreaming => migrate_multistreaming::migrate(),
    }
}
