//! GET over HTTP/1.1 and TLS from a tokio task: the head of the answer, then its body in pieces. For
//! answers with an end and for endless ones; who asks says how long each may take.
//!
//! Connections are kept and used again. Proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`) are used, redirects are followed up to [`REDIRECTS_MAX`], credentials of a
//! URL are sent to its own server only. Trusted are the public certificate authorities, and those of
//! the file that `SSL_CERT_FILE` names.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::names::Names;
use crate::wire::upstream_url::{ANSWER_HEAD_BYTES_MAX, HttpUrl, REDIRECTS_MAX};

/// Connecting that nobody waits for any more ends after so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is not used is closed after so long: servers close theirs after 60 s and more.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
pub const POOL_CONNECTIONS_MAX: usize = 64;
const HEAD_FIELDS_MAX: usize = 200;

/// Cheap to clone; all clones share their connections. Used on a thread with tokio.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<Connector, Empty<Bytes>>,
    names: Names,
    proxies: Arc<Matcher>,
}

/// The head of an answer, and the rest as it comes.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
}

/// Why there is no answer, or no more of it. No text holds a URL, in which there may be a password.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it is not reached: {0}")]
    Unreachable(String),
    #[error("its answer is broken: {0}")]
    Broken(String),
    /// As happens when it gives up an idle connection at the moment that this one is used again.
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("it redirects {REDIRECTS_MAX} times, or to nowhere")]
    Redirects,
    #[error("it sent nothing for too long")]
    Silent,
}

