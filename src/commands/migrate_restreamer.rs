//! What a file of restreamer said, for `migrate`: `restreamer.json`, and `server.json` of 2017. Keys are
//! found in any case and those without a name are comments, as there. What cannot be read is an error
//! with its place, never a default.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::migrate::FileArgs;
use super::migrate_draft::Draft;
use crate::operations::config::{LimitsSection, PullSection};
use crate::wire::upstream_url::{UpstreamUrl, shown};

pub(super) fn migrate(args: &FileArgs) -> anyhow::Result<()> {
    let file = args.file.display().to_string();
    let text =
        std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {file}"))?;
    let json =
        serde_json::from_str(&text).map_err(|error| anyhow!("{file} is no JSON: {error}"))?;
    drafted(json).print(&file)
}

/// What the original takes where nothing is said.
const LISTEN: &str = "localhost:http";
const RECONNECT_S: u64 = 10;
/// Of 2017.
const CONNECTIONS_PER_STREAM: u64 = 1;

fn drafted(json: Value) -> Draft {
    let mut draft = Draft::default();
    let Some(mut top) = Keys::of("", json, &mut draft) else { return draft };
    let is_old = top.values.contains_key("streams") && !top.values.contains_key("resources");
    let resources = match is_old {
        true => old_resources(&mut top, &mut draft),
        false => top.objects("resources", &mut draft),
    };
    write_top(&mut top, &mut draft);
    let users = read_users(&mut top, &mut draft);
    let streams: BTreeSet<String> = resources.iter().filter_map(stream_path).collect();
    if streams.is_empty() {
        let text = "there is no stream with a remote in it, so the original would not start";
        draft.errors.push(text.to_owned());
    }
    write_viewers(&mut top, is_old.then_some(streams.len() as u64), &mut draft);
    let times = Times::read(&mut top, is_old, &mut draft);
    let notifications = top.objects("notifications", &mut draft);
    top.leave_out_the_rest(&mut draft);
    let owned = resources.iter().map(|resource| resource.peek("serve").to_owned()).collect();
    Resources { times, users: &users, streams, owned, has_explained: false }
        .write(resources, &mut draft);
    for notification in notifications {
        write_notification(notification, &users, &mut draft);
    }
    draft
}

/// An object of the file. Its keys are asked for one by one; what nobody has asked for is told.
struct Keys {
    /// Such as `resources[2]`; nothing for the whole file.
    place: String,
    /// By the key in small letters.
    values: BTreeMap<String, Value>,
}

impl Keys {
    fn of(place: &str, value: Value, draft: &mut Draft) -> Option<Keys> {
        let place = place.to_owned();
        let Value::Object(object) = value else {
            let what = if place.is_empty() { "the file" } else { &place };
            draft.errors.push(format!("{what}: an object is needed"));
            return None;
        };
        let mut keys = Keys { place, values: BTreeMap::new() };
        for (key, value) in object {
            let small = key.to_ascii_lowercase();
            if key.is_empty() || value.is_null() {
                continue;
            }
            if keys.values.insert(small, value).is_some() {
                keys.note(&key, "it is there twice, in letters of another case", draft);
            }
        }
        Some(keys)
    }

    fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    fn note(&self, key: &str, text: &str, draft: &mut Draft) {
        draft.notes.push(format!("{}: {text}", self.place_of(key)));
    }

    fn wrong(&self, key: &str, text: &str, draft: &mut Draft) {
        draft.errors.push(format!("{}: {text}", self.place_of(key)));
    }

    /// What a key says, if it is a text; it is not taken.
    fn peek(&self, key: &str) -> &str {
        self.values.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A text with something in it; an empty one is the same as none.
    fn text(&mut self, key: &str, draft: &mut Draft) -> Option<String> {
        match self.values.remove(key)? {
            Value::String(text) => Some(text).filter(|text| !text.is_empty()),
            _ => {
                self.wrong(key, "a text is needed", draft);
                None
            }
        }
    }

    fn number(&mut self, key: &str, draft: &mut Draft) -> Option<u64> {
        let value = self.values.remove(key)?;
        // What TOML can hold, which is more than the original takes on some machines.
        let number = value.as_u64().filter(|number| i64::try_from(*number).is_ok());
        if number.is_none() {
            self.wrong(key, "a whole number is needed, 0 or more", draft);
        }
        number
    }

    fn list(&mut self, key: &str, draft: &mut Draft) -> Vec<Value> {
        match self.values.remove(key) {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.wrong(key, "a list is needed", draft);
                Vec::new()
            }
        }
    }

    fn texts(&mut self, key: &str, draft: &mut Draft) -> Vec<String> {
        let list = self.list(key, draft);
        let texts: Option<Vec<String>> =
            list.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        if texts.is_none() {
            self.wrong(key, "a list of texts is needed", draft);
        }
        texts.unwrap_or_default()
    }

