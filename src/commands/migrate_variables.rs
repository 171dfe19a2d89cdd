//! What the environment variables of ws-stream-server and of its coordinator said, for `migrate`. They
//! are read with the sense that their documentation promises, which is not always what those programs
//! did; wrong values are errors with their line, never defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use anyhow::Context;

use super::dotenv::{self, Variable};
use super::migrate::VariablesArgs;
use super::migrate_draft::Draft;
use crate::operations::config::parse_range;

pub(super) fn migrate_server(args: &VariablesArgs) -> anyhow::Result<()> {
    migrate(args, write_server)
}

pub(super) fn migrate_coordinator(args: &VariablesArgs) -> anyhow::Result<()> {
    migrate(args, write_coordinator)
}

fn migrate(args: &VariablesArgs, write: fn(&mut Migration)) -> anyhow::Result<()> {
    let mut migration = Migration { variables: read_file(args)?, draft: Draft::default() };
    if args.environment {
        let known = known_names();
        let ours = std::env::vars().filter(|(name, _)| known.contains(&name.as_str()));
        let ours = ours.map(|(name, value)| (name, Variable { value, line: ENVIRONMENT }));
        migration.variables.extend(ours);
    }
    write(&mut migration);
    migration.leave_out_the_rest();
    migration.draft.print(&args.file.display().to_string())
}

fn read_file(args: &VariablesArgs) -> anyhow::Result<BTreeMap<String, Variable>> {
    let file = args.file.display();
    let text = match std::fs::read_to_string(&args.file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && args.environment => {
            String::new()
        }
        read => read.with_context(|| format!("cannot read {file}"))?,
    };
    dotenv::parse(&text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{file} is no file of variables:\n  {}", lines.join("\n  "))
    })
}

/// The line of a variable that came from the environment.
const ENVIRONMENT: usize = 0;

const SHARED: &str = "HTTP_PORT BIND_ADDRESS SSL_PORT SSL_CERT SSL_KEY SSL_CHECK_RELOAD_SECONDS \
     CONTROL_SECRET ID_MAX_LENGTH LOG_REQUESTS LOG_DEBUG";

/// What only the server reads.
const SERVER: &str = "CONTROL_BASE_URL EXTERNAL_IP EXTERNAL_PORT EXTERNAL_SSL PLAY_WHITELIST \
     CONCURRENT_LIMIT_WHITELIST MAX_IP_CONCURRENT_CONNECTIONS GOP_CACHE_SIZE_MB \
     DISABLE_TEST_CLIENT RTMP_CHUNK_SIZE";

/// What only the coordinator reads.
const COORDINATOR: &str = "KEY_VERIFICATION_URL KEY_VERIFICATION_AUTH KEY_VERIFICATION_AUTH_USER \
     KEY_VERIFICATION_PASSWORD KEY_VERIFICATION_AUTH_PASSWORD KEY_VERIFICATION_AUTH_TOKEN \
     KEY_VERIFICATION_AUTH_CUSTOM EVENT_CALLBACK_URL EVENT_CALLBACK_AUTH EVENT_CALLBACK_AUTH_USER \
     EVENT_CALLBACK_PASSWORD EVENT_CALLBACK_AUTH_PASSWORD EVENT_CALLBACK_AUTH_TOKEN \
     EVENT_CALLBACK_AUTH_CUSTOM COMMANDS_API_AUTH COMMANDS_API_AUTH_USER COMMANDS_API_PASSWORD \
     COMMANDS_API_AUTH_PASSWORD COMMANDS_API_AUTH_TOKEN";

fn known_names() -> Vec<&'static str> {
    [SHARED, SERVER, COORDINATOR].iter().flat_map(|names| names.split_whitespace()).collect()
}

/// The defaults of both programs.
const HTTP_PORT: u16 = 80;
const CONNECTIONS_PER_IP: u64 = 4;

/// Variables on their way to a TOML text.
struct Migration {
    /// Those that nobody has asked for yet.
    variables: BTreeMap<String, Variable>,
    draft: Draft,
}

fn place(line: usize) -> String {
    match line {
        ENVIRONMENT => "environment".to_owned(),
        line => format!("line {line}"),
    }
}

impl Migration {
    /// A variable with something in it; to those programs an empty one is absent.
    fn take(&mut self, name: &str) -> Option<Variable> {
        self.variables.remove(name).filter(|variable| !variable.value.trim().is_empty())
    }

