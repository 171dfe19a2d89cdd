//! Every option: one row each in the tables below. The TOML file, `--set`, the sample file and the
//! tables in `docs/OPERATIONS.md` follow from them; a test compares.
//!
//! Precedence: defaults, then the file, then the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::config_cameras::CamerasSection;
use super::config_upstreams;
pub use super::config_upstreams::{
    AccessScheme, AccessSection, ApiKind, ApiSection, MirrorSection, NotificationEvent,
    NotificationSection, PullSection, StaticSection, Users, ViewersSection,
};

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
            pub(super) const ROWS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($key), concat!("" $(, $help)*)),)*];
        }
    };
}
pub(super) use options;

options! {
    /// The top level of the file.
    Config {
        /// Addresses that serve objects, as IP:PORT.
        listen: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], 9094))];
        /// Address of /healthz, /readyz, /metrics, /player, /publish and /cameras, as IP:PORT.
        admin: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9095));
        /// Directory of the libraries that the page /player can use (scripts/player/build makes it).
        player_dir: PathBuf = PathBuf::from("/usr/share/headwater/player");
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
        append: AppendSection = AppendSection::default();
        channels: ChannelsSection = ChannelsSection::default();
        cameras: CamerasSection = CamerasSection::default();
        coordinator: CoordinatorSection = CoordinatorSection::default();
        live: Vec<LiveSection> = vec![LiveSection::default()];
        retention: Vec<RetentionSection> = Vec::new();
        users: Users = Users::new();
        viewers: ViewersSection = ViewersSection::default();
        pull: Vec<PullSection> = Vec::new();
        mirror: Vec<MirrorSection> = Vec::new();
        r#static: Vec<StaticSection> = Vec::new();
        api: Vec<ApiSection> = Vec::new();
        notification: Vec<NotificationSection> = Vec::new();
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
        /// Reports of players (CMCD) that each core logs in a second, with target "cmcd"; more are only counted. 0 logs none.
        cmcd_lines_per_s_max: u32 = 100;
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
        /// An absent camera (/stream0, /stream1 and so on) is an empty body, as in MultiStreamingServer.
        empty_stream: bool = false;
    }
}

options! {
    /// `[append]`: append and follow over WebSockets, as httpfstream has them
    AppendSection {
        /// Whether upgrades with X-Verb: APPEND or ?verb=APPEND append, and others follow.
        enabled: bool = true;
        /// Only below this path.
        prefix: String = "/".into();
        /// Addresses of its own, as IP:PORT; the common ones are then without it.
        listen: Vec<SocketAddr> = Vec::new();
        /// Seconds between pings to appenders and followers.
        ping_interval_s: u64 = 3;
        /// Seconds without a message or a pong after which an appender is gone.
        idle_timeout_s: u64 = 25;
        /// Bytes of a message; a longer one ends its appender.
        message_bytes_max: u64 = 1 << 30;
    }
}

options! {
    /// `[channels]`: publish and receive over WebSockets, as ws-stream-server has them
    ChannelsSection {
        /// Whether upgrades on /CHANNEL/KEY/KIND are channels; KIND is publish, receive, receive-clear-cache or probe.
        enabled: bool = true;
        /// Only below this path.
        prefix: String = "/".into();
        /// Addresses of its own, as IP:PORT; the common ones are then without it.
        listen: Vec<SocketAddr> = Vec::new();
        /// Bytes of chunks that a new receiver gets first, each counted with 16 more; 0 is no cache.
        cache_bytes_max: u64 = 256 << 20;
        /// Seconds of chunks that a new receiver gets first; 0 is no limit by time.
        cache_s: u64 = 0;
        /// What a receiver gets that has fallen behind by lag_bytes_max: "skip" to the newest chunk, or "close".
        on_lag: OnLag = OnLag::Skip;
        /// Bytes of chunks that a receiver may fall behind, counted as in the cache.
        lag_bytes_max: u64 = 64 << 20;
        /// Bytes of a chunk; a longer one ends its publisher.
        message_bytes_max: u64 = 256 << 20;
        /// Letters of a channel or a key; a longer one gets 404.
        id_length_max: usize = 128;
        /// Connections from one IP address; more get 429. 0 is no limit.
        connections_per_ip_max: usize = 0;
        /// Addresses that connections_per_ip_max does not count, as IP or IP/BITS.
        unlimited_from: Vec<String> = Vec::new();
        /// Addresses that may receive and probe, as IP or IP/BITS; empty is all.
        play_from: Vec<String> = Vec::new();
        /// Seconds between heartbeats.
        heartbeat_interval_s: u64 = 20;
        /// Seconds without a message after which a peer is gone.
        silence_timeout_s: u64 = 60;
        /// Coordinator to ask about publishers, as ws://HOST:PORT or wss://; without it each key is good.
        coordinator_url: Option<String> = None;
        /// Secret shared with the coordinator.
        coordinator_secret: Option<String> = None;
        /// Seconds between attempts to reach the coordinator.
        coordinator_retry_s: u64 = 10;
        /// IP address under which encoders reach this server; without it the coordinator takes the connection's.
        external_ip: Option<String> = None;
        /// Port under which encoders reach this server; without it the one that it listens on.
        external_port: Option<u16> = None;
        /// Whether encoders reach this server through TLS.
        external_tls: bool = false;
    }
}

