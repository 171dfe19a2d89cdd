//! The options of what is fetched from elsewhere: pulled streams, mirrors, static files, and what tells
//! of them. Each is one row of a table, as in `config`, which has these sections among its own and asks
//! [`check`] whether they fit together. Nothing is opened here.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::{Config, ConfigError, HookAuth, StoreSection, options};
use super::config_cameras::{CamerasSection, RawFormat, RawSection};
use crate::store::is_object_name;
use crate::wire::upstream_url::{HttpUrl, UpstreamUrl, shown};

options! {
    /// `[viewers]`: of all pulled streams together
    ViewersSection {
        /// Readers of pulled streams at once; more get 404, as with restreamer. 0 is no limit.
        max: u32 = 0;
        /// From so many readers on the server says that it is full, and takes more until max. 0 is never.
        full: u32 = 0;
        /// Seconds between notifications of the event "heartbeat".
        heartbeat_interval_s: u64 = 60;
    }
}

options! {
    /// `[[pull]]`, repeated: a transport stream from elsewhere
    PullSection {
        /// Needed: where readers find it. With a slash at its end it is all below that has no other owner.
        path: String = String::new();
        /// Needed, at least one: tcp://HOST:PORT; udp:// and rtp://HOST:PORT (a multicast group or an address of this machine; udp:// knows RTP when it comes); http:// and https://; file:///PATH (a FIFO too); unix://, unixgram:// and unixpacket:///PATH (a socket to connect to); fork://COMMAND?ARGUMENT+ARGUMENT (what a command writes; COMMAND is a name in PATH, or /PATH; %20 and %2B are a blank and a plus in an argument). One is used at a time, the next when it fails.
        upstreams: Vec<String> = Vec::new();
        /// Folder below which it is listed as LL-HLS and LL-DASH, such as "/live/cam/"; "" is none. Without it: /live/ and the name of the file without its ending.
        live: Option<String> = None;
        /// Connect only while somebody reads. As LL-HLS or LL-DASH that is who asks for a playlist or a manifest, until 15 s after the last request below `live`; the first request waits.
        on_demand: bool = false;
        /// Seconds after the last reader until it is disconnected, on demand.
        stop_after_s: u64 = 10;
        /// Seconds without an upstream that readers are kept for; 0 sends them away at once.
        hold_over_s: u64 = 10;
        /// Seconds until the next attempt to connect, 0.05 at least; each one that fails doubles it.
        reconnect_s: f64 = 1.0;
        /// Seconds between attempts at most.
        reconnect_max_s: u64 = 10;
        /// Seconds that connecting may take, with the head of the answer.
        connect_timeout_s: u64 = 10;
        /// Seconds without a whole packet after which an upstream is given up.
        read_timeout_s: u64 = 10;
        /// Seconds of the past that a new reader gets first, as far as they fit into half of window_bytes.
        burst_s: u64 = 0;
        /// Bytes kept for burst_s and for readers that fall behind.
        window_bytes: u64 = 64 << 20;
        /// File whose bytes each new reader gets first.
        preamble: Option<PathBuf> = None;
        /// Content-Type of the answers.
        content_type: String = "video/mp2t".into();
        /// Network interface on which multicast groups are joined; without it the system chooses.
        interface: Option<String> = None;
        /// Bytes of a datagram; the rest of a longer one is lost.
        datagram_bytes_max: u32 = DATAGRAM_BYTES_MAX;
        /// Who may read it, also as LL-HLS and LL-DASH: `{ scheme = "basic", realm = "R", users = ["alice"] }`; schemes are "basic" and "bearer" (the token is the password), users are those of [users], and an empty list admits nobody. Without it everybody may.
        access: Option<AccessSection> = None;
    }
}

options! {
    /// `[[mirror]]`, repeated: HLS or DASH of another origin, fetched when it is asked for
    MirrorSection {
        /// Needed: what is below this folder is fetched.
        path: String = String::new();
        /// Needed: the folder that it is fetched from, an http:// or https:// URL that ends in a slash.
        upstream: String = String::new();
        /// Seconds that an answer is kept for; without it as long as its Cache-Control says.
        cache_s: Option<u64> = None;
        /// Seconds that the upstream may take to answer, then 504, and that its answer may pause, then it is cut. It must be more than an origin holds requests for.
        timeout_s: u64 = 10;
        /// Bytes that one answer may have; a longer one gets 502, or is cut.
        bytes_max: u64 = 64 << 20;
        /// Bytes of all answers that are kept or arrive; more: the oldest go.
        cache_bytes_max: u64 = 256 << 20;
        /// Answers that are kept; more: the oldest go.
        answers_max: usize = 8192;
        /// Requests to the upstream at once; more get 503.
        fetches_max: usize = 256;
        /// Who may read it, as for [[pull]].
        access: Option<AccessSection> = None;
    }
}

