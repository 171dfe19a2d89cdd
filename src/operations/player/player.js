// The page /player: plays a live stream with the player that fits, and shows what it does to it.
//
//   protocol   by the end of the address     player
//   hls        .m3u8                         hls.js, or shaka, or the browser itself
//   dash       .mpd                          dash.js, or shaka
//   mjpeg      .mjpeg, .mjpg                 an image
//   channel    ws://…/CHANNEL/KEY/receive    Channel: WebSocket and Media Source, no library
//   mp4        anything else                 Tail below: fetch and Media Source, no library
//
// In the page's address: src, or channel and key of a channel of this server, player (hls.js | dash.js |
// shaka | mse | native) and latency, the wish in seconds, which otherwise is the stream's own. `window.headwater.readings()` is for the tests.
import { Channel, channelUrl, ownDoor } from "./player/channel.js";
import { BACK_BUFFER_S, Edge } from "./player/edge.js";
import { Boxes, mp4Type, tracksOf, zeroByProducer } from "./player/mp4.js";
import { $, Trouble, bits, complain, note, seconds, trouble } from "./player/page.js";

const READINGS_PER_S = 4;
const HISTORY_POINTS = 240;
const AGAIN_MS = 3000;
const HLS_JUMP_S = 1.5;
const HLS_BUFFER_MIN_S = 0.3;

const video = $("video");
const asked = new URLSearchParams(location.search);
const wishedLatency = Number(asked.get("latency")) || null;

// ---------------------------------------------------------------- protocols and players

function protocolOf(src) {
  const path = src.split(/[?#]/)[0].toLowerCase();
  if (/^wss?:/.test(path)) return "channel";
  if (path.endsWith(".m3u8")) return "hls";
  if (path.endsWith(".mpd")) return "dash";
  if (/\.mjpe?g$/.test(path)) return "mjpeg";
  return "mp4";
}

const PLAYERS_OF = {
  hls: ["hls.js", "shaka", "native"],
  dash: ["dash.js", "shaka"],
  mjpeg: ["image"],
  mp4: ["mse"],
  channel: ["mse"],
};
const PROTOCOL_NAMES = { hls: "HLS", dash: "DASH", mjpeg: "MJPEG", mp4: "MP4 tail", channel: "WebSocket" };
const LIBRARIES = { "hls.js": "lib/hls.js", "dash.js": "lib/dash.js", shaka: "lib/shaka.js" };

const loaded = new Map();
function library(name) {
  if (!loaded.has(name)) {
    loaded.set(name, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `/player/${LIBRARIES[name]}`;
      script.onload = resolve;
      script.onerror = () => {
        loaded.delete(name);
        reject(new Trouble(
          `${name} is not built on this server`,
          "The players come from npm and are not part of the program. Build them where it runs, and start it again with the directory (headwater demo finds ./player by itself). Without them this page plays fragmented MP4, such as the object that an encoder pushes.",
          "scripts/player/build\nheadwater serve --set player_dir=\"$PWD/player\"",
        ));
      };
      document.head.append(script);
    }));
  }
  return loaded.get(name);
}

// A trouble may name another player to try `instead`, where nobody chose this one.
// Each starter returns { name, latency(), bitrate(), latencyName?, stop() }; it reports what is fatal
// by fail().