options! {
    /// `[coordinator]`: the coordinator of ws-stream-server, inside `serve` or as `headwater coordinator`
    CoordinatorSection {
        /// Addresses of the coordinator, as IP:PORT; none is no coordinator.
        listen: Vec<SocketAddr> = Vec::new();
        /// Secret shared with streaming servers and encoders (HS256, HS384 or HS512); without it each is let in.
        secret: Option<String> = None;
        /// Deny publishers while no encoder has room, as the original does.
        require_encoder: bool = false;
        /// File that keeps what is active over a restart.
        state_file: PathBuf = PathBuf::from("./coordinator.json");
        /// Letters of a channel or a key.
        id_length_max: usize = 128;
        /// Seconds that a web-hook may take.
        hook_timeout_s: u64 = 10;
        /// Seconds in which a streaming server may come back and keep its publishers.
        reconnect_grace_s: u64 = 30;
        /// Seconds between heartbeats on control connections.
        heartbeat_interval_s: u64 = 20;
        /// Seconds without a message after which a control connection is closed.
        silence_timeout_s: u64 = 60;
        /// Seconds until the application is told again of an event that it did not answer with 200.
        event_retry_s: u64 = 10;
        /// Who knows the keys: `{ url = "…", auth = { type = "basic", user = "…", password = "…" } }`; types are "basic", "bearer" (token), "custom" (value). Without it each key is good.
        key_verification: Option<HookSection> = None;
        /// Who is told of streams: as key_verification.
        event_callback: Option<HookSection> = None;
        /// What a request to /commands/ must bring, "basic" or "bearer"; without it all get 401.
        commands_auth: Option<HookAuth> = None;
    }
}

/// A web-hook: where it is, and what it wants to see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSection {
    pub url: String,
    pub auth: Option<HookAuth>,
}

/// The value of an Authorization field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum HookAuth {
    Basic { user: String, password: String },
    Bearer { token: String },
    Custom { value: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLag {
    Skip,
    Close,
}

options! {
    /// `[[live]]`, repeated; the longest matching prefix counts
    LiveSection {
        /// Uploads whose path starts so are listed as LL-HLS and LL-DASH, a publishing point for each folder. `live = []` lists none.
        prefix: String = "/live/".into();
        /// Milliseconds of a part.
        part_ms: u64 = 200;
        /// Seconds of a segment; it is cut at the next place to start decoding.
        segment_s: f64 = 2.0;
        /// Seconds that a playlist shows of a live presentation.
        window_s: u64 = 60;
        /// How parts are addressed: "urls" (each has its own), "byte_ranges" (of their segment), or "none" (segments only).
        parts: LiveParts = LiveParts::Urls;
        /// What a playlist shows: "window" (the last window_s), or "event" (everything from the start).
        playlist_type: PlaylistType = PlaylistType::Window;
        /// Where the media come from if not from uploads below the prefix: "/PATH" of an object (PUT or appended), or the name of a channel; the prefix is then the publishing point itself, such as "/live/cam/".
        source: Option<String> = None;
        /// Content steering: `{ ttl_s = 300, pathways = [{ id = "a" }, { id = "b", host = "b.example" }] }`; the first pathway is the playlist's own host.
        steering: Option<SteeringSection> = None;
    }
}

/// `[live.steering]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteeringSection {
    #[serde(default = "SteeringSection::default_ttl_s")]
    pub ttl_s: u64,
    pub pathways: Vec<PathwaySection>,
}

