// The page /publish: sends camera and microphone, or a test picture, to a channel of ws-stream-server.
//
//   state        left by
//   idle         the button
//   asking       the camera is there, or not
//   connecting   the socket is open, or refused
//   live         the button, the server, or the camera's end
//   refused      the button
//   ended        the button
//
// In the page's address: origin (ws://HOST:PORT), channel, key, source (camera | test), format (mp4 | webm).
// `window.headwater.readings()` is for the tests.
import { BEGINNING_BYTES, ID, channelUrl, closing, connect, ownDoor, refusal, scannerOf } from "./player/channel.js";
import { joined } from "./player/mp4.js";
import { $, Trouble, bits, complain, note, trouble } from "./player/page.js";

const TIMESLICE_MS = 200;
const VIDEO_BITS_PER_S = 2000000, AUDIO_BITS_PER_S = 96000;
const WIDTH = 1280, HEIGHT = 720, PICTURES_PER_S = 30;
// A recorder writes a fragment of MP4 when the next key picture comes: often, so that it comes soon.
const KEY_INTERVAL_MS = { mp4: 500, webm: 2000 };
// Who joins when the server's cache has lost the beginning waits for the next header so long.
const HEADER_INTERVAL_MS = 10000;
// A coordinator has 20 s to say yes.
const CONNECT_MS = 30000;
const WAITING_BYTES_WARN = 1 << 20, WAITING_BYTES_MAX = 32 << 20;
const READINGS_PER_S = 4;

// In the order of preference. H.264 in WebM is left out: no Media Source takes it.
const TYPES = [
  "video/mp4;codecs=avc1.42E01F,mp4a.40.2",
  "video/mp4;codecs=avc1.42E01F,opus",
  "video/webm;codecs=vp9,opus",
  "video/webm;codecs=vp8,opus",
  "video/webm",
  "video/mp4",
];

const video = $("video");
const asked = new URLSearchParams(location.search);

const STATES = {
  idle: ["not connected", "Publish"],
  asking: ["asking for the camera", "Cancel"],
  connecting: ["connecting", "Cancel"],
  live: ["live", "Stop"],
  refused: ["refused", "Try again"],
  ended: ["ended", "Publish again"],
};
let state = "idle";
let session = null;

function enter(next) {
  state = next;
  const [text, button] = STATES[next];
  $("state").textContent = text;
  $("state").className = next === "refused" ? "bad" : next;
  $("button").textContent = button;
  for (const field of ["origin", "channel", "key", "source", "format"]) $(field).disabled = isBusy();
  note(text);
}

const isBusy = () => ["asking", "connecting", "live"].includes(state);

// ---------------------------------------------------------------- sources

async function camera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Trouble("The browser gives this page no camera", "It does so for https and for localhost only. Open the page as http://127.0.0.1 (through ssh -L, for example), put a TLS proxy in front, or choose the test picture.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: WIDTH }, height: { ideal: HEIGHT }, frameRate: { ideal: PICTURES_PER_S } },
      audio: true,
    });
  } catch (error) {
    const why = {
      NotAllowedError: "Camera or microphone were not allowed. The sign beside the page's address lets you change that.",
      NotFoundError: "There is no camera or no microphone here. Choose the test picture.",
      NotReadableError: "Another program has the camera.",
    };
    throw new Trouble("There is no camera to publish", why[error.name] ?? error.message);
  }
}

// The stream, or null at once when nobody wants it any more; it is given back when it comes.
function unlessAborted(camera, signal) {
  camera.then((stream) => signal.aborted && stream.getTracks().forEach((track) => track.stop())).catch(() => {});
  return Promise.race([camera, new Promise((resolve) => signal.addEventListener("abort", () => resolve(null)))]);
}

// Colours that move, the time of day, and a beep at each second.
function testPicture(signal) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [WIDTH / 2, HEIGHT / 2];
  const pen = canvas.getContext("2d", { alpha: false });
  let count = 0;
  const draw = () => paint(pen, canvas, count++);
  draw();
  const timer = setInterval(draw, 1000 / PICTURES_PER_S);
  const stream = canvas.captureStream(PICTURES_PER_S);
  const context = new AudioContext();
  const sound = context.createMediaStreamDestination();
  const loudness = context.createGain();
  const tone = context.createOscillator();
  tone.frequency.value = 440;
  tone.connect(loudness).connect(sound);
  loudness.gain.value = 0;
  const beeper = setInterval(() => {
    loudness.gain.setValueAtTime(0.2, context.currentTime);
    loudness.gain.setValueAtTime(0, context.currentTime + 0.08);
  }, 1000);
  tone.start();
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    clearInterval(beeper);
    context.close();
  });
  stream.addTrack(sound.stream.getAudioTracks()[0]);
  return stream;
}

