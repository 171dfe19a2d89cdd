// Live pictures of one camera: what all kinds have in common. A page puts `element` somewhere, reads the
// rest, and is told of each new `state` by `changed()`.
//
//   state         left by
//   connecting    the first picture
//   live          the connection's end, or a turn's
//   again         a pause, longer with each failure, and it connects
//   turn          the browser has a connection to spare: its limit is for all pages together
//   refused       the page: the server does not send it like this
//   insecure      nothing: the browser decodes on https and localhost only
//   unsupported   nothing: the browser has no decoder for it

const PAUSE_MS = 500, PAUSE_MS_MAX = 8000;
// After so long it was no failure to begin.
const LIFE_MS = 5000;
// A connection that brings nothing for so long, while its camera sends, is dead.
const SILENCE_MS = 10000;
const LAGS = 25;

export class Pictures {
  element = document.createElement("span");
  state = "connecting";
  sinceMs = performance.now();
  // What the browser or the server said.
  detail = "";
  width = 0;
  height = 0;
  // Pictures that came, or null where the browser does not tell.
  count = null;
  // From a picture's coming to its showing, the mean of a moment.
  lagMs = null;
  stopper = new AbortController();

  constructor(changed) {
    this.changed = changed;
    this.element.className = "pictures";
  }

  become(state, detail = "") {
    if (this.stopper.signal.aborted || (this.state === state && this.detail === detail)) return;
    if (this.state !== state) this.sinceMs = performance.now();
    Object.assign(this, { state, detail });
    this.changed();
  }

  // Nothing comes, and the browser did not say so.
  isLost() {
    return false;
  }

  stop() {
    this.stopper.abort();
  }
}

// Pictures that come over a WebSocket and are drawn: subclasses have `begin()`, `take(bytes, arrivedMs)`, which
// throws at what cannot go on, and `end()`.
export class SocketPictures extends Pictures {
  #canvas = document.createElement("canvas");
  #pen = this.#canvas.getContext("2d", { alpha: false });
  #next = null;
  #frame = 0;
  #heardMs = Infinity;
  #lags = [];
  #socket = null;
  #said = "";

  constructor(changed, url) {
    super(changed);
    this.url = url;
    this.count = 0;
    this.element.append(this.#canvas);
  }

  async run() {
    const { signal } = this.stopper;
    signal.addEventListener("abort", () => this.#socket?.close());
    for (let failures = 0; !signal.aborted && !this.isFinal();) {
      const beganMs = performance.now();
      const said = await this.#receive();
      if (signal.aborted || this.isFinal()) break;
      failures = performance.now() - beganMs > LIFE_MS ? 0 : failures + 1;
      this.become("again", said);
      const pauseMs = Math.min(PAUSE_MS_MAX, PAUSE_MS * 2 ** Math.max(0, failures - 1));
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  isFinal() {
    return ["refused", "insecure", "unsupported"].includes(this.state);
  }

  // One connection; what its end was.
  async #receive() {
    const socket = this.#socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#said = "";
    this.#heardMs = Infinity;
    this.begin();
    socket.addEventListener("open", () => { this.#heardMs = performance.now(); });
    socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string" || this.#said) return;
      this.#heardMs = performance.now();
      try {
        this.take(new Uint8Array(data), this.#heardMs);
      } catch (error) {
        this.fail(error.message);
      }
    });
    const event = await new Promise((resolve) => socket.addEventListener("close", resolve));
    this.#heardMs = Infinity;
    this.end();
    return this.#said || (event.code === 1000 ? "it ended" : event.reason || `the connection broke off (${event.code})`);
  }

  // This connection is of no use any more.
  fail(said) {
    this.#said = said;
    this.#socket.close();
  }

  // Shows a VideoFrame or an ImageBitmap with the next refresh of the screen, unless a newer one comes.
  show(picture, width, height, arrivedMs) {
    this.#next?.picture.close();
    this.#next = { picture, width, height, arrivedMs };
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const { picture, width, height, arrivedMs } = this.#next;
    this.#frame = 0;
    this.#next = null;
    const canvas = this.#canvas;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.#pen.drawImage(picture, 0, 0, width, height);
    picture.close();
    Object.assign(this, { width, height });
    this.#lags.push(performance.now() - arrivedMs);
    if (this.#lags.length > LAGS) this.#lags.shift();
    this.lagMs = this.#lags.reduce((sum, lag) => sum + lag, 0) / this.#lags.length;
    this.become("live");
  }

  isLost() {
    return performance.now() - this.#heardMs > SILENCE_MS;
  }

  stop() {
    super.stop();
    cancelAnimationFrame(this.#frame);
    this.#next?.picture.close();
    this.#next = null;
  }
}
