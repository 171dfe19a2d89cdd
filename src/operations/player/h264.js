// H.264 that comes over a WebSocket as pieces of annex B, decoded by WebCodecs.
import { AccessUnits, codecOf } from "./annexb.js";
import { SocketPictures } from "./pictures.js";

// A decoder with more than so many pictures to go, the oldest of them so old, is too slow: the rest up to
// the next key picture is left out.
const QUEUE_MAX = 8;
const LATE_MS = 300;

export class H264Pictures extends SocketPictures {
  // Pictures that were left out.
  skipped = 0;
  codec = null;
  #units = null;
  #decoder = null;
  #sps = null;
  #needsKey = true;
  #lastTime = 0;
  // When the pictures came that the decoder has.
  #pending = [];

  constructor(changed, url) {
    super(changed, url);
    if (!window.VideoDecoder) this.state = window.isSecureContext ? "unsupported" : "insecure";
    else this.run();
  }

  begin() {
    this.#units = new AccessUnits();
    this.#sps = null;
    this.#needsKey = true;
  }

  end() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
    this.#pending = [];
  }

  take(bytes, arrivedMs) {
    for (const unit of this.#units.push(bytes)) this.#decode(unit, arrivedMs);
  }

  #decode(unit, arrivedMs) {
    if (unit.isBroken) {
      this.#needsKey = true;
      return;
    }
    this.count += 1;
    const isSlow = this.#decoder?.decodeQueueSize > QUEUE_MAX && performance.now() - this.#pending[0] > LATE_MS;
    if (isSlow) this.#needsKey = true;
    if (this.#needsKey && !(unit.isKey && unit.sps)) {
      this.skipped += 1;
      return;
    }
    if (unit.isKey && (isSlow || unit.sps.join() !== this.#sps?.join())) this.#configure(unit.sps);
    this.#needsKey = false;
    // Of two that came at once each has its own time.
    this.#lastTime = Math.max(this.#lastTime + 1, Math.round(arrivedMs * 1000));
    this.#pending.push(this.#lastTime / 1000);
    this.#decoder.decode(new EncodedVideoChunk({
      type: unit.isKey ? "key" : "delta",
      timestamp: this.#lastTime,
      data: unit.bytes,
    }));
  }

  #configure(sps) {
    this.#sps = sps;
    this.codec = codecOf(sps);
    this.#pending = [];
    const config = { codec: this.codec, optimizeForLatency: true };
    if (this.#decoder) this.#decoder.reset();
    else this.#decoder = this.#newDecoder();
    this.#decoder.configure(config);
    VideoDecoder.isConfigSupported(config).catch(() => ({})).then(({ supported }) => {
      if (supported) return;
      this.become("unsupported", this.codec);
      this.fail(this.codec);
    });
  }

  #newDecoder() {
    const decoder = new VideoDecoder({
      output: (frame) => {
        if (decoder !== this.#decoder || this.stopper.signal.aborted) return frame.close();
        const arrivedMs = frame.timestamp / 1000;
        this.#pending = this.#pending.filter((ms) => ms > arrivedMs);
        this.show(frame, frame.displayWidth, frame.displayHeight, arrivedMs);
      },
      error: (error) => decoder === this.#decoder && this.fail(error.message),
    });
    return decoder;
  }
}