    fn text_of(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|variable| variable.value)
    }

    fn parsed<T: FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let variable = self.take(name)?;
        let parsed = variable.value.trim().parse().ok();
        if parsed.is_none() {
            self.wrong(name, &variable, wanted);
        }
        parsed
    }

    fn port(&mut self, name: &str) -> Option<u16> {
        self.parsed(name, "a port is needed, 1 to 65535").map(NonZeroU16::get)
    }

    fn wrong(&mut self, name: &str, Variable { value, line }: &Variable, wanted: &str) {
        self.draft.errors.push(format!("{}: {name}={value}: {wanted}", place(*line)));
    }

    fn note(&mut self, name: &str, line: usize, text: &str) {
        self.draft.notes.push(format!("{}: {name}: {text}", place(line)));
    }

    fn switch(&mut self, name: &str) -> Option<bool> {
        let variable = self.take(name)?;
        match variable.value.trim().to_ascii_uppercase().as_str() {
            "YES" => Some(true),
            "NO" => Some(false),
            _ => {
                self.wrong(name, &variable, "YES or NO is needed");
                None
            }
        }
    }

    /// A list of addresses; `None` if it is not there, `Some(None)` for `*`.
    fn addresses(&mut self, name: &str) -> Option<Option<Vec<String>>> {
        let variable = self.take(name)?;
        let parts = variable.value.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parts: Vec<String> = parts.map(str::to_owned).collect();
        if parts.iter().any(|part| part == "*") {
            return Some(None);
        }
        for part in &parts {
            if let Err(why) = parse_range(part) {
                self.wrong(name, &variable, &why);
            }
        }
        Some(Some(parts))
    }

    /// Say of variables that they do nothing here.
    fn without_meaning(&mut self, names: &[&str], why: &str) {
        for name in names {
            if let Some(variable) = self.take(name) {
                self.note(name, variable.line, why);
            }
        }
    }

    /// Complain about variables that nobody has asked for.
    fn leave_out_the_rest(&mut self) {
        let owner = |name: &str| {
            let reads = |names: &str| names.split_whitespace().any(|one| one == name);
            if reads(SERVER) {
                "the server reads it: headwater migrate ws-stream-server"
            } else if reads(COORDINATOR) {
                "the coordinator reads it: headwater migrate ws-stream-coordinator"
            } else {
                "unknown, left out"
            }
        };
        for (name, variable) in std::mem::take(&mut self.variables) {
            self.note(&name, variable.line, owner(&name));
        }
    }

    /// `HTTP_PORT` and `BIND_ADDRESS`.
    fn listen(&mut self, why: &str) {
        let port = self.port("HTTP_PORT").unwrap_or(HTTP_PORT);
        let wanted = "an IP address is needed";
        let bind = self.take("BIND_ADDRESS").map(|variable| {
            let value = variable.value.trim().trim_matches(['[', ']']);
            let ip = match value {
                "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
                value => value.parse(),
            };
            ip.map_err(|_| self.wrong("BIND_ADDRESS", &variable, wanted))
        });
        let ip = bind.and_then(Result::ok).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let address = SocketAddr::new(ip, port).to_string();
        self.draft.option("listen", vec![address], why);
    }

    fn log(&mut self) {
        if self.switch("LOG_DEBUG") == Some(true) {
            self.draft.option("log", "debug", "LOG_DEBUG");
        }
        self.without_meaning(&["LOG_REQUESTS"], "there is no line for each request; see log");
    }

    fn tls(&mut self) {
        let why = "no TLS here: put a proxy with the certificate in front";
        let names = ["SSL_PORT", "SSL_CERT", "SSL_KEY", "SSL_CHECK_RELOAD_SECONDS"];
        self.without_meaning(&names, why);
    }

    fn id_length(&mut self) {
        let wanted = "a number above 0 is needed";
        if let Some(letters) = self.parsed::<NonZeroU32>("ID_MAX_LENGTH", wanted) {
            self.draft.option("id_length_max", i64::from(letters.get()), "ID_MAX_LENGTH");
        }
    }
}