impl SteeringSection {
    /// What RFC 8216bis §7.2 recommends.
    fn default_ttl_s() -> u64 {
        300
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathwaySection {
    pub id: String,
    pub host: Option<String>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveParts {
    Urls,
    ByteRanges,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaylistType {
    Window,
    Event,
}

/// What is wrong with the configuration: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("the configuration file {} is wrong:\n{cause}", path.display())]
    File { path: PathBuf, cause: toml::de::Error },
    #[error("an option that was set is wrong: {0}")]
    Override(String),
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
        let table: toml::Table = toml::from_str(&text).map_err(in_file)?;
        Config::build(table, overrides)
    }

    /// This configuration with `overrides` applied.
    pub fn with(&self, overrides: &[(String, toml::Value)]) -> Result<Config, ConfigError> {
        let table = toml::Table::try_from(self);
        let unwritable = |error: toml::ser::Error| ConfigError::Override(error.to_string());
        Config::build(table.map_err(unwritable)?, overrides)
    }

    fn build(
        mut table: toml::Table,
        overrides: &[(String, toml::Value)],
    ) -> Result<Config, ConfigError> {
        for (key, value) in overrides {
            set(&mut table, key, value.clone())?;
        }
        let config: Config = table
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Override(error.message().to_owned()))?;
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
        self.check_websockets()?;
        self.channels.check_client()?;
        self.cameras.check()?;
        self.coordinator.check()?;
        self.check_live()?;
        config_upstreams::check(self)
    }

    fn check_websockets(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        let (append, channels) = (&self.append, &self.channels);
        for (key, prefix) in
            [("append.prefix", &append.prefix), ("channels.prefix", &channels.prefix)]
        {
            let is_folder = prefix.starts_with('/') && prefix.ends_with('/');
            if !is_folder || prefix.contains(|c: char| c.is_control() || c == '%') {
                return wrong(key, format!("{prefix:?} is not a folder such as \"/\" or \"/ws/\""));
            }
        }
        if append.ping_interval_s == 0 || append.idle_timeout_s <= append.ping_interval_s {
            let why = "ping_interval_s is at least 1, and idle_timeout_s longer".to_owned();
            return wrong("append", why);
        }
        if append.message_bytes_max == 0 {
            return wrong("append.message_bytes_max", "at least 1".to_owned());
        }
        if channels.heartbeat_interval_s == 0 || channels.silence_timeout_s == 0 {
            let why = "heartbeat_interval_s and silence_timeout_s are at least 1".to_owned();
            return wrong("channels", why);
        }
        if channels.id_length_max == 0 || channels.message_bytes_max == 0 {
            return wrong(
                "channels",
                "id_length_max and message_bytes_max are at least 1".to_owned(),
            );
        }
        for (key, list) in [
            ("channels.unlimited_from", &channels.unlimited_from),
            ("channels.play_from", &channels.play_from),
        ] {
            for range in list {
                parse_range(range).map_err(|why| ConfigError::Value { key, why })?;
            }
        }
        Ok(())
    }

    fn check_live(&self) -> Result<(), ConfigError> {
        for (index, rule) in self.live.iter().enumerate() {
            rule.check()?;
            rule.check_source(self.channels.id_length_max)?;
            if self.live[..index].iter().any(|other| other.prefix == rule.prefix) {
                let why = format!("{} is there twice", rule.prefix);
                return Err(ConfigError::Value { key: "live.prefix", why });
            }
        }
        Ok(())
    }

    /// All options with their defaults and meanings, as a commented TOML file. It stays good when the
    /// comment signs are taken away: a section that would then lack something has two.
    pub fn sample_file() -> String {
        let mut out = String::from(
            "# Headwater: every option with its default. Two signs: values of yours are needed.\n",
        );
        for (title, rows) in sections() {
            let is_needy = rows.iter().any(|(_, _, help)| help.starts_with("Needed"));
            let sign = if is_needy { "##" } else { "#" };
            if !title.is_empty() {
                out += &format!("\n{sign}{title}\n");
            }
            for (key, default, help) in rows {
                out += &format!("\n# {help}\n{sign}{key} = {default}\n");
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

impl ChannelsSection {
    /// What the coordinator's client is made of.
    fn check_client(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        if let Some(url) = &self.coordinator_url
            && !is_url(url, &["ws://", "wss://"])
        {
            let why = format!("{url:?} is no URL such as ws://coordinator.example:8080");
            return wrong("channels.coordinator_url", why);
        }
        if self.coordinator_secret.as_ref().is_some_and(String::is_empty) {
            return wrong("channels.coordinator_secret", "it is empty".to_owned());
        }
        if let Some(ip) = &self.external_ip
            && ip.parse::<std::net::IpAddr>().is_err()
        {
            return wrong("channels.external_ip", format!("{ip:?} is no IP address"));
        }
        if self.external_port == Some(0) || self.coordinator_retry_s == 0 {
            let why = "external_port and coordinator_retry_s are at least 1".to_owned();
            return wrong("channels", why);
        }
        Ok(())
    }
}

impl CoordinatorSection {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        if self.secret.as_ref().is_some_and(String::is_empty) {
            return wrong("coordinator.secret", "it is empty".to_owned());
        }
        let seconds = [self.hook_timeout_s, self.heartbeat_interval_s, self.event_retry_s];
        if self.id_length_max == 0 || seconds.contains(&0) {
            let why = "id_length_max, hook_timeout_s, heartbeat_interval_s and event_retry_s \
                       are at least 1";
            return wrong("coordinator", why.to_owned());
        }
        if self.silence_timeout_s <= self.heartbeat_interval_s {
            let why = format!("{} is not above heartbeat_interval_s", self.silence_timeout_s);
            return wrong("coordinator.silence_timeout_s", why);
        }
        let hooks = [
            ("coordinator.key_verification", &self.key_verification),
            ("coordinator.event_callback", &self.event_callback),
        ];
        for (key, hook) in hooks {
            let Some(hook) = hook else { continue };
            if !is_url(&hook.url, &["http://", "https://"]) {
                let why = format!("{:?} is no URL such as https://example.com/hook", hook.url);
                return wrong(key, why);
            }
            hook.auth.as_ref().map_or(Ok(()), |auth| auth.check(key))?;
        }
        match &self.commands_auth {
            Some(HookAuth::Custom { .. }) => {
                wrong("coordinator.commands_auth", "basic or bearer is possible".to_owned())
            }
            Some(auth) => auth.check("coordinator.commands_auth"),
            None => Ok(()),
        }
    }
}

impl HookAuth {
    fn check(&self, key: &'static str) -> Result<(), ConfigError> {
        let fault = self.fault().map(|why| ConfigError::Value { key, why: why.to_owned() });
        fault.map_or(Ok(()), Err)
    }

    /// Why it cannot go into a header field. The values are secrets: no message shows them.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let value = match self {
            // Base64 makes a header value of everything.
            HookAuth::Basic { user, .. } => {
                return user.contains(':').then_some("a user's name has no colon");
            }
            HookAuth::Bearer { token } => token,
            HookAuth::Custom { value } => value,
        };
        let is_printable = |c: char| c == ' ' || c.is_ascii_graphic();
        let is_sound =
            value.trim() == value && !value.is_empty() && value.chars().all(is_printable);
        (!is_sound).then_some("tokens and values are printable ASCII")
    }
}

/// One of the schemes, a host, and nothing that ends a header line.
fn is_url(text: &str, schemes: &[&str]) -> bool {
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic())
    })
}

