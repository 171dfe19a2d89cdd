// The page /cameras: a wall of the live pictures of all cameras that push to this server. It asks once a
// second which there are; each has a tile, whose pictures come by themselves.
//
//   tile        left by
//   shown       the list has its camera no more
//   gone        the camera comes back, or FORGET_MS
//
// What the pictures of a shown tile do is told in player/pictures.js; those of a tile that nobody sees,
// scrolled away or in a hidden page, are let go.
//
// In the page's address: origin (http://HOST:PORT), where the streams are, if not where the server says.
// `window.headwater.readings()` is for the tests.
import { nearest } from "./player/address.js";
import { H264Pictures } from "./player/h264.js";
import { mjpegPictures } from "./player/mjpeg.js";
import { $, Trouble, bits, complain, note, trouble } from "./player/page.js";

const POLL_MS = 1000, POLL_HIDDEN_MS = 5000, ANSWER_MS_MAX = 5000;
const FORGET_MS = 30000;
// Scrolled away for so long, or in a hidden page.
const UNSEEN_MS = 3000;
// Without a picture for so long, and for so many times its usual distance, a camera is silent.
const SILENT_MS = 5000, SILENT_PICTURES = 3;
// Rates are those of the last answers.
const SAMPLES = 5;
// The list has caught up with a connection that began so long ago.
const COUNTED_MS = 4000;

const KINDS = { mjpeg: "MJPEG", h264: "H.264" };
const QUALITIES = { "": "auto", high: "high", low: "low" };

const asked = new URLSearchParams(location.search);
const tiles = new Map();
const protocol = location.protocol === "https:" ? "https:" : "http:";
let main = null;

// ---------------------------------------------------------------- where a camera is

// A name may be a path.
const pathOf = (name) => name.replace(/^\/+/, "").split("/").map(encodeURIComponent).join("/");

function streamUrl(name, quality) {
  const url = new URL(pathOf(name), main);
  if (quality) url.searchParams.set("quality", quality);
  return url.href;
}

const socketUrl = (name, quality) => streamUrl(name, quality).replace(/^http/, "ws");

const playerUrl = (playlist) => `/player?${new URLSearchParams({ src: new URL(pathOf(playlist), main).href })}`;

// ---------------------------------------------------------------- one tile

// What a total grows by in a second, by the server's clock.
class Rate {
  #samples = [];

  // Per second, or null until there are two.
  of(total, timeMs) {
    const samples = this.#samples;
    // It began anew.
    if (samples.length && total < samples.at(-1).total) samples.length = 0;
    samples.push({ total, timeMs });
    if (samples.length > SAMPLES) samples.shift();
    const [first] = samples;
    return timeMs > first.timeMs ? ((total - first.total) * 1000) / (timeMs - first.timeMs) : null;
  }
}

class Tile {
  element = $("tile").content.firstElementChild.cloneNode(true);
  camera = null;
  pictures = null;
  goneMs = null;
  rate = null;
  #quality = "";
  #key = "";
  #isSeen = true;
  #unseenTimer = null;
  #silentMs = 0;
  // Of each quality, as of the last answer.
  #trackRates = new Map();
  #rates = new Map();

  constructor(name) {
    this.name = name;
    this.parts = Object.fromEntries(["screen", "enlarge", "badge", "state", "kind"].map((part) => [part, this.element.querySelector(`.${part}`)]));
    this.parts.select = this.element.querySelector("select");
    this.facts = Object.fromEntries([...this.element.querySelectorAll("[data-fact]")].map((fact) => [fact.dataset.fact, fact]));
    this.element.querySelector("h2").textContent = name;
    this.element.querySelector("h2").title = name;
    this.element.dataset.name = name;
    this.parts.select.setAttribute("aria-label", `Quality of ${name}`);
    this.parts.select.addEventListener("change", () => {
      this.#quality = this.parts.select.value;
      this.show();
    });
    this.parts.enlarge.addEventListener("click", () => enlarge(this));
    this.isLarge = false;
    seen.observe(this.element);
  }

  set isLarge(is) {
    this.element.classList.toggle("is-large", is);
    this.parts.enlarge.setAttribute("aria-label", is ? `${this.name}: leave full screen` : `${this.name}: full screen`);
  }