    fn object(&mut self, key: &str, draft: &mut Draft) -> Option<Keys> {
        let value = self.values.remove(key)?;
        Keys::of(&self.place_of(key), value, draft)
    }

    fn objects(&mut self, key: &str, draft: &mut Draft) -> Vec<Keys> {
        let place = self.place_of(key);
        let list = self.list(key, draft).into_iter().enumerate();
        list.filter_map(|(index, value)| Keys::of(&format!("{place}[{index}]"), value, draft))
            .collect()
    }

    /// Say of keys that they do nothing here, unless they did nothing there either.
    fn without_meaning(&mut self, keys: &[&str], why: &str, draft: &mut Draft) {
        for key in keys {
            let value = self.values.remove(*key).unwrap_or_default();
            let says_nothing = match &value {
                Value::Null => true,
                Value::Bool(flag) => !flag,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(object) => object.is_empty(),
            };
            if !says_nothing {
                self.note(key, why, draft);
            }
        }
    }

    fn leave_out_the_rest(self, draft: &mut Draft) {
        for key in self.values.keys() {
            self.note(key, "unknown, left out", draft);
        }
    }
}

fn write_top(top: &mut Keys, draft: &mut Draft) {
    draft.text += "# Who reaches this address may upload objects too, and delete them.\n";
    let listen = top.text("listen", draft);
    let wanted = "HOST:PORT is needed, HOST an IP address, localhost or nothing";
    let text = listen.as_deref().unwrap_or(LISTEN);
    match parse_listen(text) {
        Some(address) => {
            let why = if listen.is_some() { "listen" } else { "The original's default." };
            draft.option("listen", vec![address.to_string()], why);
        }
        None => top.wrong("listen", &format!("{text:?}: {wanted}"), draft),
    }
    let log = "the log is on standard error; log and log_format say what is in it";
    top.without_meaning(&["log"], log, draft);
    let profile = "no profiler is built in; /metrics is on the admin address";
    top.without_meaning(&["profile"], profile, draft);
    top.without_meaning(&["nostats"], "statistics cannot be switched off", draft);
    let input = "nothing is queued on the way in: packets are written to the stream's window";
    top.without_meaning(&["inputbuffer"], input, draft);
    let output = "readers have no queues: one that falls behind has window_bytes of its [[pull]]";
    top.without_meaning(&["outputbuffer"], output, draft);
    top.without_meaning(&["cachesize"], "burst_s of each [[pull]] says it, in seconds", draft);
}

/// As Go reads it: no host is every address, and ports may have names.
fn parse_listen(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = match port {
        "http" => 80,
        "https" => 443,
        port => port.parse().map(NonZeroU16::get).ok()?,
    };
    let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().ok()?.into(),
        None if host.is_empty() => Ipv6Addr::UNSPECIFIED.into(),
        None if host.eq_ignore_ascii_case("localhost") => IpAddr::from([127, 0, 0, 1]),
        None => host.parse().ok().filter(IpAddr::is_ipv4)?,
    };
    Some(SocketAddr::new(ip, port))
}

/// `userlist`, as `[users]`; returns their names.
fn read_users(top: &mut Keys, draft: &mut Draft) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Some(list) = top.values.remove("userlist") else { return names };
    let Value::Object(list) = list else {
        top.wrong("userlist", "an object is needed", draft);
        return names;
    };
    for (name, user) in list {
        // A key without a name is a comment here too.
        if name.is_empty() {
            continue;
        }
        let Some(mut user) = Keys::of(&format!("userlist.{name}"), user, draft) else { continue };
        match user.text("password", draft) {
            None => user.wrong("password", "it is empty: give the user one", draft),
            Some(password) => {
                if names.is_empty() {
                    draft.table("users");
                }
                draft.text += &format!("{} = {}\n", key_of(&name), toml::Value::from(password));
                names.insert(name);
            }
        }
        user.leave_out_the_rest(draft);
    }
    names
}

/// A name as a key of TOML; JSON's quotes and escapes are TOML's too.
fn key_of(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.chars().all(is_bare) { name.to_owned() } else { Value::from(name).to_string() }
}