impl LiveSection {
    /// A playlist must show so many segments at least (RFC 8216bis §6.2.2).
    const WINDOW_SEGMENTS_MIN: f64 = 3.0;

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        let prefix = &self.prefix;
        let is_folder = prefix.len() > 2 && prefix.starts_with('/') && prefix.ends_with('/');
        let parts: Vec<&str> = prefix.trim_matches('/').split('/').collect();
        let is_normal = !parts.iter().any(|part| matches!(*part, "" | "." | ".."));
        if !is_folder || !is_normal || prefix.contains(char::is_control) {
            let why = format!("{prefix:?} is not a folder such as \"/live/\"");
            return wrong("live.prefix", why);
        }
        if parts[0] == ".headwater" {
            return wrong(
                "live.prefix",
                "names below /.headwater/ are the server's own".to_owned(),
            );
        }
        if !(50..=10_000).contains(&self.part_ms) {
            return wrong("live.part_ms", format!("{} is not 50 to 10,000", self.part_ms));
        }
        if !(0.5..=60.0).contains(&self.segment_s) {
            return wrong("live.segment_s", format!("{} is not 0.5 to 60", self.segment_s));
        }
        if self.part_ms as f64 > self.segment_s * 1000.0 {
            return wrong("live.part_ms", "a part is not longer than a segment".to_owned());
        }
        if (self.window_s as f64) < Self::WINDOW_SEGMENTS_MIN * self.segment_s {
            let why = format!("{} is less than three segments", self.window_s);
            return wrong("live.window_s", why);
        }
        if self.window_s > WINDOW_S_MAX {
            return wrong("live.window_s", format!("{WINDOW_S_MAX} at most (a day)"));
        }
        self.steering.as_ref().map_or(Ok(()), SteeringSection::check)
    }
}

