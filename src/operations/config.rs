//! Every option: one row each in the tables below. The TOML file, `--set`, the sample file and the
//! tables in `docs/OPERATIONS.md` follow from them; a test compares.
//!
//! Precedence: defaults, then the file, then the command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

macro_rules! options {
    ($(#[$doc:meta])* $section:ident { $($(#[doc = $help:literal])* $key:ident: $kind:ty = $default:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $section { $($(#[doc = $help])* pub $key: $kind,)* }

        impl Default for $section {
            fn default() -> Self {
                $section { $($key: $default,)* }
            }
        }

        impl $section {
            /// Key and help of each row.
            const ROWS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($key), concat!("" $(, $help)*)),)*];
        }
    };
}

options! {
    /// The top level of the file.
    Config {
        /// Addresses that serve objects, as IP:PORT.
        listen: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], 9094))];
        /// Address of /healthz, /readyz and /metrics, as IP:PORT.
        admin: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9095));
        /// Data directory: sealed objects are plain files below it.
        data: PathBuf = PathBuf::from("./content");
        /// Worker threads, one to a processor; 0 takes all that the process may use.
        cores: usize = 0;
        /// Keep everything in memory and nothing on disk.
        ram_only: bool = false;
        /// When an upload is acknowledged: "cache" (in the page cache: survives kill -9) or "sync" (on disk: survives power loss).
        durability: Durability = Durability::Cache;
        /// An upload that lost its writer: "discard", or "keep" what had arrived.
        on_abort: OnAbort = OnAbort::Discard;
        /// Remove an object when max-age of its upload's Cache-Control has passed.
        delete_expired: bool = false;
        /// GET of an absent object waits for its upload to start.
        wait_absent: bool = false;
        /// JSON file with AllowedOrigins, AllowedMethods, AllowedHeaders; replaces [cors].
        cors_file: Option<PathBuf> = None;
        /// Seconds that readers of sealed objects have to finish after SIGTERM.
        shutdown_grace_s: u64 = 30;
        /// Log filter: error, warn, info, debug, or a tracing filter.
        log: String = "info".into();
        /// Log lines on stderr: "text" or "json".
        log_format: LogFormat = LogFormat::Text;
        store: StoreSection = StoreSection::default();
        limits: LimitsSection = LimitsSection::default();
        cache_control: CacheControlSection = CacheControlSection::default();
        headers: HeadersSection = HeadersSection::default();
        cors: CorsSection = CorsSection::default();
        compat: CompatSection = CompatSection::default();
        retention: Vec<RetentionSection> = Vec::new();
    }
}

options! {
    /// `[store]`
    StoreSection {
        /// Bytes of one extent file; a longer object has several. A multiple of 4096.
        extent_bytes: u64 = 64 << 20;
        /// Bytes of one object; a longer upload gets 413.
        object_bytes_max: u64 = 1 << 40;
        /// Objects in the store; more uploads get 507.
        objects_max: usize = 4_000_000;
        /// Bytes of all objects together, the oldest sealed go first; 0 is no limit (RAM-only: half of the memory).
        total_bytes_max: u64 = 0;
        /// Sealed objects up to so many bytes are answered from memory once they were read.
        small_object_bytes_max: u64 = 64 << 10;
        /// Bytes of small sealed objects held in memory.
        body_cache_bytes_max: u64 = 256 << 20;
        /// Files held open for sealed objects.
        open_files_max: usize = 4096;
        /// Extents mapped at once (the kernel allows 65,530 mappings).
        mappings_max: usize = 16_384;
    }
}

options! {
    /// `[limits]`
    LimitsSection {
        /// Connections of all cores together, an equal share for each; one more closes a silent one, or gets 503.
        connections_max: usize = 14_000;
        /// Bytes of a request line; a longer one gets 414.
        request_line_bytes_max: usize = 8192;
        /// Bytes of a request head; a longer one gets 431.
        head_bytes_max: usize = 32_768;
        /// Seconds from the first byte of a head to its last; then 408.
        head_timeout_s: u64 = 10;
        /// Seconds that a connection may be idle between requests.
        keep_alive_timeout_s: u64 = 120;
        /// Seconds that an uploader may be silent.
        body_idle_timeout_s: u64 = 120;
        /// Seconds that a reader may take nothing while there is something to send.
        send_stall_timeout_s: u64 = 60;
        /// Bytes that a reader of an open object may fall back, beyond where it started.
        lag_bytes_max: u64 = 1 << 30;
        /// Seconds at most that a GET waits for an absent object.
        wait_max_s: u64 = 60;
        /// Absent names waited for at once; more get 503.
        watched_names_max: usize = 10_000;
        /// Registered read buffers of 256 KiB for each core.
        read_buffers: u16 = 16;
    }
}

