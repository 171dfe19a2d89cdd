//! The opening handshake as a server sees it (RFC 6455 §4.2): is a request an upgrade to WebSocket,
//! is it a good one, and the key that accepts it. Method, target and Origin are the door's affair;
//! extensions that a client offers are passed over, and so never agreed.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use httparse::Header;
use sha1::{Digest, Sha1};
use thiserror::Error;

/// Subprotocols that one request may offer.
pub const PROTOCOLS_MAX: usize = 16;

/// What RFC 6455 §1.3 appends to the key.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Clients made of random letters leave bits behind the last byte: they are served, as elsewhere.
const KEY_CODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake<'r> {
    /// As sent, for `accept_key`.
    pub key: &'r str,
    /// The subprotocols that the client offers, the preferred one first.
    pub protocols: Vec<&'r str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    #[error("Upgrade does not name websocket")]
    Upgrade,
    #[error("Connection does not name upgrade")]
    Connection,
    /// To be answered with `Sec-WebSocket-Version: 13` (RFC 6455 §4.2.2).
    #[error("Sec-WebSocket-Version is not 13, or not there once")]
    Version,
    #[error("Sec-WebSocket-Key is not the base64 of 16 bytes, or not there once")]
    Key,
    #[error("Sec-WebSocket-Protocol is no list of at most {PROTOCOLS_MAX} tokens")]
    Protocols,
}

/// The request asks for WebSocket, well or badly.
pub fn is_upgrade(headers: &[Header<'_>]) -> bool {
    has_token(headers, "upgrade", "websocket")
}

/// Read the header fields of an upgrade.
pub fn handshake<'r>(headers: &'r [Header<'r>]) -> Result<Handshake<'r>, HandshakeError> {
    if !is_upgrade(headers) {
        return Err(HandshakeError::Upgrade);
    }
    if !has_token(headers, "connection", "upgrade") {
        return Err(HandshakeError::Connection);
    }
    if only(headers, "sec-websocket-version") != Some("13") {
        return Err(HandshakeError::Version);
    }
    let key = only(headers, "sec-websocket-key").filter(|key| is_key(key));
    let key = key.ok_or(HandshakeError::Key)?;
    Ok(Handshake { key, protocols: protocols(headers)? })
}

/// The value of Sec-WebSocket-Accept for a key.
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_SUFFIX).finalize();
    STANDARD.encode(digest)
}

fn fields<'r>(headers: &'r [Header<'r>], name: &str) -> impl Iterator<Item = &'r [u8]> {
    let same = move |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
    headers.iter().filter(same).map(|header| header.value)
}

/// The value of a field that is there exactly once.
fn only<'r>(headers: &'r [Header<'r>], name: &str) -> Option<&'r str> {
    let mut found = fields(headers, name);
    let value = found.next().filter(|_| found.next().is_none())?;
    std::str::from_utf8(value.trim_ascii()).ok()
}

fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    fields(headers, name).flat_map(elements).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// The elements of a list; empty ones are passed over (RFC 9110 §5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

fn is_key(key: &str) -> bool {
    // 24 characters: 16 bytes, and at most 18 without the padding that belongs to them.
    let mut room = [0; 18];
    key.len() == 24 && KEY_CODING.decode_slice(key, &mut room) == Ok(16)
}

fn protocols<'r>(headers: &'r [Header<'r>]) -> Result<Vec<&'r str>, HandshakeError> {
    let mut offered = Vec::new();
    for item in fields(headers, "sec-websocket-protocol").flat_map(elements) {
        let is_token = item.iter().all(|byte| is_token_byte(*byte));
        let token = std::str::from_utf8(item).ok().filter(|_| is_token);
        if offered.len() == PROTOCOLS_MAX {
            return Err(HandshakeError::Protocols);
        }
        offered.push(token.ok_or(HandshakeError::Protocols)?);
    }
    Ok(offered)
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    const GOOD: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ];

    fn headers<'r>(fields: &[(&'r str, &'r str)]) -> Vec<Header<'r>> {
        let header = |(name, value): &(&'r str, &'r str)| Header { name, value: value.as_bytes() };
        fields.iter().map(header).collect()
    }

    /// The good fields, with one name's fields replaced by others.
    fn with(name: &str, values: &[&str]) -> Result<(), HandshakeError> {
        let mut fields: Vec<(&str, &str)> =
            GOOD.into_iter().filter(|(other, _)| *other != name).collect();
        fields.extend(values.iter().map(|value| (name, *value)));
        handshake(&headers(&fields)).map(|_| ())
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let good = headers(&GOOD);
        assert_eq!(handshake(&good), Ok(Handshake { key: KEY, protocols: Vec::new() }));
        assert_eq!(accept_key(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn lists_and_case_are_read_as_http_has_them() {
        assert_eq!(with("Upgrade", &["WebSocket"]), Ok(()));
        assert_eq!(with("upgrade", &["h2c , WEBSOCKET"]), Ok(()));
        assert_eq!(with("Connection", &["keep-alive, Upgrade"]), Ok(()));
        assert_eq!(with("Connection", &["keep-alive", ",, uPGRADE,"]), Ok(()));
        assert_eq!(with("Sec-WebSocket-Version", &[" 13\t"]), Ok(()));
        assert_eq!(with("Sec-WebSocket-Key", &["AAAAAAAAAAAAAAAAAAAAAB=="]), Ok(()));
        assert_eq!(with("Sec-WebSocket-Extensions", &["permessage-deflate"]), Ok(()));
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        use HandshakeError::*;
        for values in [&[][..], &["h2c"], &["websocket2"], &["websocket/13"]] {
            assert_eq!(with("Upgrade", values), Err(Upgrade), "{values:?}");
        }
        for values in [&[][..], &["keep-alive"], &["upgrade please"]] {
            assert_eq!(with("Connection", values), Err(Connection), "{values:?}");
        }
        for values in [&[][..], &["8"], &["13, 8"], &["013"], &["13", "13"]] {
            assert_eq!(with("Sec-WebSocket-Version", values), Err(Version), "{values:?}");
        }
        let keys = [
            &[][..],
            &[""],
            &["short"],
            &["dGhlIHNhbXBsZSBub25jZQ"],
            &["dGhlIHNhbXBsZSBub25jZXM="],
            &["dGhlIHNhbXBsZSBub25jZXNz"],
            &["!GhlIHNhbXBsZSBub25jZQ=="],
            &[KEY, KEY],
        ];
        for values in keys {
            assert_eq!(with("Sec-WebSocket-Key", values), Err(Key), "{values:?}");
        }
    }

    #[test]
    fn subprotocols_come_in_the_order_of_the_offer() {
        let mut fields = GOOD.to_vec();
        fields.push(("sec-websocket-protocol", "a.b, c"));
        fields.push(("Sec-WebSocket-Protocol", "d"));
        assert_eq!(handshake(&headers(&fields)).unwrap().protocols, ["a.b", "c", "d"]);
        let many = ["p"; PROTOCOLS_MAX + 1].join(",");
        for bad in ["a b", "a, \"b\"", "ä", &many] {
            let wanted = Err(HandshakeError::Protocols);
            assert_eq!(with("Sec-WebSocket-Protocol", &[bad]), wanted, "{bad}");
        }
        assert_eq!(with("Sec-WebSocket-Protocol", &[&many[2..]]), Ok(()));
    }

    #[test]
    fn an_upgrade_is_told_from_other_requests() {
        assert!(is_upgrade(&headers(&[("upgrade", "Websocket")])));
        assert!(!is_upgrade(&headers(&[("Connection", "websocket"), ("Upgrade", "h2c")])));
    }
}
