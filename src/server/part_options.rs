//! From the configuration to each part's own options: no part sees the configuration itself.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cameras::{self, RawCamera};
use crate::channels::{self, LagRule};
use crate::connection::access::{Access, AccessRules};
use crate::coordinator::{self, ClientOptions, Credentials, Hook, Pace};
use crate::fetch::{self, SectionOptions, Source};
use crate::operations::config::{
    self, AccessScheme, ApiSection, ChannelsSection, Config, CoordinatorSection, Durability,
    HookAuth, HookSection, LiveParts, LiveSection, NotificationEvent, NotificationSection, OnAbort,
    OnLag, PlaylistType, PullSection, SteeringSection,
};
use crate::operations::config_cameras::{RawFormat, RawQuality, RawSection};
use crate::operations::config_upstreams::{AccessSection, MirrorSection, StaticSection, Users};
use crate::operations::cors;
use crate::packager::{self, LiveRule, Pathway, Steering};
use crate::pulls::{self, FileThread, Place, PullOptions, Upstream};
use crate::runtime::clock;
use crate::store::{RetentionRule, Signal, StoreOptions};
use crate::wire::http1::HeadLimits;
use crate::wire::tcp_framing::{PictureKind, Quality};
use crate::wire::upstream_url::{HttpUrl, UpstreamUrl, shown};
use crate::{connection, egress, ingest};

/// Descriptors that are neither connections nor object files: rings, listeners, logs, uploads.
const OTHER_DESCRIPTORS: usize = 1024;
const WAIT_DEFAULT_MS: u64 = 1000;
/// What a static file counts for beside its bytes.
const STATIC_ROOM_BYTES: u64 = 1 << 20;

pub fn coordinator_options(section: &CoordinatorSection) -> coordinator::Options {
    let credentials = |auth: &HookAuth| match auth.clone() {
        HookAuth::Basic { user, password } => Credentials::Basic { user, password },
        HookAuth::Bearer { token } => Credentials::Bearer { token },
        HookAuth::Custom { value } => Credentials::Custom { value },
    };
    let hook = |hook: &HookSection| Hook {
        url: hook.url.clone(),
        credentials: hook.auth.as_ref().map(credentials),
    };
    coordinator::Options {
        listen: section.listen.clone(),
        secret: section.secret.clone(),
        require_encoder: section.require_encoder,
        state_file: section.state_file.clone(),
        id_length_max: section.id_length_max,
        hook_timeout: Duration::from_secs(section.hook_timeout_s),
        reconnect_grace: Duration::from_secs(section.reconnect_grace_s),
        key_verification: section.key_verification.as_ref().map(hook),
        event_callback: section.event_callback.as_ref().map(hook),
        commands: section.commands_auth.as_ref().map(credentials),
        pace: Pace {
            heartbeat_interval: Duration::from_secs(section.heartbeat_interval_s),
            silence_timeout: Duration::from_secs(section.silence_timeout_s),
        },
        event_retry: Duration::from_secs(section.event_retry_s),
        clock: clock::unix_ms,
    }
}

/// Of the coordinator's client; `None` without a coordinator. `port` is where channels are.
pub(super) fn control_options(
    section: &ChannelsSection,
    port: Option<u16>,
) -> Option<ClientOptions> {
    let url = section.coordinator_url.as_deref().filter(|_| section.enabled)?;
    Some(ClientOptions {
        secret: section.coordinator_secret.clone(),
        external_ip: section.external_ip.clone(),
        external_port: section.external_port.or(port),
        external_tls: section.external_tls,
        pace: Pace {
            heartbeat_interval: Duration::from_secs(section.heartbeat_interval_s),
            silence_timeout: Duration::from_secs(section.silence_timeout_s),
        },
        reconnect_pause: Duration::from_secs(section.coordinator_retry_s),
        ..ClientOptions::new(url)
    })
}

