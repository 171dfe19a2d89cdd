//! The URLs of what is pulled: which kind of source it is, and where it is. Nothing is opened and no
//! name is looked up here; the configuration checks with it, and who connects takes its parts.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// All that a stream may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// The body of what a GET is answered with.
    Http(HttpUrl),
    /// What comes through a connection to there.
    Tcp(HostPort),
    /// Datagrams that are sent to there: a multicast group, or an address of this machine.
    Udp(HostPort),
    /// The same, and each must be RTP.
    Rtp(HostPort),
    /// A file or a FIFO.
    File(PathBuf),
    /// A socket to connect to.
    Unix { kind: UnixKind, path: PathBuf },
    /// The standard output of a command: a name to be found in PATH, or an absolute path.
    Fork { command: String, arguments: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixKind {
    Stream,
    Datagram,
    SequencedPacket,
}

/// A name or an address, the latter without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    pub is_tls: bool,
    pub address: HostPort,
    /// Path and query, as they go into a request.
    pub target: String,
    pub credentials: Option<Credentials>,
}

/// What stands in front of the host: for Basic authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a URL leads nowhere. It never holds the URL, in which there may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it has no scheme such as http://")]
    NoScheme,
    #[error("{0}:// is none of {known}", known = SCHEMES.join(", "))]
    UnknownScheme(String),
    #[error("{0}:// is not possible here, http:// and https:// are")]
    NotHttp(String),
    #[error("a name or an address is needed behind the scheme, one of IPv6 in brackets")]
    Host,
    #[error("a port is needed, as in HOST:PORT, from 1 to 65535")]
    Port,
    #[error("nothing is possible behind HOST:PORT")]
    BehindPort,
    #[error("an absolute path is needed, with three slashes in front, as in file:///run/cam.ts")]
    Path,
    #[error("nothing is possible behind the path; as a part of it, ? is %3F and # is %23")]
    BehindPath,
    #[error("a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")]
    PathTooLong,
    #[error("NAME?ARGUMENT+ARGUMENT is needed, or /PATH?ARGUMENT+ARGUMENT")]
    Command,
    #[error("it has a percent sign that encodes nothing, or no text")]
    Escape,
    #[error("spaces and what is no ASCII must be percent-encoded, control characters cannot be")]
    Characters,
}

/// In the order in which they are told.
const SCHEMES: [&str; 10] =
    ["http", "https", "tcp", "udp", "rtp", "file", "unix", "unixgram", "unixpacket", "fork"];

/// Redirects that are followed; one more is an error.
pub const REDIRECTS_MAX: usize = 5;
/// Head of an answer; a longer one is an error.
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 << 10;

/// `sun_path` without the NUL at its end (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where datagrams are taken that are sent to no address in particular.
const EVERYWHERE: &str = "::";

impl UpstreamUrl {
    pub fn parse(text: &str) -> Result<UpstreamUrl, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        let unix = |kind| Ok(UpstreamUrl::Unix { kind, path: socket_path(rest)? });
        match scheme.as_str() {
            "http" | "https" => HttpUrl::parse(text).map(UpstreamUrl::Http),
            "tcp" => bare_address(rest).map(UpstreamUrl::Tcp),
            "udp" => group_address(rest).map(UpstreamUrl::Udp),
            "rtp" => group_address(rest).map(UpstreamUrl::Rtp),
            "file" => absolute_path(rest).map(|path| UpstreamUrl::File(path.into())),
            "unix" => unix(UnixKind::Stream),
            "unixgram" => unix(UnixKind::Datagram),
            "unixpacket" => unix(UnixKind::SequencedPacket),
            "fork" => parse_command(rest),
            _ => Err(UrlError::UnknownScheme(scheme)),
        }
    }
}