  get isLarge() {
    return this.element.classList.contains("is-large");
  }

  // What the last answer says of it.
  update(camera, nowMs) {
    if (this.goneMs !== null) note(`${this.name} is back`);
    this.goneMs = null;
    this.camera = camera;
    this.#silentMs = this.#silence(nowMs);
    this.#measure(nowMs);
    this.#showQualities();
    // Lost, and nothing here was told: the camera sends, and nobody watches.
    const isUncounted = camera.viewers === 0 && this.pictures?.state === "live" && performance.now() - this.pictures.sinceMs > COUNTED_MS;
    if (!this.#silentMs && (isUncounted || this.pictures?.isLost())) this.#key = "";
    this.show();
  }

  // The track that is shown: where the server chooses, the better one stands for both.
  track() {
    const tracks = this.camera.tracks;
    return tracks.find(({ quality }) => quality === this.#quality) ?? tracks.find(({ quality }) => quality === "high") ?? tracks[0];
  }

  #silence(nowMs) {
    const { began_ms, last_picture_ms, pictures } = this.track();
    const usualMs = pictures > 1 ? (last_picture_ms - began_ms) / pictures : 0;
    const silentMs = nowMs - (last_picture_ms || began_ms);
    return silentMs > Math.max(SILENT_MS, SILENT_PICTURES * usualMs) ? silentMs : 0;
  }

  #measure(nowMs) {
    const of = (name, total, timeMs) => {
      if (!this.#rates.has(name)) this.#rates.set(name, new Rate());
      return this.#rates.get(name).of(total, timeMs);
    };
    this.rate = null;
    this.#trackRates.clear();
    for (const { quality, pictures, bytes } of this.camera.tracks) {
      const rates = { pictures: of(`${quality} pictures`, pictures, nowMs), bytes: of(`${quality} bytes`, bytes, nowMs) };
      this.#trackRates.set(quality, rates);
      this.rate = rates.bytes === null ? this.rate : (this.rate ?? 0) + rates.bytes * 8;
    }
    // What a camera of H.264 sends in one piece may be a part of a picture: here they are counted.
    const shown = this.pictures?.count ?? null;
    if (this.pictures?.state !== "live" || shown === null) return;
    const { quality } = this.track();
    this.#trackRates.set(quality, { ...this.#trackRates.get(quality), pictures: of(`${this.#key} shown`, shown, performance.now()) });
  }

  #showQualities() {
    const { select } = this.parts;
    const offered = this.camera.tracks.length > 1 ? Object.keys(QUALITIES) : [];
    select.hidden = !offered.length;
    if (offered.length === select.options.length) return;
    select.replaceChildren(...offered.map((value) => new Option(QUALITIES[value], value)));
    select.value = this.#quality;
  }

  // Begins with other pictures where what is wanted has changed, and shows how it is.
  show() {
    const { tracks } = this.camera;
    const track = this.track();
    const kinds = new Set(tracks.map(({ kind }) => kind));
    // The server may change from one quality to the other, but not from one kind to the other.
    const quality = tracks.length > 1 && (this.#quality || (kinds.size > 1 ? track.quality : ""));
    const began = tracks.filter((one) => !quality || one === track).map((one) => one.began_ms);
    const isWanted = this.goneMs === null && this.#isSeen;
    const key = isWanted ? [track.kind, quality, ...began].join() : "";
    if (key !== this.#key || (isWanted && !this.pictures)) {
      this.#key = key;
      this.#begin(isWanted && track.kind, quality);
    }
    this.#draw(track);
  }

  #begin(kind, quality) {
    this.pictures?.stop();
    const old = this.pictures?.element;
    this.pictures = null;
    if (!kind) return;
    const changed = () => {
      if (!pictures || pictures !== this.pictures) return;
      if (pictures.state === "refused") this.#begin(kind, quality);
      // What was shown before stays until there is something to see.
      else if (pictures.state === "live") this.parts.screen.querySelectorAll(".pictures").forEach((one) => one !== pictures.element && one.remove());
      this.#draw(this.track());
    };
    const [image, socket] = [streamUrl(this.name, quality), socketUrl(this.name, quality)];
    let pictures = null;
    pictures = kind === "h264" ? new H264Pictures(changed, socket) : mjpegPictures(changed, { image, socket }, () => this.isLarge);
    this.pictures = pictures;
    this.parts.screen.querySelectorAll(".pictures").forEach((one) => one !== old && one.remove());
    this.parts.enlarge.before(pictures.element);
  }