fn write_server(migration: &mut Migration) {
    migration.draft.text += "# Who reaches this address may upload objects too, and delete them. With listen in\n\
         # [channels] channels have an address to themselves.\n";
    migration.listen("HTTP_PORT and BIND_ADDRESS");
    migration.log();
    migration.tls();
    migration.draft.table("channels");
    if let Some(megabytes) = migration.parsed::<u32>("GOP_CACHE_SIZE_MB", "a number is needed") {
        let bytes = i64::from(megabytes) << 20;
        migration.draft.option("cache_bytes_max", bytes, "GOP_CACHE_SIZE_MB; 0 is no cache.");
    }
    connections_per_ip(migration);
    match migration.addresses("PLAY_WHITELIST") {
        Some(Some(from)) => migration.draft.option("play_from", from, "PLAY_WHITELIST"),
        Some(None) => migration.draft.text += "# PLAY_WHITELIST=*: everybody may receive.\n",
        None => {}
    }
    migration.id_length();
    coordinator_of_server(migration);
    let unread = "not even the original reads it";
    migration.without_meaning(&["RTMP_CHUNK_SIZE"], unread);
    let client = "the demo page is on the admin address only: /publish and /player";
    migration.without_meaning(&["DISABLE_TEST_CLIENT"], client);
}

/// `MAX_IP_CONCURRENT_CONNECTIONS` and who it does not count: here valid numbers count.
fn connections_per_ip(migration: &mut Migration) {
    let name = "MAX_IP_CONCURRENT_CONNECTIONS";
    let line = migration.variables.get(name).map_or(ENVIRONMENT, |variable| variable.line);
    let given = migration.parsed::<u32>(name, "a number is needed").map(u64::from);
    if given == Some(0) {
        migration.note(name, line, "0 is no limit here");
    }
    let unlimited = migration.addresses("CONCURRENT_LIMIT_WHITELIST");
    let (most, why) = match (&unlimited, given) {
        (Some(None), _) => (0, "CONCURRENT_LIMIT_WHITELIST=*: nobody is counted."),
        (_, Some(most)) => (most, name),
        (_, None) => (CONNECTIONS_PER_IP, "The original's default; here it is no limit."),
    };
    migration.draft.option("connections_per_ip_max", most as i64, why);
    if let Some(Some(from)) = unlimited {
        migration.draft.option("unlimited_from", from, "CONCURRENT_LIMIT_WHITELIST");
    }
}

fn coordinator_of_server(migration: &mut Migration) {
    let url = migration.take("CONTROL_BASE_URL");
    let base = url.as_ref().and_then(|variable| {
        let base = websocket_base(variable.value.trim());
        if base.is_none() {
            migration.wrong("CONTROL_BASE_URL", variable, "ws://HOST:PORT or wss:// is needed");
        }
        base
    });
    if let Some(base) = base {
        let why = "CONTROL_BASE_URL; as there, its path does not count.";
        migration.draft.option("coordinator_url", base, why);
    }
    if let Some(secret) = migration.text_of("CONTROL_SECRET") {
        migration.draft.option("coordinator_secret", secret, "CONTROL_SECRET");
    }
    let ip = migration.parsed::<IpAddr>("EXTERNAL_IP", "an IP address is needed");
    if let Some(ip) = ip {
        migration.draft.option("external_ip", ip.to_string(), "EXTERNAL_IP");
    }
    if let Some(port) = migration.port("EXTERNAL_PORT") {
        migration.draft.option("external_port", i64::from(port), "EXTERNAL_PORT");
    }
    if let Some(is_tls) = migration.switch("EXTERNAL_SSL") {
        migration.draft.option("external_tls", is_tls, "EXTERNAL_SSL");
    }
}

/// Scheme and host of a URL, as one of WebSockets.
fn websocket_base(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return None,
    };
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty())?;
    Some(format!("{scheme}://{host}"))
}

fn write_coordinator(migration: &mut Migration) {
    migration.log();
    migration.tls();
    migration.draft.table("coordinator");
    migration.listen("HTTP_PORT and BIND_ADDRESS");
    if let Some(secret) = migration.text_of("CONTROL_SECRET") {
        migration.draft.option("secret", secret, "CONTROL_SECRET");
    }
    migration.id_length();
    migration.draft.text += "# The original denies every publisher while no encoder has room:\n\
         # require_encoder = true\n";
    if let Some(auth) = commands_auth(migration) {
        migration.draft.option("commands_auth", auth, "COMMANDS_API_AUTH");
    }
    for (key, prefix) in
        [("key_verification", "KEY_VERIFICATION"), ("event_callback", "EVENT_CALLBACK")]
    {
        if let Some(hook) = hook(migration, prefix) {
            migration.draft.option(key, hook, &format!("{prefix}_URL and {prefix}_AUTH"));
        }
    }
}

