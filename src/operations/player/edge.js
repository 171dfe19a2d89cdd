// A video element at the live edge of bytes that come by themselves: one Media Source after another,
// a queue before it, and the speed and the jumps that keep the picture near its end.
import { Trouble, note } from "./page.js";

export const BACK_BUFFER_S = 15;

const STEPS_PER_S = 4;
const JUMP_S = 2.5;
const PENDING_MAX = 500;
// More than this before the browser is left out, as far as the newest place to start.
const UNIT_BYTES_MAX = 4 << 20;

// Whoever extends this opens a sink and appends; #steer does the rest, four times a second: too far
// behind jumps, a little behind speeds up.
export class Edge {
  #opened = null;

  constructor(video, wishedLatency) {
    this.video = video;
    // What should be buffered when the buffer is at its lowest, just before a fragment comes.
    this.target = wishedLatency || 0.2;
    // What comes at once, if that is long.
    this.chunkS = 0;
    this.lows = [];
    this.bytes = 0;
    this.since = performance.now();
    this.rate = null;
    this.stopper = new AbortController();
    this.timer = setInterval(() => this.#steer(), 1000 / STEPS_PER_S);
    this.stalled = () => {
      // A stall is a buffer that was too short for this path: keep a little more from now on.
      this.target = Math.min(this.target + 0.15, 2);
      this.rest = performance.now();
    };
    video.addEventListener("waiting", this.stalled);
  }

  // A sink for media of this type: the one before if it can go on, else that of a new Media Source.
  async open(before, type) {
    note(type);
    if (!window.MediaSource?.isTypeSupported(type)) {
      throw new Trouble("This browser has no decoder for the stream", `It is ${type}. Push H.264 with AAC, or use a browser that knows it.`);
    }
    if (before) { before.changeType(type); return before; }
    const source = new MediaSource();
    const url = URL.createObjectURL(source);
    this.#opened = source;
    this.video.src = url;
    await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    URL.revokeObjectURL(url);
    if (this.stopper.signal.aborted || this.#opened !== source) throw new Error("stopped");
    this.started = false;
    return new Sink(source, type, this.video);
  }

  #steer() {
    const { video } = this;
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
      this.#jump(Math.max(start, end - this.target - this.chunkS));
    } else if (this.started && (behind > this.target + JUMP_S || (video.currentTime < start && !hasMore(video)))) {
      note(`jump to the live end, ${behind.toFixed(1)} s`);
      this.#jump(Math.max(start, end - this.target - this.chunkS));
    }
    if (video.paused) return;
    // What is buffered swings by one fragment: the lowest point of a second counts.
    this.lows.push(behind);
    if (this.lows.length > STEPS_PER_S) this.lows.shift();
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
    this.video.currentTime = to;
    this.video.play().catch(() => {});
  }

  // Seconds from the picture to the newest one that is here.
  behind() {
    const { buffered, currentTime } = this.video;
    return buffered.length ? buffered.end(buffered.length - 1) - currentTime : null;
  }

  stop() {
    clearInterval(this.timer);
    this.video.removeEventListener("waiting", this.stalled);
    this.stopper.abort();
  }
}

// Whether there is something to play before the next gap.
function hasMore({ buffered, currentTime }) {
  for (let index = 0; index < buffered.length; index++) {
    if (buffered.start(index) <= currentTime && currentTime + 0.1 < buffered.end(index)) return true;
  }
  return false;
}

// A source buffer with a queue before it, which keeps little behind the picture.
class Sink {
  #queue = [];
  #waiting = [];
  #needsStart = false;
  #hasGap = false;

  constructor(source, type, video) {
    this.source = source;
    this.video = video;
    this.buffer = source.addSourceBuffer(type);
    this.buffer.addEventListener("updateend", () => this.#next());
    this.buffer.addEventListener("error", () => note("the browser refused a fragment"));
  }

  append(pieces) {
    if (this.#queue.length > PENDING_MAX) throw new Error("the browser takes no more");
    this.#queue.push(...pieces.map((bytes) => ({ bytes })));
    this.#next();
  }

  // Append a unit of a stream that may be left out up to a start.
  appendUnit({ bytes, isStart }) {
    if (isStart) {
      const waiting = this.#queue.reduce((sum, item) => sum + (item.bytes?.length ?? 0), 0);
      if (waiting > UNIT_BYTES_MAX) {
        note(`left out ${(waiting / 1e6).toFixed(1)} MB`);
        this.#queue.length = 0;
        this.#hasGap = true;
      }
      this.#needsStart = false;
    }
    if (this.#needsStart) return;
    this.#queue.push({ bytes, isAfterGap: this.#hasGap });
    this.#hasGap = false;
    this.#next();
  }

  get isOver() {
    return this.source.readyState !== "open";
  }

  changeType(type) {
    this.#queue.push({ type });
  }

  #next() {
    const { buffer, video } = this;
    if (this.source.readyState !== "open" || buffer.updating) return;
    const { buffered } = buffer;
    if (this.#needsStart && buffered.length && buffered.end(buffered.length - 1) - buffered.start(0) > 1) {
      // It was full: nothing but the newest is of use.
      buffer.remove(0, buffered.end(buffered.length - 1) - 1);
      return;
    }
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
        // The parser is in the middle of what was left out.
        if (item.isAfterGap) buffer.abort();
        buffer.appendBuffer(item.bytes);
      } catch (error) {
        note(`append: ${error.name}`);
        this.#queue.length = 0;
        this.#needsStart = this.#hasGap = true;
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
