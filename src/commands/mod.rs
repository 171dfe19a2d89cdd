//! The commands of the program, one file each; `publish` has its media and its upload beside it,
//! `migrate` a file for each kind of configuration.

pub mod append;
pub mod check;
pub mod coordinator;
pub mod demo;
mod dotenv;
pub mod follow;
pub mod migrate;
mod migrate_draft;
mod migrate_multistreaming;
mod migrate_restreamer;
mod migrate_variables;
pub mod publish;
mod publish_source;
mod publish_upload;
pub mod serve;

/// What the command line may ask for.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run the origin
    Serve(serve::ServeArgs),
    /// Run the coordinator of streaming servers and encoders
    Coordinator(coordinator::CoordinatorArgs),
    /// Push a fragmented MP4 or MPEG-TS file as a live stream, paced by its own timestamps
    Publish(publish::PublishArgs),
    /// Append standard input to an object, message by message, over a WebSocket
    Append(append::AppendArgs),
    /// Write an object to standard output while it grows
    Follow(follow::FollowArgs),
    /// Run the origin with a sample stream, and say what to open next
    Demo(demo::DemoArgs),
    /// Check a configuration and print the limits it sets
    Check(check::CheckArgs),
    /// Turn the configuration of a predecessor into ours
    Migrate(migrate::MigrateArgs),
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Coordinator(args) => coordinator::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Append(args) => append::run(&args),
        Command::Follow(args) => follow::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Migrate(args) => migrate::run(&args),
    }
}
