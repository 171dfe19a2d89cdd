//! ASSEMBLY: the only folder that knows every part. A worker per core with its listeners and doors,
//! a housekeeping thread, the admin pages, coordinator and its client, and the orderly stop.
//! `listeners` binds, `part_options` hands each part its options.

mod camera_page;
mod listeners;
mod part_options;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use self::camera_page::{Places, RawPlace};
use self::listeners::{
    Bound, Listening, addresses_of, bind_one, camera_doors_of, listeners_of_core,
};
pub use self::part_options::coordinator_options;
use self::part_options::{
    cameras_options, channels_options, control_options, fetch_options, options_of,
    packager_options, pulls_options, store_options,
};
use crate::cameras::{Cameras, Push};
use crate::channels::Channels;
use crate::connection::cmcd::CmcdLog;
use crate::connection::{self, Core, Doors, Page, Role, listener};
use crate::coordinator::{self, ControlClient, Coordinator};
use crate::egress::{self, Egress};
use crate::fetch::{Fetcher, Outside};
use crate::ingest::{self, AppendSessions, AsideBuffers, Ingest};
use crate::operations::admin::Admin;
use crate::operations::config::{Config, CoordinatorSection};
use crate::operations::metrics;
use crate::operations::player::{Door, Player};
use crate::packager::Packager;
use crate::pulls::{PullThread, Pulls};
use crate::runtime::buffers::BufferPool;
use crate::runtime::counters::Counters;
use crate::runtime::deadlines::{Deadlines, Phase};
use crate::runtime::file_ring::FileRing;
use crate::runtime::line_budget::{CAMERA_LINES_PER_S_MAX, LineBudget};
use crate::runtime::mailbox::Mailbox;
use crate::runtime::offload::{Disk, Offload};
use crate::runtime::ring::Ring;
use crate::runtime::side_thread::SideThread;
use crate::runtime::socket::Listener;
use crate::runtime::worker::{self, Driver};
use crate::runtime::{affinity, clock, timers};
use crate::store::{CoreList, Recovered, Store};
use crate::wire::http1::DateLine;

/// A core's receive buffer, shared by its connections.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Lost packets alone must not break a connection.
const USER_TIMEOUT_MIN_S: u64 = 60;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// For connections that were cut to notice it.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// What a core is told by other threads.
enum Message {
    /// Readers of an object wait on that core.
    Wake(Arc<CoreList>),
    Drain,
}

/// A running origin.
pub struct Server {
    pub listen: Vec<SocketAddr>,
    /// Listeners of append's own, and of channels' own.
    pub append: Vec<SocketAddr>,
    pub channels: Vec<SocketAddr>,
    /// Where cameras push, and the path of each that says not who it is.
    pub cameras: Vec<(Option<String>, SocketAddr)>,
    pub admin: SocketAddr,
    pub driver: Driver,
    pub recovered: Recovered,
    workers: Vec<JoinHandle<()>>,
    shared: Shared,
    coordinator: Option<Coordinator>,
    control: Option<Arc<ControlClient>>,
    stopper: Stopper,
}

/// What the cores share and the end gives back.
struct Shared {
    housekeeping: JoinHandle<()>,
    store: Arc<Store>,
    offload: Arc<Offload>,
    fetcher: Arc<Fetcher>,
    upstreams: Option<SideThread>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct Stopper {
    mailboxes: Vec<Mailbox<Message>>,
    is_draining: Arc<AtomicBool>,
    append_sessions: Arc<AppendSessions>,
    cameras: Arc<Cameras>,
    pull_thread: Option<Arc<PullThread>>,
    coordinator: Option<coordinator::Stopper>,
}

impl Stopper {
    /// Accept nothing more, abort or keep open uploads, let readers of sealed objects finish.
    pub fn stop(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        self.append_sessions.close();
        self.cameras.close();
        self.pull_thread.iter().for_each(|thread| thread.stop());
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(Message::Drain));
        self.coordinator.iter().for_each(coordinator::Stopper::stop);
    }
}

/// Everything a worker is made of; it crosses to the worker's thread.
struct Parts {
    index: usize,
    cpu: usize,
    driver: Driver,
    grace: Duration,
    read_buffers: u16,
    cmcd_lines_per_s_max: u32,
    common: Common,
    counters: Arc<Counters>,
    mailbox: Mailbox<Message>,
    listeners: Vec<Listening>,
}