pub(super) fn store_options(config: &Config, signal: Box<Signal>) -> StoreOptions {
    let retention = config.retention.iter().map(|rule| RetentionRule {
        prefix: rule.prefix.trim_start_matches('/').to_owned(),
        age_max_ms: rule.max_age_s.map(|seconds| seconds.saturating_mul(1000)),
        bytes_max: rule.max_bytes,
        window_bytes: rule.window_bytes,
    });
    let total = config.store.total_bytes_max;
    let total_bytes_max = match (total, config.ram_only) {
        (0, false) => None,
        (0, true) => Some(memory_bytes() / 2),
        (bytes, _) => Some(bytes),
    };
    // In memory every object keeps a mapping for life.
    let objects_max = if config.ram_only {
        config.store.objects_max.min(config.store.mappings_max)
    } else {
        config.store.objects_max
    };
    StoreOptions {
        data: (!config.ram_only).then(|| config.data.clone()),
        extent_bytes: config.store.extent_bytes,
        keep_aborted: config.on_abort == OnAbort::Keep,
        objects_max,
        object_bytes_max: config.store.object_bytes_max,
        open_files_max: config.store.open_files_max,
        mappings_max: config.store.mappings_max,
        body_cache_bytes_max: config.store.body_cache_bytes_max,
        total_bytes_max,
        watched_names_max: config.limits.watched_names_max,
        retention: retention.collect(),
        clock: clock::unix_ms,
        signal,
    }
}

pub(super) fn packager_options(config: &Config) -> packager::Options {
    packager::Options { rules: config.live.iter().map(live_rule).collect(), clock: clock::unix_ms }
}

fn live_rule(section: &LiveSection) -> LiveRule {
    LiveRule {
        prefix: section.prefix.trim_start_matches('/').to_owned(),
        part_ms: section.part_ms,
        segment_ms: (section.segment_s * 1000.0).round() as u64,
        window_ms: section.window_s * 1000,
        parts: match section.parts {
            LiveParts::Urls => packager::Parts::Urls,
            LiveParts::ByteRanges => packager::Parts::ByteRanges,
            LiveParts::None => packager::Parts::None,
        },
        kind: match section.playlist_type {
            PlaylistType::Window => packager::ListKind::Window,
            PlaylistType::Event => packager::ListKind::Event,
        },
        steering: section.steering.as_ref().map(steering),
        source: section.source.as_deref().map(source),
    }
}

/// Of mirrors and static files.
pub(super) fn fetch_options(config: &Config) -> io::Result<fetch::Options> {
    let mut sections = Vec::new();
    for file in &config.r#static {
        sections.push(static_section(file, config)?);
    }
    for mirror in &config.mirror {
        sections.push(mirror_section(mirror, config)?);
    }
    Ok(fetch::Options { sections, taken: paths_of_others(config) })
}

/// Paths below a mirror or a static folder that are somebody else's. What is pushed to a live prefix
/// is not hidden by a static file for "everything else", but by a mirror it is.
fn paths_of_others(config: &Config) -> Vec<String> {
    let pulls = config.pull.iter();
    let pulled = pulls.flat_map(|pull| [Some(pull.path.clone()), pull.live_folder()]).flatten();
    let asked = config.api.iter().map(|api| api.path.clone());
    let is_mirrored = |prefix: &str| {
        let below = |path: &String| prefix.starts_with(path.as_str());
        let length = |path: &String| path.len();
        let mirrors = config.mirror.iter().map(|mirror| &mirror.path).filter(|path| below(path));
        let files = config.r#static.iter().map(|file| &file.path);
        let files = files.filter(|path| path.ends_with('/') && below(path));
        mirrors.map(length).max() > files.map(length).max()
    };
    let rules = config.live.iter();
    let live = rules.filter(|rule| rule.source.is_some() || !is_mirrored(&rule.prefix));
    pulled.chain(asked).chain(live.map(|rule| rule.prefix.clone())).collect()
}

fn static_section(file: &StaticSection, config: &Config) -> io::Result<SectionOptions> {
    let source = match UpstreamUrl::parse(&file.upstream).map_err(io::Error::other)? {
        UpstreamUrl::File(path) => Source::File(path),
        UpstreamUrl::Http(url) => Source::Resource(url),
        _ => return Err(io::Error::other("a static file has an upstream that is none")),
    };
    Ok(SectionOptions {
        path: file.path.clone(),
        source,
        cache_s: Some(file.cache_s),
        timeout: Duration::from_secs(file.timeout_s),
        bytes_max: file.bytes_max,
        // The next version arrives while there is still the one before.
        cache_bytes_max: 2 * file.bytes_max + STATIC_ROOM_BYTES,
        answers_max: 1,
        fetches_max: 1,
        small_bytes_max: config.store.small_object_bytes_max,
    })
}

