// WebM as a live recorder writes it (RFC 9559, with elements of unknown length): the header with what
// its tracks are, and the clusters, each with where it begins and whether a decoder can begin there.
// Elements are told apart by their IDs, which are unique over all levels, so lengths of the levels
// above do not matter.
import { Trouble } from "./page.js";
import { av1Codec, avcCodec, joined } from "./mp4.js";

const EBML = 0x1a45dfa3, SEGMENT = 0x18538067, INFO = 0x1549a966, TRACKS = 0x1654ae6b, CLUSTER = 0x1f43b675;
const TIMESTAMP_SCALE = 0x2ad7b1, TRACK_ENTRY = 0xae, TRACK_NUMBER = 0xd7, TRACK_TYPE = 0x83;
const CODEC_ID = 0x86, CODEC_PRIVATE = 0x63a2;
const TIMESTAMP = 0xe7, SIMPLE_BLOCK = 0xa3, BLOCK_GROUP = 0xa0, BLOCK = 0xa1, REFERENCE_BLOCK = 0xfb;
const IN_CLUSTER = new Set([TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP, 0xa7, 0xab, 0xec]);
const ENTERED = new Set([SEGMENT, CLUSTER]);

const ELEMENT_BYTES_MAX = 64 << 20;
const VIDEO = 1, AUDIO = 2;

// Bytes in; out come `{ kind: "init", bytes, type, hasVideo }` and
// `{ kind: "media", bytes, isStart, timeS }`. A start is a cluster whose first picture is a key
// picture; what follows of that cluster comes in units that are no start.
export class WebmScanner {
  #held = new Uint8Array(0);
  #init = [];
  #tracks = [];
  #scaleNs = 1000000;
  // What there is of a cluster of which it is not known yet how it begins.
  #undecided = null;

  static begins(bytes) {
    return bytes.length >= 4 && viewOf(bytes).getUint32(0) === EBML;
  }

