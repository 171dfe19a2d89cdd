// A channel of ws-stream-server: where it is, and its receiver. Binary messages are pieces of one stream,
// which the wire gives no type: the first bytes say whether it is WebM or fragmented MP4.
import { nearest } from "./address.js";
import { Edge } from "./edge.js";
import { Mp4Scanner, joined } from "./mp4.js";
import { Trouble, note } from "./page.js";
import { WebmScanner } from "./webm.js";

export const HEARTBEAT = "h";
export const HEARTBEAT_MS = 20000;
export const ID = /^[A-Za-z0-9_-]+$/;

const AGAIN_MS = 1000;
const FAILURES_MAX = 8;
// The cache comes in one go: a pause this long, or this much time, and what comes is live.
const LULL_MS = 80;
const CATCH_UP_MS = 2000;
// A fragment of MP4 until one was measured, and at most.
const CHUNK_S = 0.5, CHUNK_S_MAX = 2;

// What this server listens on for channels, as its configuration says: "ws://HOST:PORT/PREFIX/".
export async function ownDoor() {
  const { listen, prefix } = await (await fetch("/player/door.json")).json();
  const address = nearest(listen, "ws:");
  if (!address) throw new Trouble("Channels are switched off on this server", "See enabled in [channels] of its configuration, or name the address of another server.");
  return new URL(prefix, address).href;
}

