// Glass to glass: pictures that carry the time of their making go through ffmpeg, the origin and,
// if asked, a cache to a player in chromium, which reads that time back from the screen. One host,
// one clock, so each picture's latency is exact to the refresh of the screen. Run by scripts/glass.
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: option } = parseArgs({
  options: {
    mode: { type: "string", default: "hls.js" },
    seconds: { type: "string", default: "60" },
    warmup: { type: "string", default: "10" },
    server: { type: "string" }, // of a running origin, with --admin; else one is started
    admin: { type: "string" },
    program: { type: "string", default: process.env.HEADWATER || "target/release/headwater" },
    push: { type: "string", default: "/live/glass/live.mp4" },
    src: { type: "string" },
    via: { type: "string" },
    varnish: { type: "boolean", default: false },
    vcl: { type: "string" },
    latency: { type: "string" },
    audio: { type: "boolean", default: false },
    "median-max": { type: "string" },
    "p99-max": { type: "string" },
    screenshot: { type: "string" },
  },
});

const WIDTH = 640, HEIGHT = 360, FPS = 25, SAMPLES_PER_S = 48000;
const BLOCK = 20, TIME_BITS = 24, BITS = 32; // 24 bits of ms, 8 of their check
const START_MS = 15000;

const folder = resolve(import.meta.dirname, "../../..");
const scratch = mkdtempSync(join(tmpdir(), "glass-"));
const children = [];
let encoder, browser;

function run(program, args, stdio) {
  const child = spawn(program, args, { stdio });
  child.on("error", (error) => { console.error(`${program}: ${error.message}`); process.exitCode = 1; });
  children.push(child);
  return child;
}

async function freePort() {
  const socket = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => socket.once("listening", done));
  const { port } = socket.address();
  await new Promise((done) => socket.close(done));
  return port;
}

async function startServer() {
  const players = resolve(folder, "player");
  const args = ["serve", "--ram-only", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
    "--data", join(scratch, "data"), "--set", `player_dir=${players}`, "--set", "log=warn"];
  const child = run(resolve(folder, option.program), args, ["ignore", "pipe", "inherit"]);
  let text = "";
  for await (const bytes of child.stdout) {
    text += bytes;
    const listen = /listening on (\S+)/.exec(text), admin = /admin on (\S+)\s/.exec(text);
    if (listen && admin) return [listen[1], admin[1]];
  }
  throw new Error("the origin did not start");
}

// Varnish with the documented configuration, or the one named, before this origin.
async function startVarnish(origin) {
  const { hostname, port: originPort, host } = new URL(origin);
  const documented = resolve(folder, "docs/caches/varnish.vcl");
  const vcl = option.vcl ?? (existsSync(documented) ? documented : undefined);
  let source = ["-b", host];
  if (vcl) {
    const text = readFileSync(vcl, "utf8")
      .replace(/\.host = "[^"]*"/, `.host = "${hostname}"`)
      .replace(/\.port = "[^"]*"/, `.port = "${originPort}"`);
    const path = join(scratch, "shield.vcl");
    writeFileSync(path, text);
    chmodSync(scratch, 0o755); // varnishd reads it as a user of its own
    source = ["-f", path];
  }
  const port = await freePort();
  const varnish = run("varnishd", ["-F", "-n", join(scratch, "varnish"), "-a", `127.0.0.1:${port}`,
    "-s", "malloc,256m", ...source], ["ignore", "ignore", "pipe"]);
  let said = "";
  varnish.stderr.on("data", (bytes) => { said += bytes; }); // it talks even when all is well
  await sleep(2000);
  if (varnish.exitCode !== null) throw new Error(`varnishd: ${said}`);
  return `http://127.0.0.1:${port}`;
}

// The camera: a picture each 40 ms with the milliseconds of that moment as black and white blocks,
// and if asked the sound of the same 40 ms. One clock makes both: a sound of ffmpeg's own would
// begin when ffmpeg runs, later than the first picture, and the muxer would hold every picture so long.
async function startCamera(url) {
  const input = ["-fflags", "nobuffer", "-probesize", "32"];
  const sound = option.audio
    ? [...input, "-f", "s16le", "-ar", String(SAMPLES_PER_S), "-ac", "1", "-i", "pipe:3", "-c:a", "aac"] : [];
  encoder = run("ffmpeg", ["-v", "error", "-nostdin", ...input,
    "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", `${WIDTH}x${HEIGHT}`, "-r", String(FPS), "-i", "pipe:0",
    ...sound, "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", String(FPS),
    "-b:v", "1M", "-f", "mp4", "-movflags", "cmaf+empty_moov+default_base_moof+separate_moof",
    "-frag_duration", "200000", "-flush_packets", "1", "-method", "PUT", url],
    ["pipe", "ignore", "inherit", ...(option.audio ? ["pipe"] : [])]);
  const pipes = [encoder.stdin, encoder.stdio[3]].filter(Boolean);
  for (const pipe of pipes) pipe.on("error", () => {});
  // No camera queues what it saw while its encoder was being loaded.
  await sleep(1000);
  const silence = Buffer.alloc((SAMPLES_PER_S / FPS) * 2);
  const began = performance.now();
  let count = 0;
  const tick = () => {
    if (encoder.exitCode !== null || encoder.stdin.destroyed) return;
    if (performance.now() >= began + (count * 1000) / FPS) {
      encoder.stdin.write(picture(Date.now(), count));
      pipes[1]?.write(silence);
      count += 1;
    }
    setTimeout(tick, Math.max(0, began + (count * 1000) / FPS - performance.now()));
  };
  tick();
}