impl HttpUrl {
    pub fn parse(text: &str) -> Result<HttpUrl, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        let is_tls = match scheme.as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError::NotHttp(scheme)),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Characters);
        }
        // A fragment is the reader's own business.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (parse_credentials(credentials)?, address),
            None => (None, authority),
        };
        let address = match split_port(address)? {
            (host, Some(port)) => HostPort { host, port },
            (host, None) => HostPort { host, port: if is_tls { 443 } else { 80 } },
        };
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            target => target.to_owned(),
        };
        Ok(HttpUrl { is_tls, address, target, credentials })
    }

    /// As a request names it: without credentials.
    pub fn text(&self) -> String {
        let HttpUrl { is_tls, address: HostPort { host, port }, target, .. } = self;
        let scheme = if *is_tls { "https" } else { "http" };
        match host.contains(':') {
            true => format!("{scheme}://[{host}]:{port}{target}"),
            false => format!("{scheme}://{host}:{port}{target}"),
        }
    }

    /// Where a reference in an answer leads (RFC 3986 §5.2). Credentials stay on their server.
    pub fn join(&self, reference: &str) -> Result<HttpUrl, UrlError> {
        let reference = reference.split('#').next().unwrap_or_default();
        if let Some(rest) = reference.strip_prefix("//") {
            let scheme = if self.is_tls { "https" } else { "http" };
            return self.moved_to(HttpUrl::parse(&format!("{scheme}://{rest}"))?);
        }
        let path_end = reference.find(['/', '?']).unwrap_or(reference.len());
        if reference[..path_end].contains(':') {
            return self.moved_to(HttpUrl::parse(reference)?);
        }
        if !reference.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Characters);
        }
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let target = match reference.as_bytes().first() {
            None if query.is_empty() => path.to_owned(),
            None => self.target.clone(),
            Some(b'?') => format!("{path}{reference}"),
            Some(b'/') => without_dots(reference),
            Some(_) => {
                let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
                without_dots(&format!("{folder}{reference}"))
            }
        };
        Ok(HttpUrl { target, ..self.clone() })
    }

    fn moved_to(&self, other: HttpUrl) -> Result<HttpUrl, UrlError> {
        let is_same = (self.is_tls, &self.address) == (other.is_tls, &other.address);
        let credentials = self.credentials.clone().filter(|_| is_same);
        Ok(HttpUrl { credentials, ..other })
    }
}

/// RFC 3986 §5.2.4, of a path that begins with a slash and may have a query.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            part => kept.push(part),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// The text of a URL as logs and errors may show it: without the password, also where it holds letters
/// that should have been encoded.
pub fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_sound = authority.contains('@') || split_port(authority).is_ok();
    match if is_sound { authority } else { rest }.rfind('@') {
        Some(at) if at > 0 => format!("{scheme}://…{}", &rest[at..]),
        _ => text.to_owned(),
    }
}

fn split_scheme(text: &str) -> Result<(String, &str), UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !is_scheme {
        return Err(UrlError::NoScheme);
    }
    if text.contains(char::is_control) {
        return Err(UrlError::Characters);
    }
    Ok((scheme.to_ascii_lowercase(), rest))
}

fn parse_credentials(text: &str) -> Result<Option<Credentials>, UrlError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let credentials = Credentials { user: decode(user)?, password: decode(password)? };
    Ok((!text.is_empty()).then_some(credentials))
}

/// A host, and a port if there is one.
fn split_port(text: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(inside) => {
            let (address, port) = inside.split_once(']').ok_or(UrlError::Host)?;
            address.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
            (address, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_part = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if host.is_empty() || !host.chars().all(is_part) {
                return Err(UrlError::Host);
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(port) => Some(parse_port(port)?),
        None if port.is_empty() => None,
        None => return Err(UrlError::Port),
    };
    Ok((host.to_owned(), port))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    text.parse().map(NonZeroU16::get).map_err(|_| UrlError::Port)
}

/// `HOST:PORT` and nothing else, but for a slash.
fn bare_address(rest: &str) -> Result<HostPort, UrlError> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(UrlError::BehindPort);
    }
    let (host, port) = split_port(rest)?;
    Ok(HostPort { host, port: port.ok_or(UrlError::Port)? })
}

/// The same; players also write `@` in front of a group, and without a host it is every address.
fn group_address(rest: &str) -> Result<HostPort, UrlError> {
    let rest = rest.strip_prefix('@').unwrap_or(rest);
    match rest.strip_prefix(':') {
        Some(port) => bare_address(&format!("any:{port}"))
            .map(|address| HostPort { host: EVERYWHERE.to_owned(), ..address }),
        None => bare_address(rest),
    }
}

fn absolute_path(rest: &str) -> Result<String, UrlError> {
    if rest.contains(['?', '#']) {
        return Err(UrlError::BehindPath);
    }
    let path = decode(rest)?;
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(UrlError::Path);
    }
    Ok(path)
}

fn socket_path(rest: &str) -> Result<PathBuf, UrlError> {
    let path = absolute_path(rest)?;
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(UrlError::PathTooLong);
    }
    Ok(path.into())
}

