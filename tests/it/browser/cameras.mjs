// Opens the page /cameras in Debian's chromium, goes through stages one after the other, and prints one JSON
// line for each as it is reached: { stage, tiles, empty, notice, faults, events }.
//
//   node cameras.mjs CAMERAS_URL [--screenshot FILE.png] [--size WIDTHxHEIGHT] [--seconds PATIENCE] STAGE...
//
//   live:N            N tiles show pictures that move: looks differ, and none but these are live
//   STATE:N           N tiles are in that state: gone, connecting, again, turn, unsupported, insecure
//   seen:N            N tiles have shown a picture since the stage began
//   silent:N          N tiles say that no picture came for a while
//   tiles:N           there are N tiles in all; tiles:0 is the page that says how to push
//   width:NAME=PIXELS the tile shows pictures of that width
//   choose:NAME=QUALITY    done at once: the tile's quality is set, by the keyboard's user or the mouse's
//   enlarge:NAME      the tile fills the screen; again, and it does not
//
// A tile is what the page's own readings say of it, with `looks`, how many different pictures it showed, for
// stages live:N. Waits are for what must happen; nothing is measured.
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: option, positionals: [url, ...stages] } = parseArgs({
  allowPositionals: true,
  options: {
    screenshot: { type: "string" },
    size: { type: "string", default: "1280x800" },
    seconds: { type: "string", default: "40" },
  },
});
const [width, height] = option.size.split("x").map(Number);
const LOOKS = 3, LOOK_MS = 150;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu"],
});
const faults = [];
const page = await browser.newPage({ viewport: { width, height } });
page.on("pageerror", (error) => faults.push(`page: ${error.message}`));

const readings = () => page.evaluate(() => window.headwater?.readings() ?? []);
const tileOf = (name) => page.locator(`.tile[data-name="${name}"]`);

// The picture of a tile as it is on the screen: of an image from elsewhere a script may not read it.
async function look(name) {
  const pictures = tileOf(name).locator(".pictures").last();
  const shot = await pictures.screenshot({ animations: "allow" }).catch(() => null);
  return shot && createHash("sha256").update(shot).digest("hex");
}

async function until(what, isSo) {
  const deadline = Date.now() + Number(option.seconds) * 1000;
  for (;;) {
    const tiles = await readings();
    if (await isSo(tiles)) return tiles;
    if (Date.now() > deadline) throw new Error(`${what} is not reached: ${JSON.stringify(tiles)}`);
    await sleep(LOOK_MS);
  }
}

const looks = new Map();

async function move(what, count) {
  looks.clear();
  const tiles = await until(what, async (now) => {
    const live = now.filter(({ state, silentMs, width: wide }) => state === "live" && !silentMs && wide > 0);
    if (live.length !== count) return false;
    for (const { name } of live) {
      const seen = looks.get(name) ?? looks.set(name, new Set()).get(name);
      if (seen.size < LOOKS) seen.add(await look(name));
      seen.delete(null);
    }
    return live.every(({ name }) => looks.get(name).size >= LOOKS);
  });
  return tiles.map((tile) => ({ ...tile, looks: looks.get(tile.name)?.size ?? 0 }));
}

function reach(stage) {
  const [kind, value] = stage.split(/:(.*)/s);
  const count = Number(value);
  if (kind === "live") return move(stage, count);
  if (kind === "tiles") return until(stage, (tiles) => tiles.length === count);
  if (kind === "seen") return meet(stage, count);
  if (kind === "silent") return until(stage, (tiles) => tiles.filter(({ silentMs }) => silentMs).length === count);
  if (kind === "width") return widen(...value.split("="));
  if (kind === "choose") return choose(...value.split("="));
  if (kind === "enlarge") return enlarge(value);
  return until(stage, (tiles) => tiles.filter(({ state }) => state === kind).length === count);
}

async function choose(name, quality) {
  await tileOf(name).locator("select").selectOption({ label: quality });
  return readings();
}

function meet(what, count) {
  const met = new Set();
  return until(what, (tiles) => {
    for (const { name, state, width: wide } of tiles) if (state === "live" && wide > 0) met.add(name);
    return met.size === count;
  });
}

function widen(name, pixels) {
  const isIt = (tile) => tile.name === name && tile.state === "live" && tile.width === Number(pixels);
  return until(`width:${name}=${pixels}`, (tiles) => tiles.some(isIt));
}

async function enlarge(name) {
  const button = tileOf(name).locator(".enlarge");
  const was = await tileOf(name).evaluate((tile) => tile.classList.contains("is-large"));
  await button.focus();
  await page.keyboard.press("Enter");
  return until(`enlarge:${name}`, () => tileOf(name).evaluate((tile, before) => tile.classList.contains("is-large") !== before
    && Boolean(document.fullscreenElement) !== before, was));
}

let code = 0;
try {
  await page.goto(url);
  for (const stage of stages) {
    const tiles = await reach(stage);
    const shown = await page.evaluate(() => {
      const text = (id) => (document.getElementById(id).hidden ? null : document.getElementById(id).textContent.replace(/\s+/g, " ").trim());
      return { empty: text("empty"), how: text("how"), notice: text("notice") };
    });
    const events = await page.$$eval("#log li", (lines) => lines.map((line) => line.textContent));
    console.log(JSON.stringify({ stage, tiles, ...shown, faults, events }));
  }
  await page.evaluate(() => window.scrollTo(0, 0));
  if (option.screenshot) await page.screenshot({ path: option.screenshot, fullPage: true });
} catch (error) {
  console.error(String(error), faults);
  code = 1;
} finally {
  await browser.close();
}
process.exit(code);