  #draw(track) {
    const { badge, state, kind } = this.parts;
    const [tone, short, title, text, hasLink] = this.#words(track);
    this.element.dataset.state = this.goneMs === null ? this.pictures?.state ?? "away" : "gone";
    badge.textContent = short;
    badge.dataset.tone = this.element.dataset.tone = tone;
    state.hidden = !title;
    state.querySelector("strong").textContent = title ?? "";
    state.querySelector("p").textContent = text ?? "";
    const link = state.querySelector("a");
    // A camera whose publishing point is not listed has none.
    const { playlist } = this.camera;
    link.hidden = !hasLink || !playlist;
    if (playlist) link.href = playerUrl(playlist);
    kind.textContent = KINDS[track.kind] ?? track.kind;
    this.#drawFacts(track);
  }

  // How it is: the badge's tone and text, and what stands in the picture's place.
  #words(track) {
    const view = this.pictures;
    if (this.goneMs !== null) return ["wait", "gone", "The camera has gone", "Waiting for it to come back."];
    if (!KINDS[track.kind]) return ["late", "unknown", "This page does not know its kind", track.kind];
    switch (view?.state) {
      case "insecure":
        return ["late", "no decoder", "H.264 needs https or localhost", "Browsers give their decoder to no other page. As LL-HLS it plays:", true];
      case "unsupported":
        return ["late", "no decoder", "This browser does not decode it", `H.264${view.detail && `, ${view.detail}`}. As LL-HLS it may play:`, true];
      case "again":
        return ["late", "connecting", "Connecting again", view.detail ? `${new URL(main).host}: ${view.detail}.` : ""];
      case "connecting":
        return ["wait", "connecting", view.width ? "" : "Connecting …", this.#silentMs ? this.#silentText() : ""];
      case "turn":
        return ["wait", "takes turns", view.width ? "" : "Waits for its turn", "A browser opens six connections to one server."];
      default:
        return this.#silentMs ? ["late", this.#silentText()] : ["live", view ? "live" : ""];
    }
  }

  #silentText() {
    return `no picture for ${Math.round(this.#silentMs / 1000)} s`;
  }

  #drawFacts(track) {
    const view = this.pictures;
    const put = (name, text) => { if (this.facts[name].textContent !== text) this.facts[name].textContent = text; };
    if (this.goneMs !== null) {
      for (const name of Object.keys(this.facts)) put(name, "–");
      return;
    }
    put("size", view?.width ? `${view.width} × ${view.height}` : "–");
    const rates = this.#trackRates.get(track.quality) ?? { pictures: null, bytes: null };
    const rate = this.#silentMs ? 0 : rates.pictures;
    put("pictures", rate === null ? "–" : `${rate.toFixed(rate < 9.95 ? 1 : 0)} /s`);
    put("rate", rates.bytes === null ? "–" : bits(rates.bytes * 8));
    put("viewers", String(this.camera.viewers));
    put("lag", this.#lagText(track, rate));
    const behind = track.lag_pictures === 1 ? "1 picture" : `${track.lag_pictures} pictures`;
    this.facts.lag.title = `The slowest viewer is ${behind} behind; the server left out ${track.skipped} for slow ones.`;
    this.facts.lag.classList.toggle("late", track.lag_pictures > Math.max(2, rate ?? 0));
  }

  // The server's, of the slowest viewer, and from a picture's coming to its showing.
  #lagText({ lag_pictures }, rate) {
    const waitMs = lag_pictures && rate ? (lag_pictures * 1000) / rate : 0;
    if (lag_pictures && !rate) return `${lag_pictures} pictures`;
    const hereMs = this.pictures?.lagMs ?? null;
    if (hereMs === null && !waitMs) return "none";
    const ms = waitMs + (hereMs ?? 0);
    return ms < 9950 ? `${Math.max(1, Math.round(ms))} ms` : `${Math.round(ms / 1000)} s`;
  }

  leave() {
    if (this.goneMs !== null) return;
    this.goneMs = performance.now();
    this.rate = null;
    this.#rates.clear();
    this.show();
  }

  see(isSeen) {
    clearTimeout(this.#unseenTimer);
    const set = () => {
      this.#isSeen = isSeen;
      if (this.camera) this.show();
    };
    if (isSeen) set();
    else this.#unseenTimer = setTimeout(set, UNSEEN_MS);
  }

  remove() {
    seen.unobserve(this.element);
    clearTimeout(this.#unseenTimer);
    this.pictures?.stop();
    this.element.remove();
  }

  readings() {
    const { state = "away", detail = "", width = 0, height = 0, count = null, lagMs = null, skipped = 0, codec = null } = this.pictures ?? {};
    const facts = Object.fromEntries(Object.entries(this.facts).map(([name, fact]) => [name, fact.textContent]));
    const surface = this.pictures?.element.firstElementChild?.localName ?? null;
    return { name: this.name, kind: this.track().kind, state: this.goneMs === null ? state : "gone", detail, width, height, count, lagMs, skipped, codec, surface, silentMs: this.#silentMs, facts };
  }
}

// ---------------------------------------------------------------- full screen

async function enlarge(tile) {
  const isLeaving = tile.isLarge;
  if (document.fullscreenElement) await document.exitFullscreen();
  for (const one of tiles.values()) one.isLarge = false;
  if (isLeaving) return;
  tile.isLarge = true;
  // A telephone's browser may have none: then the tile fills the page.
  await tile.element.requestFullscreen?.().catch(() => {});
}

document.addEventListener("fullscreenchange", () => {
  for (const one of tiles.values()) one.isLarge = document.fullscreenElement === one.element;
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") for (const one of tiles.values()) one.isLarge = false;
});

// ---------------------------------------------------------------- which are seen

const inView = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) inView.set(target, isIntersecting);
  see();
}, { rootMargin: "200px" });

