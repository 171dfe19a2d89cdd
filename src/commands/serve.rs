//! `headwater serve`: the configuration from file and flags, then the server until it is told to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use sd_notify::NotifyState;

use crate::commands::coordinator;
use crate::operations::config::{Config, parse_set};
use crate::operations::{log, signals};
use crate::server::Server;

/// Options on the command line; each is a key of the configuration file too, and wins over it.
#[derive(Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// TOML file with the options (`headwater check --print-sample` shows all)
    #[arg(long, value_name = "FILE", env = "HEADWATER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address that serves objects, repeatable [default: 127.0.0.1:9094]
    #[arg(long, value_name = "ADDR", env = "HEADWATER_LISTEN", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Address of /healthz, /readyz, /metrics, /player, /publish and /cameras [default: 127.0.0.1:9095]
    #[arg(long, value_name = "ADDR", env = "HEADWATER_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// Data directory [default: ./content]
    #[arg(short = 'p', long, value_name = "DIR", env = "HEADWATER_DATA")]
    pub data: Option<PathBuf>,
    /// Worker threads, one to a processor; 0 is all of them [default: 0]
    #[arg(long, value_name = "N", env = "HEADWATER_CORES")]
    pub cores: Option<usize>,
    /// Port on all interfaces, instead of --listen (as in go-chunked-streaming-server)
    #[arg(short = 'i', value_name = "PORT", conflicts_with = "listen")]
    pub port: Option<u16>,
    /// JSON file with the CORS rules (as in go-chunked-streaming-server)
    #[arg(short = 'o', long, value_name = "FILE")]
    pub cors_file: Option<PathBuf>,
    /// Keep everything in memory and nothing on disk
    #[arg(short = 'r', long)]
    pub ram_only: bool,
    /// Remove objects when max-age of their upload's Cache-Control has passed
    #[arg(short = 'd', long)]
    pub delete_expired: bool,
    /// GET of an absent object waits for its upload to start
    #[arg(short = 'w', long)]
    pub wait_absent: bool,
    /// Any option of the file, for example --set limits.head_timeout_s=5, repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, toml::Value)>,
}

impl ServeArgs {
    /// The options of the file and of the flags together.
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut overrides = self.flags();
        overrides.extend(self.set.iter().cloned());
        Ok(Config::load(self.config.as_deref(), &overrides)?)
    }

    fn flags(&self) -> Vec<(String, toml::Value)> {
        let mut flags: Vec<(&str, toml::Value)> = Vec::new();
        let path = |path: &PathBuf| toml::Value::from(path.to_string_lossy().into_owned());
        if !self.listen.is_empty() {
            let list: Vec<String> = self.listen.iter().map(SocketAddr::to_string).collect();
            flags.push(("listen", list.into()));
        }
        if let Some(port) = self.port {
            flags.push(("listen", vec![format!("[::]:{port}")].into()));
        }
        flags.extend(self.admin.map(|admin| ("admin", admin.to_string().into())));
        flags.extend(self.data.as_ref().map(|data| ("data", path(data))));
        flags.extend(self.cores.map(|cores| ("cores", (cores as i64).into())));
        flags.extend(self.cors_file.as_ref().map(|file| ("cors_file", path(file))));
        let switches = [
            ("ram_only", self.ram_only),
            ("delete_expired", self.delete_expired),
            ("wait_absent", self.wait_absent),
        ];
        flags.extend(switches.into_iter().filter(|(_, on)| *on).map(|(key, _)| (key, true.into())));
        flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let _log = log::start(&config).map_err(anyhow::Error::msg)?;
    let server = Server::start(&config).context("the origin cannot start")?;
    let stopper = server.stopper();
    // Whoever reads what is announced may stop it at once.
    signals::on_stop(move || {
        tracing::info!("stopping: no new connections, readers of sealed objects may finish");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        stopper.stop();
    })?;
    announce(&server)?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    server.join();
    tracing::info!("stopped");
    Ok(())
}

/// Where it listens, for people and for programs that started it with port 0.
pub fn announce(server: &Server) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for address in &server.listen {
        writeln!(out, "listening on http://{address}")?;
    }
    for (door, addresses) in [("append", &server.append), ("channels", &server.channels)] {
        for address in addresses {
            writeln!(out, "{door} on http://{address}")?;
        }
    }
    for (path, address) in &server.cameras {
        match path {
            None => writeln!(out, "cameras on tcp://{address}")?,
            Some(path) => writeln!(out, "camera {path} on tcp://{address}")?,
        }
    }
    writeln!(out, "admin on http://{}", server.admin)?;
    out.flush()?;
    drop(out);
    coordinator::announce(server.coordinator())
}