/// `old_streams`: how many there are, in the old form, whose limit is for each.
fn write_viewers(top: &mut Keys, old_streams: Option<u64>, draft: &mut Draft) {
    let most = top.number("maxconnections", draft);
    let (most, why) = match (old_streams, most) {
        (None, most) => (most.unwrap_or(0), "maxconnections, of all streams together"),
        (Some(streams), Some(most)) => {
            let text = format!("it was for each stream; here all {streams} share {most} for each");
            top.note("maxconnections", &text, draft);
            (most.saturating_mul(streams), "maxconnections for each stream, now shared.")
        }
        (Some(streams), None) => (
            CONNECTIONS_PER_STREAM * streams,
            "The original's default, one for each; 0 is no limit.",
        ),
    };
    let mut full = top.number("fullconnections", draft).unwrap_or(0);
    if most > 0 && full > most {
        let text = "it is above maxconnections and was never reached; left out";
        top.note("fullconnections", text, draft);
        full = 0;
    }
    let heartbeat = top.number("heartbeatinterval", draft);
    if heartbeat == Some(0) {
        top.note("heartbeatinterval", "0 ended the original; here it is 60", draft);
    }
    let heartbeat = heartbeat.filter(|seconds| *seconds > 0);
    if most == 0 && full == 0 && heartbeat.is_none() {
        return;
    }
    draft.table("viewers");
    if most > LimitsSection::default().connections_max as u64 {
        let text = "limits.connections_max is lower: set it too";
        top.note("maxconnections", text, draft);
    }
    if most > 0 {
        draft.option("max", most as i64, why);
    }
    if full > 0 {
        draft.option("full", full as i64, "fullconnections");
    }
    if let Some(seconds) = heartbeat {
        draft.option("heartbeat_interval_s", seconds as i64, "heartbeatinterval");
    }
}

/// What the file says of time, for all streams.
struct Times {
    timeout_s: Option<u64>,
    read_timeout_s: Option<u64>,
    reconnect_s: Option<u64>,
}

impl Times {
    fn read(top: &mut Keys, is_old: bool, draft: &mut Draft) -> Times {
        let mut limit = |key: &str, here: &str| {
            let seconds = top.number(key, draft);
            if seconds == Some(0) {
                let text = format!("0 was no limit; here there is always one: {here}");
                top.note(key, &text, draft);
            }
            seconds.filter(|seconds| *seconds > 0)
        };
        let timeout_s = limit("timeout", "connect_timeout_s and timeout_s, 10 s unless set");
        let here = "read_timeout_s, 10 s unless set; set it higher where an upstream pauses";
        let read_timeout_s = if is_old { None } else { limit("readtimeout", here) };
        let mut reconnect_s = Some(RECONNECT_S);
        if !is_old && let Some(seconds) = top.number("reconnect", draft) {
            if seconds == 0 {
                let text = "0 connected only once; here an upstream is always connected again";
                top.note("reconnect", text, draft);
            }
            reconnect_s = Some(seconds).filter(|seconds| *seconds > 0);
        }
        Times { timeout_s, read_timeout_s, reconnect_s }
    }
}

/// Resources on their way to sections.
struct Resources<'u> {
    times: Times,
    users: &'u BTreeSet<String>,
    /// Where all streams are served.
    streams: BTreeSet<String>,
    /// Every path that is taken, and folders of playlists as they are given away.
    owned: BTreeSet<String>,
    has_explained: bool,
}