  *push(bytes) {
    const data = joined([this.#held, bytes]);
    let at = 0;
    // Blocks of a cluster that is decided: from here to `at`.
    let from = null;
    const flush = (to) => {
      const unit = from !== null && to > from ? { kind: "media", bytes: data.subarray(from, to), isStart: false } : null;
      from = null;
      return unit;
    };
    for (;;) {
      const head = headOf(data, at);
      if (!head) break;
      const end = head.isEntered ? head.from : head.from + head.size;
      if (end > data.length) break;
      const element = data.subarray(at, end);
      if (head.id === CLUSTER) {
        const before = flush(at);
        if (before) yield before;
        yield* this.#decided(true);
        this.#undecided = { pieces: [element], timeS: 0 };
      } else if (IN_CLUSTER.has(head.id) && this.#undecided) {
        this.#undecided.pieces.push(element);
        this.#look(head.id, data.subarray(head.from, end));
        yield* this.#decided(false);
      } else if (IN_CLUSTER.has(head.id)) {
        from ??= at;
      } else {
        const before = flush(at);
        if (before) yield before;
        yield* this.#decided(true);
        const init = this.#header(head.id, element, data.subarray(head.from, end));
        if (init) yield init;
      }
      at = end;
    }
    const rest = flush(at);
    if (rest) yield rest;
    this.#held = data.slice(at);
  }

  // An element above the clusters; the header when it is whole.
  #header(id, element, body) {
    if (id === EBML) {
      this.#init = [element.slice()];
      this.#tracks = [];
      this.#scaleNs = 1000000;
    } else if (id === SEGMENT || id === INFO) {
      this.#init.push(element.slice());
      for (const child of children(body)) {
        if (id === INFO && child.id === TIMESTAMP_SCALE) this.#scaleNs = uint(child.body) || this.#scaleNs;
      }
    } else if (id === TRACKS) {
      this.#init.push(element.slice());
      this.#tracks = [...children(body)].filter((child) => child.id === TRACK_ENTRY).map((child) => trackOf(child.body));
      const hasVideo = this.#tracks.some((track) => track.type === VIDEO);
      const codecs = this.#tracks.map((track) => track.codec).join(", ");
      const type = `${hasVideo ? "video" : "audio"}/webm; codecs="${codecs}"`;
      return { kind: "init", bytes: joined(this.#init), type, hasVideo };
    }
    return null;
  }

  // Look at a child of the undecided cluster: its time, or a block of the track that leads.
  #look(id, body) {
    const cluster = this.#undecided;
    if (id === TIMESTAMP) cluster.timeS = (uint(body) * this.#scaleNs) / 1e9;
    let block = null, isKey = false;
    if (id === SIMPLE_BLOCK) {
      block = body;
      isKey = Boolean(flagsOf(body) & 0x80);
    } else if (id === BLOCK_GROUP) {
      const inside = [...children(body)];
      block = inside.find((child) => child.id === BLOCK)?.body;
      isKey = !inside.some((child) => child.id === REFERENCE_BLOCK);
    }
    const number = block && vint(block, 0)?.value;
    const lead = this.#tracks.find((track) => track.type === VIDEO) ?? this.#tracks[0];
    if (!block || !lead || number !== lead.number) return;
    cluster.isStart = isKey || lead.type === AUDIO;
  }

  // The cluster's bytes so far, once it is known how it begins, or must be.
  *#decided(isOver) {
    const cluster = this.#undecided;
    if (!cluster || (cluster.isStart === undefined && !isOver)) return;
    this.#undecided = null;
    yield { kind: "media", bytes: joined(cluster.pieces), isStart: Boolean(cluster.isStart), timeS: cluster.timeS };
  }
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

// A number of variable length (RFC 8794 §4); the value of one that means "unknown" is null.
function vint(data, at) {
  const first = data[at];
  if (first === undefined) return null;
  const bytes = Math.clz32(first) - 23;
  if (bytes > 8 || at + bytes > data.length) return null;
  let value = first & (0xff >> bytes);
  let isUnknown = value === 0xff >> bytes;
  for (let index = 1; index < bytes; index++) {
    value = value * 256 + data[at + index];
    isUnknown &&= data[at + index] === 0xff;
  }
  return { value: isUnknown ? null : value, bytes };
}

// ID and length of the element at `at`, or null if more bytes are needed.
function headOf(data, at) {
  if (at + 1 >= data.length) return null;
  const idBytes = Math.clz32(data[at]) - 23;
  if (idBytes > 4) throw broken();
  if (at + idBytes >= data.length) return null;
  let id = 0;
  for (let index = 0; index < idBytes; index++) id = id * 256 + data[at + index];
  const size = vint(data, at + idBytes);
  if (!size) {
    if (data[at + idBytes] === 0) throw broken();
    return null;
  }
  const isEntered = ENTERED.has(id);
  if (!isEntered && (size.value === null || size.value > ELEMENT_BYTES_MAX)) throw broken();
  return { id, size: size.value, from: at + idBytes + size.bytes, isEntered };
}

const broken = () => new Trouble("This is not WebM",
  "The bytes are no elements of WebM, or some were left out.");

function* children(body) {
  for (let at = 0; at < body.length;) {
    const head = headOf(body, at);
    if (!head || head.size === null || head.from + head.size > body.length) return;
    yield { id: head.id, body: body.subarray(head.from, head.from + head.size) };
    at = head.from + head.size;
  }
}

const uint = (body) => body.reduce((sum, byte) => sum * 256 + byte, 0);

// The flags of a block: behind its track number and the two bytes of its time.
const flagsOf = (block) => block[(vint(block, 0)?.bytes ?? 0) + 2];

const CODECS = {
  V_VP8: "vp8", V_VP9: "vp9", A_OPUS: "opus", A_VORBIS: "vorbis", A_AAC: "mp4a.40.2", A_FLAC: "flac",
};

function trackOf(body) {
  const fields = new Map([...children(body)].map((child) => [child.id, child.body]));
  const id = String.fromCharCode(...(fields.get(CODEC_ID) ?? []));
  const about = fields.get(CODEC_PRIVATE) ?? new Uint8Array(0);
  let codec = CODECS[id] ?? id;
  if (id === "V_MPEG4/ISO/AVC") codec = about.length >= 4 ? avcCodec("avc1", about) : "avc1";
  if (id === "V_AV1") codec = about.length >= 3 ? av1Codec(about) : "av01.0.04M.08";
  return { number: uint(fields.get(TRACK_NUMBER) ?? []), type: uint(fields.get(TRACK_TYPE) ?? []), codec };
}
