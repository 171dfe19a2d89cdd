//! `headwater coordinator`: the coordinator alone, without an origin, until it is told to stop.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use sd_notify::NotifyState;

use crate::coordinator::Coordinator;
use crate::operations::config::{Config, parse_set};
use crate::operations::{log, signals};
use crate::server::coordinator_options;

/// Where it listens if nothing else is said.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9096);

/// The options are those of the section [coordinator], and of the log.
#[derive(Debug, clap::Args)]
pub struct CoordinatorArgs {
    /// TOML file with the options (`headwater check --print-sample` shows all)
    #[arg(long, value_name = "FILE", env = "HEADWATER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of control sockets and commands, repeatable [default: 127.0.0.1:9096]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Any option of the file, for example --set coordinator.require_encoder=true, repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, toml::Value)>,
}

impl CoordinatorArgs {
    fn load(&self) -> anyhow::Result<Config> {
        let mut overrides = Vec::new();
        if !self.listen.is_empty() {
            let list: Vec<String> = self.listen.iter().map(SocketAddr::to_string).collect();
            overrides.push(("coordinator.listen".to_owned(), list.into()));
        }
        overrides.extend(self.set.iter().cloned());
        let mut config = Config::load(self.config.as_deref(), &overrides)?;
        if config.coordinator.listen.is_empty() {
            config.coordinator.listen.push(LISTEN);
        }
        Ok(config)
    }
}

pub fn run(args: &CoordinatorArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let _log = log::start(&config).map_err(anyhow::Error::msg)?;
    let coordinator = Coordinator::start(coordinator_options(&config.coordinator))
        .context("the coordinator cannot start")?;
    let stopper = coordinator.stopper();
    signals::on_stop(move || {
        tracing::info!("stopping: what is active is in the state file");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        stopper.stop();
    })?;
    announce(&coordinator.listen)?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    coordinator.join();
    tracing::info!("stopped");
    Ok(())
}

/// Where it listens, for people and for programs that started it with port 0.
pub(super) fn announce(listen: &[SocketAddr]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for address in listen {
        writeln!(out, "coordinator on http://{address}")?;
    }
    out.flush()
}