/// What all workers have in common.
#[derive(Clone)]
struct Common {
    store: Arc<Store>,
    packager: Arc<Packager>,
    channels: Arc<Channels>,
    cameras: Arc<Cameras>,
    pulls: Arc<Pulls>,
    fetcher: Arc<Fetcher>,
    append_sessions: Arc<AppendSessions>,
    offload: Arc<Offload>,
    connection_options: Arc<connection::Options>,
    egress_options: Arc<egress::Options>,
    ingest_options: Arc<ingest::Options>,
    /// Cores that have not finished draining.
    undrained: Arc<AtomicUsize>,
}

impl Common {
    fn new(
        config: &Config,
        store: Arc<Store>,
        outside: Option<&Outside>,
        cores: usize,
    ) -> io::Result<Common> {
        let (connection_options, egress_options, ingest_options) =
            options_of(config, cores, raise_descriptor_limit())?;
        Ok(Common {
            packager: Packager::new(packager_options(config), store.clone()),
            channels: Channels::new(channels_options(&config.channels)?, store.clone()),
            cameras: Cameras::new(cameras_options(config), store.clone()),
            pulls: Pulls::new(pulls_options(config)?, store.clone()),
            fetcher: Fetcher::new(fetch_options(config)?, outside, &store),
            store,
            append_sessions: AppendSessions::new(ingest_options.is_durable),
            offload: Offload::start()?,
            connection_options,
            egress_options,
            ingest_options,
            undrained: Arc::new(AtomicUsize::new(cores)),
        })
    }
}

impl Server {
    /// Recover the store, bind the addresses and start serving.
    pub fn start(config: &Config) -> io::Result<Server> {
        let driver = chosen_driver();
        let cpus = chosen_cpus(config.cores);
        let mailboxes: Vec<Mailbox<Message>> = cpus.iter().map(|_| Mailbox::default()).collect();
        let (store, recovered) = open_store(config, mailboxes.clone())?;
        let user_timeout_s = config.limits.send_stall_timeout_s.max(USER_TIMEOUT_MIN_S);
        let (admin_listener, admin) = bind_one(config.admin, "admin", user_timeout_s)?;
        let bound = Bound::new(config, user_timeout_s)?;
        let addresses = bound.addresses();
        let coordinator = start_coordinator(&config.coordinator)?;
        let (outside, upstreams) = start_outside(config)?.unzip();
        let common = Common::new(config, store, outside.as_ref(), cpus.len())?;
        let control = start_control_client(config, &common.channels, &addresses)?;
        let pull_thread = PullThread::start(&common.pulls, &common.packager)?.map(Arc::new);
        let counters: Vec<_> = cpus.iter().map(|_| Arc::new(Counters::default())).collect();
        let is_draining = Arc::new(AtomicBool::new(false));
        let pages = admin_pages(config, (&common, &addresses), &counters, driver, &is_draining);
        let mut firsts = Some((bound.listeners, (admin_listener, pages)));
        let mut workers = Vec::new();
        for (index, cpu) in cpus.iter().enumerate() {
            let parts = Parts {
                index,
                cpu: *cpu,
                driver,
                grace: Duration::from_secs(config.shutdown_grace_s),
                read_buffers: config.limits.read_buffers,
                cmcd_lines_per_s_max: config.limits.cmcd_lines_per_s_max,
                common: common.clone(),
                counters: counters[index].clone(),
                mailbox: mailboxes[index].clone(),
                listeners: listeners_of_core(&addresses, user_timeout_s, firsts.take())?,
            };
            workers.push(start_worker(parts)?);
        }
        let pulls = common.pulls.clone();
        let (append_sessions, cameras) = (common.append_sessions.clone(), common.cameras.clone());
        let shared = start_housekeeping(common, upstreams, is_draining.clone())?;
        let stopper = Stopper {
            mailboxes,
            is_draining,
            append_sessions,
            cameras,
            pull_thread,
            coordinator: coordinator.as_ref().map(Coordinator::stopper),
        };
        let of_doors = |doors| addresses_of(&addresses, doors);
        let (listen, append) = (of_doors(Bound::common(config)), of_doors(Doors::APPEND));
        let channels = of_doors(Doors::CHANNELS);
        let path = |push: &Push| match push {
            Push::Greeted => None,
            Push::Raw(raw) => Some(format!("/{}", raw.name)),
        };
        let pushed = pulls.listening().map(|(path, address)| (Some(path), address));
        let cameras = camera_doors_of(&addresses).map(|(address, push)| (path(push), address));
        let cameras = cameras.chain(pushed).collect();
        Ok(Server {
            listen,
            append,
            channels,
            cameras,
            admin,
            driver,
            recovered,
            workers,
            shared,
            coordinator,
            control,
            stopper,
        })
    }