impl Resources<'_> {
    fn write(mut self, resources: Vec<Keys>, draft: &mut Draft) {
        let mut seen = BTreeSet::new();
        for mut resource in resources {
            let Some(kind) = resource.text("type", draft) else {
                resource.note("type", "it is missing, so the resource is left out", draft);
                continue;
            };
            let Some(path) = resource.text("serve", draft) else {
                resource.wrong("serve", "a path is needed", draft);
                continue;
            };
            if !seen.insert(path.clone()) {
                resource.wrong("serve", &format!("{path:?} is there twice"), draft);
            }
            match kind.as_str() {
                "stream" => self.write_stream(&mut resource, &path, draft),
                "static" => self.write_static(&mut resource, &path, draft),
                "api" => self.write_api(&mut resource, &path, &seen, draft),
                other => {
                    let text = format!("{other:?} is none, so the resource is left out, as there");
                    resource.note("type", &text, draft);
                    continue;
                }
            }
            resource.leave_out_the_rest(draft);
        }
    }

    fn write_stream(&mut self, resource: &mut Keys, path: &str, draft: &mut Draft) {
        let upstreams = upstreams(resource, draft);
        let unused = "it means nothing for a stream";
        resource.without_meaning(&["api", "cache"], unused, draft);
        if upstreams.is_empty() {
            let text = "it has no remote, so it is left out; there it was not served either";
            resource.note("remote", text, draft);
            return;
        }
        draft.text += "\n[[pull]]\n";
        self.explain(draft);
        let takes_datagrams = upstreams.iter().any(|text| text.starts_with("udp:"));
        self.plain(draft, "path", path);
        self.plain(draft, "upstreams", upstreams);
        // What the original sends, so that no client sees a change.
        self.plain(draft, "content_type", "video/mpeg");
        let section = PullSection { path: path.to_owned(), ..PullSection::default() };
        if let Some(folder) = section.live_folder()
            && !self.owned.insert(folder.clone())
        {
            let why =
                format!("Not as LL-HLS and LL-DASH: {folder} is taken. Any other may be set.");
            draft.option("live", "", &why);
        }
        if let Some(seconds) = self.times.timeout_s {
            draft.option("connect_timeout_s", seconds as i64, "timeout");
        }
        if let Some(seconds) = self.times.read_timeout_s {
            draft.option("read_timeout_s", seconds as i64, "readtimeout");
        }
        if let Some(seconds) = self.times.reconnect_s {
            let why = "reconnect; the first attempts follow sooner.";
            draft.option("reconnect_max_s", seconds as i64, why);
        }
        write_datagrams(resource, takes_datagrams, draft);
        if let Some(file) = resource.text("preamble", draft) {
            self.plain(draft, "preamble", file);
        }
        self.write_access(resource, draft);
    }

    /// Once, in front of the first stream.
    fn explain(&mut self, draft: &mut Draft) {
        if std::mem::replace(&mut self.has_explained, true) {
            return;
        }
        draft.text += "# Each stream is listed as LL-HLS and LL-DASH too, below /live/NAME/; live = \"\" is none.\n\
             # The original sends readers away when an upstream ends; here they are kept for 10 s:\n\
             # hold_over_s = 0\n";
        if self.times.timeout_s.is_none() {
            draft.text += "# The original waits for ever to connect, here it is 10 s:\n# connect_timeout_s = 10\n";
        }
        if self.times.read_timeout_s.is_none() {
            draft.text += "# And for packets; here an upstream without any is given up:\n# read_timeout_s = 10\n";
        }
    }

    fn write_static(&self, resource: &mut Keys, path: &str, draft: &mut Draft) {
        let Some(remote) = resource.text("remote", draft) else {
            let text = "it has no remote, so it is left out";
            return resource.note("remote", text, draft);
        };
        if let Err(error) = UpstreamUrl::parse(&remote) {
            return resource.wrong("remote", &format!("{:?}: {error}", shown(&remote)), draft);
        }
        draft.text += "\n[[static]]\n";
        self.plain(draft, "path", path);
        self.plain(draft, "upstream", remote);
        if let Some(seconds) = resource.number("cache", draft) {
            draft.option("cache_s", seconds as i64, "cache");
        }
        if let Some(seconds) = self.times.timeout_s {
            draft.option("timeout_s", seconds as i64, "timeout");
        }
        self.write_access(resource, draft);
        let unused = ["api", "remotes", "clientinterface", "mru", "preamble"];
        resource.without_meaning(&unused, "it means nothing for a static file", draft);
    }

    /// `seen`: the paths of this resource and of those in front of it.
    fn write_api(
        &self,
        resource: &mut Keys,
        path: &str,
        seen: &BTreeSet<String>,
        draft: &mut Draft,
    ) {
        let kind = resource.text("api", draft).unwrap_or_default();
        let remote = resource.text("remote", draft);
        let is_of_stream = match kind.as_str() {
            "health" | "statistics" | "prometheus" => false,
            "check" | "control" => true,
            other => {
                let text = format!("{other:?} is none, so the resource is left out, as there");
                return resource.note("api", &text, draft);
            }
        };
        let stream = remote.as_ref().filter(|remote| self.streams.contains(*remote));
        match (is_of_stream, &remote, stream) {
            (true, _, None) => {
                let text = "no stream is served there, so the resource is left out, as there";
                return resource.note("remote", text, draft);
            }
            (true, _, Some(stream)) if !seen.contains(stream) => {
                let text = "the stream is further down, so there it was 404; here it works";
                resource.note("remote", text, draft);
            }
            (false, Some(_), _) => {
                resource.note("remote", &format!("it means nothing for {kind}"), draft);
            }
            _ => {}
        }
        draft.text += "\n[[api]]\n";
        self.plain(draft, "path", path);
        self.plain(draft, "kind", kind);
        if let Some(stream) = stream.filter(|_| is_of_stream) {
            self.plain(draft, "pull", stream.as_str());
        }
        self.write_access(resource, draft);
        let unused = ["remotes", "clientinterface", "cache", "mru", "preamble"];
        resource.without_meaning(&unused, "it means nothing for an API", draft);
    }

    fn write_access(&self, resource: &mut Keys, draft: &mut Draft) {
        let Some(login) = Login::read(resource, self.users, draft) else { return };
        let mut access = toml::Table::new();
        let scheme = match login.kind.as_str() {
            "" => return,
            kind @ ("basic" | "bearer") => kind,
            other => {
                let text = format!("{other:?} let nobody in; neither does this");
                resource.note("authentication.type", &text, draft);
                "bearer"
            }
        };
        access.insert("scheme".to_owned(), scheme.into());
        if scheme == "basic" {
            access.insert("realm".to_owned(), login.realm.into());
        }
        let is_known = ["basic", "bearer"].contains(&login.kind.as_str());
        let users = if is_known { login.users } else { Vec::new() };
        if is_known && users.is_empty() {
            resource.note(
                "authentication",
                "it has no user of the userlist and lets nobody in",
                draft,
            );
        }
        access.insert("users".to_owned(), users.into());
        self.plain(draft, "access", access);
    }

    fn plain(&self, draft: &mut Draft, key: &str, value: impl Into<toml::Value>) {
        draft.text += &format!("{key} = {}\n", value.into());
    }
}

