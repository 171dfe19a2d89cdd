//! ASSEMBLY: the only file that knows every part. A worker per core with its listeners and doors,
//! a housekeeping thread, the admin pages, and the orderly stop.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::channels::{self, Channels, LagRule};
use crate::connection::cmcd::CmcdLog;
use crate::connection::{self, Core, Doors, Page, Role, listener};
use crate::coordinator::{self, Coordinator, Credentials, Hook, Pace};
use crate::egress::{self, Egress};
use crate::ingest::{self, AppendSessions, Ingest};
use crate::operations::admin::Admin;
use crate::operations::config::{
    ChannelsSection, Config, CoordinatorSection, Durability, HookAuth, HookSection, LiveParts,
    LiveSection, OnAbort, OnLag, PlaylistType, SteeringSection,
};
use crate::operations::player::{Door, Player};
use crate::operations::{config, cors, metrics};
use crate::packager::{self, LiveRule, Packager, Pathway, Steering};
use crate::runtime::buffers::BufferPool;
use crate::runtime::counters::Counters;
use crate::runtime::deadlines::{Deadlines, Phase};
use crate::runtime::file_ring::FileRing;
use crate::runtime::mailbox::Mailbox;
use crate::runtime::offload::{Disk, Offload};
use crate::runtime::ring::Ring;
use crate::runtime::socket::{self, Listener};
use crate::runtime::worker::{self, Driver};
use crate::runtime::{affinity, clock, timers};
use crate::store::{CoreList, Recovered, RetentionRule, Store, StoreOptions};
use crate::wire::http1::{DateLine, HeadLimits};

/// Descriptors that are neither connections nor object files: rings, listeners, logs, uploads.
const OTHER_DESCRIPTORS: usize = 1024;
/// A core's receive buffer, shared by its connections.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Lost packets alone must not break a connection.
const USER_TIMEOUT_MIN_S: u64 = 60;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(20);
const WAIT_DEFAULT_MS: u64 = 1000;

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
    pub admin: SocketAddr,
    pub driver: Driver,
    pub recovered: Recovered,
    workers: Vec<JoinHandle<()>>,
    shared: Shared,
    coordinator: Option<Coordinator>,
    stopper: Stopper,
}