    /// Where the coordinator listens, if this server is one too.
    pub fn coordinator(&self) -> &[SocketAddr] {
        self.coordinator.as_ref().map_or(&[], |coordinator| &coordinator.listen)
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Wait until every core has ended. What the cores' tasks held they hold for ever (a runtime is
    /// never dropped), so directory and threads are given back here.
    pub fn join(self) {
        for worker in self.workers {
            // With `panic = "abort"` a worker's panic has ended the process already.
            let _ = worker.join();
        }
        let Shared { housekeeping, store, offload, fetcher, upstreams } = self.shared;
        housekeeping.thread().unpark();
        let _ = housekeeping.join();
        offload.end();
        // Until now readers were sent what arrives.
        if let Some(upstreams) = upstreams {
            upstreams.stopper().stop();
            upstreams.join();
        }
        fetcher.release();
        store.release();
        // Not before: the coordinator is told of each publisher that ends.
        self.control.iter().for_each(|control| control.stop());
        if let Some(coordinator) = self.coordinator {
            coordinator.join();
        }
    }
}

/// The thread that speaks to upstreams, if there are any.
fn start_outside(config: &Config) -> io::Result<Option<(Outside, SideThread)>> {
    let is_needed = !config.mirror.is_empty() || !config.r#static.is_empty();
    is_needed.then(Outside::start).transpose()
}

fn chosen_driver() -> Driver {
    let driver = worker::detect_driver();
    if driver == Driver::Epoll {
        tracing::warn!(
            "io_uring is not to be had here (seccomp, sysctl kernel.io_uring_disabled, or an \
            old kernel): running on epoll, with more CPU for each request and each cold read"
        );
    }
    driver
}

fn open_store(
    config: &Config,
    mailboxes: Vec<Mailbox<Message>>,
) -> io::Result<(Arc<Store>, Recovered)> {
    let signal = move |core: usize, list| mailboxes[core].send(Message::Wake(list));
    let store = Store::open(store_options(config, Box::new(signal)))?;
    let started = clock::now();
    let recovered = store.recover()?;
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(?recovered, took_ms, "data directory read");
    Ok((store, recovered))
}

fn admin_pages(
    config: &Config,
    (common, addresses): (&Common, &[(SocketAddr, Role)]),
    counters: &[Arc<Counters>],
    driver: Driver,
    is_draining: &Arc<AtomicBool>,
) -> Role {
    let metrics = metrics_page(common, counters, driver);
    let player = Player::read(&config.player_dir, &channel_door(config, addresses));
    let cameras = camera_page::pages(common.cameras.clone(), camera_places(addresses));
    let cameras = Box::new(cameras);
    let admin = Admin { metrics, player, cameras, is_draining: is_draining.clone() };
    Role::Admin(Arc::new(move |path: &str| {
        admin.page(path).map(|(status, content_type, body)| Page { status, content_type, body })
    }))
}

/// Where the page of cameras finds what it shows.
fn camera_places(addresses: &[(SocketAddr, Role)]) -> Places {
    let mut places = Places { listen: Vec::new(), push: Vec::new(), raw: Vec::new() };
    for (address, role) in addresses {
        match role {
            Role::Objects(doors) if doors.http => places.listen.push(*address),
            Role::Cameras(Push::Greeted) => places.push.push(*address),
            Role::Cameras(Push::Raw(raw)) => places.raw.push(RawPlace {
                listen: *address,
                format: raw.kind.word(),
                quality: raw.quality.word(),
                path: format!("/{}", raw.name),
            }),
            Role::Objects(_) | Role::Admin(_) => {}
        }
    }
    places
}

/// Whoever publishes to a channel is asked about there, if there is a coordinator.
fn start_control_client(
    config: &Config,
    channels: &Arc<Channels>,
    addresses: &[(SocketAddr, Role)],
) -> io::Result<Option<Arc<ControlClient>>> {
    // Where encoders find channels, if nobody says otherwise.
    let port = channel_door(config, addresses).listen.first().map(SocketAddr::port);
    let Some(options) = control_options(&config.channels, port) else {
        return Ok(None);
    };
    let client = ControlClient::start(options, channels.clone())?;
    channels.set_gatekeeper(client.clone());
    Ok(Some(client))
}

fn start_coordinator(section: &CoordinatorSection) -> io::Result<Option<Coordinator>> {
    if section.listen.is_empty() {
        return Ok(None);
    }
    Coordinator::start(coordinator_options(section)).map(Some)
}

fn chosen_cpus(cores: usize) -> Vec<usize> {
    let allowed = affinity::allowed_cpus();
    let count = if cores == 0 { allowed.len() } else { cores };
    // More workers than processors share them.
    allowed.iter().cycle().take(count).copied().collect()
}

/// Raise the soft limit of descriptors to the hard one; returns it.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(now).unwrap_or(usize::MAX)
}