async function startHlsJs(src, fail) {
  await library("hls.js");
  const { Hls } = window;
  const config = {
    lowLatencyMode: true,
    // No backBufferLength: the browser drops what is old. hls.js 1.7 would forget the part that it is
    // parsing when it removes some itself ("found no media"), and stall.
    maxBufferLength: 10,
    // The target is the playlist's PART-HOLD-BACK; after a stall hls.js adds to it, but not a whole
    // target duration at once.
    liveSyncOnStallIncrease: 0.1,
    highBufferWatchdogPeriod: 1,
    manifestLoadPolicy: retrying(10000),
    playlistLoadPolicy: retrying(10000),
  };
  if (wishedLatency) {
    config.liveSyncDuration = wishedLatency;
    config.liveMaxLatencyDuration = wishedLatency + 4;
  }
  const hls = new Hls(config);
  let recoveries = 0;
  hls.on(Hls.Events.ERROR, (_, data) => {
    const reason = data.reason || data.error?.message || "";
    note(`hls.js: ${data.details}${data.fatal ? " (fatal)" : ""}${reason && ` (${reason.slice(0, 120)})`}`);
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && recoveries++ < 2) return hls.recoverMediaError();
    const status = data.response?.code;
    fail(new Trouble(`hls.js: ${data.details}`, adviceOf(status, data.url || src)));
  });
  hls.on(Hls.Events.LEVEL_SWITCHED, (_, data) => note(`hls.js: level ${data.level}`));
  // hls.js itself speeds up only with more than a second buffered, which is longer than the whole
  // hold-back of short parts: so the page does it, and jumps when far behind.
  let farSince = null;
  const steer = setInterval(() => {
    const late = hls.latency - hls.targetLatency;
    if (video.paused || video.seeking || !Number.isFinite(late)) return;
    video.playbackRate = late > 0.08 && bufferAhead() > HLS_BUFFER_MIN_S ? Math.min(1.1, 1.02 + late / 10) : 1;
    farSince = late > HLS_JUMP_S ? farSince ?? performance.now() : null;
    if (farSince === null || performance.now() - farSince < 2000 || !(hls.liveSyncPosition > video.currentTime)) return;
    farSince = null;
    note(`jump to the live end, ${late.toFixed(1)} s`);
    video.currentTime = hls.liveSyncPosition;
  }, 1000 / READINGS_PER_S);
  hls.attachMedia(video);
  hls.loadSource(src);
  return {
    name: `hls.js ${Hls.version}`,
    latency: () => (hls.latency > 0 ? hls.latency : null),
    bitrate: () => hls.levels[hls.currentLevel]?.bitrate ?? null,
    stop: () => { clearInterval(steer); hls.destroy(); },
    handle: hls,
  };
}

// A live playlist may be late: the encoder starts after the page, or starts again.
function retrying(timeoutMs) {
  const again = { maxNumRetry: 8, retryDelayMs: 500, maxRetryDelayMs: 4000 };
  return {
    default: {
      maxTimeToFirstByteMs: timeoutMs,
      maxLoadTimeMs: timeoutMs * 2,
      timeoutRetry: again,
      errorRetry: again,
    },
  };
}

async function startDashJs(src, fail) {
  await library("dash.js");
  const { dashjs } = window;
  const player = dashjs.MediaPlayer().create();
  player.updateSettings({
    debug: { logLevel: dashjs.Debug.LOG_LEVEL_NONE },
    streaming: {
      applyServiceDescription: !wishedLatency,
      ...(wishedLatency ? { delay: { liveDelay: wishedLatency } } : {}),
      liveCatchup: {
        enabled: true,
        mode: "liveCatchupModeDefault",
        maxDrift: 4,
        playbackRate: { min: -0.05, max: 0.1 },
      },
      buffer: { bufferToKeep: BACK_BUFFER_S, initialBufferLevel: 0 },
      gaps: { jumpLargeGaps: true },
      retryAttempts: { MPD: 8, MediaSegment: 5, InitializationSegment: 5 },
      retryIntervals: { MPD: 1000 },
      // Chunks arrive at the pace of production: their rate says nothing of the path's.
      abr: { throughput: { lowLatencyDownloadTimeCalculationMode: "abrFetchThroughputCalculationMoofParsing" } },
    },
  });
  const events = dashjs.MediaPlayer.events;
  player.on(events.ERROR, ({ error }) => {
    const code = error?.code;
    note(`dash.js: ${error?.message || code}`);
    const status = error?.data?.response?.status ?? error?.data?.status;
    const title = `dash.js: ${String(error?.message || code).slice(0, 160)}`;
    if (code !== dashjs.MediaPlayer.errors.MANIFEST_ERROR_ID_NOSTREAMS_CODE) {
      return fail(new Trouble(title, adviceOf(status, src)));
    }
    const trouble = new Trouble(title, "dash.js plays no track that holds picture and sound in one. Push them as two (ffmpeg: -movflags …+separate_moof), or choose shaka.");
    // Not before dash.js is done with this event: it goes on with what would be destroyed.
    setTimeout(() => fail(Object.assign(trouble, { instead: "shaka" })));
  });
  player.on(events.PLAYBACK_ERROR, () => note("dash.js: the browser could not play a segment"));
  // Its default clock is a host on the internet; the MPD's own or this machine's is meant here.
  player.clearDefaultUTCTimingSources();
  player.initialize(video, src, true);
  return {
    name: `dash.js ${dashjs.Version}`,
    latency: () => {
      const value = player.isReady() ? player.getCurrentLiveLatency() : NaN;
      return value > 0 ? value : null;
    },
    bitrate: () => {
      const now = player.isReady() && player.getCurrentRepresentationForType("video");
      return now ? (now.bitrateInKbit * 1000 || now.bandwidth || null) : null;
    },
    stop: () => player.destroy(),
    handle: player,
  };
}

