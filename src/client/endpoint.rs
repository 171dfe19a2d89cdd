//! Where a URL leads: scheme, host, port and path of an address that programs append to or follow.
//! Names and passwords in a URL are refused: they belong into a header.

use super::failure::ClientError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// As it stands in the URL: the value of Host.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Endpoint, ClientError> {
        let wrong = |why| ClientError::Url { url: url.to_owned(), why };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(wrong("the scheme is not http, https, ws or wss")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it has characters that must be percent-encoded"));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("a name and password belong into an Authorization header"));
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let usual = if is_tls { 443 } else { 80 };
        let port =
            port.map_or(Ok(usual), str::parse).map_err(|_| wrong("the port is no number"))?;
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Endpoint {
            is_tls,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            target: format!("{slash}{path}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("http://h/a?b=c#d", false, "h", 80, "h", "/a?b=c"),
            ("WSS://h", true, "h", 443, "h", "/"),
            ("ws://[::1]:8080/a", false, "::1", 8080, "[::1]:8080", "/a"),
            ("https://h:9?x", true, "h", 9, "h:9", "/?x"),
        ];
        for (url, is_tls, host, port, authority, target) in cases {
            let (host, authority, target) = (host.into(), authority.into(), target.into());
            let wanted = Endpoint { is_tls, host, port, authority, target };
            assert_eq!(Endpoint::parse(url).unwrap(), wanted, "{url}");
        }
    }

    #[test]
    fn wrong_urls_are_refused() {
        for url in ["h/a", "ftp://h/a", "http://", "http:///a", "http://h:x/a", "http://u@h/a"] {
            assert!(matches!(Endpoint::parse(url), Err(ClientError::Url { .. })), "{url}");
        }
        assert!(Endpoint::parse("http://h/a b").is_err());
        assert!(Endpoint::parse("http://h/a\r\nX: y").is_err());
    }
}