/// `authentication` of a resource or a notification.
struct Login {
    kind: String,
    realm: String,
    /// Those that there are, the single one first.
    users: Vec<String>,
}

impl Login {
    fn read(owner: &mut Keys, known: &BTreeSet<String>, draft: &mut Draft) -> Option<Login> {
        let mut keys = owner.object("authentication", draft)?;
        let kind = keys.text("type", draft).unwrap_or_default();
        let realm = keys.text("realm", draft).unwrap_or_default();
        let single = keys.text("user", draft);
        let mut users: Vec<String> = single.into_iter().chain(keys.texts("users", draft)).collect();
        users.retain(|user| {
            let is_known = known.contains(user);
            if !is_known && !kind.is_empty() {
                let text = format!("{user:?} is not in the userlist, and left out");
                keys.note("users", &text, draft);
            }
            is_known
        });
        if kind.is_empty() && !users.is_empty() {
            keys.note("type", "without one everybody is let in, as there", draft);
        }
        keys.leave_out_the_rest(draft);
        Some(Login { kind, realm, users })
    }
}

/// Where a stream is served, if this is one and comes from somewhere.
fn stream_path(resource: &Keys) -> Option<String> {
    let others = resource.values.get("remotes").and_then(Value::as_array);
    let has_remote =
        !resource.peek("remote").is_empty() || others.is_some_and(|all| !all.is_empty());
    (resource.peek("type") == "stream" && has_remote).then(|| resource.peek("serve").to_owned())
}

/// `remote` and then `remotes`, each as it is written here.
fn upstreams(resource: &mut Keys, draft: &mut Draft) -> Vec<String> {
    let single = resource.text("remote", draft).map(|url| ("remote".to_owned(), url));
    let others = resource.texts("remotes", draft).into_iter().enumerate();
    let others = others.map(|(index, url)| (format!("remotes[{index}]"), url));
    let mut urls = Vec::new();
    for (key, url) in single.into_iter().chain(others) {
        let url = match url.split_once('?') {
            // There arguments are divided after they are decoded.
            Some((command, arguments)) if is_fork(command) => {
                format!("{command}?{}", arguments.replace("%20", "+"))
            }
            _ => url,
        };
        if url.to_ascii_lowercase().starts_with("fork:///") {
            resource.note(&key, "the original could not run a path; here it is run", draft);
        }
        match UpstreamUrl::parse(&url) {
            Ok(_) => urls.push(url),
            Err(error) => resource.wrong(&key, &format!("{:?}: {error}", shown(&url)), draft),
        }
    }
    urls
}

fn is_fork(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("fork"))
}

/// `clientinterface` and `mru`.
fn write_datagrams(resource: &mut Keys, takes_datagrams: bool, draft: &mut Draft) {
    if !takes_datagrams {
        let unused = "only udp:// needs it, so it is left out";
        return resource.without_meaning(&["clientinterface", "mru"], unused, draft);
    }
    if let Some(name) = resource.text("clientinterface", draft) {
        draft.option("interface", name, "clientinterface");
    }
    match resource.number("mru", draft) {
        None | Some(0) => {}
        Some(bytes @ 1500..=65_536) => draft.option("datagram_bytes_max", bytes as i64, "mru"),
        Some(_) => {
            let text = "1500 to 65536 is possible; left out, so that no datagram is cut";
            resource.note("mru", text, draft);
        }
    }
}

fn write_notification(mut note: Keys, users: &BTreeSet<String>, draft: &mut Draft) {
    let event = note.text("event", draft).unwrap_or_default();
    let kind = note.text("type", draft).unwrap_or_default();
    if !["limit_hit", "limit_miss", "heartbeat"].contains(&event.as_str()) {
        let text = format!("{event:?} is none, so the notification is left out, as there");
        return note.note("event", &text, draft);
    }
    if kind != "url" {
        let text = format!("{kind:?} is none, so the notification is left out, as there");
        return note.note("type", &text, draft);
    }
    let Some(url) = note.text("url", draft) else {
        return note.wrong("url", "it is needed", draft);
    };
    let login = Login::read(&mut note, users, draft);
    draft.text += "\n[[notification]]\n";
    for (key, value) in [("event", event), ("url", url)] {
        draft.text += &format!("{key} = {}\n", toml::Value::from(value));
    }
    if let Some(login) = login
        && ["basic", "bearer"].contains(&login.kind.as_str())
        && let Some(user) = login.users.into_iter().next()
    {
        draft.option("user", user, "The first one is told, as there.");
        draft.text += &format!("scheme = {}\n", toml::Value::from(login.kind));
    }
    note.leave_out_the_rest(draft);
}