fn mirror_section(mirror: &MirrorSection, config: &Config) -> io::Result<SectionOptions> {
    // In memory every answer keeps a descriptor.
    let room = if config.ram_only { config.store.open_files_max } else { usize::MAX };
    Ok(SectionOptions {
        path: mirror.path.clone(),
        source: Source::Folder(HttpUrl::parse(&mirror.upstream).map_err(io::Error::other)?),
        cache_s: mirror.cache_s,
        timeout: Duration::from_secs(mirror.timeout_s),
        bytes_max: mirror.bytes_max,
        cache_bytes_max: mirror.cache_bytes_max,
        answers_max: mirror.answers_max.min(room),
        fetches_max: mirror.fetches_max,
        small_bytes_max: config.store.small_object_bytes_max,
    })
}

/// Of every section that has a path: one without `access` is open, wherever it lies.
fn access_rules(config: &Config) -> AccessRules {
    let mut rules = AccessRules::default();
    let mut insert = |path: &str, section: &Option<AccessSection>| {
        rules.insert(path, section.as_ref().map(|section| access(section, &config.users)));
    };
    for pull in &config.pull {
        insert(&pull.path, &pull.access);
        if let Some(folder) = pull.live_folder() {
            insert(&folder, &pull.access);
        }
    }
    config.mirror.iter().for_each(|mirror| insert(&mirror.path, &mirror.access));
    config.r#static.iter().for_each(|file| insert(&file.path, &file.access));
    config.api.iter().for_each(|api| insert(&api.path, &api.access));
    rules
}

fn access(section: &AccessSection, users: &Users) -> Access {
    let named = section.users.iter();
    let known = named.filter_map(|name| Some((name.as_str(), users.get(name)?.as_str())));
    match section.scheme {
        AccessScheme::Basic => Access::basic(&section.realm, known),
        AccessScheme::Bearer => Access::bearer(known.map(|(_, password)| password)),
    }
}

/// A path is an object's, a word a channel's.
fn source(source: &str) -> packager::Source {
    match source.strip_prefix('/') {
        Some(object) => packager::Source::Object(object.to_owned()),
        None => packager::Source::Channel(source.to_owned()),
    }
}

pub(super) fn channels_options(section: &ChannelsSection) -> io::Result<channels::Options> {
    let ranges = |list: &[String]| {
        let parsed = list.iter().map(|range| config::parse_range(range));
        parsed.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)
    };
    Ok(channels::Options {
        cache_bytes_max: section.cache_bytes_max,
        cache_ms: (section.cache_s > 0).then(|| section.cache_s.saturating_mul(1000)),
        lag_bytes_max: section.lag_bytes_max,
        lag_rule: match section.on_lag {
            OnLag::Skip => LagRule::Skip,
            OnLag::Close => LagRule::Close,
        },
        message_bytes_max: section.message_bytes_max,
        id_length_max: section.id_length_max,
        connections_per_ip_max: section.connections_per_ip_max,
        unlimited_from: ranges(&section.unlimited_from)?,
        play_from: ranges(&section.play_from)?,
        heartbeat_interval_s: section.heartbeat_interval_s,
        silence_timeout_s: section.silence_timeout_s,
        clock: clock::unix_ms,
    })
}

pub(super) fn cameras_options(config: &Config) -> cameras::Options {
    let section = &config.cameras;
    let below = |folder: &str| folder.trim_start_matches('/').to_owned();
    cameras::Options {
        streams_max: section.streams_max,
        picture_bytes_max: section.picture_bytes_max,
        window_bytes: section.window_bytes,
        lag_pictures_max: section.lag_pictures_max,
        silence_timeout_s: section.silence_timeout_s,
        hold_over_s: section.hold_over_s,
        record_below: section.record_below.as_deref().map_or_else(String::new, below),
        live_below: below(&section.live_below),
        has_empty_streams: config.compat.empty_stream,
        raw_names: section.raw.iter().filter_map(raw_camera).map(|raw| raw.name).collect(),
        is_enabled: section.is_enabled(),
    }
}

/// `None` for a transport stream, which is no camera here.
pub(super) fn raw_camera(section: &RawSection) -> Option<RawCamera> {
    Some(RawCamera {
        name: section.path.trim_start_matches('/').to_owned(),
        kind: match section.format {
            RawFormat::Mjpeg => PictureKind::Mjpeg,
            RawFormat::H264 => PictureKind::H264,
            RawFormat::Mpegts => return None,
        },
        quality: match section.quality {
            RawQuality::Low => Quality::Low,
            RawQuality::High => Quality::High,
        },
    })
}