const BARS = ["#ffffff", "#e8c547", "#4fc3d4", "#58b368", "#c05299", "#d1495b", "#2e5eaa", "#5b6d76"];

// One bar more than there is room for is on its way in.
function paint(pen, { width, height }, count) {
  const bar = width / (BARS.length - 1);
  BARS.forEach((colour, index) => {
    pen.fillStyle = colour;
    pen.fillRect(((index * bar + count * 4) % (width + bar)) - bar, 0, bar + 1, height);
  });
  pen.fillStyle = "#0b1114";
  pen.fillRect(0, height * 0.36, width, height * 0.28);
  pen.fillStyle = "#ffffff";
  pen.font = `600 ${height * 0.15}px ui-monospace, monospace`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(new Date().toISOString().slice(11, 23), width / 2, height / 2);
  pen.fillRect(0, height * 0.62, (width * (count % (2 * PICTURES_PER_S))) / (2 * PICTURES_PER_S), height * 0.02);
}

function chosenType(format) {
  if (!window.MediaRecorder) throw new Trouble("This browser cannot record", "It has no MediaRecorder.");
  const type = TYPES.find((one) => one.startsWith(`video/${format}`) && MediaRecorder.isTypeSupported(one));
  if (!type) throw new Trouble(`This browser cannot record ${format || "video"}`, "Choose the other format, or another browser.");
  return type;
}

// ---------------------------------------------------------------- one session

// Takes what the recorder gives apart at headers and starts and sends each as messages of their own, so
// that a cache can be cut between them, and sends the header again before a start now and then.
class Outlet {
  #scanner = null;
  #header = null;
  #headerMs = 0;
  #short = new Uint8Array(0);

  constructor(send) {
    this.send = send;
  }