/// `streams` of 2017 as resources, with the paths that came by themselves.
fn old_resources(top: &mut Keys, draft: &mut Draft) -> Vec<Keys> {
    let mut streams = top.objects("streams", draft);
    let mut others = Vec::new();
    let mut api = |kind: &str, serve: String, remote: &str| {
        let texts = [("type", "api"), ("api", kind), ("serve", &serve), ("remote", remote)];
        let values = texts.map(|(key, text)| (key.to_owned(), Value::from(text)));
        others.push(Keys { place: format!("the API of {serve}"), values: values.into() });
    };
    for stream in &mut streams {
        stream.values.insert("type".to_owned(), "stream".into());
        if let Some(serve) = stream_path(stream) {
            api("check", format!("/check{serve}"), &serve);
        }
    }
    api("health", "/health".to_owned(), "");
    api("statistics", "/stats".to_owned(), "");
    streams.into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::config::{AccessScheme, ApiKind, Config};

    fn draft(json: &str) -> Draft {
        drafted(serde_json::from_str(json).unwrap())
    }

    /// The configuration that a file becomes, and what was noted.
    fn config(json: &str) -> (Config, Vec<String>) {
        let draft = draft(json);
        assert!(draft.errors.is_empty(), "{:#?}", draft.errors);
        let config: Config = toml::from_str(&draft.text).unwrap();
        let config = config.with(&[]);
        (config.unwrap_or_else(|error| panic!("{error}\n{}", draft.text)), draft.notes)
    }

    /// The same, of one stream with these keys and a top level with those.
    fn of_stream(top: &str, keys: &str) -> (Config, Vec<String>) {
        config(&format!("{{ {top} \"resources\": [{}] }}", stream(keys)))
    }

    fn stream(keys: &str) -> String {
        format!(
            "{{ \"type\": \"stream\", \"serve\": \"/a.ts\", \"remote\": \"tcp://a:1\" {keys} }}"
        )
    }

    /// Each of the words in a note of its own, and nothing else.
    fn assert_notes(notes: &[String], words: &[&str]) {
        for word in words {
            let found = notes.iter().filter(|note| note.contains(word)).count();
            assert_eq!(found, 1, "{word}: {notes:#?}");
        }
        assert_eq!(notes.len(), words.len(), "{notes:#?}");
    }

    #[test]
    fn every_key_at_the_top_counts() {
        let (config, notes) = of_stream(
            r#""": "a comment", "": "another", "LISTEN": ":8000", "timeout": 5, "reconnect": 30,
               "ReadTimeout": 7, "maxconnections": 100, "fullconnections": 90,
               "heartbeatinterval": 20, "nostats": false, "profile": false, "log": "",
               "userlist": { "": "x", "alice": { "Password": "s" }, "b c": { "password": "t\"\\" } },"#,
            "",
        );
        assert_notes(&notes, &[]);
        assert_eq!(config.listen, ["[::]:8000".parse().unwrap()]);
        let viewers = &config.viewers;
        assert_eq!((viewers.max, viewers.full, viewers.heartbeat_interval_s), (100, 90, 20));
        assert_eq!(config.users.len(), 2);
        assert_eq!((config.users["alice"].as_str(), config.users["b c"].as_str()), ("s", "t\"\\"));
        let pull = &config.pull[0];
        assert_eq!((pull.connect_timeout_s, pull.read_timeout_s), (5, 7));
        assert_eq!((pull.reconnect_s, pull.reconnect_max_s), (1.0, 30));
    }

    #[test]
    fn a_small_file_has_the_defaults_of_the_original() {
        let (config, notes) = of_stream("", "");
        assert_notes(&notes, &[]);
        assert_eq!(config.listen, ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!((config.viewers.max, config.viewers.full), (0, 0));
        let pull = &config.pull[0];
        assert_eq!((pull.path.as_str(), pull.content_type.as_str()), ("/a.ts", "video/mpeg"));
        assert_eq!((pull.reconnect_max_s, pull.connect_timeout_s), (10, 10));
        assert_eq!((&pull.access, pull.live_folder().as_deref()), (&None, Some("/live/a/")));
    }

    #[test]
    fn addresses_are_read_as_go_does() {
        for (text, address) in [
            ("localhost:http", Some("127.0.0.1:80")),
            ("localhost:8000", Some("127.0.0.1:8000")),
            (":https", Some("[::]:443")),
            ("[::1]:80", Some("[::1]:80")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("cam.example:80", None),
            ("::1:80", None),
            ("8000", None),
            (":0", None),
        ] {
            assert_eq!(parse_listen(text), address.map(|text| text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn every_key_of_a_stream_counts() {
        let (config, notes) = of_stream(
            r#""userlist": { "alice": { "password": "s" }, "bob": { "password": "t" } },"#,
            r#", "remotes": ["udp://239.0.0.1:5000", "fork://cmd?a%20b+c"], "clientinterface": "eth1",
               "mru": 3000, "preamble": "p.ts", "cache": 0, "api": "",
               "authentication": { "type": "basic", "realm": "R", "user": "alice", "users": ["bob"] }"#,
        );
        assert_notes(&notes, &[]);
        let pull = &config.pull[0];
        assert_eq!(pull.upstreams, ["tcp://a:1", "udp://239.0.0.1:5000", "fork://cmd?a+b+c"]);
        assert_eq!((pull.interface.as_deref(), pull.datagram_bytes_max), (Some("eth1"), 3000));
        assert_eq!(pull.preamble.as_deref(), Some(std::path::Path::new("p.ts")));
        let access = pull.access.as_ref().unwrap();
        assert_eq!((access.scheme, access.realm.as_str()), (AccessScheme::Basic, "R"));
        assert_eq!(access.users, ["alice", "bob"]);
    }

    #[test]
    fn statics_and_apis_become_sections() {
        let (config, notes) = config(&format!(
            r#"{{ "timeout": 3, "userlist": {{ "a": {{ "password": "s" }} }}, "resources": [
                {}, {{ "type": "static", "serve": "/s/", "remote": "file:///s", "cache": 60 }},
                {{ "type": "api", "api": "health", "serve": "/health" }},
                {{ "type": "api", "api": "statistics", "serve": "/stat",
                   "authentication": {{ "type": "bearer", "user": "a" }} }},
                {{ "type": "api", "api": "prometheus", "serve": "/prom" }},
                {{ "type": "api", "api": "check", "serve": "/check", "remote": "/a.ts" }},
                {{ "type": "api", "api": "control", "serve": "/control", "remote": "/a.ts" }} ],
              "notifications": [
                {{ "event": "limit_hit", "type": "url", "url": "http://n/1",
                   "authentication": {{ "type": "basic", "users": ["a"] }} }},
                {{ "event": "heartbeat", "type": "url", "url": "http://n/2" }} ] }}"#,
            stream("")
        ));
        assert_notes(&notes, &[]);
        let file = &config.r#static[0];
        assert_eq!((file.path.as_str(), file.upstream.as_str()), ("/s/", "file:///s"));
        assert_eq!((file.cache_s, file.timeout_s), (60, 3));
        let kinds: Vec<ApiKind> = config.api.iter().filter_map(|api| api.kind).collect();
        use ApiKind::{Check, Control, Health, Prometheus, Statistics};
        assert_eq!(kinds, [Health, Statistics, Prometheus, Check, Control]);
        assert_eq!(config.api[1].access.as_ref().unwrap().scheme, AccessScheme::Bearer);
        assert_eq!(config.api[4].pull.as_deref(), Some("/a.ts"));
        let [first, second] = config.notification.as_slice() else { panic!("{config:?}") };
        assert_eq!((first.user.as_deref(), first.scheme), (Some("a"), Some(AccessScheme::Basic)));
        assert_eq!((second.url.as_str(), &second.user), ("http://n/2", &None));
    }

    #[test]
    fn what_has_no_meaning_is_told() {
        let (config, notes) = of_stream(
            r#""inputbuffer": 1000, "outputbuffer": 400, "log": "l", "profile": true, "nostats": true,
               "cachesize": 5, "timeout": 0, "reconnect": 0, "readtimeout": 0, "other": 1,
               "maxconnections": 20000, "fullconnections": 30000, "heartbeatinterval": 0,"#,
            r#", "cache": 5, "mru": 9000, "clientinterface": "eth0", "more": 1"#,
        );
        assert_notes(
            &notes,
            &[
                "inputbuffer: ",
                "outputbuffer: ",
                "log: ",
                "profile: ",
                "nostats: ",
                "cachesize: ",
                "timeout: 0 was no limit; here there is always one: connect",
                "reconnect: ",
                "readtimeout: 0 was no limit",
                "other: unknown",
                "limits.connections_max",
                "fullconnections: ",
                "heartbeatinterval: ",
                "resources[0].cache: ",
                "resources[0].mru: ",
                "resources[0].clientinterface: ",
                "resources[0].more: unknown",
            ],
        );
        assert_eq!((config.viewers.max, config.viewers.full), (20_000, 0));
    }

    #[test]
    fn what_was_left_out_there_is_left_out() {
        let (config, notes) = config(&format!(
            r#"{{ "resources": [
                {{ "type": "api", "api": "check", "serve": "/early", "remote": "/a.ts" }},
                {}, {{ "type": "film", "serve": "/f" }}, {{ "serve": "/g" }},
                {{ "type": "stream", "serve": "/empty" }},
                {{ "type": "api", "api": "stats", "serve": "/h" }},
                {{ "type": "api", "api": "check", "serve": "/i", "remote": "/empty" }},
                {{ "type": "api", "api": "health", "serve": "/j", "remote": "/a.ts" }} ],
              "notifications": [ {{ "event": "x", "type": "url", "url": "http://n" }},
                {{ "event": "heartbeat", "type": "mail", "url": "http://n" }} ] }}"#,
            stream("")
        ));
        let words = [
            "resources[0].remote: the stream is further down",
            "resources[2].type: \"film\"",
            "resources[3].type: it is missing",
            "resources[4].remote: it has no remote",
            "resources[5].api: \"stats\"",
            "resources[6].remote: no stream is served there",
            "resources[7].remote: it means nothing for health",
            "notifications[0].event: \"x\"",
            "notifications[1].type: \"mail\"",
        ];
        assert_notes(&notes, &words);
        assert_eq!((config.pull.len(), config.api.len(), config.notification.len()), (1, 2, 0));
    }

    #[test]
    fn who_was_not_let_in_is_not_let_in() {
        let users = r#""userlist": { "a": { "password": "s" } },"#;
        for (authentication, scheme, words) in [
            (r#"{ "type": "digest", "user": "a" }"#, AccessScheme::Bearer, &["let nobody in"][..]),
            (r#"{ "type": "basic" }"#, AccessScheme::Basic, &["no user of the userlist"]),
            (
                r#"{ "type": "bearer", "users": ["eve"] }"#,
                AccessScheme::Bearer,
                &["\"eve\" is not in", "no user of the userlist"],
            ),
        ] {
            let keys = format!(", \"authentication\": {authentication}");
            let (config, notes) = of_stream(users, &keys);
            let access = config.pull[0].access.as_ref().unwrap();
            assert_eq!((access.scheme, access.users.len()), (scheme, 0), "{authentication}");
            assert_notes(&notes, words);
        }
        let (config, notes) = of_stream(users, ", \"authentication\": { \"user\": \"a\" }");
        assert_eq!(config.pull[0].access, None);
        assert_notes(&notes, &["everybody is let in"]);
    }

    #[test]
    fn two_files_of_one_name_share_no_folder() {
        let other = stream("").replace("/a.ts", "/b/a.ts");
        let (config, _) = config(&format!("{{ \"resources\": [{}, {other}] }}", stream("")));
        assert_eq!(config.pull[0].live_folder().as_deref(), Some("/live/a/"));
        assert_eq!(config.pull[1].live_folder(), None);
    }

    #[test]
    fn the_file_of_2017_becomes_the_same() {
        let text = r#"{ "listen": "localhost:8000", "timeout": 0, "inputbuffer": 1000,
            "outputbuffer": 300, MAX "streams": [
            { "serve": "/a.ts", "remote": "http://localhost:10000/a.ts" },
            { "serve": "/pipe.ts", "remote": "file:///tmp/pipe.ts" } ] }"#;
        let (known, notes) = config(&text.replace("MAX", "\"maxconnections\": 50,"));
        assert_notes(&notes, &["timeout: ", "inputbuffer: ", "outputbuffer: ", "maxconnections: "]);
        assert_eq!((known.viewers.max, known.pull.len()), (100, 2));
        let paths: Vec<&str> = known.api.iter().map(|api| api.path.as_str()).collect();
        assert_eq!(paths, ["/check/a.ts", "/check/pipe.ts", "/health", "/stats"]);
        let (unknown, _) = config(&text.replace("MAX", ""));
        assert_eq!(unknown.viewers.max, 2);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_its_place() {
        let draft = draft(
            r#"{ "listen": "cam.example:80", "timeout": "1", "reconnect": -1, "maxconnections": 1.5,
                "userlist": { "a": { "password": "" }, "b": 1 }, "log": 1, "notifications": [
                    { "event": "heartbeat", "type": "url" } ], "resources": [ 1,
                { "type": "stream", "remote": "tcp://a:1" },
                { "type": "stream", "serve": "/a", "remote": "http://u:secret@a b/" },
                { "type": "stream", "serve": "/a", "remotes": ["srt://a:1", 1] },
                { "type": "static", "serve": "/s", "remote": "logo.png" } ] }"#,
        );
        for words in [
            "listen: \"cam.example:80\"",
            "timeout: a whole number",
            "reconnect: a whole number",
            "maxconnections: a whole number",
            "userlist.a.password: it is empty",
            "userlist.b: an object",
            "notifications[0].url: it is needed",
            "resources[0]: an object",
            "resources[1].serve: a path",
            "resources[2].remote: \"http://…@a b/\"",
            "resources[3].serve: \"/a\" is there twice",
            "resources[3].remotes: a list of texts",
            "resources[4].remote: \"logo.png\": it has no scheme",
        ] {
            let found = draft.errors.iter().filter(|error| error.starts_with(words)).count();
            assert_eq!(found, 1, "{words}: {:#?}", draft.errors);
        }
        assert_eq!(draft.errors.len(), 13, "{:#?}", draft.errors);
        for json in ["{}", "[]", r#"{ "resources": [] }"#, r#"{ "resources": {} }"#] {
            assert!(!super::drafted(serde_json::from_str(json).unwrap()).errors.is_empty());
        }
    }
}