async function startShaka(src, fail) {
  await library("shaka");
  const { shaka } = window;
  shaka.polyfill.installAll();
  const player = new shaka.Player();
  player.configure({
    streaming: {
      lowLatencyMode: true,
      rebufferingGoal: 0.01,
      bufferBehind: BACK_BUFFER_S,
      inaccurateManifestTolerance: 0,
      retryParameters: { maxAttempts: 8, baseDelay: 300, backoffFactor: 1.5 },
      // The target is set when it plays, see below; by default half a second more or less will do.
      liveSync: { enabled: true, maxPlaybackRate: 1.1, minPlaybackRate: 0.95, targetLatencyTolerance: 0.05 },
    },
    manifest: {
      retryParameters: { maxAttempts: 8, baseDelay: 500, backoffFactor: 1.5 },
      ...(wishedLatency ? { defaultPresentationDelay: wishedLatency } : {}),
      dash: wishedLatency ? { ignoreSuggestedPresentationDelay: true } : {},
    },
  });
  const failed = (error) => {
    note(`shaka: error ${error.code}`);
    const http = error.code === 1001;
    fail(new Trouble(
      `shaka: error ${error.code}`,
      http ? adviceOf(error.data?.[1], error.data?.[0] || src)
        : error.code === 1002 ? adviceOf(0, error.data?.[0] || src)
        : "shaka's Error.Code list says what the number means; the browser's console has the details.",
    ));
  };
  player.addEventListener("error", (event) => event.detail.severity === 2 && failed(event.detail));
  await player.attach(video);
  // shaka's own target counts from the end of its seek range, which lies behind the live end by a
  // part, its presentation delay and more: so the MPD's wish has to be turned into that measure.
  const aim = () => {
    const wish = wishedLatency ?? player.getManifest()?.serviceDescription?.targetLatency;
    const { liveLatency } = player.getStats();
    const behind = player.seekRange().end - video.currentTime;
    if (!wish || !(liveLatency > 0)) return;
    const target = Math.max(0.05, wish - (liveLatency - behind));
    if (Math.abs(target - aimed) < 0.03) return;
    aimed = target;
    player.configure("streaming.liveSync.targetLatency", target);
  };
  let aimed = 0;
  const aiming = setInterval(() => video.paused || aim(), 1000 / READINGS_PER_S);
  player.load(src).catch((error) => error.code !== 7000 && failed(error));
  return {
    name: `shaka ${shaka.Player.version.replace(/^v/, "")}`,
    latency: () => player.getStats().liveLatency || null,
    bitrate: () => player.getStats().streamBandwidth || null,
    stop: () => { clearInterval(aiming); return player.destroy(); },
    handle: player,
  };
}

