// The page /player: plays a live stream with the player that fits, and shows what it does to it.
//
//   protocol   by the end of the address     player
//   hls        .m3u8                         hls.js, or shaka, or the browser itself
//   dash       .mpd                          dash.js, or shaka
//   mjpeg      .mjpeg, .mjpg                 an image
//   mp4        anything else                 Tail below: fetch and Media Source, no library
//
// In the page's address: src, player (hls.js | dash.js | shaka | mse | native) and latency, the wish
// in seconds, which otherwise is the stream's own. `window.headwater.readings()` is for the tests.

const READINGS_PER_S = 4;
const HISTORY_POINTS = 240;
const LOG_LINES_MAX = 200;
const AGAIN_MS = 3000;
const HLS_JUMP_S = 1.5;
const HLS_BUFFER_MIN_S = 0.3;
const BACK_BUFFER_S = 15;

const $ = (id) => document.getElementById(id);
const video = $("video");
const asked = new URLSearchParams(location.search);
const wishedLatency = Number(asked.get("latency")) || null;

class Trouble extends Error {
  constructor(title, advice, code) {
    super(title);
    Object.assign(this, { advice, code });
  }
}

// ---------------------------------------------------------------- protocols and players

function protocolOf(src) {
  const path = src.split(/[?#]/)[0].toLowerCase();
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
};
const PROTOCOL_NAMES = { hls: "HLS", dash: "DASH", mjpeg: "MJPEG", mp4: "MP4 tail" };
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
  native: startNative, image: startImage, mse: startTail,
};

function adviceOf(status, url) {
  const path = String(url).replace(/^https?:\/\/[^/]+/, "").split("?")[0];
  if (status === 404) return `There is no ${path} on the origin. Is the encoder pushing, and to this name? A stream appears with its first key picture.`;
  if (status === 503) return "The origin has nothing new for this stream: its encoder went silent, or the server is at a limit (its /metrics say which).";
  if (status >= 400) return `The origin answered ${status} for ${path}.`;
  return "The address did not answer, or its answer has no CORS header for this page ([cors] origins in the configuration). Check it with curl -i.";
}

// ---------------------------------------------------------------- the fMP4 tail

// Boxes of a stream of bytes: whole top-level boxes out, one at a time.
class Boxes {
  static BOX_BYTES_MAX = 64 << 20;
  #held = new Uint8Array(0);

  *push(bytes) {
    let data = bytes;
    if (this.#held.length) {
      data = new Uint8Array(this.#held.length + bytes.length);
      data.set(this.#held);
      data.set(bytes, this.#held.length);
    }
    let at = 0;
    while (data.length - at >= 8) {
      const view = new DataView(data.buffer, data.byteOffset + at, data.length - at);
      let size = view.getUint32(0);
      if (size === 1) {
        if (data.length - at < 16) break;
        size = Number(view.getBigUint64(8));
      }
      const kind = fourcc(view, 4);
      if (size < 8 || size > Boxes.BOX_BYTES_MAX || !/^[\w .\-©]{4}$/.test(kind)) {
        throw new Trouble("This is not fragmented MP4",
          "The bytes are not MP4 boxes. Give the page a playlist (.m3u8), an MPD (.mpd), or an MP4 made with -movflags cmaf+empty_moov+default_base_moof.");
      }
      if (data.length - at < size) break;
      yield { kind, bytes: data.subarray(at, at + size) };
      at += size;
    }
    this.#held = data.slice(at);
  }
}

const fourcc = (view, at) => String.fromCharCode(view.getUint8(at), view.getUint8(at + 1), view.getUint8(at + 2), view.getUint8(at + 3));
const hex = (value, digits = 2) => value.toString(16).toUpperCase().padStart(digits, "0");

// The child boxes of [from, to) as { kind, from, to } of their contents.
function* children(view, from, to) {
  for (let at = from; at + 8 <= to;) {
    const size = view.getUint32(at);
    if (size < 8 || at + size > to) return;
    yield { kind: fourcc(view, at + 4), from: at + 8, to: at + size };
    at += size;
  }
}

function find(view, box, ...path) {
  for (const kind of path) {
    let next = null;
    for (const child of children(view, box.from, box.to)) {
      if (child.kind === kind) { next = child; break; }
    }
    if (!next) return null;
    box = next;
  }
  return box;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

// What a moov says of each track: id, timescale, whether it is video, codec string (RFC 6381).
function tracksOf(moov) {
  const view = viewOf(moov);
  const tracks = [];
  for (const trak of children(view, 8, moov.length)) {
    if (trak.kind !== "trak") continue;
    const tkhd = find(view, trak, "tkhd");
    const mdia = find(view, trak, "mdia");
    const mdhd = mdia && find(view, mdia, "mdhd");
    const hdlr = mdia && find(view, mdia, "hdlr");
    const stsd = mdia && find(view, mdia, "minf", "stbl", "stsd");
    if (!tkhd || !mdhd || !hdlr || !stsd) continue;
    const handler = fourcc(view, hdlr.from + 8);
    const entry = [...children(view, stsd.from + 8, stsd.to)][0];
    if (!entry) continue;
    tracks.push({
      id: view.getUint32(tkhd.from + (view.getUint8(tkhd.from) ? 20 : 12)),
      timescale: view.getUint32(mdhd.from + (view.getUint8(mdhd.from) ? 20 : 12)),
      isVideo: handler === "vide",
      codec: codecOf(view, entry, handler),
    });
  }
  return tracks;
}

function codecOf(view, entry, handler) {
  const skip = handler === "vide" ? 78 : handler === "soun" ? 28 : 8;
  const inner = { from: entry.from + skip, to: entry.to };
  const byte = (box, at) => view.getUint8(box.from + at);
  const avcC = find(view, inner, "avcC");
  if (avcC) return `${entry.kind}.${hex(byte(avcC, 1))}${hex(byte(avcC, 2))}${hex(byte(avcC, 3))}`;
  const hvcC = find(view, inner, "hvcC");
  if (hvcC) return hevcCodec(view, entry.kind, hvcC.from);
  const av1C = find(view, inner, "av1C");
  if (av1C) {
    const [levels, flags] = [byte(av1C, 1), byte(av1C, 2)];
    const depth = flags & 0x40 ? (flags & 0x20 ? 12 : 10) : 8;
    const level = String(levels & 31).padStart(2, "0");
    return `av01.${levels >> 5}.${level}${flags & 0x80 ? "H" : "M"}.${String(depth).padStart(2, "0")}`;
  }
  const vpcC = find(view, inner, "vpcC");
  if (vpcC) {
    const two = (value) => String(value).padStart(2, "0");
    return `${entry.kind}.${two(byte(vpcC, 4))}.${two(byte(vpcC, 5))}.${two(byte(vpcC, 6) >> 4)}`;
  }
  const esds = find(view, inner, "esds");
  if (esds) return mp4aCodec(view, esds);
  return { Opus: "opus", fLaC: "flac" }[entry.kind] || entry.kind;
}

function hevcCodec(view, kind, at) {
  const profile = view.getUint8(at + 1);
  let flags = view.getUint32(at + 2);
  let reversed = 0;
  for (let bit = 0; bit < 32; bit++) { reversed = (reversed << 1) | (flags & 1); flags >>>= 1; }
  const space = ["", "A", "B", "C"][profile >> 6];
  const constraints = [];
  for (let index = 0; index < 6; index++) constraints.push(view.getUint8(at + 6 + index));
  while (constraints.length && constraints.at(-1) === 0) constraints.pop();
  const tail = constraints.map((value) => "." + hex(value, 1)).join("");
  return `${kind}.${space}${profile & 31}.${(reversed >>> 0).toString(16).toUpperCase()}.${profile & 32 ? "H" : "L"}${view.getUint8(at + 12)}${tail}`;
}

// The object type and, for AAC, its audio object type, out of an esds box.
function mp4aCodec(view, esds) {
  let at = esds.from + 4;
  let object = 0;
  while (at + 2 <= esds.to) {
    const tag = view.getUint8(at++);
    let length = 0;
    for (let more = true; more && at < esds.to;) {
      const byte = view.getUint8(at++);
      length = (length << 7) | (byte & 127);
      more = byte > 127;
    }
    if (tag === 3) at += 3;
    else if (tag === 4) { object = view.getUint8(at); at += 13; }
    else if (tag === 5) {
      let type = view.getUint8(at) >> 3;
      if (type === 31) type = 32 + (((view.getUint8(at) & 7) << 3) | (view.getUint8(at + 1) >> 5));
      return `mp4a.${object.toString(16)}.${type}`;
    } else at += length;
  }
  return object ? `mp4a.${object.toString(16)}` : "mp4a.40.2";
}

// When media time 0 was, in ms since 1970, by a prft box (ISO/IEC 14496-12 §8.16.5).
function zeroByProducer(prft, tracks) {
  const view = viewOf(prft);
  const track = tracks.find((track) => track.id === view.getUint32(12));
  if (!track) return null;
  const ntpS = view.getUint32(16) - 2208988800 + view.getUint32(20) / 2 ** 32;
  const mediaTime = view.getUint8(8) ? Number(view.getBigUint64(24)) : view.getUint32(24);
  return (ntpS - mediaTime / track.timescale) * 1000;
}

// Follows one growing object and keeps the picture at its end.
//
//   state      left by
//   opening    #follow (the moov: a codec string, a source buffer)
//   playing    #steer, four times a second: too far behind jumps, a little behind speeds up
//   over       the object's end, or an error: start again after a pause, with a fresh MediaSource
class Tail {
  static JUMP_S = 2.5;
  static PENDING_MAX = 500;

  constructor(src, fail) {
    this.src = src;
    this.fail = fail;
    // What should be buffered when the buffer is at its lowest, just before a fragment comes.
    this.target = wishedLatency || 0.2;
    this.lows = [];
    this.bytes = 0;
    this.since = performance.now();
    this.rate = null;
    this.zeroMs = null;
    this.stopper = new AbortController();
    this.runs = this.#run();
    this.timer = setInterval(() => this.#steer(), 1000 / READINGS_PER_S);
    this.stalled = () => {
      // A stall is a buffer that was too short for this path: keep a little more from now on.
      this.target = Math.min(this.target + 0.15, 2);
      this.rest = performance.now();
    };
    video.addEventListener("waiting", this.stalled);
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
            sink = await this.#open(sink, tracks, signal);
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

  async #open(before, tracks, signal) {
    const codecs = tracks.map((track) => track.codec).join(", ");
    const type = `${tracks.some((track) => track.isVideo) ? "video" : "audio"}/mp4; codecs="${codecs}"`;
    note(`mp4: ${codecs}`);
    if (!window.MediaSource?.isTypeSupported(type)) {
      throw new Trouble("This browser has no decoder for the stream", `Its codecs are ${codecs}. Push H.264 with AAC, or use a browser that knows them.`);
    }
    if (before) { before.changeType(type); return before; }
    const source = new MediaSource();
    video.src = URL.createObjectURL(source);
    await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    URL.revokeObjectURL(video.src);
    if (signal.aborted) throw new Error("stopped");
    this.started = false;
    return new Sink(source, type);
  }

  #steer() {
    const now = performance.now();
    if (now - this.since >= 2000) {
      this.rate = (this.bytes * 8000) / (now - this.since);
      this.bytes = 0;
      this.since = now;
    }
    const { buffered } = video;
    if (!buffered.length) return;
    const [start, end] = [buffered.start(buffered.length - 1), buffered.end(buffered.length - 1)];
    const behind = end - video.currentTime;
    if (!this.started && end - start >= Math.min(this.target + 0.1, 0.3)) {
      this.started = true;
      this.#jump(Math.max(start, end - this.target));
    } else if (this.started && (behind > this.target + Tail.JUMP_S || video.currentTime < start)) {
      note(`jump to the live end, ${behind.toFixed(1)} s`);
      this.#jump(Math.max(start, end - this.target));
    }
    if (video.paused) return;
    // What is buffered swings by one fragment: the lowest point of a second counts.
    this.lows.push(behind);
    if (this.lows.length > READINGS_PER_S) this.lows.shift();
    const low = Math.min(...this.lows);
    video.playbackRate = low > this.target + 0.1 ? 1.08 : low < this.target * 0.3 ? 0.97 : 1;
    // A minute without a stall: dare a little less.
    if (this.rest && now - this.rest > 60000 && this.target > 0.2) {
      this.target -= 0.05;
      this.rest = now;
    }
  }

  #jump(to) {
    this.lows = [];
    video.currentTime = to;
    video.play().catch(() => {});
  }

  latency() {
    if (this.zeroMs !== null) return (Date.now() - this.zeroMs) / 1000 - video.currentTime;
    const { buffered } = video;
    return buffered.length ? buffered.end(buffered.length - 1) - video.currentTime : null;
  }

  stop() {
    clearInterval(this.timer);
    video.removeEventListener("waiting", this.stalled);
    this.stopper.abort();
  }
}

// A source buffer with a queue before it, which keeps little behind the picture.
class Sink {
  #queue = [];
  #waiting = [];

  constructor(source, type) {
    this.source = source;
    this.buffer = source.addSourceBuffer(type);
    this.buffer.addEventListener("updateend", () => this.#next());
    this.buffer.addEventListener("error", () => note("the browser refused a fragment"));
  }

  append(pieces) {
    if (this.#queue.length > Tail.PENDING_MAX) throw new Error("the browser takes no more");
    this.#queue.push(...pieces.map((bytes) => ({ bytes })));
    this.#next();
  }

  changeType(type) {
    this.#queue.push({ type });
  }

  #next() {
    const { buffer } = this;
    if (this.source.readyState !== "open" || buffer.updating) return;
    const { buffered } = buffer;
    if (buffered.length && video.currentTime - buffered.start(0) > BACK_BUFFER_S * 2) {
      buffer.remove(0, video.currentTime - BACK_BUFFER_S);
      return;
    }
    const item = this.#queue.shift();
    if (!item) {
      this.#waiting.splice(0).forEach((resolve) => resolve());
    } else if (item.type) {
      buffer.changeType(item.type);
      this.#next();
    } else {
      try {
        buffer.appendBuffer(item.bytes);
      } catch (error) {
        note(`append: ${error.name}`);
        this.#queue.length = 0;
      }
    }
  }

  drained() {
    return new Promise((resolve) => { this.#waiting.push(resolve); this.#next(); });
  }

  end() {
    if (this.source.readyState === "open" && !this.buffer.updating) this.source.endOfStream();
  }
}

async function startTail(src, fail) {
  if (protocolOf(src) === "hls" || protocolOf(src) === "dash") {
    throw new Trouble("Media Source plays MP4 here, not playlists", "Choose another player, or give the address of the MP4 that the encoder pushes.");
  }
  const tail = new Tail(src, fail);
  return {
    name: "Media Source",
    get latencyName() { return tail.zeroMs === null ? "Behind the newest picture" : "Live latency"; },
    latency: () => tail.latency(),
    bitrate: () => tail.rate,
    stop: () => tail.stop(),
    handle: tail,
  };
}

// ---------------------------------------------------------------- readings

const history = { latency: [], buffer: [] };
const stalls = { count: 0, totalMs: 0, since: null };
let engine = null;
let hasPlayed = false;
let trouble = null;
let frames = { decoded: 0, dropped: 0 };
let attempt = 0;

video.addEventListener("playing", () => {
  hasPlayed = true;
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

const seconds = (value) => (value === null || !Number.isFinite(value) ? "–" : `${value.toFixed(2)} s`);

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

function bits(rate) {
  return rate >= 1e6 ? `${(rate / 1e6).toFixed(2)} Mbit/s` : `${Math.round(rate / 1000)} kbit/s`;
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

function note(text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString("en-GB");
  line.append(time, text);
  $("log").prepend(line);
  while ($("log").childElementCount > LOG_LINES_MAX) $("log").lastElementChild.remove();
  $("log-count").textContent = `(${$("log").childElementCount})`;
}

function complain(error) {
  trouble = error;
  $("notice").hidden = !error;
  if (!error) return;
  note(error.message);
  $("notice-title").textContent = error.message;
  $("notice-text").textContent = error.advice ?? "";
  $("notice-code").textContent = error.code ?? "";
  $("notice-code").hidden = !error.code;
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
$("src").value = asked.get("src") ?? "";
protocolChanged();
if (Object.hasOwn(STARTERS, asked.get("player") ?? "")) $("player").value = asked.get("player");
protocolChanged();
if ($("src").value) start($("src").value, $("player").value);
