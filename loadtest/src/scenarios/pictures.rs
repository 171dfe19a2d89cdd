//! `pictures`: cameras, viewers that take every picture, and viewers that take none. The first must lose
//! nothing because of the others; these are read dry at the end, when what they get must still be whole
//! pictures, in order. Readers of one object are `live`'s subject.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio_uring::net::TcpStream;

use super::{Context, Load, parse_count};
use crate::camera::{self, Camera};
use crate::follow::{self, Audience, Tally};
use crate::outcome::Outcome;
use crate::pattern::Plan;
use crate::picture_sight::PictureSight;
use crate::publish;
use crate::report::{self, ClientShare, LatencyMs, Report};
use crate::target::Target;
use crate::viewer::{self, Viewer};

/// Longer than servers wait for a camera to come back.
const END_SECONDS_MAX: u64 = 15;
/// Small, so that the lag builds up in the server and not in this machine's receive buffers.
const RECEIVE_BYTES: usize = 16 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the viewers come; camera N is seen at URL/streamN
    url: String,
    /// Where cameras with a greeting push, as tcp://HOST:PORT
    #[arg(long, value_name = "URL")]
    push: String,
    /// Cameras, evenly apart in time
    #[arg(long, default_value_t = 8, value_parser = parse_count)]
    cameras: usize,
    /// Viewers that take all pictures, of one camera each, in turns
    #[arg(long, default_value_t = 180, value_parser = parse_count)]
    viewers: usize,
    /// Viewers that ask for pictures and never read
    #[arg(long, default_value_t = 20, value_name = "N")]
    stalled: usize,
    #[command(flatten)]
    load: Load,
}

#[derive(Serialize)]
pub(crate) struct PicturesReport {
    cameras: usize,
    viewers: usize,
    rate: f64,
    size: usize,
    pictures: u32,
    deliveries: u64,
    bytes: u64,
    /// Of those that came in while all viewers were there.
    lost_pictures: u64,
    torn_pictures: u64,
    #[serde(flatten)]
    outcome: Outcome,
    latency_ms: LatencyMs,
    stalled: Stalled,
    server_cpu_ns: Option<u64>,
    server_cpu_us_per_delivery: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
    cameras_late_max_ms: f64,
}

/// What viewers got that had taken nothing while it was live.
#[derive(Debug, Serialize)]
struct Stalled {
    viewers: usize,
    pictures: u64,
    skipped: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<PicturesReport> {
    let (door, target) = (camera::door(&args.push)?, Target::parse(&args.url)?);
    context.check_sockets(args.cameras + args.viewers + args.stalled + 1)?;
    let mut cameras = Vec::with_capacity(args.cameras);
    let mut scenes = Vec::with_capacity(args.cameras);
    for id in 0..args.cameras as u32 {
        let scene = Scene { target: target.below(&format!("stream{id}")), plan: args.load.plan() };
        cameras.push(Camera::open(&door, id, &scene.plan).await?);
        let scout = async || scene.join(&Tally::new()).await;
        viewer::wait_until_visible("a camera that was pushed", scout).await?;
        scenes.push(scene);
    }
    let stalled = connect_stalled(&scenes, args.stalled).await?;
    let tally = Tally::new();
    let join = |index| {
        let (scene, tally) = (Scene::of(&scenes, index), tally.clone());
        async move { scene.join(&tally).await }
    };
    let viewers = follow::join_readers(args.viewers, Duration::ZERO, join).await?;
    let audience = Audience::start(viewers, &tally);

    let pictures = args.load.plan().appends();
    let expected = args.viewers as u64 * u64::from(pictures);
    let progress = context.progress(u64::from(pictures), "pictures");
    let (paced, cameras) = publish::publish_paced(
        cameras,
        args.load.period_ns(),
        expected,
        &tally,
        &context.server,
        &progress,
    )
    .await?;
    // Taken before the end of the cameras, which is not part of the measurement.
    let (deliveries, bytes) = (tally.deliveries.get(), tally.bytes.get());
    let late_tally = Tally::new();
    let late = Audience::start(stalled, &late_tally);
    for camera in cameras {
        camera.end().await?;
    }
    let outcome = audience.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    let stalled = Stalled {
        viewers: args.stalled,
        outcome: late.finish(Duration::from_secs(END_SECONDS_MAX)).await,
        pictures: late_tally.deliveries.get(),
        skipped: late_tally.skipped.get(),
    };
    progress.finish_and_clear();
    Ok(PicturesReport {
        cameras: args.cameras,
        viewers: args.viewers,
        rate: args.load.rate,
        size: args.load.size,
        pictures,
        deliveries,
        bytes,
        lost_pictures: expected - deliveries,
        torn_pictures: outcome.corrupt_readers + stalled.outcome.corrupt_readers,
        outcome,
        latency_ms: LatencyMs::of(&tally.latency.borrow()),
        stalled,
        server_cpu_ns: paced.server_ns,
        server_cpu_us_per_delivery: report::us_per(paced.server_ns, deliveries as f64),
        client: ClientShare::new(paced.client_busy),
        cameras_late_max_ms: paced.late_max_ns as f64 / 1e6,
    })
}

/// What one camera shows, and where.
#[derive(Clone)]
struct Scene {
    target: Target,
    plan: Arc<Plan>,
}

impl Scene {
    fn of(scenes: &[Scene], index: usize) -> Scene {
        scenes[index % scenes.len()].clone()
    }

    async fn join(&self, tally: &Tally) -> Result<Viewer<PictureSight>> {
        let sight = PictureSight::new(&self.plan);
        Viewer::join(&self.target, sight, self.plan.append_bytes(), tally).await
    }
}

async fn connect_stalled(scenes: &[Scene], count: usize) -> Result<Vec<Viewer<PictureSight>>> {
    let mut viewers = Vec::with_capacity(count);
    for index in 0..count {
        let Scene { target, plan } = Scene::of(scenes, index);
        let socket = target.connect_blocking(Some(RECEIVE_BYTES))?;
        let stream = TcpStream::from_std(socket.into());
        let viewer = Viewer::new(stream, PictureSight::new(&plan), plan.append_bytes());
        viewer.request(&target).await?;
        viewers.push(viewer);
    }
    Ok(viewers)
}

impl Stalled {
    fn text(&self) -> String {
        let Stalled { viewers, pictures, skipped, outcome } = self;
        format!(
            "{viewers} stalled ({pictures} pictures late, {skipped} skipped, {})",
            outcome.text()
        )
    }
}

impl Report for PicturesReport {
    const MODE: &'static str = "pictures";

    fn line(&self) -> String {
        format!(
            "{} viewers of {} cameras × {} pictures of {} B at {}/s: {} deliveries, {}, {} pictures lost, {} torn, viewers {}; {}; {}; {}; {}",
            self.viewers,
            self.cameras,
            self.pictures,
            self.size,
            self.rate,
            self.deliveries,
            report::bytes_text(self.bytes),
            self.lost_pictures,
            self.torn_pictures,
            self.outcome.text(),
            self.latency_ms.text(),
            self.stalled.text(),
            report::server_text(self.server_cpu_us_per_delivery, "delivery"),
            self.client.text(),
        )
    }

    fn failed(&self) -> bool {
        self.lost_pictures > 0 || self.outcome.failed() || self.stalled.outcome.failed()
    }
}