impl LiveSection {
    fn check_source(&self, id_length_max: usize) -> Result<(), ConfigError> {
        let Some(source) = &self.source else { return Ok(()) };
        let is_id = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_path = source.len() > 1 && source.starts_with('/') && !source.ends_with('/');
        let is_channel =
            !source.is_empty() && source.len() <= id_length_max && source.chars().all(is_id);
        if is_path || is_channel {
            return Ok(());
        }
        let why = format!("{source:?} is neither a path such as \"/a/cam.ts\" nor a channel");
        Err(ConfigError::Value { key: "live.source", why })
    }
}

/// A longer window is `playlist_type = "event"`.
const WINDOW_S_MAX: u64 = 86_400;

impl SteeringSection {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |why: String| Err(ConfigError::Value { key: "live.steering", why });
        if self.ttl_s == 0 || self.pathways.is_empty() {
            return wrong("ttl_s is at least 1, and at least one pathway is needed".to_owned());
        }
        for (index, pathway) in self.pathways.iter().enumerate() {
            let id = &pathway.id;
            let is_id = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            if id.is_empty() || !id.chars().all(is_id) {
                return wrong(format!("pathway id {id:?}: letters, digits and .-_ are possible"));
            }
            if self.pathways[..index].iter().any(|other| other.id == *id) {
                return wrong(format!("pathway {id} is there twice"));
            }
            let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
            if let Some(host) = &pathway.host
                && (host.is_empty() || !host.chars().all(is_host))
            {
                return wrong(format!("{host:?} is not a host such as \"b.example:8080\""));
            }
        }
        Ok(())
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
    let (name, help) = config_upstreams::USERS_HELP;
    vec![
        ("", rows::<Config>(Config::ROWS)),
        ("[store]", rows::<StoreSection>(StoreSection::ROWS)),
        ("[limits]", rows::<LimitsSection>(LimitsSection::ROWS)),
        ("[cache_control]", rows::<CacheControlSection>(CacheControlSection::ROWS)),
        ("[headers]", rows::<HeadersSection>(HeadersSection::ROWS)),
        ("[cors]", rows::<CorsSection>(CorsSection::ROWS)),
        ("[compat]", rows::<CompatSection>(CompatSection::ROWS)),
        ("[append]", rows::<AppendSection>(AppendSection::ROWS)),
        ("[channels]", rows::<ChannelsSection>(ChannelsSection::ROWS)),
        ("[cameras]", rows::<CamerasSection>(CamerasSection::ROWS)),
        ("[coordinator]", rows::<CoordinatorSection>(CoordinatorSection::ROWS)),
        ("[users]", vec![(name, "(none)".to_owned(), help.to_owned())]),
        ("[viewers]", rows::<ViewersSection>(ViewersSection::ROWS)),
        ("[[live]]", rows::<LiveSection>(LiveSection::ROWS)),
        ("[[retention]]", rows::<RetentionSection>(RetentionSection::ROWS)),
        ("[[pull]]", rows::<PullSection>(PullSection::ROWS)),
        ("[[mirror]]", rows::<MirrorSection>(MirrorSection::ROWS)),
        ("[[static]]", rows::<StaticSection>(StaticSection::ROWS)),
        ("[[api]]", rows::<ApiSection>(ApiSection::ROWS)),
        ("[[notification]]", rows::<NotificationSection>(NotificationSection::ROWS)),
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
                return Err(ConfigError::Override(format!("{first} is not a table")));
            };
            set(inner, rest, value)
        }
    }
}