options! {
    /// `[[static]]`, repeated: one file from elsewhere
    StaticSection {
        /// Needed: where readers find it. With a slash at its end it is all below that has no other owner.
        path: String = String::new();
        /// Needed: file:///PATH, or an http:// or https:// URL.
        upstream: String = String::new();
        /// Seconds that it is kept for; 0 fetches it for each request. While the upstream is down it is kept for a day more.
        cache_s: u64 = 0;
        /// Bytes that it may have; a longer one gets 502.
        bytes_max: u64 = 10 << 20;
        /// Seconds that fetching it may take; then 502.
        timeout_s: u64 = 10;
        /// Who may read it, as for [[pull]].
        access: Option<AccessSection> = None;
    }
}

options! {
    /// `[[api]]`, repeated: answers for load balancers and monitoring, as restreamer has them
    ApiSection {
        /// Needed: where it is found. With a slash at its end it is all below that has no other owner.
        path: String = String::new();
        /// Needed: "health" (ok or full), "statistics", "prometheus"; of one pulled stream: "check" (is its upstream there) and "control" (?offline and ?online).
        kind: Option<ApiKind> = None;
        /// The path of the [[pull]] that check or control are for.
        pull: Option<String> = None;
        /// Who may ask, as for [[pull]].
        access: Option<AccessSection> = None;
    }
}

options! {
    /// `[[notification]]`, repeated: a GET that tells of an event
    NotificationSection {
        /// Needed: "limit_hit" (viewers.full is reached), "limit_miss" (no longer) or "heartbeat".
        event: Option<NotificationEvent> = None;
        /// Needed: an http:// or https:// URL.
        url: String = String::new();
        /// Seconds that it may take.
        timeout_s: u64 = 10;
        /// Who of [users] the server is for it; needs scheme.
        user: Option<String> = None;
        /// How the user is told: "basic" or "bearer" (the token is the password).
        scheme: Option<AccessScheme> = None;
    }
}

/// Who may read something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSection {
    pub scheme: AccessScheme,
    #[serde(default = "AccessSection::default_realm")]
    pub realm: String,
    /// Names of `[users]`; nobody if there is none.
    pub users: Vec<String>,
}