async function startNative(src, fail) {
  if (!video.canPlayType("application/vnd.apple.mpegurl")) {
    throw new Trouble("This browser does not play HLS by itself", "Choose hls.js or shaka.");
  }
  video.onerror = () => fail(new Trouble("The browser could not play it", video.error?.message || adviceOf(0, src)));
  video.src = src;
  return {
    name: "browser",
    latency: () => {
      const start = video.getStartDate?.();
      return start > 0 ? (Date.now() - start) / 1000 - video.currentTime : null;
    },
    bitrate: () => null,
    stop: () => { video.onerror = null; },
  };
}

async function startImage(src, fail) {
  const image = $("image");
  image.hidden = false;
  image.onerror = () => fail(new Trouble("The image stream ended", adviceOf(0, src)));
  image.src = src;
  return {
    name: "image",
    latency: () => null,
    bitrate: () => null,
    stop: () => { image.onerror = null; image.removeAttribute("src"); image.hidden = true; },
  };
}

const STARTERS = {
  "hls.js": startHlsJs, "dash.js": startDashJs, shaka: startShaka,
  native: startNative, image: startImage, mse: startMediaSource,
};

function adviceOf(status, url) {
  const path = String(url).replace(/^https?:\/\/[^/]+/, "").split("?")[0];
  if (status === 404) return `There is no ${path} on the origin. Is the encoder pushing, and to this name? A stream appears with its first key picture.`;
  if (status === 503) return "The origin has nothing new for this stream: its encoder went silent, or the server is at a limit (its /metrics say which).";
  if (status >= 400) return `The origin answered ${status} for ${path}.`;
  return "The address did not answer, or its answer has no CORS header for this page ([cors] origins in the configuration). Check it with curl -i.";
}

// ---------------------------------------------------------------- what comes through Media Source

// Follows one growing object.
//
//   state      left by
//   opening    #follow (the moov: a codec string, a source buffer)
//   playing    the Edge
//   over       the object's end, or an error: start again after a pause, with a fresh MediaSource
class Tail extends Edge {
  constructor(src, fail) {
    super(video, wishedLatency);
    this.src = src;
    this.fail = fail;
    this.zeroMs = null;
    this.#run();
  }

  async #run() {
    const { signal } = this.stopper;
    for (let failures = 0; !signal.aborted;) {
      try {
        await this.#follow(signal);
        failures = 0;
        note("the object is complete; looking for its next version");
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Trouble && (!error.status || failures >= 8)) return this.fail(error);
        failures += 1;
        if (failures > 8) return this.fail(new Trouble("The stream cannot be read", adviceOf(0, this.src)));
        note(`the tail broke off (${error.message}); trying again`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }

  async #follow(signal) {
    const response = await fetch(this.src, { signal, cache: "no-store" });
    if (!response.ok) {
      const trouble = new Trouble(`The origin answered ${response.status}`, adviceOf(response.status, this.src));
      trouble.status = response.status;
      throw trouble;
    }
    const reader = response.body.getReader();
    const boxes = new Boxes();
    let sink = null;
    let head = [];
    let tracks = [];
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        this.bytes += value.length;
        for (const { kind, bytes } of boxes.push(value)) {
          if (kind === "ftyp") { head = [bytes]; continue; }
          if (kind === "moov") {
            tracks = tracksOf(bytes);
            sink = await this.open(sink, mp4Type(tracks));
            sink.append([...head, bytes]);
            continue;
          }
          if (kind === "prft") this.zeroMs = zeroByProducer(bytes, tracks) ?? this.zeroMs;
          if (sink && (kind === "moof" || kind === "mdat")) sink.append([bytes]);
        }
      }
      if (!sink) throw new Trouble("No moov box came", "The object ended before an MP4 began.");
      await sink.drained();
      sink.end();
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  latency() {
    return this.zeroMs === null ? this.behind() : (Date.now() - this.zeroMs) / 1000 - video.currentTime;
  }
}

