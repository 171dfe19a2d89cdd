// MJPEG, over WebSockets. Where something on the way refuses those, images show it, which has its price: a
// browser opens six connections to one host, so that images take turns; and Chromium shows a picture when the
// next one begins, so that a camera of one picture a minute is a minute late.
import { Pictures, SocketPictures } from "./pictures.js";

// One of six is left for whatever else comes from that host.
const IMAGES_MAX = 5;
const TURN_MS = 1500;
const REFUSALS_MAX = 2;
const LOOK_MS = 250;

// `isHeld` says that an image shall not give its turn away.
export function mjpegPictures(changed, { image, socket }, isHeld) {
  return areSocketsRefused ? new ImagePictures(changed, image, isHeld) : new JpegPictures(changed, socket);
}

class Turns {
  #showing = [];
  #waiting = [];
  #timer = null;

  enter(image) {
    this.#waiting.push(image);
    this.#fill();
  }

  leave(image) {
    for (const list of [this.#showing, this.#waiting]) {
      if (list.includes(image)) list.splice(list.indexOf(image), 1);
    }
    this.#fill();
  }

  #fill() {
    while (this.#waiting.length && this.#showing.length < IMAGES_MAX) {
      const image = this.#waiting.shift();
      this.#showing.push(image);
      image.begin();
    }
    if (!this.#waiting.length) this.#timer = clearInterval(this.#timer);
    else this.#timer ??= setInterval(() => this.#pass(), TURN_MS / 2);
  }

  // Whoever has shown longest gives way to whoever has waited longest.
  #pass() {
    const index = this.#showing.findIndex((image) => image.isDone(TURN_MS));
    if (index < 0) return;
    const [image] = this.#showing.splice(index, 1);
    image.pause();
    this.#waiting.push(image);
    this.#fill();
  }
}

const turns = new Turns();
let areSocketsRefused = false;
const attempts = new Map();

class ImagePictures extends Pictures {
  #image = null;
  #timer = null;

  constructor(changed, url, isHeld) {
    super(changed);
    Object.assign(this, { url, isHeld });
    this.state = "turn";
    turns.enter(this);
  }

  begin() {
    this.become("connecting");
    this.#image = document.createElement("img");
    this.#image.alt = "";
    // The same address again would show the picture that the browser has kept.
    const url = new URL(this.url);
    const attempt = attempts.get(this.url) ?? 0;
    if (attempt) url.searchParams.set("attempt", attempt);
    attempts.set(this.url, attempt + 1);
    this.#image.src = url;
    // Events do not tell all: none comes at a stream's end.
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.element.append(this.#image);
  }

  #look() {
    const { naturalWidth, naturalHeight, complete } = this.#image;
    if (complete && !naturalWidth) return this.become("again", "the connection broke off or was refused");
    if (!naturalWidth) return;
    Object.assign(this, { width: naturalWidth, height: naturalHeight });
    while (this.element.firstChild !== this.#image) this.element.firstChild.remove();
    this.become("live");
  }

  isDone(turnMs) {
    return !this.isHeld() && (this.state === "again" || (this.state === "live" && performance.now() - this.sinceMs > turnMs));
  }

  // Keeps the last picture.
  pause() {
    const still = document.createElement("canvas");
    Object.assign(still, { width: this.#image.naturalWidth, height: this.#image.naturalHeight });
    if (still.width) still.getContext("2d").drawImage(this.#image, 0, 0);
    this.#close();
    this.element.replaceChildren(still);
    this.become("turn");
  }

  #close() {
    clearInterval(this.#timer);
    this.#image?.removeAttribute("src");
  }

  isLost() {
    return this.state === "again";
  }

  stop() {
    super.stop();
    // The picture stays while it is shown.
    if (this.#image?.naturalWidth) this.pause();
    this.#close();
    turns.leave(this);
  }
}

class JpegPictures extends SocketPictures {
  #isDecoding = false;
  #next = null;
  #refusals = 0;

  constructor(changed, url) {
    super(changed, url);
    this.run();
  }

  begin() {
    this.#next = null;
  }

  take(bytes, arrivedMs) {
    if (bytes[0] !== 0xff || bytes[1] !== 0xd8) {
      this.#refuse();
      throw new Error("what came is no JPEG");
    }
    this.count += 1;
    this.#next = { bytes, arrivedMs };
    this.#decode();
  }

  // Only the newest waits.
  async #decode() {
    if (!this.#next || this.#isDecoding) return;
    const { bytes, arrivedMs } = this.#next;
    this.#next = null;
    this.#isDecoding = true;
    const picture = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })).catch(() => null);
    this.#isDecoding = false;
    if (this.stopper.signal.aborted) return picture?.close();
    if (picture) this.show(picture, picture.width, picture.height, arrivedMs);
    this.#decode();
  }

  end() {
    if (!this.count && ++this.#refusals >= REFUSALS_MAX) this.#refuse();
  }

  #refuse() {
    areSocketsRefused = true;
    this.become("refused");
  }
}