/// A web-hook with what it wants to see.
fn hook(migration: &mut Migration, prefix: &str) -> Option<toml::Table> {
    let url = migration.take(&format!("{prefix}_URL"));
    let auth = auth(migration, prefix, true);
    let url = url?;
    if !["http://", "https://"].iter().any(|scheme| url.value.trim().starts_with(scheme)) {
        migration.wrong(&format!("{prefix}_URL"), &url, "http:// or https:// is needed");
    }
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), url.value.trim().into());
    if let Some(auth) = auth {
        table.insert("auth".to_owned(), auth.into());
    }
    Some(table)
}

fn commands_auth(migration: &mut Migration) -> Option<toml::Table> {
    let prefix = "COMMANDS_API";
    let is_basic = migration.variables.get("COMMANDS_API_AUTH");
    let is_basic = is_basic.is_some_and(|auth| auth.value.trim().eq_ignore_ascii_case("basic"));
    let named = ["COMMANDS_API_PASSWORD", "COMMANDS_API_AUTH_PASSWORD"];
    let token = migration.variables.get("COMMANDS_API_AUTH_TOKEN").cloned();
    if let (true, Some(token)) = (is_basic, token) {
        // The original takes the password of Basic from there, whatever its documentation says.
        migration.variables.remove("COMMANDS_API_AUTH_TOKEN");
        let has_password = named.iter().any(|name| migration.variables.contains_key(*name));
        let text = if has_password {
            "the original takes the password from here; now it is the documented one"
        } else {
            "taken as the password, as the original does"
        };
        migration.note("COMMANDS_API_AUTH_TOKEN", token.line, text);
        if !has_password {
            migration.variables.insert(named[1].to_owned(), token);
        }
    }
    auth(migration, prefix, false)
}