async function startMediaSource(src, fail) {
  if (protocolOf(src) === "channel") return startChannel(src, fail);
  if (protocolOf(src) === "hls" || protocolOf(src) === "dash") {
    throw new Trouble("Media Source plays MP4 here, not playlists", "Choose another player, or give the address of the MP4 that the encoder pushes.");
  }
  const tail = new Tail(src, fail);
  return {
    name: "Media Source",
    get latencyName() { return tail.zeroMs === null ? BEHIND : "Live latency"; },
    latency: () => tail.latency(),
    bitrate: () => tail.rate,
    stop: () => tail.stop(),
    handle: tail,
  };
}

async function startChannel(src, fail) {
  const channel = new Channel(video, wishedLatency, src, { fail, say });
  return {
    name: "Media Source",
    latencyName: BEHIND,
    latency: () => channel.behind(),
    bitrate: () => channel.rate,
    stop: () => channel.stop(),
    handle: channel,
  };
}

const BEHIND = "Behind the newest picture";

// What there is to wait for, in the place of the picture.
function say(text) {
  $("idle").textContent = text;
  $("idle").hidden = false;
}

// ---------------------------------------------------------------- readings

const history = { latency: [], buffer: [] };
const stalls = { count: 0, totalMs: 0, since: null };
let engine = null;
let hasPlayed = false;
let frames = { decoded: 0, dropped: 0 };
let attempt = 0;

video.addEventListener("playing", () => {
  hasPlayed = true;
  $("idle").hidden = true;
  if (trouble) complain(null);
  if (stalls.since !== null) {
    stalls.totalMs += performance.now() - stalls.since;
    stalls.since = null;
  }
});
video.addEventListener("waiting", () => {
  // Before the first picture and after a seek the player fills its buffer: no stall.
  if (!hasPlayed || video.seeking || stalls.since !== null) return;
  stalls.count += 1;
  stalls.since = performance.now();
  note("stall");
});

function bufferAhead() {
  const { buffered, currentTime } = video;
  for (let index = 0; index < buffered.length; index++) {
    if (buffered.start(index) <= currentTime + 0.1 && currentTime < buffered.end(index)) {
      return buffered.end(index) - currentTime;
    }
  }
  return buffered.length ? 0 : null;
}

function readings() {
  const quality = video.getVideoPlaybackQuality?.();
  if (quality) frames = { decoded: quality.totalVideoFrames, dropped: quality.droppedVideoFrames };
  const runningMs = stalls.since === null ? 0 : performance.now() - stalls.since;
  return {
    engine: engine?.name ?? null,
    src: $("src").value,
    currentTime: video.currentTime,
    paused: video.paused,
    latency: engine?.latency() ?? null,
    buffer: bufferAhead(),
    decoded: frames.decoded,
    dropped: frames.dropped,
    stalls: stalls.count,
    stallMs: stalls.totalMs + runningMs,
    width: video.videoWidth || $("image").naturalWidth,
    height: video.videoHeight || $("image").naturalHeight,
    bitrate: engine?.bitrate() ?? null,
    rate: video.playbackRate,
    error: trouble?.message ?? null,
  };
}

function show() {
  if (!engine) return;
  const now = readings();
  if (hasPlayed) {
    record("latency", now.latency);
    record("buffer", now.buffer);
  }
  $("latency-name").textContent = engine.latencyName ?? "Live latency";
  $("latency").textContent = seconds(now.latency);
  $("buffer").textContent = seconds(now.buffer);
  $("stalls").textContent = now.stalls ? `${now.stalls}, ${seconds(now.stallMs / 1000)}` : "none";
  $("stalls").classList.toggle("bad", now.stalls > 0);
  $("dropped").textContent = now.decoded ? `${now.dropped} of ${now.decoded.toLocaleString("en")}` : "–";
  $("picture").textContent = now.width ? `${now.width} × ${now.height}` : "–";
  $("bitrate").textContent = now.bitrate ? bits(now.bitrate) : "–";
  $("speed").textContent = video.paused ? "paused" : `${now.rate.toFixed(2)} ×`;
  $("engine").textContent = now.engine;
}

