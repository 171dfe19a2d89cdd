//! What can go wrong when a program appends or follows, and which of it may pass by itself.

use std::io;

/// Why an appender or a follower ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("the URL {url} is wrong: {why}")]
    Url { url: String, why: &'static str },
    #[error("the header {0:?} is wrong")]
    Header(String),
    #[error("cannot connect to {authority}: {error}")]
    Connect { authority: String, error: io::Error },
    #[error("file does not exist")]
    NotFound,
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the server's answer is wrong: {0}")]
    BadAnswer(&'static str),
    #[error("the connection was lost: {0}")]
    Lost(io::Error),
    #[error("the server closed the connection{}", close_text(.code, .reason))]
    Closed { code: Option<u16>, reason: String },
    #[error("the object was replaced")]
    Replaced,
    #[error("bytes {from} to {to} of the object are no longer kept")]
    Gone { from: u64, to: u64 },
    #[error("no success in {seconds} s: {last}")]
    GaveUp { seconds: u64, last: Box<ClientError> },
    #[error("cannot read the input: {0}")]
    Input(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// An earlier call has returned the reason.
    #[error("it has ended already")]
    Ended,
}

/// Close codes that say that the same would happen again (RFC 6455 §7.4.1).
const FINAL_CLOSE_CODES: [u16; 6] = [1002, 1003, 1007, 1008, 1009, 1010];

impl ClientError {
    pub(super) fn lost(why: &'static str) -> ClientError {
        ClientError::Lost(io::Error::other(why))
    }

    /// Another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            ClientError::Connect { .. } | ClientError::Lost(_) => true,
            ClientError::Status(status) => matches!(status, 408 | 429 | 500..),
            ClientError::Closed { code, .. } => {
                code.is_none_or(|code| !FINAL_CLOSE_CODES.contains(&code))
            }
            _ => false,
        }
    }
}

impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> io::Error {
        let kind = match &error {
            ClientError::NotFound => io::ErrorKind::NotFound,
            ClientError::Lost(lost) => lost.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

fn close_text(code: &Option<u16>, reason: &str) -> String {
    let code = code.map(|code| format!(" with code {code}")).unwrap_or_default();
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    code + &reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_httpfstream() {
        assert_eq!(ClientError::NotFound.to_string(), "file does not exist");
        assert_eq!(ClientError::Status(403).to_string(), "HTTP status 403");
        let closed = ClientError::Closed { code: Some(1011), reason: "disk".to_owned() };
        assert_eq!(closed.to_string(), "the server closed the connection with code 1011: disk");
        let closed = ClientError::Closed { code: None, reason: String::new() };
        assert_eq!(closed.to_string(), "the server closed the connection");
    }

    #[test]
    fn what_may_pass() {
        let closed = |code| ClientError::Closed { code: Some(code), reason: String::new() };
        for error in [ClientError::Status(503), ClientError::lost("x"), closed(1001), closed(1011)]
        {
            assert!(error.may_pass(), "{error}");
        }
        let status = ClientError::Status(403);
        for error in [status, closed(1009), ClientError::NotFound, ClientError::Replaced] {
            assert!(!error.may_pass(), "{error}");
        }
    }
}