/// Where the pages find channels: on the common addresses, or on their own.
fn channel_door(config: &Config, addresses: &[(SocketAddr, Role)]) -> Door {
    let has_channels = |role: &Role| matches!(role, Role::Objects(doors) if doors.channels);
    let listen = addresses.iter().filter(|(_, role)| has_channels(role));
    let listen = listen.map(|(address, _)| *address).collect();
    Door { listen, prefix: config.channels.prefix.clone() }
}

fn metrics_page(common: &Common, counters: &[Arc<Counters>], driver: Driver) -> metrics::Page {
    let (packager, channels) = (common.packager.clone(), common.channels.clone());
    let (fetcher, pulls) = (common.fetcher.clone(), common.pulls.clone());
    let live = Box::new(move || {
        let mut figures = live_figures(&packager, &channels);
        figures.events.extend(fetcher.counts().all());
        figures.events.extend(pulls.counts());
        figures
    });
    metrics::Page::new(common.store.clone(), live, counters.to_vec(), driver == Driver::IoUring)
}

/// What the metrics page shows of the presentations.
fn live_figures(packager: &Packager, channels: &Channels) -> metrics::LiveFigures {
    let (points, tracks) = packager.gauges();
    let (channels, channels_live) = channels.gauges();
    let events = packager.counts().all().to_vec();
    metrics::LiveFigures {
        points: points as u64,
        tracks: tracks as u64,
        channels: channels as u64,
        channels_live: channels_live as u64,
        events,
    }
}

fn start_worker(parts: Parts) -> io::Result<JoinHandle<()>> {
    let name = format!("core-{}", parts.index);
    std::thread::Builder::new().name(name).spawn(move || {
        let (driver, cpu, index) = (parts.driver, parts.cpu, parts.index);
        let outcome = worker::run(driver, Some(cpu), move || run_core(parts));
        if let Err(error) = outcome.and_then(|ended| ended) {
            tracing::error!(core = index, %error, "a core cannot run");
            std::process::exit(1);
        }
    })
}

/// The life of a core.
async fn run_core(parts: Parts) -> io::Result<()> {
    let pool = BufferPool::new(parts.read_buffers)?;
    let second_ring = match parts.driver {
        Driver::IoUring => Some(Ring::new(&pool)?),
        Driver::Epoll => None,
    };
    let ring = FileRing::new(second_ring.clone(), parts.common.offload.clone(), pool);
    let deadlines = Rc::new(Deadlines::new(parts.counters.clone()));
    let admin_deadlines = Rc::new(Deadlines::new(parts.counters.clone()));
    let core = Rc::new(Core {
        options: parts.common.connection_options,
        egress: Egress {
            core: parts.index,
            store: parts.common.store.clone(),
            packager: parts.common.packager.clone(),
            channels: parts.common.channels.clone(),
            cameras: parts.common.cameras.clone(),
            pulls: parts.common.pulls,
            ring: ring.clone(),
            counters: parts.counters.clone(),
            options: parts.common.egress_options,
            date: RefCell::new(DateLine::default()),
        },
        ingest: Ingest {
            core: parts.index,
            store: parts.common.store,
            packager: parts.common.packager,
            channels: parts.common.channels,
            cameras: parts.common.cameras,
            append_sessions: parts.common.append_sessions,
            ring,
            disk: Disk::new(parts.common.offload, parts.counters.clone()),
            counters: parts.counters.clone(),
            options: parts.common.ingest_options,
            camera_lines: LineBudget::new(CAMERA_LINES_PER_S_MAX),
            aside: AsideBuffers::default(),
            receive_buffer: Rc::new(RefCell::new(vec![0; RECEIVE_BUFFER_BYTES])),
        },
        fetcher: parts.common.fetcher,
        deadlines: deadlines.clone(),
        admin_deadlines: admin_deadlines.clone(),
        counters: parts.counters,
        cmcd: CmcdLog::new(parts.cmcd_lines_per_s_max),
        output: RefCell::default(),
        is_draining: Cell::new(false),
    });
    let mut listeners = Vec::new();
    for (bound, role) in parts.listeners {
        let listener = Rc::new(Listener::new(second_ring.clone(), bound)?);
        listeners.push((listener.clone(), role.clone()));
        worker::spawn(listener::accept_forever(core.clone(), listener, role));
    }
    worker::spawn(async move { deadlines.sweep_forever().await });
    worker::spawn(async move { admin_deadlines.sweep_forever().await });
    handle_messages(&parts.mailbox, true).await;
    core.is_draining.set(true);
    let mailbox = parts.mailbox;
    worker::spawn(async move { handle_messages(&mailbox, false).await });
    drain(&core, &listeners, parts.grace, &parts.common.undrained).await;
    Ok(())
}

