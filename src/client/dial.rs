//! From an address to an answered request: TCP, TLS, the handshake of a WebSocket, and the head of
//! whatever comes back. The handshake is our own, because for a follower a plain answer is no error:
//! its body is the stream. What was read behind the head stays in the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Options;
use super::endpoint::Endpoint;
use super::failure::ClientError;

const HEAD_BYTES_MAX: usize = 32 << 10;
const HEAD_FIELDS_MAX: usize = 100;
const READ_BYTES: usize = 64 << 10;

/// Fields of the request that are the client's own.
const OWN_FIELDS: [&str; 6] =
    ["host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "range"];

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let named = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        self.fields.iter().find(named).map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// The value has this word in its list.
    pub(super) fn has_word(&self, name: &str, word: &str) -> bool {
        let named = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        let mut words = self.fields.iter().filter(named).flat_map(|(_, value)| value.split(','));
        words.any(|found| found.trim().eq_ignore_ascii_case(word))
    }

    /// The error that a status is when it is not what was hoped for.
    pub(super) fn refusal(&self) -> ClientError {
        match self.status {
            404 => ClientError::NotFound,
            status => ClientError::Status(status),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// An open connection, and what was read of it and not yet used.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    pub(super) received: BytesMut,
}

impl Connection {
    /// Read more; false at the end. Nothing is lost if this is dropped while it waits.
    pub(super) async fn fill(&mut self) -> Result<bool, ClientError> {
        self.received.reserve(READ_BYTES);
        let count = self.stream.read_buf(&mut self.received).await.map_err(ClientError::Lost)?;
        Ok(count > 0)
    }

    /// Send all of it, to a peer that takes something at least every `stall_s` seconds.
    pub(super) async fn send(&mut self, mut bytes: &[u8], stall_s: u64) -> Result<(), ClientError> {
        let stalled = |_| ClientError::Lost(io::ErrorKind::TimedOut.into());
        let stall = Duration::from_secs(stall_s);
        while !bytes.is_empty() {
            let written = timeout(stall, self.stream.write(bytes)).await.map_err(stalled)?;
            match written.map_err(ClientError::Lost)? {
                0 => return Err(ClientError::Lost(io::ErrorKind::WriteZero.into())),
                count => bytes.advance(count),
            }
        }
        let flushed = timeout(stall, self.stream.flush()).await.map_err(stalled)?;
        flushed.map_err(ClientError::Lost)
    }
}

/// Connect, ask with these additional fields, and read the head of the answer. An answer of 101 is
/// a good handshake.
pub(super) async fn ask(
    endpoint: &Endpoint,
    options: &Options,
    fields: &[(&str, &str)],
) -> Result<(Answer, Connection), ClientError> {
    let limit = Duration::from_secs(options.connect_timeout_s);
    let asked = timeout(limit, async {
        let stream = connect(endpoint).await.map_err(|error| unreachable(endpoint, error))?;
        let mut connection = Connection { stream, received: BytesMut::new() };
        let key = generate_key();
        let head = request(endpoint, options, &key, fields)?;
        connection.send(head.as_bytes(), options.connect_timeout_s).await?;
        let answer = read_head(&mut connection).await?;
        if answer.status == 101 {
            check_handshake(&answer, &key)?;
        }
        Ok((answer, connection))
    });
    let late = |_| unreachable(endpoint, io::ErrorKind::TimedOut.into());
    asked.await.map_err(late)?
}

fn unreachable(endpoint: &Endpoint, error: io::Error) -> ClientError {
    ClientError::Connect { authority: endpoint.authority.clone(), error }
}

async fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    if !endpoint.is_tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(tls_config(public_roots())?));
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn public_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

fn tls_config(roots: RootCertStore) -> io::Result<ClientConfig> {
    // Named, since a program around this one may have brought another provider.
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn request(
    endpoint: &Endpoint,
    options: &Options,
    key: &str,
    fields: &[(&str, &str)],
) -> Result<String, ClientError> {
    let mut head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: headwater/{}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
        endpoint.target,
        endpoint.authority,
        env!("CARGO_PKG_VERSION"),
    );
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    for (name, value) in &options.headers {
        let is_own = OWN_FIELDS.iter().any(|own| name.eq_ignore_ascii_case(own));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&byte);
        let is_good = !name.is_empty() && name.bytes().all(is_name);
        if is_own || !is_good || value.contains(char::is_control) {
            return Err(ClientError::Header(format!("{name}: {value}")));
        }
        head += &format!("{name}: {value}\r\n");
    }
    Ok(head + "\r\n")
}

async fn read_head(connection: &mut Connection) -> Result<Answer, ClientError> {
    loop {
        match parse_head(&mut connection.received)? {
            // Interim answers say nothing that matters here.
            Some(answer) if answer.status != 101 && answer.status < 200 => {}
            Some(answer) => return Ok(answer),
            None if connection.received.len() > HEAD_BYTES_MAX => {
                return Err(ClientError::BadAnswer("its head is too long"));
            }
            None if connection.fill().await? => {}
            None => return Err(ClientError::lost("no answer came")),
        }
    }
}