function picture(ms, count) {
  const frame = Buffer.alloc((WIDTH * HEIGHT * 3) / 2, 128);
  for (let y = BLOCK * 2; y < HEIGHT; y++) frame.fill((y + count * 4) & 255, y * WIDTH, (y + 1) * WIDTH);
  const time = ms % 2 ** TIME_BITS;
  const check = (time ^ (time >> 8) ^ (time >> 16) ^ 0x5a) & 255;
  const bits = time.toString(2).padStart(TIME_BITS, "0") + check.toString(2).padStart(8, "0");
  for (let y = 0; y < BLOCK; y++) {
    for (let bit = 0; bit < BITS; bit++) {
      frame.fill(bits[bit] === "1" ? 235 : 16, y * WIDTH + bit * BLOCK, y * WIDTH + (bit + 1) * BLOCK);
    }
  }
  return frame;
}

// In the page: the latency of every picture that comes to the screen.
function measure({ BLOCK, TIME_BITS, BITS }) {
  const video = window.headwater.video;
  const canvas = new OffscreenCanvas(BITS * BLOCK, BLOCK);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const glass = (window.glass = { latencies: [], unread: 0 });
  const each = (now, about) => {
    video.requestVideoFrameCallback(each);
    context.drawImage(video, 0, 0, canvas.width, BLOCK, 0, 0, canvas.width, BLOCK);
    const row = context.getImageData(0, BLOCK / 2, canvas.width, 1).data;
    let bits = "";
    for (let bit = 0; bit < BITS; bit++) bits += row[(bit * BLOCK + BLOCK / 2) * 4] > 127 ? "1" : "0";
    const time = parseInt(bits.slice(0, TIME_BITS), 2);
    const check = (time ^ (time >> 8) ^ (time >> 16) ^ 0x5a) & 255;
    if (parseInt(bits.slice(TIME_BITS), 2) !== check) { glass.unread += 1; return; }
    const shown = Date.now() + (about.expectedDisplayTime - performance.now());
    const span = 2 ** TIME_BITS;
    glass.latencies.push((((shown - time) % span) + span) % span);
  };
  video.requestVideoFrameCallback(each);
}

async function main() {
  const [server, admin] = option.server ? [option.server, option.admin] : await startServer();
  const base = option.varnish ? await startVarnish(server) : option.via ?? server;
  const names = { "hls.js": "index.m3u8", "dash.js": "manifest.mpd", shaka: "manifest.mpd", mse: "live.mp4" };
  const src = option.src ?? option.push.replace(/[^/]*$/, names[option.mode]);
  await startCamera(server + option.push);
  await sleep(4000);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"],
  });
  const page = await browser.newPage({ viewport: { width: 1100, height: 640 } });
  const query = new URLSearchParams({ src: base + src, player: option.mode });
  if (option.latency) query.set("latency", option.latency);
  await page.goto(`${admin}/player?${query}`);
  const read = () => page.evaluate(() => window.headwater.readings());
  const deadline = Date.now() + START_MS;
  while ((await read()).decoded < 5) {
    if (Date.now() > deadline) throw new Error(`nothing plays: ${(await read()).error}`);
    await sleep(200);
  }
  await sleep(Number(option.warmup) * 1000);
  const before = await read();
  await page.evaluate(measure, { BLOCK, TIME_BITS, BITS });
  await sleep(Number(option.seconds) * 1000);
  const after = await read();
  const glass = await page.evaluate(() => window.glass);
  if (option.screenshot) await page.screenshot({ path: option.screenshot });
  return report(before, after, glass);
}

function report(before, after, glass) {
  const sorted = glass.latencies.toSorted((a, b) => a - b);
  if (!sorted.length) throw new Error("no picture could be read");
  const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]);
  const result = {
    mode: option.mode, engine: after.engine, through: option.varnish ? "varnish" : option.via ?? "origin",
    seconds: Number(option.seconds), pictures: sorted.length, unread: glass.unread,
    median_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1),
    stalls: after.stalls - before.stalls, stall_ms: Math.round(after.stallMs - before.stallMs),
    dropped: after.dropped - before.dropped,
    player_says_ms: after.latency === null ? null : Math.round(after.latency * 1000),
  };
  console.log(JSON.stringify(result));
  const over = (limit, value) => limit !== undefined && value > Number(limit);
  if (over(option["median-max"], result.median_ms) || over(option["p99-max"], result.p99_ms)) {
    console.error("glass: over the limit");
    process.exitCode = 1;
  }
}

try {
  if (!option.server && !existsSync(resolve(folder, option.program))) {
    throw new Error(`${option.program} is not there: cargo build --release, or give --program`);
  }
  await main();
} catch (error) {
  console.error(`glass: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
  encoder?.stdin.destroy();
  encoder?.stdio[3]?.destroy();
  // The upload ends in order, then what it went to.
  for (let wait = 0; encoder?.exitCode === null && wait < 2000; wait += 50) await sleep(50);
  for (const child of children.reverse()) child.kill();
  await sleep(300);
  rmSync(scratch, { recursive: true, force: true });
  process.exit();
}