export function channelUrl(origin, channel, key, kind) {
  const url = new URL(/^[a-z]+:\/\//i.test(origin) ? origin : `ws://${origin}`);
  url.protocol = { "http:": "ws:", "https:": "wss:" }[url.protocol] ?? url.protocol;
  if (!/^wss?:$/.test(url.protocol)) throw new Trouble(`${origin} is no address of a server`, "It looks like ws://127.0.0.1:9094.");
  return new URL(`${channel}/${key}/${kind}`, url.href.replace(/\/*$/, "/")).href;
}

// A browser does not tell why it was refused: so say all that it may be.
export function refusal(url, isPublisher) {
  const { host } = new URL(url);
  const why = isPublisher
    ? ["403: somebody else publishes on this channel, or the coordinator refused the key"]
    : ["403: this address may not receive (play_from in [channels])"];
  why.push("429: too many connections from this address (connections_per_ip_max)",
    "404: channel and key are letters, digits, - and _, or channels are below another prefix",
    `or nothing answers on ${host}`);
  return new Trouble("The server did not let this page in",
    `A browser is not told the status. It may be ${why.join("; ")}. The server's log says which.`);
}

// A socket that sends heartbeats and tells what comes: `onData(bytes)`, `onText(text)`.
// `opened` is when it is open, `closed` the closing event.
export function connect(url, { onData, onText }) {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  let beat = null;
  const opened = new Promise((resolve) => socket.addEventListener("open", () => {
    beat = setInterval(() => socket.send(HEARTBEAT), HEARTBEAT_MS);
    resolve(true);
  }));
  const closed = new Promise((resolve) => socket.addEventListener("close", (event) => {
    clearInterval(beat);
    resolve(event);
  }));
  socket.addEventListener("message", ({ data }) => {
    if (typeof data !== "string") onData?.(new Uint8Array(data));
    else if (data !== HEARTBEAT) onText?.(data);
  });
  return { socket, opened: Promise.race([opened, closed.then(() => false)]), closed };
}

// So many bytes tell what it is.
export const BEGINNING_BYTES = 8;

export function scannerOf(bytes) {
  const Scanner = [WebmScanner, Mp4Scanner].find((one) => one.begins(bytes));
  return Scanner ? new Scanner() : null;
}

export const closing = ({ code, reason }) => `${code}${reason && ` ${reason}`}`;

// Receives a channel, and again when it ends.
//
//   state        left by
//   connecting   the socket opens, or does not: FAILURES_MAX times
//   waiting      the first message: whoever publishes
//   seeking      a header, and a start; a cache that was trimmed begins in the middle
//   catching up  a lull: of the cache only what lies behind the newest start is shown
//   playing      the Edge
export class Channel extends Edge {
  #sink = null;
  #scanner = null;
  #header = null;
  #isSeeking = true;
  #newestS = 0;
  #lastS = NaN;
  #caught = null;
  #short = new Uint8Array(0);

  constructor(video, wishedLatency, src, { fail, say }) {
    super(video, wishedLatency);
    Object.assign(this, { src, fail, say });
    this.broke = () => this.#begin("the browser cannot go on");
    video.addEventListener("error", this.broke);
    this.#run();
  }

  async #run() {
    const { signal } = this.stopper;
    for (let failures = 0; !signal.aborted;) {
      this.say("Connecting …");
      const { isOpen, event, trouble } = await this.#receive(signal);
      if (signal.aborted) return;
      if (trouble) return this.#fail(trouble);
      failures = isOpen ? 0 : failures + 1;
      if (failures >= FAILURES_MAX || (failures && !this.wasOpen)) return this.#fail(refusal(this.src, false));
      this.wasOpen ||= isOpen;
      note(`the channel was closed: ${closing(event)}`);
      this.say("The stream has ended. Looking for the next one.");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  #fail(trouble) {
    this.say("Nothing is received.");
    this.fail(trouble);
  }

  async #receive(signal) {
    let trouble = null;
    let chain = Promise.resolve();
    this.#begin(null);
    const take = async (bytes) => {
      if (signal.aborted || trouble) return;
      try {
        await this.#take(bytes);
      } catch (error) {
        if (signal.aborted) return;
        trouble = error instanceof Trouble ? error : new Trouble("The stream cannot be shown", error.message);
        socket.close();
      }
    };
    const { socket, opened, closed } = connect(this.src, {
      onData: (bytes) => { chain = chain.then(() => take(bytes)); },
      onText: (text) => {
        note(`the server says: ${text}`);
        if (!text.startsWith("ERROR")) return;
        trouble = /key/i.test(text)
          ? new Trouble("The key is not the publisher's", "Whoever publishes on this channel gave another key; the address is …/CHANNEL/KEY/receive.")
          : new Trouble("The server ended it", text);
      },
    });
    signal.addEventListener("abort", () => socket.close());
    const isOpen = await opened;
    if (isOpen) this.say("Connected. Nobody publishes on this channel yet.");
    const event = await closed;
    await chain;
    this.#caughtUp();
    return { isOpen, event, trouble };
  }

  // From the next header on.
  #begin(why) {
    if (why) note(why);
    clearTimeout(this.#caught?.timer);
    this.#sink = this.#scanner = this.#header = this.#caught = null;
    this.#isSeeking = true;
    this.#short = new Uint8Array(0);
  }

  async #take(bytes) {
    this.bytes += bytes.length;
    if (!bytes.length) return;
    if (this.#sink?.isOver) this.#begin("the browser cannot go on");
    if (!this.#scanner) {
      // A recorder's first message may be less than a whole beginning.
      const whole = joined([this.#short, bytes]);
      this.#short = whole.length < BEGINNING_BYTES ? whole : new Uint8Array(0);
      if (this.#short.length) return;
      this.#scanner = scannerOf(bytes);
      if (!this.#scanner) {
        this.#scanner = scannerOf(whole);
        bytes = whole;
      }
      if (!this.#scanner) return this.#seek("the stream's header");
    }
    try {
      for (const unit of this.#scanner.push(bytes)) await this.#unit(unit);
    } catch (error) {
      if (!(error instanceof Trouble) || !this.#header) throw error;
      // The server left chunks out because this reader was slow.
      this.#begin(`${error.message}: chunks were left out`);
    }
  }

  #seek(what) {
    if (this.seeks !== what) note(`the cache begins in the middle: waiting for ${what}`);
    this.seeks = what;
    this.say(`Joined in the middle of the stream. Waiting for ${what}.`);
  }

  async #unit(unit) {
    if (unit.kind === "init") {
      if (this.#header && isEqual(this.#header.bytes, unit.bytes)) return;
      await this.#open(unit);
    } else if (this.#sink) {
      if (this.#isSeeking && !unit.isStart) return this.#seek("a key picture");
      // The recorder began anew, with the same header.
      if (unit.isStart && unit.timeS < this.#newestS - 1) await this.#open(this.#header);
      if (unit.isStart) this.#newestS = unit.timeS;
      this.#isSeeking = false;
      if (this.#scanner instanceof Mp4Scanner) this.#measure(unit);
      this.#show(unit);
    }
  }

  // A recorder's fragments are as long as its key pictures are apart.
  #measure({ timeS }) {
    const length = timeS - this.#lastS;
    if (length > 0 && length < CHUNK_S_MAX) this.chunkS = Math.max(length, this.chunkS * 0.9);
    this.#lastS = timeS;
  }

  async #open(header) {
    clearTimeout(this.#caught?.timer);
    this.#sink = await this.open(null, header.type);
    this.#sink.append([header.bytes]);
    this.#header = header;
    this.#isSeeking = true;
    this.#newestS = 0;
    this.#lastS = NaN;
    this.chunkS = this.#scanner instanceof Mp4Scanner ? CHUNK_S : 0;
    this.seeks = null;
    this.#caught = { since: performance.now(), units: [], timer: null };
  }

  #show(unit) {
    const caught = this.#caught;
    if (!caught) return this.#sink.appendUnit(unit);
    if (unit.isStart) caught.units = [];
    caught.units.push(unit);
    clearTimeout(caught.timer);
    if (performance.now() - caught.since > CATCH_UP_MS) this.#caughtUp();
    else caught.timer = setTimeout(() => this.#caughtUp(), LULL_MS);
  }

  #caughtUp() {
    const caught = this.#caught;
    this.#caught = null;
    clearTimeout(caught?.timer);
    if (caught && !this.#sink.isOver) caught.units.forEach((unit) => this.#sink.appendUnit(unit));
  }

  stop() {
    super.stop();
    this.#begin(null);
    this.video.removeEventListener("error", this.broke);
  }
}

const isEqual = (one, other) => one.length === other.length && one.every((byte, index) => byte === other[index]);
