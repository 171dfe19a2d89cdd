// What the camera page makes of H.264 that comes in messages, without a browser: ends with 0 if all is well.
//
//   node annexb.mjs
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

// The modules are for browsers, which a package.json beside them does not concern.
const folder = new URL("../../../src/operations/player/", import.meta.url);
const text = (name) => readFileSync(new URL(name, folder), "utf8");
const dataUrl = (source) => `data:text/javascript,${encodeURIComponent(source)}`;
const joinedOnly = text("mp4.js").match(/export function joined[^]*?\n}\n/)[0];
const source = text("annexb.js").replace("./mp4.js", dataUrl(joinedOnly));
const { AccessUnits, codecOf, nalUnits } = await import(dataUrl(source));

const bytes = (...numbers) => Uint8Array.from(numbers);
const whole = (...pieces) => bytes(...pieces.flatMap((piece) => [...piece]));
const AUD = bytes(0, 0, 0, 1, 9, 0xf0);
const SPS = bytes(0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1e, 0x99);
const OTHER_SPS = bytes(0, 0, 0, 1, 0x67, 0x64, 0x00, 0x28, 0x99);
const PPS = bytes(0, 0, 0, 1, 0x68, 0xce);
const SEI = bytes(0, 0, 1, 6, 5, 1);
// A slice's second byte begins with first_mb_in_slice: 0 is the bit 1.
const idr = (mark, isFirst = true) => bytes(0, 0, 1, 0x65, isFirst ? 0x88 : 0x40, mark);
const slice = (mark, isFirst = true) => bytes(0, 0, 1, 0x41, isFirst ? 0x9a : 0x40, mark);

// What comes out after each message.
function gather(...messages) {
  const units = new AccessUnits();
  return messages.map((message) => units.push(message));
}
const assertUnits = (came, wanted) => assert.deepEqual(
  came.map((units) => units.map((unit) => (unit.isBroken ? "broken" : [...unit.bytes]))),
  wanted.map((units) => units.map((unit) => (unit === "broken" ? unit : [...unit]))),
);

const cases = {
  "a codec is named by its sequence parameters"() {
    assert.equal(codecOf(SPS), "avc1.42c01e");
    assert.equal(codecOf(bytes(0, 0, 1, 0x67, 0x64, 0, 0x0a)), "avc1.64000a");
  },
  "start codes have three bytes or four"() {
    const { before, units } = nalUnits(whole([7, 7], SPS, SEI, idr(0)));
    assert.deepEqual([...before], [7, 7]);
    assert.deepEqual(units.map(({ type }) => type), [7, 6, 5]);
    assert.deepEqual(units.map(({ bytes: one }) => [...one]), [SPS, SEI, idr(0)].map((one) => [...one]));
    assert.deepEqual(nalUnits(bytes(0, 0, 0, 0)).units, []);
    assert.deepEqual(nalUnits(bytes()).units, []);
    assert.equal(nalUnits(bytes(0, 0, 1)).units.length, 1);
  },
  "a unit is given with the next at first, then at once"() {
    const came = gather(SPS, PPS, idr(1), slice(2), slice(3), SEI, slice(4));
    assertUnits(came, [[], [], [], [whole(SPS, PPS, idr(1)), slice(2)], [slice(3)], [], [whole(SEI, slice(4))]]);
    assert.deepEqual(came.flat().map(({ isKey }) => isKey), [true, false, false, false]);
    assert.ok(came.flat().every(({ sps }) => codecOf(sps) === "avc1.42c01e"));
  },
  "a message may be an access unit, or several"() {
    const first = whole(AUD, SPS, PPS, SEI, idr(1));
    assertUnits(gather(first, whole(AUD, slice(2)), whole(AUD, slice(3), AUD, slice(4))),
      [[], [first, whole(AUD, slice(2))], [whole(AUD, slice(3)), whole(AUD, slice(4))]]);
  },
  "a picture of several slices is whole with its last"() {
    const came = gather(whole(SPS, PPS), idr(1), idr(2, false), slice(3), slice(4, false), slice(5), slice(6, false));
    assertUnits(came, [[], [], [], [whole(SPS, PPS, idr(1), idr(2, false))],
      [whole(slice(3), slice(4, false))], [], [whole(slice(5), slice(6, false))]]);
  },
  "where slices differ, each unit waits for the next"() {
    const came = gather(whole(SPS, PPS, idr(1)), slice(2), slice(3, false), slice(4), slice(5, false), slice(6));
    assertUnits(came, [[], [whole(SPS, PPS, idr(1)), slice(2)], ["broken"], [], [], [whole(slice(4), slice(5, false))]]);
    const fewer = gather(whole(SPS, PPS, idr(1), idr(2, false)), slice(3), slice(4), slice(5));
    assertUnits(fewer, [[], [whole(SPS, PPS, idr(1), idr(2, false))], [slice(3)], [slice(4)]]);
  },
  "a NAL unit may be cut in two messages"() {
    const [one, other] = [slice(2).subarray(0, 5), slice(2).subarray(5)];
    const early = gather(whole(SPS, PPS, idr(1)), one, other, slice(3), slice(4));
    assertUnits(early, [[], [whole(SPS, PPS, idr(1)), one], ["broken"], [], [slice(3)]]);
    const first = gather(whole(SPS, PPS), idr(1).subarray(0, 5), idr(1).subarray(5), slice(2), slice(3));
    assertUnits(first, [[], [], [], [whole(SPS, PPS, idr(1))], [slice(2)]]);
  },
  "a key picture has its parameters with it"() {
    const came = gather(whole(AUD, SPS, PPS, idr(1)), whole(AUD, slice(2)), whole(AUD, idr(3)), whole(OTHER_SPS, PPS, idr(4)));
    assertUnits(came.slice(2), [[whole(AUD, SPS, PPS, idr(3))], [whole(OTHER_SPS, PPS, idr(4))]]);
    assert.equal(codecOf(came[3][0].sps), "avc1.640028");
  },
  "a stream that begins in a picture is broken there, and goes on"() {
    const came = gather(slice(1, false), whole(SPS, PPS, idr(2)), slice(3));
    assertUnits(came, [[], [], [whole(SPS, PPS, idr(2))]]);
  },
  "a picture without end is no picture"() {
    const units = new AccessUnits();
    units.push(whole(SPS, PPS, idr(1).subarray(0, 5)));
    assert.throws(() => units.push(new Uint8Array((16 << 20) + 1).fill(3)), /16 MiB/);
  },
};

for (const [name, check] of Object.entries(cases)) {
  try {
    check();
  } catch (error) {
    console.error(`${name}: ${error.message}`);
    process.exitCode = 1;
  }
}
console.log(JSON.stringify({ cases: Object.keys(cases).length }));