function record(name, value) {
  const points = history[name];
  points.push(Number.isFinite(value) ? value : null);
  if (points.length > HISTORY_POINTS) points.shift();
  const top = Math.max(0.5, ...points.map((point) => point ?? 0)) * 1.15;
  let path = "";
  let first = null;
  let last = 0;
  points.forEach((point, index) => {
    if (point === null) return;
    const x = 240 - (points.length - 1 - index);
    path += `${first === null ? "M" : "L"}${x} ${(38 - (point / top) * 36).toFixed(1)}`;
    first ??= x;
    last = x;
  });
  const svg = $(`${name}-line`);
  svg.querySelector(".line").setAttribute("d", path);
  svg.querySelector(".area").setAttribute("d", path && `${path}L${last} 40L${first} 40Z`);
}

// ---------------------------------------------------------------- the form

function protocolChanged() {
  const src = $("src").value.trim();
  const protocol = protocolOf(src);
  $("kind").textContent = src ? PROTOCOL_NAMES[protocol] : "–";
  for (const option of $("player").options) {
    option.disabled = Boolean(src && option.value && !PLAYERS_OF[protocol].includes(option.value));
  }
  if ($("player").selectedOptions[0]?.disabled) $("player").value = "";
}

async function stop() {
  const old = engine;
  engine = null;
  await old?.stop();
  video.removeAttribute("src");
  video.load();
  video.playbackRate = 1;
  Object.assign(stalls, { count: 0, totalMs: 0, since: null });
  Object.assign(history, { latency: [], buffer: [] });
  hasPlayed = false;
}

async function start(src, chosen, isAgain = false) {
  const mine = ++attempt;
  await stop();
  if (!isAgain) complain(null);
  $("idle").hidden = true;
  const name = chosen || PLAYERS_OF[protocolOf(src)][0];
  const fail = (error) => {
    if (mine !== attempt) return;
    if (error.instead && !chosen) {
      note(`${error.message} ${error.instead} tries`);
      return void start(src, error.instead);
    }
    complain(error);
    // Encoders start late and start again: look for the stream until someone says otherwise.
    if (!error.code) setTimeout(() => mine === attempt && start(src, chosen, true), AGAIN_MS);
  };
  try {
    const url = new URL(src, location.href).href;
    const started = await STARTERS[name](url, fail);
    if (mine !== attempt) return started.stop();
    engine = started;
    note(`${engine.name}: ${url}`);
    video.play().catch(() => {});
  } catch (error) {
    fail(error instanceof Trouble ? error : new Trouble(`${name} did not start`, error.message));
  }
}

async function ownChannel() {
  return channelUrl(await ownDoor(), asked.get("channel"), asked.get("key") ?? "demo", "receive");
}

$("src").addEventListener("input", protocolChanged);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const src = $("src").value.trim();
  if (!src) return $("src").focus();
  const query = new URLSearchParams(location.search);
  query.set("src", src);
  if ($("player").value) query.set("player", $("player").value);
  else query.delete("player");
  window.history.replaceState(null, "", `?${query}`);
  start(src, $("player").value);
});

window.headwater = { readings, video, get engine() { return engine; } };
setInterval(show, 1000 / READINGS_PER_S);
$("src").value = asked.get("src") ?? (asked.has("channel") ? await ownChannel().catch(complain) ?? "" : "");
protocolChanged();
if (Object.hasOwn(STARTERS, asked.get("player") ?? "")) $("player").value = asked.get("player");
protocolChanged();
if ($("src").value) start($("src").value, $("player").value);