impl HttpClient {
    /// With the proxies and certificates that the environment names.
    pub fn new() -> io::Result<HttpClient> {
        let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
            add_roots(&mut roots, path.as_ref()).map_err(|error| {
                let text = format!("SSL_CERT_FILE {}: {error}", path.display());
                io::Error::new(error.kind(), text)
            })?;
        }
        let proxies = Arc::new(Matcher::from_env());
        let names = Names::new();
        let connector = Connector {
            http: http_connector(names.clone()),
            tls: TlsConnector::from(Arc::new(tls_config(roots)?)),
            proxies: proxies.clone(),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_CONNECTIONS_MAX)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .http1_max_headers(HEAD_FIELDS_MAX)
            .build(connector);
        Ok(HttpClient { client, names, proxies })
    }

    /// The lookup of names that it uses, for other connections.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// GET, with these further fields, until the head of the last answer is there.
    pub async fn get(
        &self,
        url: &HttpUrl,
        fields: &[(HeaderName, HeaderValue)],
        connect_timeout: Duration,
    ) -> Result<Answer, HttpError> {
        let asked = self.get_through_redirects(url, fields);
        timeout(connect_timeout, asked).await.map_err(|_| HttpError::TimedOut)?
    }

    async fn get_through_redirects(
        &self,
        url: &HttpUrl,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, HttpError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = match self.get_once(&url, fields).await {
                Err(HttpError::Closed) => self.get_once(&url, fields).await?,
                answer => answer?,
            };
            let is_redirect = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let location = answer.field("location").filter(|_| is_redirect);
            let Some(location) = location else { return Ok(answer) };
            url = url.join(location).map_err(|_| HttpError::Redirects)?;
        }
        Err(HttpError::Redirects)
    }

    async fn get_once(
        &self,
        url: &HttpUrl,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, HttpError> {
        let uri: Uri = url.text().parse().map_err(broken)?;
        let mut request = Request::new(Empty::new());
        let headers = request.headers_mut();
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("headwater/", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.extend(fields.iter().cloned());
        if let Some(credentials) = &url.credentials {
            let pair = STANDARD.encode(format!("{}:{}", credentials.user, credentials.password));
            let value = HeaderValue::from_str(&format!("Basic {pair}")).map_err(broken)?;
            headers.insert(header::AUTHORIZATION, value);
        }
        // Through a tunnel the proxy is told who asks when the tunnel is built.
        let proxy = self.proxies.intercept(&uri).filter(|_| !url.is_tls);
        if let Some(value) = proxy.as_ref().and_then(Intercept::basic_auth) {
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
        *request.uri_mut() = uri;
        let answer = self.client.request(request).await.map_err(|error| match &error {
            error if error.is_connect() => HttpError::Unreachable(chain_of(error)),
            error if is_closed(error) => HttpError::Closed,
            error => HttpError::Broken(chain_of(error)),
        })?;
        let (head, body) = answer.into_parts();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

impl Answer {
    /// The value of the first field of this name, if it is ASCII.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body's length, if it is told.
    pub fn length(&self) -> Option<u64> {
        hyper::body::Body::size_hint(&self.body).exact()
    }

    /// The next bytes, `None` at the proper end of the body. Nothing is lost if this is dropped while
    /// it waits.
    pub async fn chunk(&mut self, silence: Duration) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout(silence, self.body.frame()).await;
            match frame.map_err(|_| HttpError::Silent)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::Broken(chain_of(&error))),
                Some(Ok(frame)) => {
                    // What is no data is a trailer.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

fn broken(error: impl std::error::Error) -> HttpError {
    HttpError::Broken(error.to_string())
}

/// The connection was closed before anything of an answer came.
fn is_closed(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_reset = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    };
    let mut causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.any(|cause| {
        let of_hyper = cause.downcast_ref::<hyper::Error>();
        of_hyper.is_some_and(|error| error.is_incomplete_message() || error.is_closed())
            || cause.downcast_ref::<io::Error>().is_some_and(is_reset)
    })
}

/// An error with its causes; those of hyper-util have nothing else to say.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut words = Vec::new();
    let mut next = error.source().or(Some(error));
    while let Some(error) = next {
        words.push(error.to_string());
        next = error.source();
    }
    words.dedup();
    words.join(": ")
}

fn http_connector(names: Names) -> HttpConnector<Names> {
    let mut http = HttpConnector::new_with_resolver(names);
    http.enforce_http(false);
    http.set_nodelay(true);
    http
}

fn add_roots(roots: &mut RootCertStore, path: &std::path::Path) -> io::Result<()> {
    for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(())
}

fn tls_config(roots: RootCertStore) -> io::Result<ClientConfig> {
    // Named, since a program around this one may have brought another provider.
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Opens connections: to the server or to a proxy, with TLS where the URL says so.
#[derive(Clone)]
struct Connector {
    http: HttpConnector<Names>,
    tls: TlsConnector,
    proxies: Arc<Matcher>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connected = timeout(CONNECT_TIMEOUT, connector.connect(uri)).await;
            connected.unwrap_or_else(|_| Err("connecting took too long".into()))
        })
    }
}

impl Connector {
    async fn connect(mut self, uri: Uri) -> Result<Link, BoxError> {
        let is_tls = uri.scheme_str() == Some("https");
        let proxy = self.proxies.intercept(&uri);
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = match &proxy {
            None => self.http.call(uri).await?.into_inner(),
            Some(proxy) => self.connect_through(proxy, uri, is_tls).await?,
        };
        if !is_tls {
            return Ok(Link::new(Box::new(stream), proxy.is_some()));
        }
        let name = ServerName::try_from(host)?;
        Ok(Link::new(Box::new(self.tls.connect(name, stream).await?), false))
    }

    async fn connect_through(
        &mut self,
        proxy: &Intercept,
        uri: Uri,
        is_tunnel: bool,
    ) -> Result<TcpStream, BoxError> {
        if proxy.uri().scheme_str() != Some("http") {
            return Err("only proxies with http:// are possible".into());
        }
        if !is_tunnel {
            return Ok(self.http.call(proxy.uri().clone()).await?.into_inner());
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.http.clone());
        if let Some(value) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(value.clone());
        }
        Ok(tunnel.call(uri).await?.into_inner())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection.
struct Link {
    io: TokioIo<Box<dyn Stream>>,
    /// Its requests name the whole URL.
    is_proxied: bool,
}

impl Link {
    fn new(stream: Box<dyn Stream>, is_proxied: bool) -> Link {
        Link { io: TokioIo::new(stream), is_proxied }
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl hyper::rt::Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
