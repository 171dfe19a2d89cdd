//! What is fetched from other servers when readers ask for it: `[[static]]`, one file from elsewhere, and
//! `[[mirror]]`, a folder of another origin.
//!
//! Everything outgoing runs on one ordinary thread beside the cores ([`Outside`]), with one
//! [`HttpClient`]. A request looks on its core at the table of its [`Section`]; what is not there it
//! waits for as a [`Flight`], which all share who ask for the same; what arrives is an object of the
//! store. Reading order: `flight`, `fetched`, `freshness`, `answer_table`, `section`, `fetching`,
//! `http_client`, `names`.

mod answer_table;
mod fetched;
mod fetching;
mod flight;
mod freshness;
pub mod http_client;
mod names;
mod section;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use fetched::{Fetched, FetchedBody, Memory};
pub use fetching::MANIFEST_BYTES_MAX;
pub use flight::{Failure, Flight, FlightWait, Outcome};
pub use http_client::{Answer, HttpClient, POOL_CONNECTIONS_MAX};
pub use names::LOOKUPS_MAX;
pub use section::{Look, Section, SectionOptions, Source};

use crate::runtime::side_thread::SideThread;
use crate::store::Store;
use crate::wire::path_table::PathTable;

/// Who this is, for the next server and for the one before (RFC 9110 §7.6.3).
pub const VIA: &str = "1.1 headwater";
/// Name lookups and reads of files at once: [`LOOKUPS_MAX`], and one for each static file.
pub const BLOCKING_THREADS_MAX: usize = 128;
/// What is of no more use goes so often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The thread that speaks to upstreams, and its client: for whoever fetches. Cheap to clone.
#[derive(Clone)]
pub struct Outside {
    handle: Handle,
    client: HttpClient,
}

impl Outside {
    /// Start the thread. It ends with all its tasks when it is told to.
    pub fn start() -> io::Result<(Outside, SideThread)> {
        let client = HttpClient::new()?;
        let thread = SideThread::start("upstreams", BLOCKING_THREADS_MAX, |told| async move {
            told.stopped().await;
        })?;
        Ok((Outside { handle: thread.handle().clone(), client }, thread))
    }

    pub fn client(&self) -> &HttpClient {
        &self.client
    }

    /// From any thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Nobody waits for it: it says itself how it ends.
        drop(self.handle.spawn(task));
    }

    /// What may wait for a file or a name, on a thread of its own.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn_blocking(work)
    }
}

/// What the operator decides.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub sections: Vec<SectionOptions>,
    /// Paths of other parts, with slashes at the end of folders: names below them are not looked for
    /// in sections whose path is shorter.
    pub taken: Vec<String>,
}

/// For the metrics page.
#[derive(Debug, Default)]
pub struct Counts {
    fetches: AtomicU64,
    confirmed: AtomicU64,
    errors: AtomicU64,
    abandoned: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    /// Name, help and value of each.
    pub fn all(&self) -> [(&'static str, &'static str, u64); 5] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("fetches", "Requests to upstreams of mirrors and static files", of(&self.fetches)),
            ("fetches_confirmed", "Answers 304: what was there is still good", of(&self.confirmed)),
            ("fetch_errors", "Fetches that failed or were cut", of(&self.errors)),
            ("fetches_abandoned", "Fetches given up: nobody read them", of(&self.abandoned)),
            ("fetched_bytes", "Bytes of bodies that were fetched", of(&self.bytes)),
        ]
    }
}

/// All sections, for all cores.
#[derive(Default)]
pub struct Fetcher {
    table: PathTable<Option<Arc<Section>>>,
    counts: Arc<Counts>,
}

impl Fetcher {
    /// `outside` is needed where there are sections.
    pub fn new(options: Options, outside: Option<&Outside>, store: &Arc<Store>) -> Arc<Fetcher> {
        let mut fetcher = Fetcher::default();
        for path in &options.taken {
            fetcher.table.insert(path, None);
        }
        let Some(outside) = outside else { return Arc::new(fetcher) };
        let mut sections = Vec::new();
        for section in options.sections {
            let path = section.path.clone();
            let (store, counts) = (store.clone(), fetcher.counts.clone());
            let section = Section::new(section, outside.clone(), store, counts);
            fetcher.table.insert(&path, Some(section.clone()));
            sections.push(section);
        }
        if !sections.is_empty() {
            outside.spawn(sweep_forever(sections));
        }
        Arc::new(fetcher)
    }

    /// Whose a name is, and what is left of it behind the section's folder.
    pub fn find<'n>(&self, name: &'n str, is_folder: bool) -> Option<(&Arc<Section>, &'n str)> {
        let (section, rest) = self.table.find(name, is_folder)?;
        section.as_ref().map(|section| (section, rest))
    }

    /// Forget all answers, when nothing is fetched any more.
    pub fn release(&self) {
        let sections = self.table.values().flatten();
        sections.for_each(|section| section.forget_all());
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

async fn sweep_forever(sections: Vec<Arc<Section>>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        sections.iter().for_each(|section| section.sweep());
    }
}