/// Wake readers as other cores ask for it; with `until_drain`, return when told to drain.
async fn handle_messages(mailbox: &Mailbox<Message>, until_drain: bool) {
    loop {
        let mut is_told = false;
        for message in mailbox.receive().await {
            match message {
                Message::Wake(list) => list.fire(),
                Message::Drain => is_told = true,
            }
        }
        if is_told && until_drain {
            return;
        }
    }
}

/// End what cannot be finished, wait for what can.
async fn drain(
    core: &Rc<Core>,
    listeners: &[(Rc<Listener>, Role)],
    grace: Duration,
    undrained: &AtomicUsize,
) {
    let deadline = clock::now() + grace;
    // Uploads end as configured when their sockets do; their readers are cut by that.
    core.deadlines.shut_all(|phase| !matches!(phase, Phase::Sending | Phase::Following));
    // The admin address says "draining" to the end.
    for (listener, role) in listeners.iter().filter(|(_, role)| !matches!(role, Role::Admin(_))) {
        listener::stop(core, listener, role);
    }
    while !core.deadlines.is_empty() && clock::now() < deadline {
        timers::sleep(DRAIN_LOOK_INTERVAL).await;
    }
    let left = core.deadlines.len();
    if left > 0 {
        tracing::warn!(
            connections = left,
            "shutdown_grace_s is over: cutting the connections that are left"
        );
    }
    undrained.fetch_sub(1, Ordering::SeqCst);
    // The core of the admin address answers there until the last one is done.
    let has_admin = listeners.iter().any(|(_, role)| matches!(role, Role::Admin(_)));
    while has_admin && undrained.load(Ordering::SeqCst) > 0 && clock::now() < deadline {
        timers::sleep(DRAIN_LOOK_INTERVAL).await;
    }
    cut_all(core, listeners).await;
}

/// The process may live on: nobody may wait here for an answer that will not come.
async fn cut_all(core: &Core, listeners: &[(Rc<Listener>, Role)]) {
    listeners.iter().for_each(|(listener, _)| listener.stop());
    // What was accepted last has not run yet, and is in no table.
    worker::yield_now().await;
    let deadline = clock::now() + CUT_WAIT;
    let tables = [&core.deadlines, &core.admin_deadlines];
    tables.iter().for_each(|table| table.shut_all(|_| true));
    // Tasks that end give back what they hold; those of a runtime that has ended never do.
    while !tables.iter().all(|table| table.is_empty()) && clock::now() < deadline {
        timers::sleep(DRAIN_LOOK_INTERVAL).await;
    }
}

/// Retention runs beside the cores: deleting files may take its time.
fn start_housekeeping(
    common: Common,
    upstreams: Option<SideThread>,
    is_draining: Arc<AtomicBool>,
) -> io::Result<Shared> {
    let Common { store, offload, append_sessions, fetcher, packager, .. } = common;
    let (swept, watched, sessions) = (store.clone(), offload.clone(), append_sessions);
    let work = move || {
        while !is_draining.load(Ordering::Relaxed) {
            std::thread::park_timeout(SWEEP_INTERVAL);
            if !swept.is_memory_only() {
                watched.look_at_pressure();
            }
            sessions.sweep(clock::monotonic_s());
            packager.sweep_points();
            sweep_objects(&swept);
        }
    };
    let housekeeping = std::thread::Builder::new().name("housekeeping".to_owned()).spawn(work)?;
    Ok(Shared { housekeeping, store, offload, fetcher, upstreams })
}

/// Remove what retention says is due.
fn sweep_objects(store: &Store) {
    loop {
        let swept = store.sweep();
        if swept.objects == 0 {
            return;
        }
        tracing::debug!(?swept, "retention removed objects");
    }
}
