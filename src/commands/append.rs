//! `headwater append URL`: standard input becomes messages of an object, as with httpfstream-append.
//! `main` calls [`run`]; everything else is `client`'s.

use std::io;

use crate::client::Options;
use crate::operations::config::Config;
use crate::operations::log;

/// What `append` and `follow` have in common.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionArgs {
    /// The object, as http, https, ws or wss
    #[arg(value_name = "URL")]
    pub url: String,

    /// Say on standard error what happens
    #[arg(short, long)]
    pub verbose: bool,

    /// Do not reconnect: a lost connection is an error
    #[arg(long)]
    pub no_resume: bool,

    /// Seconds of attempts after a lost connection
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().reconnect_max_s)]
    pub reconnect: u64,

    /// Additional request header, e.g. 'Authorization: Bearer TOKEN' (may be repeated)
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub struct AppendArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Send binary messages only, instead of texts where the input is UTF-8
    #[arg(long)]
    pub binary: bool,
}

pub fn run(args: &AppendArgs) -> anyhow::Result<()> {
    let _log = start_log(&args.connection)?;
    let options = Options { binary: args.binary, ..options(&args.connection) };
    let appended = options.append(&args.connection.url, io::stdin().lock())?;
    tracing::info!(bytes = appended.bytes, "appended");
    Ok(())
}

/// Warnings, of lost connections, are always told. The guard writes them out at the end.
pub(super) fn start_log(args: &ConnectionArgs) -> anyhow::Result<impl Drop> {
    let filter = if args.verbose { "headwater=info" } else { "headwater=warn" };
    let config = Config { log: filter.to_owned(), ..Config::default() };
    log::start(&config).map_err(anyhow::Error::msg)
}

pub(super) fn options(args: &ConnectionArgs) -> Options {
    Options {
        resume: !args.no_resume,
        headers: args.headers.clone(),
        reconnect_max_s: args.reconnect,
        ..Options::default()
    }
}

fn header(argument: &str) -> Result<(String, String), &'static str> {
    let (name, value) = argument.split_once(':').ok_or("give 'NAME: VALUE'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