function see() {
  for (const tile of tiles.values()) tile.see(!document.hidden && inView.get(tile.element) !== false);
}

document.addEventListener("visibilitychange", () => {
  see();
  if (!document.hidden) poll();
});

// ---------------------------------------------------------------- the wall

const inOrder = new Intl.Collator("en", { numeric: true }).compare;

function takeList({ now_ms, listen, push, raw, cameras }) {
  main = originOf(listen);
  for (const camera of cameras) {
    if (!camera.tracks.length) continue;
    if (!tiles.has(camera.name)) come(camera.name);
    tiles.get(camera.name).update(camera, now_ms);
  }
  const there = new Set(cameras.filter(({ tracks }) => tracks.length).map(({ name }) => name));
  for (const [name, tile] of tiles) {
    if (there.has(name)) continue;
    if (tile.goneMs === null) announce(`${name} has gone`);
    tile.leave();
    if (performance.now() - tile.goneMs > FORGET_MS) forget(tile);
  }
  showTotals(cameras);
  showWays(push, raw);
}

function originOf(listen) {
  if (asked.get("origin")) return new URL(asked.get("origin"));
  const address = nearest(listen, protocol);
  if (!address) throw new Trouble("The server does not say where its streams are", "Its list of listeners is empty. Name the address in this page's own: ?origin=http://HOST:PORT");
  return address;
}

function come(name) {
  const tile = new Tile(name);
  const next = [...$("wall").children].find((one) => inOrder(one.dataset.name, name) > 0);
  $("wall").insertBefore(tile.element, next ?? null);
  tiles.set(name, tile);
  announce(`${name} has come`);
}

function forget(tile) {
  inView.delete(tile.element);
  tiles.delete(tile.name);
  tile.remove();
}

function announce(text) {
  note(text);
  $("news").textContent = text;
}