pub(super) fn pulls_options(config: &Config) -> io::Result<pulls::Options> {
    let is_pushed = |raw: &&RawSection| raw.format == RawFormat::Mpegts;
    let pushed = config.cameras.raw.iter().filter(is_pushed).map(|raw| pushed(config, raw));
    let pulls = config.pull.iter().map(|section| pull_options(config, section)).chain(pushed);
    Ok(pulls::Options {
        pulls: pulls.collect::<io::Result<_>>()?,
        viewers_max: config.viewers.max as usize,
        viewers_full: config.viewers.full as usize,
        heartbeat_interval: Duration::from_secs(config.viewers.heartbeat_interval_s),
        notifications: config
            .notification
            .iter()
            .filter_map(|section| notification(config, section))
            .collect(),
        apis: config.api.iter().filter_map(api).collect(),
        clock: clock::unix_ms,
    })
}

fn api(section: &ApiSection) -> Option<pulls::Api> {
    let own = |path: &str| path.trim_start_matches('/').to_owned();
    Some(pulls::Api {
        name: own(&section.path),
        kind: match section.kind? {
            config::ApiKind::Health => pulls::ApiKind::Health,
            config::ApiKind::Statistics => pulls::ApiKind::Statistics,
            config::ApiKind::Prometheus => pulls::ApiKind::Prometheus,
            config::ApiKind::Check => pulls::ApiKind::Check,
            config::ApiKind::Control => pulls::ApiKind::Control,
        },
        pull: section.pull.as_deref().map_or_else(String::new, own),
    })
}

fn notification(config: &Config, section: &NotificationSection) -> Option<pulls::Notification> {
    let user = section.user.as_ref().and_then(|user| config.users.get_key_value(user));
    let authorization = user.zip(section.scheme).map(|((user, password), scheme)| match scheme {
        AccessScheme::Basic => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        AccessScheme::Bearer => format!("Bearer {password}"),
    });
    Some(pulls::Notification {
        event: match section.event? {
            NotificationEvent::LimitHit => pulls::Event::LimitHit,
            NotificationEvent::LimitMiss => pulls::Event::LimitMiss,
            NotificationEvent::Heartbeat => pulls::Event::Heartbeat,
        },
        url: section.url.clone(),
        timeout: Duration::from_secs(section.timeout_s),
        authorization,
    })
}

/// A transport stream that is pushed is pulled from whoever connects.
fn pushed(config: &Config, raw: &RawSection) -> io::Result<PullOptions> {
    let section = PullSection { path: raw.path.clone(), ..PullSection::default() };
    let listener = TcpListener::bind(raw.listen).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = listener.map_err(|error| {
        let text = format!("cannot listen on {} (option cameras.raw.listen): {error}", raw.listen);
        io::Error::new(error.kind(), text)
    })?;
    let shown = format!("tcp://{}", listener.local_addr()?);
    let upstream = Upstream { place: Place::Listener(Arc::new(listener)), shown };
    let options = pull_options(config, &section)?;
    let read_timeout = Duration::from_secs(config.cameras.silence_timeout_s);
    Ok(PullOptions { upstreams: vec![upstream], read_timeout, ..options })
}

fn pull_options(config: &Config, section: &PullSection) -> io::Result<PullOptions> {
    let folder = section.live_folder().unwrap_or_default();
    let is_listed = config.live.iter().any(|rule| folder.starts_with(&rule.prefix));
    let own_name = folder.trim_matches('/').rsplit('/').next().unwrap_or_default();
    let seconds = Duration::from_secs;
    let upstream = |text: &String| {
        let url = UpstreamUrl::parse(text).map_err(io::Error::other)?;
        Ok(Upstream { place: Place::Url(url), shown: shown(text) })
    };
    Ok(PullOptions {
        name: section.path.trim_start_matches('/').to_owned(),
        upstreams: section.upstreams.iter().map(upstream).collect::<io::Result<_>>()?,
        live_name: if is_listed {
            format!("{}{own_name}.ts", folder.trim_start_matches('/'))
        } else {
            String::new()
        },
        on_demand: section.on_demand,
        stop_after: seconds(section.stop_after_s),
        hold_over: seconds(section.hold_over_s),
        reconnect: Duration::from_secs_f64(section.reconnect_s),
        reconnect_max: seconds(section.reconnect_max_s),
        connect_timeout: seconds(section.connect_timeout_s),
        read_timeout: seconds(section.read_timeout_s),
        burst_ms: section.burst_s.saturating_mul(1000),
        window_bytes: section.window_bytes,
        preamble: section.preamble.as_deref().map(pulls::read_preamble).unwrap_or_default(),
        content_type: section.content_type.clone(),
        interface: section.interface.clone(),
        datagram_bytes_max: section.datagram_bytes_max as usize,
        file_thread: FileThread::default(),
        datagrams: Arc::default(),
        now: clock::now,
    })
}