/// `NAME?ARGUMENTS` or `/PATH?ARGUMENTS`; a plus sign stands between arguments, `%2B` is one and `%20`
/// is a blank inside of one.
fn parse_command(rest: &str) -> Result<UpstreamUrl, UrlError> {
    let (command, query) = rest.split_once('?').unwrap_or((rest, ""));
    let command = decode(command)?;
    let is_path = command.starts_with('/') && !command.ends_with('/');
    let is_name = !command.is_empty() && !command.contains(['/', '@', ':']);
    if !is_path && !is_name {
        return Err(UrlError::Command);
    }
    let arguments = match query {
        "" => Vec::new(),
        query => query.split('+').map(decode).collect::<Result<_, _>>()?,
    };
    Ok(UpstreamUrl::Fork { command, arguments })
}

/// What percent-encodings stand for: text without control characters.
fn decode(text: &str) -> Result<String, UrlError> {
    let is_broken = |piece: &str| {
        let digits = piece.as_bytes().first_chunk::<2>();
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if text.split('%').skip(1).any(is_broken) {
        return Err(UrlError::Escape);
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Escape)?;
    if decoded.contains(char::is_control) {
        return Err(UrlError::Characters);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<UpstreamUrl, UrlError> {
        UpstreamUrl::parse(text)
    }

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.to_owned(), port }
    }

    fn http(text: &str) -> HttpUrl {
        match parse(text) {
            Ok(UpstreamUrl::Http(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_scheme_has_its_parts() {
        let fork = |command: &str, arguments: &[&str]| UpstreamUrl::Fork {
            command: command.to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        };
        let unix = |kind| UpstreamUrl::Unix { kind, path: "/run/s 1".into() };
        for (text, expected) in [
            ("tcp://10.0.0.7:9000", UpstreamUrl::Tcp(at("10.0.0.7", 9000))),
            ("TCP://cam.example:9000/", UpstreamUrl::Tcp(at("cam.example", 9000))),
            ("udp://239.0.0.1:5000", UpstreamUrl::Udp(at("239.0.0.1", 5000))),
            ("udp://@239.0.0.1:5000", UpstreamUrl::Udp(at("239.0.0.1", 5000))),
            ("udp://:5000", UpstreamUrl::Udp(at("::", 5000))),
            ("rtp://[ff02::1]:5004", UpstreamUrl::Rtp(at("ff02::1", 5004))),
            ("file:///run/a%3Fb c.ts", UpstreamUrl::File("/run/a?b c.ts".into())),
            ("unix:///run/s%201", unix(UnixKind::Stream)),
            ("unixgram:///run/s 1", unix(UnixKind::Datagram)),
            ("unixpacket:///run/s 1", unix(UnixKind::SequencedPacket)),
            ("fork://ffmpeg?-i+a%20b%2Bc+-", fork("ffmpeg", &["-i", "a b+c", "-"])),
            ("fork://cat", fork("cat", &[])),
            ("fork:///usr/bin/my%20x?", fork("/usr/bin/my x", &[])),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn http_has_defaults() {
        let plain = http("http://cam.example");
        assert_eq!(
            (plain.is_tls, plain.address, plain.target.as_str()),
            (false, at("cam.example", 80), "/")
        );
        assert_eq!(plain.credentials, None);
        let full = http("https://al%3Aice:se%40cret@[::1]:8443/a/b?c=d#e");
        assert_eq!(
            (full.is_tls, full.address, full.target.as_str()),
            (true, at("::1", 8443), "/a/b?c=d")
        );
        let credentials = full.credentials.unwrap();
        assert!(!format!("{credentials:?}").contains("cret"));
        assert_eq!(
            (credentials.user.as_str(), credentials.password.as_str()),
            ("al:ice", "se@cret")
        );
        assert_eq!(http("https://a?b").target, "/?b");
        assert_eq!(http("https://a/").address.port, 443);
    }

    #[test]
    fn redirects_lead_where_rfc_3986_says() {
        let base = http("http://u:p@a:81/b/c/d?q");
        for (reference, wanted) in [
            ("", "http://a:81/b/c/d?q"),
            ("#s", "http://a:81/b/c/d?q"),
            ("g", "http://a:81/b/c/g"),
            ("./g/", "http://a:81/b/c/g/"),
            ("/g", "http://a:81/g"),
            ("?y", "http://a:81/b/c/d?y"),
            ("g?y#s", "http://a:81/b/c/g?y"),
            (".", "http://a:81/b/c/"),
            ("..", "http://a:81/b/"),
            ("../../../g", "http://a:81/g"),
            ("g?y/../x", "http://a:81/b/c/g?y/../x"),
            ("//h/g", "http://h:80/g"),
            ("https://h/g", "https://h:443/g"),
            ("http://[::1]:8/", "http://[::1]:8/"),
        ] {
            assert_eq!(base.join(reference).unwrap().text(), wanted, "{reference}");
        }
        assert!(base.join("http://a:81/x").unwrap().credentials.is_some());
        assert!(base.join("https://a:81/x").unwrap().credentials.is_none());
        assert!(base.join("http://other:81/x").unwrap().credentials.is_none());
        for bad in ["ftp://a/", "g g", "mailto:x", "http://", "\u{e4}"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_told_apart() {
        for (text, error) in [
            ("", UrlError::NoScheme),
            ("/run/cam.ts", UrlError::NoScheme),
            ("file:/run/cam.ts", UrlError::NoScheme),
            ("1x://a", UrlError::NoScheme),
            ("srt://a:1", UrlError::UnknownScheme("srt".into())),
            ("http://", UrlError::Host),
            ("http://:80/", UrlError::Host),
            ("http://a b/", UrlError::Characters),
            ("http://a/\u{e4}", UrlError::Characters),
            ("http://a:0/", UrlError::Port),
            ("http://a:http/", UrlError::Port),
            ("http://[::1]80/", UrlError::Port),
            ("http://[::1/", UrlError::Host),
            ("http://[a]/", UrlError::Host),
            ("http://%zz@a/", UrlError::Escape),
            ("tcp://a", UrlError::Port),
            ("tcp://:9000", UrlError::Host),
            ("tcp://a:70000", UrlError::Port),
            ("tcp://a:1/b", UrlError::BehindPort),
            ("tcp://u@a:1", UrlError::BehindPort),
            ("udp://a:1?pkt_size=1316", UrlError::BehindPort),
            ("udp://", UrlError::Host),
            ("udp://:", UrlError::Port),
            ("file://run/cam.ts", UrlError::Path),
            ("file:///run/", UrlError::Path),
            ("file:///a?b", UrlError::BehindPath),
            ("file:///a%0ab", UrlError::Characters),
            ("file:///a\tb", UrlError::Characters),
            ("file:///a%", UrlError::Escape),
            ("file:///a%ff", UrlError::Escape),
            ("unix://s", UrlError::Path),
            ("fork://", UrlError::Command),
            ("fork://bin/x", UrlError::Command),
            ("fork:///", UrlError::Command),
            ("fork://?x", UrlError::Command),
            ("fork://x?%2", UrlError::Escape),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        let long = format!("unix:///{}", "s".repeat(UNIX_PATH_BYTES_MAX));
        assert_eq!(parse(&long), Err(UrlError::PathTooLong));
        assert!(parse(&long[..long.len() - 1]).is_ok());
        assert_eq!(HttpUrl::parse("tcp://a:1"), Err(UrlError::NotHttp("tcp".into())));
        for scheme in SCHEMES {
            let error = parse(&format!("{scheme}://")).unwrap_err();
            assert!(!matches!(error, UrlError::UnknownScheme(_)), "{scheme}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("http://a:b@c:1/d@e?f"), "http://…@c:1/d@e?f");
        assert_eq!(shown("ftp://a@b:c@d"), "ftp://…@d");
        assert_eq!(shown("http://a:b/c@d/"), "http://…@d/");
        assert_eq!(shown("udp://@a:1"), "udp://@a:1");
        assert_eq!(shown("http://a/b@c"), "http://a/b@c");
        assert_eq!(shown("a:b@c"), "a:b@c");
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(
            scheme in prop_oneof![Just("http"), Just("udp"), Just("tcp"), Just("unix"), Just("fork")],
            text in "\\PC{0,40}",
            odd in "[]@/:?#%\\[0-9a-f+.\u{e4}]{0,30}",
        ) {
            for text in [text, odd] {
                let _ = (parse(&text), shown(&text));
                if let Ok(joined) = http("http://a/b/").join(&text) {
                    prop_assert_eq!(&HttpUrl::parse(&joined.text()).unwrap(), &joined);
                }
                let _ = (parse(&format!("{scheme}://{text}")), shown(&format!("{scheme}://{text}")));
            }
        }
    }
}