options! {
    /// `[cache_control]`
    CacheControlSection {
        /// For playlists and MPDs whose upload sent no Cache-Control.
        manifest: String = "max-age=1".into();
        /// For media.
        segment: String = "max-age=3600".into();
        /// For everything else.
        other: String = "max-age=60".into();
        /// For 404.
        not_found: String = "max-age=1".into();
        /// For all other errors.
        error: String = "no-store".into();
    }
}

options! {
    /// `[headers]`
    HeadersSection {
        /// Header fields kept from uploads besides Content-Type, Cache-Control, Content-Encoding, Content-Language and Content-Disposition: names, or prefixes that end in "-". Credentials are never kept.
        stored: Vec<String> = Vec::new();
    }
}

options! {
    /// `[cors]`
    CorsSection {
        /// Origins that may read: ["*"], or a list that the request's Origin is looked up in.
        origins: Vec<String> = vec!["*".into()];
        /// For Access-Control-Allow-Methods.
        methods: Vec<String> = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"].map(String::from).into();
        /// For Access-Control-Allow-Headers.
        headers: Vec<String> = ["Content-Type", "Cache-Control", "Range", "If-None-Match", "Expires"].map(String::from).into();
    }
}

options! {
    /// `[compat]`
    CompatSection {
        /// The query is part of an object's name, as in go-chunked-streaming-server.
        query_in_name: bool = false;
    }
}