impl AccessSection {
    fn default_realm() -> String {
        "headwater".to_owned()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessScheme {
    Basic,
    Bearer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiKind {
    Health,
    Statistics,
    Check,
    Control,
    Prometheus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationEvent {
    LimitHit,
    LimitMiss,
    Heartbeat,
}

/// Name and password of each user.
pub type Users = BTreeMap<String, String>;

/// The one row of `[users]`, whose keys are names.
pub(super) const USERS_HELP: (&str, &str) = (
    "NAME",
    "Password of the user NAME, for access and notifications. With the scheme \"bearer\" it is the token.",
);

const DATAGRAM_BYTES_MIN: u32 = 1500;
const DATAGRAM_BYTES_MAX: u32 = 65_536;
/// More is not appended to a stream or a camera at once.
const APPEND_BYTES_MAX: u64 = 1 << 20;
const WINDOW_BYTES_MIN: u64 = 1 << 20;
const WINDOW_BYTES_MAX: u64 = 1 << 40;
const STATIC_BYTES_MAX: u64 = 1 << 30;
const MIRROR_CACHE_BYTES_MAX: u64 = 1 << 40;
const MIRROR_ANSWERS_MAX: u64 = 1 << 20;
const BURST_S_MAX: u64 = 3600;
/// An upstream that comes and goes costs two lines of the log each time.
const RECONNECT_S_MIN: f64 = 0.05;
const DAY_S: u64 = 86_400;
/// `IFNAMSIZ` without the NUL (netdevice(7)).
const INTERFACE_NAME_BYTES_MAX: usize = 15;

type Checked = Result<(), ConfigError>;

fn wrong(key: &'static str, why: impl Into<String>) -> Checked {
    Err(ConfigError::Value { key, why: why.into() })
}

/// All of these sections, and how they fit together.
pub(super) fn check(config: &Config) -> Checked {
    let users = &config.users;
    check_users(users)?;
    config.viewers.check()?;
    check_cameras(config)?;
    for pull in &config.pull {
        pull.check()?;
        let whose = format!("of {:?}: ", pull.path);
        let window = ("pull.window_bytes", pull.window_bytes, APPEND_BYTES_MAX);
        check_window(window, &whose, &config.store)?;
        check_access("pull.access", &pull.path, pull.access.as_ref(), users)?;
    }
    for mirror in &config.mirror {
        mirror.check()?;
        check_access("mirror.access", &mirror.path, mirror.access.as_ref(), users)?;
    }
    for file in &config.r#static {
        file.check()?;
        check_access("static.access", &file.path, file.access.as_ref(), users)?;
    }
    for api in &config.api {
        api.check(&config.pull)?;
        check_access("api.access", &api.path, api.access.as_ref(), users)?;
    }
    for notification in &config.notification {
        notification.check(users)?;
    }
    check_owners(config)
}

/// What recordings are made of has no window.
fn check_cameras(config: &Config) -> Checked {
    let (cameras, store) = (&config.cameras, &config.store);
    let is_pushed = |raw: &RawSection| raw.format == RawFormat::Mpegts;
    if cameras.raw.iter().any(is_pushed) {
        let window = ("cameras.raw", PullSection::default().window_bytes, APPEND_BYTES_MAX);
        check_window(window, "", store)?;
    }
    if !cameras.is_enabled() || cameras.record_below.is_some() {
        return Ok(());
    }
    let picture_bytes = u64::from(cameras.picture_bytes_max);
    check_window(("cameras.window_bytes", cameras.window_bytes, picture_bytes), "", store)
}

/// What is given up goes in whole extents, so an endless object has its window, up to one extent, and
/// what is being appended.
fn check_window(
    (key, window_bytes, appended_bytes): (&'static str, u64, u64),
    whose: &str,
    store: &StoreSection,
) -> Checked {
    let needed = window_bytes.saturating_add(store.extent_bytes).saturating_add(appended_bytes);
    if store.object_bytes_max >= needed {
        return Ok(());
    }
    let why = format!(
        "{whose}store.object_bytes_max is {}, and {needed} are needed: {window_bytes} and one \
         store.extent_bytes ({}) and {appended_bytes} for what is being appended",
        store.object_bytes_max, store.extent_bytes
    );
    wrong(key, why)
}

fn check_users(users: &Users) -> Checked {
    for (name, password) in users {
        if name.is_empty() || name.contains(char::is_control) {
            return wrong("users", format!("{name:?} is no name"));
        }
        if password.is_empty() {
            return wrong("users", format!("the password of {name:?} is empty: give it one"));
        }
    }
    Ok(())
}

/// Two listeners may be the two qualities of one camera.
fn raw_paths(cameras: &CamerasSection) -> impl Iterator<Item = (&'static str, &String)> {
    let named = |raw: &RawSection, of: &RawSection| raw.path == of.path;
    let is_first = move |(at, raw): &(usize, &RawSection)| {
        !cameras.raw[..*at].iter().any(|other| named(other, raw))
    };
    cameras.raw.iter().enumerate().filter(is_first).map(|(_, raw)| ("cameras.raw.path", &raw.path))
}

/// No two sections may have the same path.
fn check_owners(config: &Config) -> Checked {
    let mut owned = HashSet::new();
    let paths = (config.pull.iter().map(|pull| ("pull.path", &pull.path)))
        .chain(config.mirror.iter().map(|mirror| ("mirror.path", &mirror.path)))
        .chain(config.r#static.iter().map(|file| ("static.path", &file.path)))
        .chain(config.api.iter().map(|api| ("api.path", &api.path)))
        .chain(raw_paths(&config.cameras));
    for (key, path) in paths {
        if !owned.insert(path.clone()) {
            return wrong(key, format!("{path:?} is there twice: choose another path"));
        }
    }
    let below = &config.cameras.live_below;
    // The default stays where nobody lists anything.
    let is_own = *below != CamerasSection::default().live_below && !below.is_empty();
    if is_own && !config.live.iter().any(|rule| below.starts_with(&rule.prefix)) {
        let why = format!("no [[live]] prefix holds {below:?}: add one, or set it to \"\"");
        return wrong("cameras.live_below", why);
    }
    let sources = config.live.iter().filter(|rule| rule.source.is_some());
    owned.extend(sources.map(|rule| rule.prefix.clone()));
    for pull in &config.pull {
        let Some(folder) = pull.live_folder() else { continue };
        if pull.live.is_some() && !config.live.iter().any(|rule| folder.starts_with(&rule.prefix)) {
            let why = format!("of {:?}: no [[live]] prefix holds {folder:?}: add one", pull.path);
            return wrong("pull.live", why);
        }
        if owned.contains(&folder) {
            let why = format!(
                "of {:?}: {folder:?} is somebody else's already: set live to another folder, \
                 or to \"\" for none",
                pull.path
            );
            return wrong("pull.live", why);
        }
        owned.insert(folder);
    }
    Ok(())
}

impl ViewersSection {
    fn check(&self) -> Checked {
        if self.max > 0 && self.full > self.max {
            let why = format!("{} is never reached: max is {}", self.full, self.max);
            return wrong("viewers.full", why);
        }
        check_range("viewers.heartbeat_interval_s", "", self.heartbeat_interval_s, 1..=DAY_S)
    }
}

impl PullSection {
    /// The folder of its playlists, if it has any.
    pub fn live_folder(&self) -> Option<String> {
        match &self.live {
            Some(folder) => (!folder.is_empty()).then(|| folder.clone()),
            None => {
                let file = self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
                let stem = if stem.is_empty() { file } else { stem };
                (!stem.is_empty()).then(|| format!("/live/{stem}/"))
            }
        }
    }

    fn check(&self) -> Checked {
        let path = &self.path;
        check_path("pull.path", path)?;
        if self.upstreams.is_empty() {
            return wrong("pull.upstreams", format!("of {path:?}: at least one is needed"));
        }
        let mut takes_datagrams = false;
        for text in &self.upstreams {
            let upstream = UpstreamUrl::parse(text);
            match &upstream {
                Ok(UpstreamUrl::Udp(place) | UpstreamUrl::Rtp(place)) => {
                    takes_datagrams = true;
                    if self.interface.is_none() && is_of_link(&place.host) {
                        let why =
                            format!("of {path:?}: the group of {text:?} is of one link: name it");
                        return wrong("pull.interface", why);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    return wrong_url("pull.upstreams", path, text, &error.to_string());
                }
            }
        }
        if let Some(folder) = self.live.as_ref().filter(|folder| !folder.is_empty()) {
            check_folder("pull.live", folder)?;
        }
        if let Some(name) = &self.interface {
            self.check_interface(name, takes_datagrams)?;
        }
        let is_printable = |c: char| c == ' ' || c.is_ascii_graphic();
        let kind = &self.content_type;
        if kind.trim() != kind || kind.is_empty() || !kind.chars().all(is_printable) {
            return wrong("pull.content_type", format!("of {path:?}: {kind:?} is no content type"));
        }
        if self.preamble.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
            return wrong("pull.preamble", format!("of {path:?}: name a file, or leave it out"));
        }
        self.check_numbers()
    }

    fn check_interface(&self, name: &str, takes_datagrams: bool) -> Checked {
        let path = &self.path;
        let is_name = !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if name.is_empty() || name.len() > INTERFACE_NAME_BYTES_MAX || !is_name {
            let why = format!("of {path:?}: {name:?} is no interface such as \"eth0\"");
            return wrong("pull.interface", why);
        }
        if !takes_datagrams {
            let why = format!("of {path:?}: only udp:// and rtp:// need it, so leave it out");
            return wrong("pull.interface", why);
        }
        Ok(())
    }

    fn check_numbers(&self) -> Checked {
        let path = &self.path;
        let range = RECONNECT_S_MIN..=DAY_S as f64;
        if !range.contains(&self.reconnect_s) {
            let (value, last) = (self.reconnect_s, range.end());
            let why = format!("of {path:?}: {value} is not {RECONNECT_S_MIN} to {last}");
            return wrong("pull.reconnect_s", why);
        }
        let reconnect_max_s = self.reconnect_s.ceil() as u64;
        for (key, seconds, range) in [
            ("pull.stop_after_s", self.stop_after_s, 0..=DAY_S),
            ("pull.hold_over_s", self.hold_over_s, 0..=DAY_S),
            ("pull.reconnect_max_s", self.reconnect_max_s, reconnect_max_s..=DAY_S),
            ("pull.connect_timeout_s", self.connect_timeout_s, 1..=DAY_S),
            ("pull.read_timeout_s", self.read_timeout_s, 1..=DAY_S),
            ("pull.burst_s", self.burst_s, 0..=BURST_S_MAX),
            ("pull.window_bytes", self.window_bytes, WINDOW_BYTES_MIN..=WINDOW_BYTES_MAX),
        ] {
            check_range(key, path, seconds, range)?;
        }
        let range = u64::from(DATAGRAM_BYTES_MIN)..=u64::from(DATAGRAM_BYTES_MAX);
        check_range("pull.datagram_bytes_max", path, self.datagram_bytes_max.into(), range)
    }
}

impl MirrorSection {
    fn check(&self) -> Checked {
        let path = &self.path;
        if path != "/" {
            check_folder("mirror.path", path)?;
        }
        let wrong_upstream = |why: &str| wrong_url("mirror.upstream", path, &self.upstream, why);
        match HttpUrl::parse(&self.upstream) {
            Err(error) => return wrong_upstream(&error.to_string()),
            Ok(url) if !url.target.ends_with('/') || url.target.contains('?') => {
                return wrong_upstream("a folder is needed, with a slash at its end and no query");
            }
            Ok(_) => {}
        }
        if let Some(seconds) = self.cache_s {
            check_range("mirror.cache_s", path, seconds, 0..=DAY_S)?;
        }
        let bytes_max = self.bytes_max;
        check_range("mirror.bytes_max", path, bytes_max, 1..=MIRROR_CACHE_BYTES_MAX)?;
        let range = bytes_max..=MIRROR_CACHE_BYTES_MAX;
        check_range("mirror.cache_bytes_max", path, self.cache_bytes_max, range)?;
        let range = 1..=MIRROR_ANSWERS_MAX;
        check_range("mirror.answers_max", path, self.answers_max as u64, range.clone())?;
        check_range("mirror.fetches_max", path, self.fetches_max as u64, range)?;
        check_range("mirror.timeout_s", path, self.timeout_s, 1..=DAY_S)
    }
}

impl StaticSection {
    fn check(&self) -> Checked {
        let path = &self.path;
        check_path("static.path", path)?;
        let wrong_upstream = |why: &str| wrong_url("static.upstream", path, &self.upstream, why);
        match UpstreamUrl::parse(&self.upstream) {
            Err(error) => return wrong_upstream(&error.to_string()),
            Ok(UpstreamUrl::File(_) | UpstreamUrl::Http(_)) => {}
            Ok(_) => return wrong_upstream("only file:///, http:// and https:// have an end"),
        }
        check_range("static.cache_s", path, self.cache_s, 0..=u64::from(u32::MAX))?;
        check_range("static.bytes_max", path, self.bytes_max, 1..=STATIC_BYTES_MAX)?;
        check_range("static.timeout_s", path, self.timeout_s, 1..=DAY_S)
    }
}

impl ApiSection {
    fn check(&self, pulls: &[PullSection]) -> Checked {
        let path = &self.path;
        check_path("api.path", path)?;
        let Some(kind) = self.kind else {
            return wrong("api.kind", format!("of {path:?}: it is needed"));
        };
        let is_of_stream = matches!(kind, ApiKind::Check | ApiKind::Control);
        match &self.pull {
            None if is_of_stream => {
                let why = format!("of {path:?}: check and control need the path of a [[pull]]");
                wrong("api.pull", why)
            }
            Some(_) if !is_of_stream => {
                let why = format!("of {path:?}: only check and control need it, so leave it out");
                wrong("api.pull", why)
            }
            Some(pull) if !pulls.iter().any(|other| other.path == *pull) => {
                let why = format!("of {path:?}: no [[pull]] has the path {pull:?}");
                wrong("api.pull", why)
            }
            _ => Ok(()),
        }
    }
}

impl NotificationSection {
    fn check(&self, users: &Users) -> Checked {
        let url = shown(&self.url);
        if let Err(error) = HttpUrl::parse(&self.url) {
            return wrong("notification.url", format!("{url:?}: {error}"));
        }
        if self.event.is_none() {
            return wrong("notification.event", format!("of {url:?}: it is needed"));
        }
        check_range("notification.timeout_s", &url, self.timeout_s, 1..=DAY_S)?;
        match (&self.user, self.scheme) {
            (None, None) => Ok(()),
            (Some(user), Some(scheme)) => {
                check_user("notification.user", &url, user, scheme, users)
            }
            _ => wrong("notification", format!("{url:?}: user and scheme need each other")),
        }
    }
}

/// The value, unless it is out of range; `whose` path it belongs to, if it has one.
fn check_range(key: &'static str, whose: &str, value: u64, range: RangeInclusive<u64>) -> Checked {
    if range.contains(&value) {
        return Ok(());
    }
    let whose = if whose.is_empty() { String::new() } else { format!("of {whose:?}: ") };
    wrong(key, format!("{whose}{value} is not {} to {}", range.start(), range.end()))
}

/// Whether a request's name can be this path: absolute and normalised, decoded, and not the server's own.
fn check_path(key: &'static str, path: &str) -> Checked {
    let is_sound = |path: &str| {
        let name = path.strip_suffix('/').unwrap_or(path);
        is_object_name(name) && !path.contains(|c: char| matches!(c, '?' | '#') || c.is_control())
    };
    match path.strip_prefix('/') {
        Some("") => Ok(()),
        Some(path) if is_sound(path) => Ok(()),
        Some(_) if path.starts_with("/.headwater/") => {
            wrong(key, "names below /.headwater/ are the server's own")
        }
        _ => wrong(key, format!("{path:?} is no absolute path such as \"/cam.ts\"")),
    }
}

/// A multicast group of an interface or of a link (RFC 4291 §2.7): each link has its own.
fn is_of_link(host: &str) -> bool {
    host.parse::<Ipv6Addr>()
        .is_ok_and(|group| matches!(group.segments()[0] & 0xff0f, 0xff01 | 0xff02))
}

fn check_folder(key: &'static str, path: &str) -> Checked {
    if !path.ends_with('/') || path == "/" {
        return wrong(key, format!("{path:?} is no folder such as \"/a/b/\""));
    }
    check_path(key, path)
}

fn wrong_url(key: &'static str, whose: &str, url: &str, why: &str) -> Checked {
    wrong(key, format!("of {whose:?}: {:?}: {why}", shown(url)))
}

fn check_access(
    key: &'static str,
    whose: &str,
    access: Option<&AccessSection>,
    users: &Users,
) -> Checked {
    let Some(access) = access else { return Ok(()) };
    let is_printable = |c: char| c == ' ' || c.is_ascii_graphic();
    if !access.realm.chars().all(is_printable) || access.realm.contains(['"', '\\']) {
        let why = "a realm is printable ASCII without quotes and backslashes";
        return wrong(key, format!("of {whose:?}: {why}"));
    }
    access.users.iter().try_for_each(|user| check_user(key, whose, user, access.scheme, users))
}

/// Whether there is such a user, and credentials can be made of it.
fn check_user(
    key: &'static str,
    whose: &str,
    user: &str,
    scheme: AccessScheme,
    users: &Users,
) -> Checked {
    let Some(password) = users.get(user) else {
        return wrong(key, format!("of {whose:?}: {user:?} is not in [users]: add the user there"));
    };
    let auth = match scheme {
        AccessScheme::Basic => {
            HookAuth::Basic { user: user.to_owned(), password: password.clone() }
        }
        AccessScheme::Bearer => HookAuth::Bearer { token: password.clone() },
    };
    auth.fault().map_or(Ok(()), |why| wrong(key, format!("of {whose:?}: user {user:?}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.with(&[]).map_err(|error| error.to_string())
    }

    const WHOLE: &str = r#"
        [users]
        alice = "secret"
        "bob smith" = "t0ken"
        [viewers]
        max = 100
        full = 90
        [[pull]]
        path = "/cam.ts"
        upstreams = ["tcp://10.0.0.7:9000", "udp://239.0.0.1:5000", "rtp://239.0.0.1:5004",
            "file:///pipe", "unix:///s", "unixgram:///s", "unixpacket:///s", "http://a/b",
            "https://u:p@a/b", "fork://command?arg1+arg2"]
        preamble = "file.ts"
        interface = "eth0"
        access = { scheme = "basic", realm = "R", users = ["alice"] }
        [[pull]]
        path = "/all/"
        upstreams = ["fork:///usr/bin/x"]
        live = ""
        access = { scheme = "bearer", users = [] }
        [[mirror]]
        path = "/"
        upstream = "https://origin.example/live/cam/"
        cache_s = 2
        [[static]]
        path = "/logo.png"
        upstream = "file:///logo.png"
        [[api]]
        path = "/health"
        kind = "health"
        [[api]]
        path = "/check/cam.ts"
        kind = "check"
        pull = "/cam.ts"
        access = { scheme = "bearer", users = ["bob smith"] }
        [[notification]]
        event = "limit_hit"
        url = "http://a/b"
        user = "alice"
        scheme = "basic"
    "#;

    #[test]
    fn a_whole_configuration_is_understood() {
        let config = config(WHOLE).unwrap();
        assert_eq!(config.users["alice"], "secret");
        assert_eq!((config.viewers.max, config.viewers.heartbeat_interval_s), (100, 60));
        let [first, second] = config.pull.as_slice() else { panic!("{config:?}") };
        assert_eq!((first.upstreams.len(), first.content_type.as_str()), (10, "video/mp2t"));
        assert_eq!((first.window_bytes, first.datagram_bytes_max), (67_108_864, 65_536));
        assert_eq!(first.access.as_ref().unwrap().scheme, AccessScheme::Basic);
        assert_eq!(second.access.as_ref().unwrap().realm, "headwater");
        assert_eq!(config.mirror[0].cache_s, Some(2));
        assert_eq!((config.r#static[0].bytes_max, config.r#static[0].cache_s), (10_485_760, 0));
        assert_eq!(config.api[1].pull.as_deref(), Some("/cam.ts"));
        assert_eq!(config.notification[0].event, Some(NotificationEvent::LimitHit));
        let shown = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&shown).unwrap(), config, "{shown}");
    }

    #[test]
    fn playlists_have_a_folder_of_the_files_name() {
        let folder = |path: &str, live: Option<&str>| {
            let (path, live) = (path.to_owned(), live.map(str::to_owned));
            PullSection { path, live, ..PullSection::default() }.live_folder()
        };
        assert_eq!(folder("/a/cam.hd.ts", None).as_deref(), Some("/live/cam.hd/"));
        assert_eq!(folder("/cam", None).as_deref(), Some("/live/cam/"));
        assert_eq!(folder("/cam/", None).as_deref(), Some("/live/cam/"));
        assert_eq!(folder("/.ts", None).as_deref(), Some("/live/.ts/"));
        assert_eq!(folder("/", None), None);
        assert_eq!(folder("/cam.ts", Some("")), None);
        assert_eq!(folder("/cam.ts", Some("/x/")).as_deref(), Some("/x/"));
    }

    /// Method: one line is put behind sections that are good without it.
    #[test]
    fn wrong_options_say_what_and_where() {
        let pull = "[[pull]]\npath = \"/cam.ts\"\nupstreams = [\"tcp://a:1\"]\n";
        let mirror = "[[mirror]]\npath = \"/m/\"\nupstream = \"http://a/\"\n";
        let file = "[[static]]\npath = \"/s\"\nupstream = \"file:///s\"\n";
        let api = "[[api]]\npath = \"/h\"\n";
        let note = "[[notification]]\nevent = \"heartbeat\"\nurl = \"http://u:secret@a/n\"\n";
        let cases: &[(&str, &str, &str, &[&str])] = &[
            (pull, "stop_after_s = 90000", "pull.stop_after_s", &["/cam.ts", "0 to 86400"]),
            (pull, "hold_over_s = 90000", "pull.hold_over_s", &["/cam.ts"]),
            (pull, "reconnect_s = 0", "pull.reconnect_s", &["0.05 to 86400"]),
            (pull, "reconnect_s = 0.04", "pull.reconnect_s", &["/cam.ts"]),
            (pull, "reconnect_s = nan", "pull.reconnect_s", &[]),
            (pull, "reconnect_s = 86401", "pull.reconnect_s", &[]),
            (pull, "reconnect_s = 10.5", "pull.reconnect_max_s", &["10 is not 11 to"]),
            (pull, "reconnect_s = 20", "pull.reconnect_max_s", &["10 is not 20 to"]),
            (pull, "connect_timeout_s = 0", "pull.connect_timeout_s", &[]),
            (pull, "read_timeout_s = 0", "pull.read_timeout_s", &[]),
            (pull, "burst_s = 3601", "pull.burst_s", &["0 to 3600"]),
            (pull, "window_bytes = 1000", "pull.window_bytes", &["1048576"]),
            (pull, "datagram_bytes_max = 1499", "pull.datagram_bytes_max", &["1500 to 65536"]),
            (pull, "datagram_bytes_max = 65537", "pull.datagram_bytes_max", &[]),
            (pull, "interface = \"eth0\"", "pull.interface", &["only udp:// and rtp://"]),
            (pull, "interface = \"a b\"", "pull.interface", &["\"a b\""]),
            (pull, "preamble = \"\"", "pull.preamble", &["/cam.ts"]),
            (pull, "content_type = \"a\\nb\"", "pull.content_type", &[]),
            (pull, "live = \"live/cam\"", "pull.live", &["no folder"]),
            (pull, "live = \"/a/../b/\"", "pull.live", &["no absolute path"]),
            (
                pull,
                "access = { scheme = \"basic\", users = [\"eve\"] }",
                "pull.access",
                &["[users]", "eve"],
            ),
            (pull, "access = { scheme = \"basic\", users = [\"a:b\"] }", "pull.access", &["colon"]),
            (
                pull,
                "access = { scheme = \"bearer\", users = [\"odd\"] }",
                "pull.access",
                &["ASCII"],
            ),
            (
                pull,
                "access = { scheme = \"basic\", realm = \"\\\"\", users = [] }",
                "pull.access",
                &["realm"],
            ),
            (mirror, "cache_s = 90000", "mirror.cache_s", &["/m/"]),
            (mirror, "timeout_s = 0", "mirror.timeout_s", &[]),
            (mirror, "bytes_max = 0", "mirror.bytes_max", &["/m/"]),
            (mirror, "bytes_max = 300000000", "mirror.cache_bytes_max", &["is not 300000000 to"]),
            (mirror, "answers_max = 0", "mirror.answers_max", &[]),
            (mirror, "fetches_max = 0", "mirror.fetches_max", &[]),
            (file, "bytes_max = 0", "static.bytes_max", &["/s"]),
            (file, "timeout_s = 0", "static.timeout_s", &[]),
            (api, "", "api.kind", &["/h", "needed"]),
            (api, "kind = \"check\"", "api.pull", &["need the path of a [[pull]]"]),
            (api, "kind = \"health\"\npull = \"/cam.ts\"", "api.pull", &["leave it out"]),
            (api, "kind = \"control\"\npull = \"/no\"", "api.pull", &["\"/no\""]),
            (note, "timeout_s = 0", "notification.timeout_s", &["http://…@a/n"]),
            (note, "user = \"a:b\"", "notification", &["need each other"]),
            (note, "scheme = \"basic\"\nuser = \"eve\"", "notification.user", &["eve"]),
        ];
        let users = "[users]\n\"a:b\" = \"secret\"\nodd = \"secret\\n\"\n";
        for (section, line, key, words) in cases {
            let error = config(&format!("{users}{section}{line}\n")).unwrap_err();
            assert!(error.contains(&format!("option {key} is wrong")), "{line}: {error}");
            assert!(words.iter().all(|word| error.contains(word)), "{line}: {error}");
            assert!(!error.contains("secret"), "{line}: {error}");
        }
    }

    #[test]
    fn wrong_paths_and_urls_are_told_apart() {
        for path in
            ["", "cam.ts", "/a//b", "/a/../b", "/a?b", "/a#b", "//", "/a\\nb", "/.headwater/x"]
        {
            for section in ["pull", "static", "api", "mirror"] {
                let urls = match section {
                    "pull" => "upstreams = [\"tcp://a:1\"]",
                    "api" => "kind = \"health\"",
                    _ => "upstream = \"http://a/\"",
                };
                let error = config(&format!("[[{section}]]\npath = \"{path}\"\n{urls}\n"));
                let key = format!("option {section}.path is wrong");
                assert!(
                    error.as_ref().is_err_and(|error| error.contains(&key)),
                    "{path}: {error:?}"
                );
            }
        }
        for (section, urls, key, word) in [
            ("pull", "", "pull.upstreams", "at least one"),
            ("pull", "upstreams = [\"srt://a:1\"]", "pull.upstreams", "srt:// is none of http, "),
            ("pull", "upstreams = [\"tcp://a:1\", \"udp://a\"]", "pull.upstreams", "\"udp://a\""),
            ("pull", "upstreams = [\"udp://[ff12::1]:5000\"]", "pull.interface", "of one link"),
            ("pull", "upstreams = [\"http://u:secret@\"]", "pull.upstreams", "http://…@"),
            ("static", "upstream = \"tcp://a:1\"", "static.upstream", "have an end"),
            ("static", "", "static.upstream", "no scheme"),
            ("mirror", "upstream = \"http://a/b\"", "mirror.upstream", "slash at its end"),
            ("mirror", "upstream = \"http://a/?b/\"", "mirror.upstream", "no query"),
            ("mirror", "upstream = \"file:///a/\"", "mirror.upstream", "http:// and https:// are"),
        ] {
            let error = config(&format!("[[{section}]]\npath = \"/a/\"\n{urls}\n")).unwrap_err();
            assert!(error.contains(&format!("option {key} is wrong")), "{urls}: {error}");
            assert!(error.contains(word) && !error.contains("secret"), "{urls}: {error}");
            assert!(error.contains("of \"/a/\""), "{urls}: {error}");
        }
        assert!(config("[[notification]]\nevent = \"heartbeat\"\nurl = \"a\"").is_err());
        assert!(config("[[notification]]\nurl = \"http://a\"").unwrap_err().contains("needed"));
    }

    #[test]
    fn nobody_owns_what_is_owned() {
        let pull = |path: &str, more: &str| {
            format!("[[pull]]\npath = \"{path}\"\nupstreams = [\"tcp://a:1\"]\n{more}\n")
        };
        let file = "[[static]]\npath = \"/cam.ts\"\nupstream = \"file:///s\"\n";
        let rule = "[[live]]\nprefix = \"/live/cam/\"\nsource = \"/a.ts\"\n";
        let mirror = "[[mirror]]\npath = \"/live/cam/\"\nupstream = \"http://a/\"\n";
        let twice = pull("/cam.ts", "") + &pull("/cam.ts", "");
        assert!(config(&twice).unwrap_err().contains("option pull.path is wrong"));
        let two = pull("/cam.ts", "") + file;
        assert!(config(&two).unwrap_err().contains("option static.path is wrong"));
        for other in [rule, mirror, &pull("/a/cam.ts", "")] {
            let error = config(&(pull("/cam.ts", "") + other)).unwrap_err();
            assert!(error.contains("option pull.live is wrong"), "{error}");
            config(&(pull("/cam.ts", "live = \"\"") + other)).unwrap();
        }
        config(&(pull("/cam/", "") + &pull("/cam", "live = \"\""))).unwrap();
        let raw = |quality: &str| {
            format!(
                "[[cameras.raw]]\nlisten = \"127.0.0.1:0\"\nformat = \"mjpeg\"\n\
                path = \"/cam.ts\"\nquality = \"{quality}\"\n"
            )
        };
        config(&(raw("low") + &raw("high"))).unwrap();
        let error = config(&(raw("low") + &pull("/cam.ts", ""))).unwrap_err();
        assert!(error.contains("option cameras.raw.path is wrong"), "{error}");
        let below = "[cameras]\nlive_below = \"/tv/\"\n";
        assert!(config(below).unwrap_err().contains("option cameras.live_below is wrong"));
        config(&(below.to_owned() + "[[live]]\nprefix = \"/tv/\"")).unwrap();
        let elsewhere = pull("/cam.ts", "live = \"/tv/cam/\"");
        assert!(config(&elsewhere).unwrap_err().contains("no [[live]] prefix holds"));
        config(&(elsewhere + "[[live]]\nprefix = \"/tv/\"")).unwrap();
    }

    /// Goal: an endless object that would be cut again and again, since it cannot have its window, is told.
    #[test]
    fn a_window_fits_into_an_object() {
        let store =
            |bytes: u64| format!("[store]\nextent_bytes = 1048576\nobject_bytes_max = {bytes}\n");
        let pull = "[[pull]]\npath = \"/a\"\nupstreams = [\"tcp://a:1\"]\nwindow_bytes = 1048576\n";
        let raw = |format: &str| {
            format!(
                "[cameras]\nraw = [{{ listen = \"127.0.0.1:0\", format = \"{format}\", \
                 path = \"/door\" }}]\nwindow_bytes = 2097152\npicture_bytes_max = 1048576\n"
            )
        };
        let (mjpeg, mpegts) = (raw("mjpeg"), raw("mpegts"));
        for (section, needed, key) in [
            (pull, 3 << 20, "pull.window_bytes"),
            (&mjpeg, 4 << 20, "cameras.window_bytes"),
            (&mpegts, 66 << 20, "cameras.raw"),
        ] {
            config(&(store(needed) + section)).unwrap();
            let error = config(&(store(needed - 1) + section)).unwrap_err();
            assert!(error.contains(&format!("option {key} is wrong")), "{error}");
            assert!(error.contains(&format!("object_bytes_max is {}", needed - 1)), "{error}");
        }
        config(&(store(1 << 20) + &mjpeg + "record_below = \"/r/\"\n")).unwrap();
        config(&store(1 << 20)).unwrap();
    }

    #[test]
    fn limits_and_users_make_sense() {
        for (text, key) in [
            ("[viewers]\nmax = 5\nfull = 6", "viewers.full"),
            ("[viewers]\nheartbeat_interval_s = 0", "viewers.heartbeat_interval_s"),
            ("[users]\nalice = \"\"", "users"),
            ("[users]\n\"\" = \"secret\"", "users"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(&format!("option {key} is wrong")), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        config("[viewers]\nfull = 6").unwrap();
    }

    #[test]
    fn unknown_words_are_errors() {
        for text in [
            "[[pull]]\npaht = \"/a\"",
            "[[api]]\nkind = \"stats\"",
            "[[notification]]\nevent = \"limit\"",
            "[[pull]]\naccess = { scheme = \"digest\", users = [] }",
            "[[pull]]\naccess = { scheme = \"basic\" }",
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
    }
}