/// An address, or a range as IP/BITS.
pub fn parse_range(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let range = address.or_else(|_| text.parse::<IpNet>());
    range.map_err(|_| format!("{text:?} is neither an IP address nor IP/BITS"))
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

    fn live(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), &[])
    }

    #[test]
    fn live_rules_are_there_by_default_and_can_be_replaced() {
        assert_eq!(live("").unwrap().live, [LiveSection::default()]);
        assert!(live("live = []").unwrap().live.is_empty());
        let text = "[[live]]\nprefix = \"/a/b/\"\nparts = \"byte_ranges\"\n\
            playlist_type = \"event\"\n[live.steering]\npathways = [{ id = \"a\" }, \
            { id = \"b\", host = \"b.example:8080\" }]\n[[live]]\nsegment_s = 4\n";
        let config = live(text).unwrap();
        let [first, second] = config.live.as_slice() else { panic!("{config:?}") };
        let steering = first.steering.as_ref().unwrap();
        assert_eq!(
            (first.parts, first.playlist_type),
            (LiveParts::ByteRanges, PlaylistType::Event)
        );
        assert_eq!((steering.ttl_s, steering.pathways.len()), (300, 2));
        assert_eq!((second.prefix.as_str(), second.segment_s), ("/live/", 4.0));
        let shown = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&shown).unwrap(), config, "{shown}");
    }

    #[test]
    fn wrong_live_rules_are_told_apart() {
        let cases = [
            ("prefix = \"/\"", "live.prefix"),
            ("prefix = \"//\"", "live.prefix"),
            ("prefix = \"/live\"", "live.prefix"),
            ("prefix = \"live/\"", "live.prefix"),
            ("prefix = \"/a//b/\"", "live.prefix"),
            ("prefix = \"/a/../b/\"", "live.prefix"),
            ("prefix = \"/.headwater/\"", "live.prefix"),
            ("part_ms = 49", "live.part_ms"),
            ("part_ms = 10001", "live.part_ms"),
            ("part_ms = 3000", "live.part_ms"),
            ("segment_s = 0.4", "live.segment_s"),
            ("segment_s = nan", "live.segment_s"),
            ("segment_s = 61.0", "live.segment_s"),
            ("segment_s = 20.1", "live.window_s"),
            ("window_s = 90000", "live.window_s"),
            ("steering = { pathways = [] }", "live.steering"),
            ("steering = { pathways = [{ id = \"a b\" }] }", "live.steering"),
            ("steering = { pathways = [{ id = \"a\" }, { id = \"a\" }] }", "live.steering"),
            ("steering = { pathways = [{ id = \"a\", host = \"a/b\" }] }", "live.steering"),
            ("[[live]]", "live.prefix"),
        ];
        for (line, key) in cases {
            let error = live(&format!("[[live]]\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("option {key} is wrong")), "{line}: {error}");
        }
        assert!(live("[[live]]\nparts = \"some\"").is_err());
    }

    #[test]
    fn wrong_coordinator_options_are_told_apart() {
        let url = "{ url = \"http://a/b\"";
        let cases = [
            ("coordinator", "secret = \"\"".to_owned(), "coordinator.secret"),
            ("coordinator", "id_length_max = 0".to_owned(), "coordinator"),
            ("coordinator", "hook_timeout_s = 0".to_owned(), "coordinator"),
            ("coordinator", "silence_timeout_s = 20".to_owned(), "coordinator.silence_timeout_s"),
            (
                "coordinator",
                "key_verification = { url = \"ftp://a\" }".to_owned(),
                "coordinator.key_verification",
            ),
            (
                "coordinator",
                format!(
                    "event_callback = {url}, auth = {{ type = \"bearer\", token = \"a\\nb\" }} }}"
                ),
                "coordinator.event_callback",
            ),
            (
                "coordinator",
                format!("event_callback = {url}, auth = {{ type = \"custom\", value = \"\" }} }}"),
                "coordinator.event_callback",
            ),
            (
                "coordinator",
                "commands_auth = { type = \"custom\", value = \"a\" }".to_owned(),
                "coordinator.commands_auth",
            ),
            (
                "coordinator",
                "commands_auth = { type = \"basic\", user = \"a:b\", password = \"\" }".to_owned(),
                "coordinator.commands_auth",
            ),
            ("channels", "coordinator_url = \"http://a\"".to_owned(), "channels.coordinator_url"),
            ("channels", "coordinator_url = \"ws://\"".to_owned(), "channels.coordinator_url"),
            ("channels", "coordinator_secret = \"\"".to_owned(), "channels.coordinator_secret"),
            ("channels", "external_ip = \"host\"".to_owned(), "channels.external_ip"),
            ("channels", "external_port = 0".to_owned(), "channels"),
        ];
        for (section, line, key) in cases {
            let error = live(&format!("[{section}]\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("option {key} is wrong")), "{line}: {error}");
        }
        let good = format!(
            "[coordinator]\nlisten = [\"127.0.0.1:0\"]\nkey_verification = {url}, auth = {{ type = \"basic\", user = \"\u{e4}\", password = \"\\n\" }} }}\n"
        );
        assert!(live(&good).is_ok());
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
