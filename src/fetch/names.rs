//! Names of hosts to addresses, by the system's own lookup. It takes its time and cannot be stopped, so
//! so many are under way at once and no more: they must not take the threads of other work.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower_service::Service;

/// Lookups at once; each has a thread that may wait.
pub const LOOKUPS_MAX: usize = 16;

/// Cheap to clone; all clones share their limit. Used on a thread with tokio.
#[derive(Clone)]
pub struct Names {
    turns: Arc<Semaphore>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names { turns: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// One address at least.
    pub async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let turn = self.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        // The turn ends with the lookup, however soon nobody waits for it any more.
        let found = spawn_blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            drop(turn);
            found
        });
        let found: Vec<_> = found.await.map_err(io::Error::other)??.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

/// For hyper-util, which puts in the port itself.
impl Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move { Ok(names.look_up(name.as_str(), 0).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_turn() {
        let names = Names::new();
        let _all = names.turns.clone().acquire_many_owned(LOOKUPS_MAX as u32).await.unwrap();
        for (host, wanted) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let found = names.look_up(host, 80).await.unwrap();
            assert_eq!(found, [wanted.parse().unwrap()]);
        }
        let waiting = names.look_up("localhost", 80);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), waiting).await;
        assert!(waited.is_err(), "no turn is left");
        drop(_all);
        assert!(!names.look_up("localhost", 80).await.unwrap().is_empty());
        assert_eq!(names.turns.available_permits(), LOOKUPS_MAX);
    }
}