function showTotals(cameras) {
  const count = $("wall").childElementCount;
  $("wall").dataset.count = count;
  const columns = Math.ceil(Math.sqrt(count)) || 1;
  $("wall").style.setProperty("--columns", columns);
  $("wall").style.setProperty("--rows", Math.ceil(count / columns));
  const rates = [...tiles.values()].map(({ rate }) => rate ?? 0);
  $("total-cameras").textContent = cameras.length;
  $("total-viewers").textContent = cameras.reduce((sum, { viewers }) => sum + viewers, 0);
  $("total-rate").textContent = bits(rates.reduce((sum, rate) => sum + rate, 0));
  document.title = cameras.length ? `${cameras.length} · Headwater cameras` : "Headwater cameras";
  const isEmpty = !count;
  if ($("empty").hidden !== isEmpty) return;
  $("empty").hidden = !isEmpty;
  $("how").open = isEmpty;
}

// ---------------------------------------------------------------- how to push

const COMMANDS = {
  mjpeg: (to) => `ffmpeg -i INPUT -an -c:v mjpeg -q:v 5 -f mjpeg ${to}`,
  h264: (to) => `ffmpeg -i INPUT -an -c:v libx264 -preset veryfast -tune zerolatency -g 50 -f h264 ${to}`,
};
let shownWays = "";

function hostPort(listen) {
  const { hostname, port } = nearest([listen], "http:");
  return `${hostname}:${port || 80}`;
}

function showWays(push, raw) {
  const ways = JSON.stringify([push, raw]);
  $("how").hidden = false;
  if (ways === shownWays) return;
  shownWays = ways;
  // One quality alone needs no name.
  const hasTwo = (path) => raw.some((one) => one.path === path && one.quality === "low") && raw.some((one) => one.path === path && one.quality === "high");
  const boxes = raw.map(({ listen, format, path, quality }) => way(
    `${KINDS[format] ?? format} without a greeting, shown as ${path.replace(/^\//, "")}${hasTwo(path) ? `, ${quality} quality` : ""}`,
    [`Whatever connects to ${hostPort(listen)} is that camera.`],
    COMMANDS[format]?.(`tcp://${hostPort(listen)}`),
  ));
  if (push.length) {
    const targets = push.flatMap((listen) => [" or ", code(hostPort(listen))]).slice(1);
    boxes.push(way("Cameras with a greeting", ["They push over TCP to ", ...targets,
      ": the numbers ", code("id"), ", ", code("kind"), " (0 MJPEG, 1 H.264) and ", code("quality"),
      " (0 low, 1 high), each 32 bits little-endian, then every picture with its length in front. Camera 3 is shown as ", code("stream3"), "."]));
  }
  if (!boxes.length) boxes.push(way("This server listens for no cameras", ["See [cameras] of its configuration."]));
  $("ways").replaceChildren(...boxes);
}

function code(text) {
  const element = document.createElement("code");
  element.textContent = text;
  return element;
}

function way(title, text, command) {
  const box = document.createElement("section");
  box.className = "way";
  const heading = document.createElement("h3");
  heading.textContent = title;
  const paragraph = document.createElement("p");
  paragraph.append(...text);
  box.append(heading, paragraph);
  if (!command) return box;
  const line = document.createElement("div");
  line.className = "command";
  line.append(code(command));
  // Given to https and localhost only.
  if (navigator.clipboard) line.append(copier(command));
  box.append(line);
  return box;
}

function copier(command) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

// ---------------------------------------------------------------- asking

let timer = null;
let isAsking = false;

async function poll() {
  if (isAsking) return;
  isAsking = true;
  clearTimeout(timer);
  try {
    takeList(await list());
    if (trouble) complain(null);
  } catch (error) {
    // Said once.
    if (error.message !== trouble?.message) complain(error);
  }
  $("wall").classList.toggle("stale", Boolean(trouble));
  isAsking = false;
  timer = setTimeout(poll, document.hidden ? POLL_HIDDEN_MS : POLL_MS);
}

async function list() {
  const signal = AbortSignal.timeout(ANSWER_MS_MAX);
  const answer = await fetch("/cameras.json", { cache: "no-store", signal }).catch(() => {
    throw new Trouble("The server does not answer", "The pictures below may go on by themselves. The page asks again each second.");
  });
  if (!answer.ok) throw new Trouble(`The server answered ${answer.status}`, "It has no list of its cameras to give.");
  return answer.json();
}

window.headwater = { readings: () => [...tiles.values()].map((tile) => tile.readings()), tiles };
poll();