/// The value of `PREFIX_AUTH` with the variables that belong to it; those of other kinds are told.
fn auth(migration: &mut Migration, prefix: &str, has_custom: bool) -> Option<toml::Table> {
    let name = format!("{prefix}_AUTH");
    let kind = migration.take(&name);
    let mut suffixes = vec![
        ("user", "AUTH_USER"),
        ("password", "PASSWORD"),
        ("password", "AUTH_PASSWORD"),
        ("token", "AUTH_TOKEN"),
    ];
    if has_custom {
        suffixes.push(("value", "AUTH_CUSTOM"));
    }
    let fields = suffixes.into_iter().filter_map(|(key, suffix)| {
        let name = format!("{prefix}_{suffix}");
        migration.take(&name).map(|variable| (key, name, variable))
    });
    let fields: Vec<_> = fields.collect();
    let kinds: &[(&str, &[&str])] =
        &[("basic", &["user", "password"]), ("bearer", &["token"]), ("custom", &["value"])];
    let wanted = kind.as_ref().map(|kind| kind.value.trim().to_ascii_lowercase());
    let keys = kinds
        .iter()
        .filter(|(name, _)| has_custom || *name != "custom")
        .find(|(name, _)| Some(*name) == wanted.as_deref());
    let mut table = toml::Table::new();
    for (key, name, variable) in fields {
        match keys {
            Some((_, keys)) if keys.contains(&key) => {
                table.insert(key.to_owned(), variable.value.into());
            }
            _ => migration.note(&name, variable.line, "not of the kind of authentication chosen"),
        }
    }
    let kind = kind?;
    let Some((name_of_kind, keys)) = keys else {
        let wanted = if has_custom { "Basic, Bearer or Custom" } else { "Basic or Bearer" };
        migration.wrong(&name, &kind, &format!("{wanted} is needed"));
        return None;
    };
    if let Some(missing) = keys.iter().find(|key| !table.contains_key(**key)) {
        migration.wrong(&name, &kind, &format!("its {missing} is missing"));
    }
    table.insert("type".to_owned(), (*name_of_kind).into());
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::config::{Config, HookAuth};

    fn migrated(write: fn(&mut Migration), text: &str) -> Migration {
        let variables = dotenv::parse(text).unwrap();
        let mut migration = Migration { variables, draft: Draft::default() };
        write(&mut migration);
        migration.leave_out_the_rest();
        migration
    }

    /// The configuration that variables become, and what was noted.
    fn config(write: fn(&mut Migration), text: &str) -> (Config, Vec<String>) {
        let migration = migrated(write, text);
        assert!(migration.draft.errors.is_empty(), "{:?}", migration.draft.errors);
        let config: Config = toml::from_str(&migration.draft.text).unwrap();
        (config.with(&[]).unwrap(), migration.draft.notes)
    }

    #[test]
    fn a_server_without_variables_has_the_defaults_of_the_original() {
        let (config, notes) = config(write_server, "");
        let channels = config.channels;
        assert_eq!(config.listen, ["[::]:80".parse().unwrap()]);
        assert_eq!((channels.connections_per_ip_max, channels.cache_bytes_max), (4, 256 << 20));
        assert_eq!((channels.id_length_max, channels.play_from.len()), (128, 0));
        assert_eq!(channels.coordinator_url, None);
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn every_variable_of_the_server_counts() {
        let text = "HTTP_PORT=8080\nBIND_ADDRESS=10.0.0.1\nGOP_CACHE_SIZE_MB=16\n\
            PLAY_WHITELIST=10.0.0.0/8, ::1,192.168.1.7\nCONCURRENT_LIMIT_WHITELIST=127.0.0.1\n\
            MAX_IP_CONCURRENT_CONNECTIONS=9\nID_MAX_LENGTH=32\nLOG_DEBUG=YES\n\
            CONTROL_BASE_URL=https://c.example:444/some/path\nCONTROL_SECRET='a\"b\\c'\n\
            EXTERNAL_IP=203.0.113.5\nEXTERNAL_PORT=443\nEXTERNAL_SSL=YES\n";
        let (config, notes) = config(write_server, text);
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(config.listen, ["10.0.0.1:8080".parse().unwrap()]);
        assert_eq!(config.log, "debug");
        let channels = config.channels;
        assert_eq!(channels.cache_bytes_max, 16 << 20);
        assert_eq!(channels.play_from, ["10.0.0.0/8", "::1", "192.168.1.7"]);
        assert_eq!(channels.unlimited_from, ["127.0.0.1"]);
        assert_eq!((channels.connections_per_ip_max, channels.id_length_max), (9, 32));
        assert_eq!(channels.coordinator_url.unwrap(), "wss://c.example:444");
        assert_eq!(channels.coordinator_secret.unwrap(), "a\"b\\c");
        assert_eq!(channels.external_ip.unwrap(), "203.0.113.5");
        assert_eq!((channels.external_port, channels.external_tls), (Some(443), true));
    }

    #[test]
    fn a_star_is_everybody_and_zero_no_cache() {
        let text = "PLAY_WHITELIST=*\nCONCURRENT_LIMIT_WHITELIST=*\nGOP_CACHE_SIZE_MB=0\n\
            MAX_IP_CONCURRENT_CONNECTIONS=3\nBIND_ADDRESS=localhost\n";
        let (config, _) = config(write_server, text);
        let channels = config.channels;
        assert!(channels.play_from.is_empty() && channels.unlimited_from.is_empty());
        assert_eq!((channels.connections_per_ip_max, channels.cache_bytes_max), (0, 0));
        assert_eq!(config.listen, ["127.0.0.1:80".parse().unwrap()]);
    }

    #[test]
    fn wrong_values_are_errors_with_their_line() {
        let text = "HTTP_PORT=http\nBIND_ADDRESS=all\nGOP_CACHE_SIZE_MB=lots\n\
            PLAY_WHITELIST=10.0.0.0/33\nMAX_IP_CONCURRENT_CONNECTIONS=-1\nEXTERNAL_SSL=true\n\
            CONTROL_BASE_URL=c.example\nEXTERNAL_IP=c.example\nEXTERNAL_PORT=70000\n\
            CONCURRENT_LIMIT_WHITELIST=me\nID_MAX_LENGTH=0\nLOG_DEBUG=1\n";
        let errors = migrated(write_server, text).draft.errors;
        assert_eq!(errors.len(), text.lines().count(), "{errors:#?}");
        for (index, line) in text.lines().enumerate() {
            let name = line.split('=').next().unwrap();
            let start = format!("line {}: {name}=", index + 1);
            assert!(errors.iter().any(|error| error.starts_with(&start)), "{start} {errors:#?}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_told() {
        let text = "RTMP_CHUNK_SIZE=1\nSSL_CERT=c.pem\nSSL_KEY=k.pem\nDISABLE_TEST_CLIENT=YES\n\
            LOG_REQUESTS=NO\nKEY_VERIFICATION_URL=http://a\nGOP_CACHE_SIZE=1\n\
            MAX_IP_CONCURRENT_CONNECTIONS=0\nSSL_PORT=\n";
        let (_, notes) = config(write_server, text);
        for (line, words) in [
            (1, "not even the original"),
            (2, "proxy"),
            (3, "proxy"),
            (4, "/publish"),
            (5, "log"),
            (6, "migrate ws-stream-coordinator"),
            (7, "unknown"),
            (8, "no limit"),
        ] {
            let is_it = |note: &&String| {
                note.starts_with(&format!("line {line}: ")) && note.contains(words)
            };
            assert_eq!(notes.iter().filter(is_it).count(), 1, "{line} {words}: {notes:#?}");
        }
    }

    #[test]
    fn every_variable_of_the_coordinator_counts() {
        let text = "HTTP_PORT=8080\nCONTROL_SECRET=s\nID_MAX_LENGTH=64\n\
            KEY_VERIFICATION_URL=http://a.example/k\nKEY_VERIFICATION_AUTH=Basic\n\
            KEY_VERIFICATION_AUTH_USER=u\nKEY_VERIFICATION_PASSWORD=p\n\
            EVENT_CALLBACK_URL=https://a.example/e\nEVENT_CALLBACK_AUTH=Custom\n\
            EVENT_CALLBACK_AUTH_CUSTOM=\"Secret x\"\n\
            COMMANDS_API_AUTH=Bearer\nCOMMANDS_API_AUTH_TOKEN=t\n";
        let (config, notes) = config(write_coordinator, text);
        assert!(notes.is_empty(), "{notes:?}");
        let coordinator = config.coordinator;
        assert_eq!(coordinator.listen, ["[::]:8080".parse().unwrap()]);
        assert_eq!((coordinator.secret.as_deref(), coordinator.id_length_max), (Some("s"), 64));
        assert!(!coordinator.require_encoder);
        let key = coordinator.key_verification.unwrap();
        let basic = HookAuth::Basic { user: "u".into(), password: "p".into() };
        assert_eq!((key.url.as_str(), key.auth), ("http://a.example/k", Some(basic)));
        let event = coordinator.event_callback.unwrap();
        assert_eq!(event.auth, Some(HookAuth::Custom { value: "Secret x".into() }));
        assert_eq!(coordinator.commands_auth, Some(HookAuth::Bearer { token: "t".into() }));
    }

    /// The documented password wins; where only the other one is there, it goes on to work.
    #[test]
    fn the_password_of_the_commands_has_two_names() {
        let text =
            "COMMANDS_API_AUTH=Basic\nCOMMANDS_API_AUTH_USER=u\nCOMMANDS_API_AUTH_TOKEN=old\n";
        for (text, password) in [
            (text.to_owned(), "old"),
            (format!("{text}COMMANDS_API_AUTH_PASSWORD=new\n"), "new"),
            (format!("{text}COMMANDS_API_PASSWORD=new\n"), "new"),
        ] {
            let (config, notes) = config(write_coordinator, &text);
            let wanted = HookAuth::Basic { user: "u".into(), password: password.into() };
            assert_eq!(config.coordinator.commands_auth, Some(wanted));
            assert!(notes.len() == 1 && notes[0].starts_with("line 3: "), "{notes:?}");
        }
    }

    #[test]
    fn wrong_hooks_are_errors_with_their_line() {
        for (text, words) in [
            ("KEY_VERIFICATION_URL=a\n", "line 1: KEY_VERIFICATION_URL=a: http://"),
            ("KEY_VERIFICATION_AUTH=Digest\n", "line 1: KEY_VERIFICATION_AUTH=Digest: Basic, "),
            ("EVENT_CALLBACK_AUTH=Basic\nEVENT_CALLBACK_AUTH_USER=u\n", "its password is missing"),
            ("COMMANDS_API_AUTH=Custom\n", "Basic or Bearer is needed"),
            ("COMMANDS_API_AUTH=Bearer\n", "its token is missing"),
        ] {
            let errors = migrated(write_coordinator, text).draft.errors;
            assert!(errors.len() == 1 && errors[0].contains(words), "{text}: {errors:?}");
        }
        let (_, notes) = config(
            write_coordinator,
            "KEY_VERIFICATION_AUTH=Bearer\nKEY_VERIFICATION_AUTH_TOKEN=t\n\
             KEY_VERIFICATION_AUTH_USER=u\nCOMMANDS_API_AUTH_CUSTOM=x\nPLAY_WHITELIST=*\n",
        );
        for words in ["not of the kind", "unknown", "migrate ws-stream-server"] {
            assert_eq!(notes.iter().filter(|note| note.contains(words)).count(), 1, "{notes:?}");
        }
    }
}