/// Take a head off the front, once it is whole.
fn parse_head(received: &mut BytesMut) -> Result<Option<Answer>, ClientError> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(received);
    let parsed = parsed.map_err(|_| ClientError::BadAnswer("it is not HTTP"))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let fields = response.headers.iter().map(|field| (field.name.to_owned(), text(field.value)));
    let answer = Answer { status: response.code.unwrap_or(0), fields: fields.collect() };
    received.advance(length);
    Ok(Some(answer))
}

fn check_handshake(answer: &Answer, key: &str) -> Result<(), ClientError> {
    if !answer.has_word("Upgrade", "websocket") || !answer.has_word("Connection", "upgrade") {
        return Err(ClientError::BadAnswer("it upgrades to something else"));
    }
    if answer.field("Sec-WebSocket-Accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err(ClientError::BadAnswer("its accept key is wrong"));
    }
    if answer.field("Sec-WebSocket-Extensions").is_some_and(|list| !list.is_empty()) {
        return Err(ClientError::BadAnswer("it uses an extension that nobody asked for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    /// A certificate of localhost that signs itself, until 2126, and its key.
    const CERTIFICATE: &str = include_str!("localhost.pem");

    fn endpoint() -> Endpoint {
        Endpoint::parse("http://h/a?b").unwrap()
    }

    #[test]
    fn the_request_is_a_handshake() {
        let headers = vec![("Authorization".to_owned(), "Bearer x".to_owned())];
        let options = Options { headers, ..Options::default() };
        let head = request(&endpoint(), &options, "KEY", &[("X-Verb", "APPEND")]).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let wanted = format!(
            "GET /a?b HTTP/1.1\r\nHost: h\r\nUser-Agent: headwater/{version}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: KEY\r\nX-Verb: APPEND\r\nAuthorization: Bearer x\r\n\r\n"
        );
        assert_eq!(head, wanted);
    }

    #[test]
    fn headers_cannot_break_the_request() {
        for (name, value) in [("", "x"), ("a b", "x"), ("a", "x\r\ny: z"), ("Host", "x")] {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let options = Options { headers, ..Options::default() };
            let head = request(&endpoint(), &options, "KEY", &[]);
            assert!(matches!(head, Err(ClientError::Header(_))), "{name}: {value}");
        }
    }

    #[test]
    fn a_head_is_taken_off_the_front_once_it_is_whole() {
        let mut received = BytesMut::from("HTTP/1.1 101 X\r\nUpgrade: a, WebSocket\r\nN: 7\r\n");
        assert!(parse_head(&mut received).unwrap().is_none());
        received.extend_from_slice(b"\r\nrest");
        let answer = parse_head(&mut received).unwrap().unwrap();
        assert_eq!((answer.status, answer.number("n")), (101, Some(7)));
        assert!(answer.has_word("upgrade", "websocket") && !answer.has_word("upgrade", "web"));
        assert_eq!(received, "rest");
        assert!(parse_head(&mut BytesMut::from("220 smtp\r\n\r\n")).is_err());
    }

    #[test]
    fn a_handshake_is_checked() {
        // Key and accept key of RFC 6455 §1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let answer = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            Answer { status: 101, fields: fields.collect() }
        };
        let (upgrade, connection) = (("Upgrade", "WebSocket"), ("Connection", "upgrade"));
        let good = [upgrade, connection, ("Sec-WebSocket-Accept", accept)];
        check_handshake(&answer(&good), key).unwrap();
        for wrong in [
            &[upgrade, connection][..],
            &[upgrade, connection, ("Sec-WebSocket-Accept", key)],
            &[("Upgrade", "h2c"), connection, ("Sec-WebSocket-Accept", accept)],
            &[upgrade, good[2]],
            &[upgrade, connection, good[2], ("Sec-WebSocket-Extensions", "permessage-deflate")],
        ] {
            assert!(check_handshake(&answer(wrong), key).is_err(), "{wrong:?}");
        }
    }

    /// Goal: TLS works with a certificate that is trusted, and with no other. Method: our
    /// configuration against a server of rustls, with its certificate as a root and without.
    #[test]
    fn certificates_are_checked() {
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let mut own_root = RootCertStore::empty();
        own_root.add(certificate.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (roots, is_trusted) in [(own_root, true), (public_roots(), false)] {
            let key = PrivateKeyDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
            let provider = Arc::new(crypto::ring::default_provider());
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let connector = TlsConnector::from(Arc::new(tls_config(roots).unwrap()));
            let (near, far) = duplex(1 << 16);
            let name = ServerName::try_from("localhost").unwrap();
            let (accepted, connected) = runtime.block_on(async {
                tokio::join!(acceptor.accept(far), connector.connect(name, near))
            });
            assert_eq!(connected.is_ok(), is_trusted, "{:?}", connected.err());
            assert_eq!(accepted.is_ok(), is_trusted);
        }
    }
}