/// What the cores share and the end gives back.
struct Shared {
    housekeeping: JoinHandle<()>,
    store: Arc<Store>,
    offload: Arc<Offload>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct Stopper {
    mailboxes: Vec<Mailbox<Message>>,
    is_draining: Arc<AtomicBool>,
    coordinator: Option<coordinator::Stopper>,
}

impl Stopper {
    /// Accept nothing more, abort or keep open uploads, let readers of sealed objects finish.
    pub fn stop(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
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
    /// Cores that have not finished draining.
    undrained: Arc<AtomicUsize>,
    read_buffers: u16,
    cmcd_lines_per_s_max: u32,
    packager: Arc<Packager>,
    channels: Arc<Channels>,
    append_sessions: Arc<AppendSessions>,
    store: Arc<Store>,
    counters: Arc<Counters>,
    offload: Arc<Offload>,
    mailbox: Mailbox<Message>,
    listeners: Vec<(TcpListener, Role)>,
    connection_options: Arc<connection::Options>,
    egress_options: Arc<egress::Options>,
    ingest_options: Arc<ingest::Options>,
}

impl Server {
    /// Recover the store, bind the addresses and start serving.
    pub fn start(config: &Config) -> io::Result<Server> {
        let driver = worker::detect_driver();
        if driver == Driver::Epoll {
            tracing::warn!(
                "io_uring is not to be had here (seccomp, sysctl kernel.io_uring_disabled, or an \
                old kernel): running on epoll, with more CPU for each request and each cold read"
            );
        }
        let cpus = chosen_cpus(config.cores);
        let descriptors = raise_descriptor_limit();
        let mailboxes: Vec<Mailbox<Message>> = cpus.iter().map(|_| Mailbox::default()).collect();
        let store = Store::open(store_options(config, mailboxes.clone()))?;
        let started = clock::now();
        let recovered = store.recover()?;
        tracing::info!(
            ?recovered,
            took_ms = started.elapsed().as_millis() as u64,
            "data directory read"
        );
        let counters: Vec<_> = cpus.iter().map(|_| Arc::new(Counters::default())).collect();
        let is_draining = Arc::new(AtomicBool::new(false));
        let packager = Packager::new(packager_options(config), store.clone());
        let metrics = metrics_page(&store, &packager, &counters, driver);
        let user_timeout_s = config.limits.send_stall_timeout_s.max(USER_TIMEOUT_MIN_S);
        let (admin_listener, admin_address) = bind_one(config.admin, "admin", user_timeout_s)?;
        let bound = Bound::new(config, user_timeout_s)?;
        let channels = Channels::new(channels_options(&config.channels)?, store.clone());
        let append_sessions: Arc<AppendSessions> = Arc::default();
        let coordinator = start_coordinator(&config.coordinator)?;
        let addresses = bound.addresses();
        let player = Player::read(&config.player_dir, &channel_door(config, &addresses));
        let admin = Admin { metrics, player, is_draining: is_draining.clone() };
        let offload = Offload::start()?;
        let options = options_of(config, cpus.len(), descriptors)?;
        let undrained = Arc::new(AtomicUsize::new(cpus.len()));
        let mut workers = Vec::new();
        let pages: Role = Role::Admin(Arc::new(move |path: &str| {
            admin.page(path).map(|(status, content_type, body)| Page { status, content_type, body })
        }));
        let of_doors = |doors| addresses_of(&addresses, doors);
        let (listen, append) = (of_doors(Bound::common(config)), of_doors(Doors::APPEND));
        let own_channels = of_doors(Doors::CHANNELS);
        let mut firsts = Some((bound.listeners, (admin_listener, pages)));
        for (index, cpu) in cpus.iter().enumerate() {
            let parts = Parts {
                index,
                cpu: *cpu,
                driver,
                grace: Duration::from_secs(config.shutdown_grace_s),
                undrained: undrained.clone(),
                read_buffers: config.limits.read_buffers,
                cmcd_lines_per_s_max: config.limits.cmcd_lines_per_s_max,
                packager: packager.clone(),
                channels: channels.clone(),
                append_sessions: append_sessions.clone(),
                store: store.clone(),
                counters: counters[index].clone(),
                offload: offload.clone(),
                mailbox: mailboxes[index].clone(),
                listeners: listeners_of_core(&addresses, user_timeout_s, firsts.take())?,
                connection_options: options.0.clone(),
                egress_options: options.1.clone(),
                ingest_options: options.2.clone(),
            };
            workers.push(start_worker(parts)?);
        }
        let shared = start_housekeeping(store, offload, is_draining.clone())?;
        let stopper = Stopper {
            mailboxes,
            is_draining,
            coordinator: coordinator.as_ref().map(Coordinator::stopper),
        };
        let (admin, channels) = (admin_address, own_channels);
        Ok(Server {
            listen,
            append,
            channels,
            admin,
            driver,
            recovered,
            workers,
            shared,
            coordinator,
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
        let Shared { housekeeping, store, offload } = self.shared;
        housekeeping.thread().unpark();
        let _ = housekeeping.join();
        offload.end();
        store.release();
        if let Some(coordinator) = self.coordinator {
            coordinator.join();
        }
    }
}

fn start_coordinator(section: &CoordinatorSection) -> io::Result<Option<Coordinator>> {
    if section.listen.is_empty() {
        return Ok(None);
    }
    Coordinator::start(coordinator_options(section)).map(Some)
}

pub fn coordinator_options(section: &CoordinatorSection) -> coordinator::Options {
    let credentials = |auth: &HookAuth| match auth.clone() {
        HookAuth::Basic { user, password } => Credentials::Basic { user, password },
        HookAuth::Bearer { token } => Credentials::Bearer { token },
        HookAuth::Custom { value } => Credentials::Custom { value },
    };
    let hook = |hook: &HookSection| Hook {
        url: hook.url.clone(),
        credentials: hook.auth.as_ref().map(credentials),
    };
    coordinator::Options {
        listen: section.listen.clone(),
        secret: section.secret.clone(),
        require_encoder: section.require_encoder,
        state_file: section.state_file.clone(),
        id_length_max: section.id_length_max,
        hook_timeout: Duration::from_secs(section.hook_timeout_s),
        reconnect_grace: Duration::from_secs(section.reconnect_grace_s),
        key_verification: section.key_verification.as_ref().map(hook),
        event_callback: section.event_callback.as_ref().map(hook),
        commands: section.commands_auth.as_ref().map(credentials),
        pace: Pace {
            heartbeat_interval: Duration::from_secs(section.heartbeat_interval_s),
            silence_timeout: Duration::from_secs(section.silence_timeout_s),
        },
        event_retry: Duration::from_secs(section.event_retry_s),
        clock: clock::unix_ms,
    }
}

/// Listeners of objects that were bound to learn their ports.
struct Bound {
    listeners: Vec<(TcpListener, Role)>,
}

impl Bound {
    fn new(config: &Config, user_timeout_s: u64) -> io::Result<Bound> {
        let mut listeners = Vec::new();
        let doors = [
            (&config.listen, Bound::common(config), "listen"),
            (&config.append.listen, Doors::APPEND, "append.listen"),
            (&config.channels.listen, Doors::CHANNELS, "channels.listen"),
        ];
        for (list, doors, option) in doors {
            for address in list {
                let (listener, _) = bind_one(*address, option, user_timeout_s)?;
                listeners.push((listener, Role::Objects(doors)));
            }
        }
        Ok(Bound { listeners })
    }

    /// What the common listeners lead to.
    fn common(config: &Config) -> Doors {
        let (append, channels) = (&config.append, &config.channels);
        Doors {
            http: true,
            append: append.enabled && append.listen.is_empty(),
            channels: channels.enabled && channels.listen.is_empty(),
        }
    }

    fn addresses(&self) -> Vec<(SocketAddr, Role)> {
        let address = |(listener, role): &(TcpListener, Role)| {
            Some((listener.local_addr().ok()?, role.clone()))
        };
        self.listeners.iter().filter_map(address).collect()
    }
}

fn addresses_of(addresses: &[(SocketAddr, Role)], doors: Doors) -> Vec<SocketAddr> {
    let is_it = |role: &Role| matches!(role, Role::Objects(found) if *found == doors);
    addresses.iter().filter(|(_, role)| is_it(role)).map(|(address, _)| *address).collect()
}

/// The first core gets the listeners that were bound to learn the ports, and the admin address.
fn listeners_of_core(
    addresses: &[(SocketAddr, Role)],
    user_timeout_s: u64,
    firsts: Option<(Vec<(TcpListener, Role)>, (TcpListener, Role))>,
) -> io::Result<Vec<(TcpListener, Role)>> {
    if let Some((first, admin)) = firsts {
        return Ok(first.into_iter().chain([admin]).collect());
    }
    let bind = |(address, role): &(SocketAddr, Role)| {
        Ok((socket::bind(*address, user_timeout_s)?, role.clone()))
    };
    addresses.iter().map(bind).collect()
}

fn bind_one(
    address: SocketAddr,
    option: &str,
    user_timeout_s: u64,
) -> io::Result<(TcpListener, SocketAddr)> {
    let explain = |error: io::Error| {
        let text = format!("cannot listen on {address} (option {option}): {error}");
        io::Error::new(error.kind(), text)
    };
    refuse_taken_port(address).map_err(explain)?;
    let listener = socket::bind(address, user_timeout_s).map_err(explain)?;
    let actual = listener.local_addr()?;
    Ok((listener, actual))
}

/// Cores share their port (SO_REUSEPORT), so a second server would silently share it too: try once
/// without sharing.
fn refuse_taken_port(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(address).map(drop)
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

fn store_options(config: &Config, mailboxes: Vec<Mailbox<Message>>) -> StoreOptions {
    let retention = config.retention.iter().map(|rule| RetentionRule {
        prefix: rule.prefix.trim_start_matches('/').to_owned(),
        age_max_ms: rule.max_age_s.map(|seconds| seconds.saturating_mul(1000)),
        bytes_max: rule.max_bytes,
        window_bytes: rule.window_bytes,
    });
    let total = config.store.total_bytes_max;
    let total_bytes_max = match (total, config.ram_only) {
        (0, false) => None,
        (0, true) => Some(memory_bytes() / 2),
        (bytes, _) => Some(bytes),
    };
    // In memory every object keeps a mapping for life.
    let objects_max = if config.ram_only {
        config.store.objects_max.min(config.store.mappings_max)
    } else {
        config.store.objects_max
    };
    StoreOptions {
        data: (!config.ram_only).then(|| config.data.clone()),
        extent_bytes: config.store.extent_bytes,
        keep_aborted: config.on_abort == OnAbort::Keep,
        objects_max,
        object_bytes_max: config.store.object_bytes_max,
        open_files_max: config.store.open_files_max,
        mappings_max: config.store.mappings_max,
        body_cache_bytes_max: config.store.body_cache_bytes_max,
        total_bytes_max,
        watched_names_max: config.limits.watched_names_max,
        retention: retention.collect(),
        clock: clock::unix_ms,
        signal: Box::new(move |core, list| mailboxes[core].send(Message::Wake(list))),
    }
}

fn packager_options(config: &Config) -> packager::Options {
    packager::Options { rules: config.live.iter().map(live_rule).collect(), clock: clock::unix_ms }
}

fn live_rule(section: &LiveSection) -> LiveRule {
    LiveRule {
        prefix: section.prefix.trim_start_matches('/').to_owned(),
        part_ms: section.part_ms,
        segment_ms: (section.segment_s * 1000.0).round() as u64,
        window_ms: section.window_s * 1000,
        parts: match section.parts {
            LiveParts::Urls => packager::Parts::Urls,
            LiveParts::ByteRanges => packager::Parts::ByteRanges,
            LiveParts::None => packager::Parts::None,
        },
        kind: match section.playlist_type {
            PlaylistType::Window => packager::ListKind::Window,
            PlaylistType::Event => packager::ListKind::Event,
        },
        steering: section.steering.as_ref().map(steering),
        source: section.source.as_deref().map(source),
    }
}

/// A path is an object's, a word a channel's.
fn source(source: &str) -> packager::Source {
    match source.strip_prefix('/') {
        Some(object) => packager::Source::Object(object.to_owned()),
        None => packager::Source::Channel(source.to_owned()),
    }
}

fn channels_options(section: &ChannelsSection) -> io::Result<channels::Options> {
    let ranges = |list: &[String]| {
        let parsed = list.iter().map(|range| config::parse_range(range));
        parsed.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)
    };
    Ok(channels::Options {
        cache_bytes_max: section.cache_bytes_max,
        cache_ms: (section.cache_s > 0).then(|| section.cache_s.saturating_mul(1000)),
        lag_bytes_max: section.lag_bytes_max,
        lag_rule: match section.on_lag {
            OnLag::Skip => LagRule::Skip,
            OnLag::Close => LagRule::Close,
        },
        message_bytes_max: section.message_bytes_max,
        id_length_max: section.id_length_max,
        connections_per_ip_max: section.connections_per_ip_max,
        unlimited_from: ranges(&section.unlimited_from)?,
        play_from: ranges(&section.play_from)?,
        heartbeat_interval_s: section.heartbeat_interval_s,
        silence_timeout_s: section.silence_timeout_s,
        clock: clock::unix_ms,
    })
}

fn steering(section: &SteeringSection) -> Steering {
    let pathways = section.pathways.iter();
    let pathways = pathways.map(|p| Pathway { id: p.id.clone(), host: p.host.clone() }).collect();
    Steering { ttl_s: section.ttl_s, pathways }
}

/// Where the pages find channels: on the common addresses, or on their own.
fn channel_door(config: &Config, addresses: &[(SocketAddr, Role)]) -> Door {
    let has_channels = |role: &Role| matches!(role, Role::Objects(doors) if doors.channels);
    let listen = addresses.iter().filter(|(_, role)| has_channels(role));
    let listen = listen.map(|(address, _)| *address).collect();
    Door { listen, prefix: config.channels.prefix.clone() }
}

fn metrics_page(
    store: &Arc<Store>,
    packager: &Arc<Packager>,
    counters: &[Arc<Counters>],
    driver: Driver,
) -> metrics::Page {
    let packager = packager.clone();
    let live = Box::new(move || live_figures(&packager));
    metrics::Page::new(store.clone(), live, counters.to_vec(), driver == Driver::IoUring)
}

/// What the metrics page shows of the presentations.
fn live_figures(packager: &Packager) -> metrics::LiveFigures {
    let (points, tracks) = packager.gauges();
    let events = packager.counts().all().to_vec();
    metrics::LiveFigures { points: points as u64, tracks: tracks as u64, events }
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

type DoorOptions = (Arc<connection::Options>, Arc<egress::Options>, Arc<ingest::Options>);

/// Hand each part its own options.
fn options_of(config: &Config, cores: usize, descriptors: usize) -> io::Result<DoorOptions> {
    let cors = match &config.cors_file {
        None => config.cors.clone(),
        Some(path) => cors::read_file(path, &config.cors).map_err(io::Error::other)?,
    };
    let limits = &config.limits;
    let room = descriptors.saturating_sub(config.store.open_files_max + OTHER_DESCRIPTORS).max(16);
    if room < limits.connections_max {
        tracing::warn!(
            descriptors,
            connections_max = room,
            "fewer connections than limits.connections_max: \
            raise the limit of open files (LimitNOFILE)"
        );
    }
    let common_lines = cors::common_lines(&cors);
    let connection = connection::Options {
        head: HeadLimits {
            request_line_bytes_max: limits.request_line_bytes_max,
            head_bytes_max: limits.head_bytes_max,
        },
        head_timeout_s: limits.head_timeout_s,
        keep_alive_timeout_s: limits.keep_alive_timeout_s,
        connections_max: limits.connections_max.min(room).div_ceil(cores),
        wait_absent: config.wait_absent,
        wait_default_ms: WAIT_DEFAULT_MS,
        wait_max_ms: limits.wait_max_s.saturating_mul(1000),
        query_in_name: config.compat.query_in_name,
        cache_not_found: config.cache_control.not_found.clone(),
        cache_error: config.cache_control.error.clone(),
        append_prefix: config.append.prefix.clone(),
        channels_prefix: config.channels.prefix.clone(),
        common_lines: common_lines.clone(),
        preflight_lines: cors::preflight_lines(&cors),
        listed_origins: cors::listed_origins(&cors),
    };
    let egress = egress::Options {
        common_lines,
        cache_manifest: config.cache_control.manifest.clone(),
        cache_segment: config.cache_control.segment.clone(),
        cache_other: config.cache_control.other.clone(),
        small_object_bytes_max: config.store.small_object_bytes_max,
        lag_bytes_max: limits.lag_bytes_max,
        send_stall_timeout_s: limits.send_stall_timeout_s,
        ping_interval_s: config.append.ping_interval_s,
    };
    let ingest = ingest::Options {
        stored_headers: config.headers.stored.clone(),
        delete_expired: config.delete_expired,
        is_durable: config.durability == Durability::Sync,
        object_bytes_max: config.store.object_bytes_max,
        body_idle_timeout_s: limits.body_idle_timeout_s,
        ping_interval_s: config.append.ping_interval_s,
        append_idle_timeout_s: config.append.idle_timeout_s,
    };
    Ok((Arc::new(connection), Arc::new(egress), Arc::new(ingest)))
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
    let ring = FileRing::new(second_ring.clone(), parts.offload.clone(), pool);
    let deadlines = Rc::new(Deadlines::new(parts.counters.clone()));
    let admin_deadlines = Rc::new(Deadlines::new(parts.counters.clone()));
    let core = Rc::new(Core {
        options: parts.connection_options,
        egress: Egress {
            core: parts.index,
            store: parts.store.clone(),
            packager: parts.packager.clone(),
            channels: parts.channels.clone(),
            ring: ring.clone(),
            counters: parts.counters.clone(),
            options: parts.egress_options,
            date: RefCell::new(DateLine::default()),
        },
        ingest: Ingest {
            core: parts.index,
            store: parts.store,
            packager: parts.packager,
            channels: parts.channels,
            append_sessions: parts.append_sessions,
            ring,
            disk: Disk::new(parts.offload, parts.counters.clone()),
            counters: parts.counters.clone(),
            options: parts.ingest_options,
            aside_buffers: RefCell::default(),
            receive_buffer: Rc::new(RefCell::new(vec![0; RECEIVE_BUFFER_BYTES])),
        },
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
    drain(&core, &listeners, parts.grace, &parts.undrained).await;
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
    for (listener, role) in listeners.iter().filter(|(_, role)| matches!(role, Role::Objects(_))) {
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
    // The process may live on: nobody may wait for an answer here.
    core.deadlines.shut_all(|_| true);
    core.admin_deadlines.shut_all(|_| true);
    listeners.iter().for_each(|(listener, _)| listener.stop());
}

/// Retention runs beside the cores: deleting files may take its time.
fn start_housekeeping(
    store: Arc<Store>,
    offload: Arc<Offload>,
    is_draining: Arc<AtomicBool>,
) -> io::Result<Shared> {
    let (swept_store, watched_offload) = (store.clone(), offload.clone());
    let housekeeping =
        std::thread::Builder::new().name("housekeeping".to_owned()).spawn(move || {
            while !is_draining.load(Ordering::Relaxed) {
                std::thread::park_timeout(SWEEP_INTERVAL);
                if !swept_store.is_memory_only() {
                    watched_offload.look_at_pressure();
                }
                loop {
                    let swept = swept_store.sweep();
                    if swept.objects == 0 {
                        break;
                    }
                    tracing::debug!(?swept, "retention removed objects");
                }
            }
        })?;
    Ok(Shared { housekeeping, store, offload })
}