  push(piece) {
    const bytes = joined([this.#short, piece]);
    this.#short = new Uint8Array(0);
    if (!this.#scanner) {
      // A recorder that has just begun may give less than a whole beginning.
      if (bytes.length < BEGINNING_BYTES) { this.#short = bytes; return; }
      this.#scanner = scannerOf(bytes);
    }
    if (!this.#scanner) throw new Trouble("This browser records something else", "Its first bytes are neither WebM nor MP4.");
    for (const unit of this.#scanner.push(bytes)) {
      const isDue = unit.isStart && performance.now() - this.#headerMs > HEADER_INTERVAL_MS;
      if (isDue) this.send(this.#header);
      if (unit.kind === "init") this.#header = unit.bytes;
      if (unit.kind === "init" || isDue) this.#headerMs = performance.now();
      this.send(unit.bytes);
    }
  }
}

class Session {
  constructor(url, source, format) {
    Object.assign(this, { url, source, format, bytes: 0, messages: 0, since: null, type: null, rates: [] });
    this.stopper = new AbortController();
  }

  // To the end of the session, which it tells: null, or a Trouble.
  async run() {
    const { signal } = this.stopper;
    try {
      const type = chosenType(this.format);
      enter("asking");
      this.stream = this.source === "test" ? testPicture(signal) : await unlessAborted(camera(), signal);
      if (signal.aborted) return null;
      video.srcObject = this.stream;
      video.play().catch(() => {});
      $("idle").hidden = true;
      return await this.#publish(type, signal);
    } finally {
      this.stopper.abort();
      this.stream?.getTracks().forEach((track) => track.stop());
      this.link?.socket.close();
    }
  }

  async #publish(type, signal) {
    enter("connecting");
    this.link = connect(this.url, { onText: (text) => note(`the server says: ${text}`) });
    const { socket, opened, closed } = this.link;
    const late = setTimeout(() => socket.close(), CONNECT_MS);
    signal.addEventListener("abort", () => socket.readyState === WebSocket.CONNECTING && socket.close());
    const isOpen = await opened;
    clearTimeout(late);
    if (signal.aborted) return null;
    if (!isOpen) throw refusal(this.url, true);
    this.since = performance.now();
    enter("live");
    const why = await Promise.race([this.#record(type, signal), closed]);
    if (why === null || why instanceof Trouble) {
      socket.close(1000, "stopped");
      return why;
    }
    return new Trouble("The server has ended it", `The connection was closed (${closing(why)}). A channel is ended by its coordinator, by a stop of the server, or by a network that broke.`);
  }

  // Ends when it is stopped, with null, or by a trouble.
  #record(type, signal) {
    const interval = KEY_INTERVAL_MS[/mp4/.test(type) ? "mp4" : "webm"];
    const recorder = new MediaRecorder(this.stream, {
      mimeType: type,
      videoBitsPerSecond: VIDEO_BITS_PER_S,
      audioBitsPerSecond: AUDIO_BITS_PER_S,
      videoKeyFrameIntervalDuration: interval,
    });
    const outlet = new Outlet((bytes) => this.#send(bytes));
    return new Promise((resolve) => {
      let chain = Promise.resolve();
      const end = (why) => {
        if (recorder.state !== "inactive") recorder.stop();
        // The last piece comes with the event "stop".
        resolve(chain.then(() => why));
      };
      recorder.addEventListener("dataavailable", ({ data }) => {
        this.type = recorder.mimeType;
        chain = chain.then(async () => outlet.push(new Uint8Array(await data.arrayBuffer())))
          .catch((error) => end(error instanceof Trouble ? error : new Trouble("The recording broke off", error.message)));
      });
      recorder.addEventListener("error", ({ error }) => end(new Trouble("The recorder failed", error?.message)));
      recorder.addEventListener("stop", () => end(signal.aborted ? null : new Trouble("Camera or microphone have gone", "The recording has ended by itself.")));
      signal.addEventListener("abort", () => recorder.state !== "inactive" && recorder.stop());
      recorder.start(TIMESLICE_MS);
    });
  }

  #send(bytes) {
    const { socket } = this.link;
    if (socket.readyState !== WebSocket.OPEN || !bytes.length) return;
    if (socket.bufferedAmount > WAITING_BYTES_MAX) {
      throw new Trouble("The network is too slow for this picture", "What waits to be sent grew beyond 32 MiB.");
    }
    socket.send(bytes);
    this.bytes += bytes.length;
    this.messages += 1;
  }

  // Bits per second over the last seconds.
  rate() {
    this.rates.push([performance.now(), this.bytes]);
    if (this.rates.length > 5 * READINGS_PER_S) this.rates.shift();
    const [[then, before], [now, after]] = [this.rates[0], this.rates.at(-1)];
    return now > then ? ((after - before) * 8000) / (now - then) : null;
  }
}

async function publish() {
  const [channel, key] = [$("channel").value, $("key").value];
  complain(null);
  let mine = null;
  try {
    for (const [name, value] of [["channel", channel], ["key", key]]) {
      if (!ID.test(value)) throw new Trouble(`“${value}” is no ${name}`, "Letters, digits, - and _ are possible.");
    }
    const url = channelUrl($("origin").value.trim(), channel, key, "publish");
    keepInAddress();
    session = mine = new Session(url, $("source").value, $("format").value);
    const end = await mine.run();
    complain(end);
    enter("ended");
  } catch (error) {
    complain(error instanceof Trouble ? error : new Trouble("It did not start", error.message));
    enter({ connecting: "refused", live: "ended" }[state] ?? "idle");
  }
  video.srcObject = null;
  $("idle").textContent = "Nothing is sent.";
  $("idle").hidden = false;
}

// ---------------------------------------------------------------- the page

function readings() {
  return {
    state,
    bytes: session?.bytes ?? 0,
    messages: session?.messages ?? 0,
    type: session?.type ?? null,
    width: video.videoWidth,
    height: video.videoHeight,
    error: trouble?.message ?? null,
  };
}

function show() {
  if (state !== "live") return;
  const rate = session.rate();
  const waiting = session.link.socket.bufferedAmount;
  $("rate").textContent = rate === null ? "–" : bits(rate);
  $("sent").textContent = `${(session.bytes / 1e6).toFixed(2)} MB`;
  $("waiting").textContent = waiting ? `${Math.round(waiting / 1000).toLocaleString("en")} kB` : "nothing";
  $("waiting").classList.toggle("bad", waiting > WAITING_BYTES_WARN);
  $("time").textContent = new Date(performance.now() - session.since).toISOString().slice(11, 19);
  $("picture").textContent = video.videoWidth ? `${video.videoWidth} × ${video.videoHeight}` : "–";
  $("type").textContent = session.type ?? "–";
}

function keepInAddress() {
  const query = new URLSearchParams(location.search);
  for (const field of ["origin", "channel", "key", "source", "format"]) {
    if ($(field).value) query.set(field, $(field).value);
    else query.delete(field);
  }
  window.history.replaceState(null, "", `?${query}`);
}

function linkChanged() {
  try {
    const src = channelUrl($("origin").value.trim(), $("channel").value, $("key").value, "receive");
    $("watch").href = `/player?${new URLSearchParams({ src })}`;
  } catch {
    $("watch").href = "/player";
  }
}

$("form").addEventListener("input", linkChanged);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isBusy()) session.stopper.abort();
  else publish();
});

window.headwater = { readings, video, get session() { return session; } };
setInterval(show, 1000 / READINGS_PER_S);
$("channel").value = asked.get("channel") ?? "demo";
$("key").value = asked.get("key") ?? "demo";
for (const field of ["source", "format"]) {
  const wish = asked.get(field) ?? "";
  if ([...$(field).options].some((option) => option.value === wish)) $(field).value = wish;
}
$("origin").value = asked.get("origin") ?? (await ownDoor().catch(complain) ?? "").replace(/\/$/, "");
linkChanged();
// Not before it is known where to.
$("button").disabled = false;
