// H.264 as it comes over a wire (ITU-T H.264 annex B): NAL units, and the access units that a decoder
// wants. Nothing here decodes.
import { joined } from "./mp4.js";

const SLICE = 1, PARTITION_A = 2, IDR = 5, SEI = 6, SPS = 7, PPS = 8, DELIMITER = 9, PREFIX = 14, RESERVED = 18;
const UNIT_BYTES_MAX = 16 << 20;

// Where start codes begin, and where the NAL units behind them.
function startCodes(bytes) {
  const found = [];
  for (let at = 0; at + 2 < bytes.length;) {
    if (bytes[at + 2] > 1) at += 3;
    else if (bytes[at] || bytes[at + 1] || !bytes[at + 2]) at += 1;
    else {
      found.push({ at: at && !bytes[at - 1] ? at - 1 : at, behind: at + 3 });
      at += 3;
    }
  }
  return found;
}

// The bytes in front of the first start code, and each NAL unit with its own.
export function nalUnits(bytes) {
  const codes = startCodes(bytes);
  const units = codes.map(({ at, behind }, index) => {
    const whole = bytes.subarray(at, codes[index + 1]?.at ?? bytes.length);
    const type = bytes[behind] & 31;
    return { bytes: whole, type, isFirst: isPicture(type) && bytes[behind + 1] > 127 };
  });
  return { before: bytes.subarray(0, codes[0]?.at ?? bytes.length), units };
}

// A slice, whose first macroblock is number 0 if its first bit is set: then a picture begins.
const isPicture = (type) => type === SLICE || type === PARTITION_A || type === IDR;

const isBetweenPictures = (type) => (type >= SEI && type <= DELIMITER) || (type >= PREFIX && type <= RESERVED);

// What a decoder is asked for, of a sequence parameter set: profile, constraints, level.
export function codecOf(sps) {
  const { behind } = startCodes(sps)[0];
  return `avc1.${Array.from(sps.subarray(behind + 1, behind + 4), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// Gathers access units from messages, each usually one NAL unit or one access unit.
//
// That a unit is over is known when the next begins, a picture later. Most encoders cut each picture into
// the same number of slices: so after the first, a unit is over with as many slices, at the end of a
// message. Where that proves wrong, with a slice or the rest of one behind the unit's end, the page waits for
// the next unit from then on; `isBroken` tells that the unit before was given too early.
export class AccessUnits {
  #nals = [];
  #bytes = 0;
  #slices = 0;
  // Of a whole picture: not known yet, a number, or Infinity for one that differs.
  #expected = 0;
  #sps = null;
  #pps = new Map();

  // Each unit: { bytes, isKey, sps, isBroken }.
  push(message) {
    const whole = [];
    const { before, units } = nalUnits(message);
    if (before.length) this.#goOn(before, whole);
    for (const nal of units) this.#take(nal, whole);
    if (this.#expected && this.#slices >= this.#expected) this.#end(whole);
    return whole;
  }

  // The rest of a NAL unit that an earlier message began.
  #goOn(bytes, whole) {
    const last = this.#nals.at(-1);
    if (last) last.bytes = joined([last.bytes, bytes]);
    else if (this.#expected) whole.push({ isBroken: true });
    if (last) this.#grow(bytes.length);
    this.#expected = Infinity;
  }

  #grow(bytes) {
    this.#bytes += bytes;
    if (this.#bytes > UNIT_BYTES_MAX) throw new Error(`a picture of more than ${UNIT_BYTES_MAX >> 20} MiB`);
  }

  #take(nal, whole) {
    const isNext = nal.isFirst || isBetweenPictures(nal.type);
    if (this.#slices && isNext) {
      this.#expected ||= this.#slices;
      if (this.#slices !== this.#expected) this.#expected = Infinity;
      this.#end(whole);
    }
    if (isPicture(nal.type) && !nal.isFirst && !this.#slices) {
      // Of a picture that was given already, or whose beginning was lost.
      if (this.#expected) whole.push({ isBroken: true });
      this.#expected = Infinity;
      return;
    }
    if (isPicture(nal.type)) this.#slices += 1;
    this.#nals.push(nal);
    this.#grow(nal.bytes.length);
  }

  #end(whole) {
    const isKey = this.#nals.some((nal) => nal.type === IDR);
    for (const { type, bytes } of this.#nals) {
      if (type === SPS && bytes.join() !== this.#sps?.join()) {
        this.#sps = bytes;
        this.#pps.clear();
      }
      if (type === PPS) this.#pps.set(bytes.join(), bytes);
    }
    const parts = this.#nals.map((nal) => nal.bytes);
    // A camera may send its parameters once; a decoder that begins anew needs them again.
    const hasParameters = [SPS, PPS].every((type) => this.#nals.some((nal) => nal.type === type));
    if (isKey && !hasParameters) {
      const behindDelimiter = this.#nals[0].type === DELIMITER ? 1 : 0;
      parts.splice(behindDelimiter, 0, ...(this.#sps ? [this.#sps] : []), ...this.#pps.values());
    }
    whole.push({ bytes: joined(parts), isKey, sps: this.#sps, isBroken: false });
    this.#nals = [];
    this.#bytes = this.#slices = 0;
  }
}