options! {
    /// `[[retention]]`, repeated; the longest matching prefix counts
    RetentionSection {
        /// Objects whose path starts so; "/" is all.
        prefix: String = "/".into();
        /// Remove an object so many seconds after it was sealed.
        max_age_s: Option<u64> = None;
        /// Keep so many bytes of sealed objects; the oldest go first.
        max_bytes: Option<u64> = None;
        /// Keep about the last so many bytes of an object while it grows, and nothing of it after its end (for endless uploads).
        window_bytes: Option<u64> = None;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Cache,
    Sync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAbort {
    Discard,
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// What is wrong with the configuration: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("the configuration file {} is wrong:\n{cause}", path.display())]
    File { path: PathBuf, cause: toml::de::Error },
    #[error("the command line is wrong: {0}")]
    CommandLine(String),
    #[error("the option {key} is wrong: {why}")]
    Value { key: &'static str, why: String },
}

impl Config {
    /// Read `file` if there is one, then apply `overrides` (dotted key, TOML value).
    pub fn load(
        file: Option<&Path>,
        overrides: &[(String, toml::Value)],
    ) -> Result<Config, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?,
        };
        let in_file =
            |cause| ConfigError::File { path: file.unwrap_or(Path::new("")).to_owned(), cause };
        // By itself first: only then does an error know its line.
        let _: Config = toml::from_str(&text).map_err(in_file)?;
        let mut table: toml::Table = toml::from_str(&text).map_err(in_file)?;
        for (key, value) in overrides {
            set(&mut table, key, value.clone())?;
        }
        let config: Config = table.try_into().map_err(|error: toml::de::Error| {
            ConfigError::CommandLine(error.message().to_owned())
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: &str| Err(ConfigError::Value { key, why: why.to_owned() });
        let store = &self.store;
        let limits = &self.limits;
        if self.listen.is_empty() {
            return wrong("listen", "at least one address is needed");
        }
        if store.extent_bytes == 0
            || !store.extent_bytes.is_multiple_of(4096)
            || store.extent_bytes > 1 << 40
        {
            return wrong("store.extent_bytes", "a multiple of 4096 up to 1 TiB is needed");
        }
        if store.open_files_max == 0 || store.mappings_max == 0 || store.mappings_max > 60_000 {
            return wrong("store", "open_files_max is at least 1, mappings_max 1 to 60,000");
        }
        if !(256..=131_072).contains(&limits.head_bytes_max)
            || limits.request_line_bytes_max > limits.head_bytes_max
        {
            return wrong(
                "limits.head_bytes_max",
                "256 to 131,072, and not less than request_line_bytes_max",
            );
        }
        if limits.connections_max == 0 || limits.read_buffers == 0 {
            return wrong("limits", "connections_max and read_buffers are at least 1");
        }
        let cache = &self.cache_control;
        let values =
            [&cache.manifest, &cache.segment, &cache.other, &cache.not_found, &cache.error];
        let cors = self.cors.origins.iter().chain(&self.cors.methods).chain(&self.cors.headers);
        if values
            .into_iter()
            .chain(cors)
            .any(|value| value.contains(|c: char| c.is_control() || !c.is_ascii()))
        {
            return wrong("cache_control, cors", "header values are printable ASCII");
        }
        if self.retention.iter().any(|rule| !rule.prefix.starts_with('/')) {
            return wrong("retention.prefix", "a prefix starts with a slash");
        }
        Ok(())
    }

    /// All options with their defaults and meanings, as a commented TOML file.
    pub fn sample_file() -> String {
        let mut out = String::from("# Headwater: every option with its default.\n");
        for (title, rows) in sections() {
            if !title.is_empty() {
                out += &format!("\n#{title}\n");
            }
            for (key, default, help) in rows {
                out += &format!("\n# {help}\n#{key} = {default}\n");
            }
        }
        out
    }

    /// The option tables of docs/OPERATIONS.md.
    pub fn document() -> String {
        let mut out = String::new();
        for (title, rows) in sections() {
            let title =
                if title.is_empty() { "top level".to_owned() } else { format!("`{title}`") };
            out += &format!("\n**{title}**\n\n| option | default | meaning |\n|---|---|---|\n");
            for (key, default, help) in rows {
                out += &format!("| `{key}` | `{default}` | {} |\n", help.replace('|', "\\|"));
            }
        }
        out
    }
}

type Row = (&'static str, String, String);

/// Title, then key, default and help of each row.
fn sections() -> Vec<(&'static str, Vec<Row>)> {
    fn rows<T: Default + Serialize>(rows: &'static [(&'static str, &'static str)]) -> Vec<Row> {
        let defaults = toml::Table::try_from(T::default()).expect("defaults are TOML");
        let plain = |value: &toml::Value| !matches!(value, toml::Value::Table(_));
        let of_row = |(key, help): &(&'static str, &'static str)| {
            if help.is_empty() {
                return None;
            }
            let default = defaults
                .get(*key)
                .filter(|value| plain(value))
                .map_or("(none)".into(), toml::Value::to_string);
            Some((*key, default, help.trim().to_owned()))
        };
        rows.iter().filter_map(of_row).collect()
    }
    vec![
        ("", rows::<Config>(Config::ROWS)),
        ("[store]", rows::<StoreSection>(StoreSection::ROWS)),
        ("[limits]", rows::<LimitsSection>(LimitsSection::ROWS)),
        ("[cache_control]", rows::<CacheControlSection>(CacheControlSection::ROWS)),
        ("[headers]", rows::<HeadersSection>(HeadersSection::ROWS)),
        ("[cors]", rows::<CorsSection>(CorsSection::ROWS)),
        ("[compat]", rows::<CompatSection>(CompatSection::ROWS)),
        ("[[retention]]", rows::<RetentionSection>(RetentionSection::ROWS)),
    ]
}

/// Set a dotted key, making the tables on its way.
fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), ConfigError> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((first, rest)) => {
            let inner =
                table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let toml::Value::Table(inner) = inner else {
                return Err(ConfigError::CommandLine(format!("{first} is not a table")));
            };
            set(inner, rest, value)
        }
    }
}

/// `KEY=VALUE` of `--set`; a value that is not TOML is taken as text.
pub fn parse_set(argument: &str) -> Result<(String, toml::Value), String> {
    let (key, value) =
        argument.split_once('=').ok_or("give KEY=VALUE, for example limits.head_timeout_s=5")?;
    let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok();
    let value = parsed
        .and_then(|mut table| table.remove("v"))
        .unwrap_or(toml::Value::String(value.to_owned()));
    Ok((key.trim().to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.toml");
        std::fs::write(&path, "cores = 1\n[limits]\nhead_tmeout_s = 3\n").unwrap();
        let error = Config::load(Some(&path), &[]).unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("head_tmeout_s") && error.contains("h.toml"),
            "{error}"
        );
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.toml");
        std::fs::write(&path, "cores = 1\n[limits]\nhead_timeout_s = 3\n").unwrap();
        let overrides =
            [parse_set("limits.head_timeout_s=7").unwrap(), parse_set("log=debug").unwrap()];
        let config = Config::load(Some(&path), &overrides).unwrap();
        assert_eq!(
            (config.cores, config.limits.head_timeout_s, config.log.as_str()),
            (1, 7, "debug")
        );
        assert!(Config::load(None, &[parse_set("limits.nonsense=7").unwrap()]).is_err());
    }

    /// The sample, with its comment signs taken away, is the default configuration.
    #[test]
    fn the_sample_file_is_the_defaults() {
        let sample = Config::sample_file();
        let live =
            sample.lines().filter(|line| !line.starts_with("# ") && !line.contains("(none)"));
        let text: String =
            live.map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
        let text = text.split("[[retention]]").next().unwrap().to_owned();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default(), "{text}");
    }

    #[test]
    fn operations_document_has_every_option() {
        let document = include_str!("../../docs/OPERATIONS.md");
        assert!(
            document.contains(&Config::document()),
            "put this into docs/OPERATIONS.md:\n{}",
            Config::document()
        );
    }
}