fn steering(section: &SteeringSection) -> Steering {
    let pathways = section.pathways.iter();
    let pathways = pathways.map(|p| Pathway { id: p.id.clone(), host: p.host.clone() }).collect();
    Steering { ttl_s: section.ttl_s, pathways }
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

/// Hand each part its own options.
pub(super) fn options_of(
    config: &Config,
    cores: usize,
    descriptors: usize,
) -> io::Result<DoorOptions> {
    let cors = match &config.cors_file {
        None => config.cors.clone(),
        Some(path) => cors::read_file(path, &config.cors).map_err(io::Error::other)?,
    };
    let limits = &config.limits;
    let room = descriptors.saturating_sub(config.store.open_files_max + OTHER_DESCRIPTORS).max(16);
    if room < limits.connections_max {
        tracing::warn!(
            descriptors,
            connections_max = room,
            "fewer connections than limits.connections_max: \
            raise the limit of open files (LimitNOFILE)"
        );
    }
    let common_lines = cors::common_lines(&cors);
    let connection = connection::Options {
        head: HeadLimits {
            request_line_bytes_max: limits.request_line_bytes_max,
            head_bytes_max: limits.head_bytes_max,
        },
        head_timeout_s: limits.head_timeout_s,
        keep_alive_timeout_s: limits.keep_alive_timeout_s,
        connections_max: limits.connections_max.min(room).div_ceil(cores),
        wait_absent: config.wait_absent,
        wait_default_ms: WAIT_DEFAULT_MS,
        wait_max_ms: limits.wait_max_s.saturating_mul(1000),
        query_in_name: config.compat.query_in_name,
        cache_not_found: config.cache_control.not_found.clone(),
        cache_error: config.cache_control.error.clone(),
        append_prefix: config.append.prefix.clone(),
        channels_prefix: config.channels.prefix.clone(),
        common_lines: common_lines.clone(),
        preflight_lines: cors::preflight_lines(&cors),
        listed_origins: cors::listed_origins(&cors),
        allowed_origins: cors.origins,
        access: access_rules(config),
    };
    let egress = egress::Options {
        common_lines,
        cache_manifest: config.cache_control.manifest.clone(),
        cache_segment: config.cache_control.segment.clone(),
        cache_other: config.cache_control.other.clone(),
        small_object_bytes_max: config.store.small_object_bytes_max,
        lag_bytes_max: limits.lag_bytes_max,
        send_stall_timeout_s: limits.send_stall_timeout_s,
        ping_interval_s: config.append.ping_interval_s,
    };
    let ingest = ingest::Options {
        stored_headers: config.headers.stored.clone(),
        delete_expired: config.delete_expired,
        is_durable: config.durability == Durability::Sync,
        object_bytes_max: config.store.object_bytes_max,
        body_idle_timeout_s: limits.body_idle_timeout_s,
        ping_interval_s: config.append.ping_interval_s,
        append_idle_timeout_s: config.append.idle_timeout_s,
        append_message_bytes_max: config.append.message_bytes_max,
    };
    Ok((Arc::new(connection), Arc::new(egress), Arc::new(ingest)))
}

pub(super) type DoorOptions =
    (Arc<connection::Options>, Arc<egress::Options>, Arc<ingest::Options>);

#[cfg(test)]
mod tests {
    use crate::operations::limits::FIXED;
    use crate::{fetch, pulls};

    /// Goal: what the table says of layers that it may not name is true.
    #[test]
    fn fixed_limits_are_those_of_the_parts() {
        for (name, value) in [
            ("pull_starts_max", pulls::STARTS_MAX),
            ("pull_senders_waiting_max", pulls::SENDERS_WAITING_MAX),
            ("host_lookups_max", fetch::LOOKUPS_MAX),
            ("notifications_max", pulls::NOTIFICATIONS_MAX),
            ("events_waiting_max", pulls::EVENTS_WAITING_MAX),
            ("fetch_threads_max", fetch::BLOCKING_THREADS_MAX),
            ("pool_connections_max", fetch::POOL_CONNECTIONS_MAX),
            ("manifest_bytes_max", fetch::MANIFEST_BYTES_MAX),
        ] {
            let row = FIXED.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(row.1, value as u64, "{name}");
        }
    }
}
