//! `headwater demo`: the origin on its usual addresses with a sample stream that never ends.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use bytes::Bytes;

use crate::commands::publish::{self, PublishOptions, Source};
use crate::commands::serve;
use crate::operations::config::{Config, RetentionSection};
use crate::operations::config_cameras::{RawFormat, RawQuality, RawSection};
use crate::operations::player::{Door, Player};
use crate::operations::{log, signals};
use crate::server::Server;

/// Made by scripts/make-sample from synthetic sources.
static SAMPLE: &[u8] = include_bytes!("sample.mp4");

/// Below the live prefix, so that the packager makes playlists and an MPD of it.
const STREAM: &str = "/live/demo/live.mp4";
const PLAYLIST: &str = "/live/demo/index.m3u8";
/// Where `scripts/player/build` puts the players of a checkout.
const PLAYER_DIR: &str = "./player";

/// Where the camera without a greeting is.
const CAMERA: &str = "/camera";

/// What of the endless stream is kept, and in which steps it is dropped.
const WINDOW_BYTES: u64 = 8 << 20;
const EXTENT_BYTES: u64 = 2 << 20;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Address that serves objects
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9094")]
    pub listen: SocketAddr,
    /// Address of /healthz, /readyz, /metrics, /player, /publish and /cameras
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9095")]
    pub admin: SocketAddr,
    /// Address that takes cameras with a greeting (MultiStreamingServer)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:12345")]
    pub cameras: SocketAddr,
    /// Address that takes one camera without a greeting, as MJPEG; it is at /camera
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:12346")]
    pub camera: SocketAddr,
}

pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let config = demo_config(args);
    let _log = log::start(&config).map_err(anyhow::Error::msg)?;
    let server =
        Server::start(&config).context("the demo cannot start (is another server running?)")?;
    let base = format!("http://{}", server.listen[0]);
    let (stopper, is_over) = (server.stopper(), Arc::new(AtomicBool::new(false)));
    let stop = is_over.clone();
    signals::on_stop(move || {
        stop.store(true, Ordering::SeqCst);
        stopper.stop();
    })?;
    serve::announce(&server)?;
    let is_built = Player::read(&config.player_dir, &Door::default()).found().contains(&"hls.js");
    let camera = server.cameras.iter().find(|(path, _)| path.is_some());
    let camera = camera.map_or(args.camera, |(_, address)| *address);
    println!("{}", next_steps(&base, (server.admin, camera), is_built));
    let publisher = publish_sample(base + STREAM, is_over)?;
    server.join();
    let _ = publisher.join();
    Ok(())
}

fn demo_config(args: &DemoArgs) -> Config {
    let mut config = Config {
        listen: vec![args.listen],
        admin: args.admin,
        ram_only: true,
        log: "warn".to_owned(),
        shutdown_grace_s: 1,
        ..Config::default()
    };
    if Path::new(PLAYER_DIR).is_dir() {
        config.player_dir = PLAYER_DIR.into();
    }
    config.store.extent_bytes = EXTENT_BYTES;
    config.cameras.listen = vec![args.cameras];
    config.cameras.raw = vec![RawSection {
        listen: args.camera,
        format: RawFormat::Mjpeg,
        path: CAMERA.to_owned(),
        quality: RawQuality::High,
    }];
    config.retention = vec![RetentionSection {
        prefix: "/live/demo/".to_owned(),
        window_bytes: Some(WINDOW_BYTES),
        ..Default::default()
    }];
    config
}

fn publish_sample(
    url: String,
    is_over: Arc<AtomicBool>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("publisher".to_owned()).spawn(move || {
        let source = Source::Bytes { name: "sample", bytes: Bytes::from_static(SAMPLE) };
        let options = PublishOptions { looping: true, ..PublishOptions::default() };
        let outcome = publish::publish(source, &url, &options, &|_| {}, &is_over);
        if let Err(error) = outcome
            && !is_over.load(Ordering::SeqCst)
        {
            tracing::error!(%error, "the sample stream ended");
        }
    })
}

fn next_steps(base: &str, (admin, camera): (SocketAddr, SocketAddr), is_built: bool) -> String {
    // Without hls.js the page plays the upload itself.
    let (shown, own, hint) = match is_built {
        true => (PLAYLIST, "index.m3u8", ""),
        false => (
            STREAM,
            "cam.mp4",
            "
                     with hls.js, dash.js and shaka: run scripts/player/build, then this again",
        ),
    };
    format!(
        "
A sample stream is live at {base}{STREAM}
(in memory; Ctrl-C ends it)

  watch it           http://{admin}/player?src={base}{shown}{hint}
  play it            ffplay {base}{STREAM}
  look at it         ffprobe {base}{STREAM}
  follow the bytes   curl -sN {base}{STREAM} | head -c 1000000 | wc -c

  put an object      echo hello | curl -T - {base}/hello.txt
  get it             curl -i {base}/hello.txt
  push your own      ffmpeg -re -i FILE -c:v libx264 -tune zerolatency -g 50 -c:a aac -f mp4 \\
                       -movflags cmaf+empty_moov+default_base_moof+separate_moof \\
                       -frag_duration 200000 -method PUT {base}/live/cam/cam.mp4
  watch that         http://{admin}/player?src={base}/live/cam/{own}
  or your camera     http://{admin}/publish

  a camera           ffmpeg -re -i FILE -an -c:v mjpeg -q:v 5 -f mjpeg tcp://{camera}
  watch it           {base}{CAMERA}, {base}{CAMERA}.jpg, or http://{admin}/cameras

  a growing file     tail -F FILE | headwater append {base}/file.txt
  follow it          headwater follow {base}/file.txt

  metrics            curl http://{admin}/metrics
  a real server      headwater serve --help
"
    )
}
