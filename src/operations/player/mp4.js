// Fragmented MP4 (ISO/IEC 14496-12) as it arrives: its boxes, and what a moov says of the tracks.
import { Trouble } from "./page.js";

// Boxes of a stream of bytes: whole top-level boxes out, one at a time.
export class Boxes {
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
export function tracksOf(moov) {
  const view = viewOf(moov);
  const trexes = [...children(view, 8, moov.length)].filter((box) => box.kind === "mvex")
    .flatMap((mvex) => [...children(view, mvex.from, mvex.to)]).filter((box) => box.kind === "trex");
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
    const id = view.getUint32(tkhd.from + (view.getUint8(tkhd.from) ? 20 : 12));
    const trex = trexes.find((box) => view.getUint32(box.from + 4) === id);
    tracks.push({
      id,
      sampleFlags: trex ? view.getUint32(trex.from + 20) : 0,
      timescale: view.getUint32(mdhd.from + (view.getUint8(mdhd.from) ? 20 : 12)),
      isVideo: handler === "vide",
      codec: codecOf(view, entry, handler),
    });
  }
  return tracks;
}

// What Media Source is told of such tracks.
export function mp4Type(tracks) {
  const codecs = tracks.map((track) => track.codec).join(", ");
  return `${tracks.some((track) => track.isVideo) ? "video" : "audio"}/mp4; codecs="${codecs}"`;
}

function codecOf(view, entry, handler) {
  const skip = handler === "vide" ? 78 : handler === "soun" ? 28 : 8;
  const inner = { from: entry.from + skip, to: entry.to };
  const byte = (box, at) => view.getUint8(box.from + at);
  const avcC = find(view, inner, "avcC");
  const inside = (box) => new Uint8Array(view.buffer, view.byteOffset + box.from, box.to - box.from);
  if (avcC) return avcCodec(entry.kind, inside(avcC));
  const hvcC = find(view, inner, "hvcC");
  if (hvcC) return hevcCodec(view, entry.kind, hvcC.from);
  const av1C = find(view, inner, "av1C");
  if (av1C) return av1Codec(inside(av1C));
  const vpcC = find(view, inner, "vpcC");
  if (vpcC) {
    const two = (value) => String(value).padStart(2, "0");
    return `${entry.kind}.${two(byte(vpcC, 4))}.${two(byte(vpcC, 5))}.${two(byte(vpcC, 6) >> 4)}`;
  }
  const esds = find(view, inner, "esds");
  if (esds) return mp4aCodec(view, esds);
  return { Opus: "opus", fLaC: "flac" }[entry.kind] || entry.kind;
}

// By an AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3).
export const avcCodec = (kind, record) => `${kind}.${[...record.subarray(1, 4)].map((byte) => hex(byte)).join("")}`;

// By an AV1CodecConfigurationRecord (AV1-ISOBMFF §2.3).
export function av1Codec([, levels, flags]) {
  const depth = flags & 0x40 ? (flags & 0x20 ? 12 : 10) : 8;
  const level = String(levels & 31).padStart(2, "0");
  return `av01.${levels >> 5}.${level}${flags & 0x80 ? "H" : "M"}.${String(depth).padStart(2, "0")}`;
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

// Bytes in; out come `{ kind: "init", bytes, type, hasVideo }` and whole fragments,
// `{ kind: "media", bytes, isStart, timeS }`. A decoder can begin at a start: its first picture is a key
// picture.
export class Mp4Scanner {
  #boxes = new Boxes();
  #head = [];
  #tracks = [];
  #moof = null;

  static begins(bytes) {
    return bytes.length >= 8 && ["ftyp", "moov"].includes(fourcc(viewOf(bytes), 4));
  }

  *push(bytes) {
    for (const box of this.#boxes.push(bytes)) {
      if (box.kind === "ftyp") {
        this.#head = [box.bytes.slice()];
      } else if (box.kind === "moov") {
        this.#tracks = tracksOf(box.bytes);
        const hasVideo = this.#tracks.some((track) => track.isVideo);
        yield { kind: "init", bytes: joined([...this.#head, box.bytes]), type: mp4Type(this.#tracks), hasVideo };
      } else if (box.kind === "moof") {
        this.#moof = box.bytes.slice();
      } else if (box.kind === "mdat" && this.#moof) {
        yield { kind: "media", bytes: joined([this.#moof, box.bytes]), ...startOf(this.#moof, this.#tracks) };
        this.#moof = null;
      }
    }
  }
}

export function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) { whole.set(piece, at); at += piece.length; }
  return whole;
}

// Whether a decoder can begin at this fragment, and its time, by the track of pictures if there is one.
function startOf(moof, tracks) {
  const view = viewOf(moof);
  const lead = tracks.find((track) => track.isVideo) ?? tracks[0];
  for (const traf of children(view, 8, moof.length)) {
    const tfhd = traf.kind === "traf" && find(view, traf, "tfhd");
    if (!tfhd || view.getUint32(tfhd.from + 4) !== lead?.id) continue;
    const tfdt = find(view, traf, "tfdt");
    const time = !tfdt ? 0 : view.getUint8(tfdt.from) ? Number(view.getBigUint64(tfdt.from + 4)) : view.getUint32(tfdt.from + 4);
    const flags = firstSampleFlags(view, traf, tfhd) ?? lead.sampleFlags;
    return { isStart: !lead.isVideo || !(flags & NON_SYNC_SAMPLE), timeS: time / lead.timescale };
  }
  return { isStart: false, timeS: null };
}

const NON_SYNC_SAMPLE = 0x10000;

// sample_flags of a fragment's first sample (ISO/IEC 14496-12 §8.8.7, §8.8.8), if the fragment has them.
function firstSampleFlags(view, traf, tfhd) {
  const flagsOf = (box) => view.getUint32(box.from) & 0xffffff;
  const trun = find(view, traf, "trun");
  if (trun) {
    const flags = flagsOf(trun);
    const first = trun.from + 8 + (flags & 1 ? 4 : 0);
    if (flags & 4) return view.getUint32(first);
    if (flags & 0x400) return view.getUint32(first + (flags & 0x100 ? 4 : 0) + (flags & 0x200 ? 4 : 0));
  }
  const flags = flagsOf(tfhd);
  if (!(flags & 0x20)) return null;
  const before = [[1, 8], [2, 4], [8, 4], [0x10, 4]].reduce((sum, [bit, bytes]) => sum + (flags & bit ? bytes : 0), 0);
  return view.getUint32(tfhd.from + 8 + before);
}

// When media time 0 was, in ms since 1970, by a prft box (ISO/IEC 14496-12 §8.16.5).
export function zeroByProducer(prft, tracks) {
  const view = viewOf(prft);
  const track = tracks.find((track) => track.id === view.getUint32(12));
  if (!track) return null;
  const ntpS = view.getUint32(16) - 2208988800 + view.getUint32(20) / 2 ** 32;
  const mediaTime = view.getUint8(8) ? Number(view.getBigUint64(24)) : view.getUint32(24);
  return (ntpS - mediaTime / track.timescale) * 1000;
}
