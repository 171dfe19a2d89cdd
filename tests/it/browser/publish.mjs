// Publishes in one page of Debian's chromium and watches in others; prints one JSON line of what each
// page showed.
//
//   node publish.mjs ADMIN_URL SCENE SOURCE FORMAT KIND [SCREENSHOT_PREFIX]
//
// Scene "wait": a player is there first.
//   waiting    the player before anybody publishes; its address has channel and key, the rest it finds
//   early      the same when pictures come
//   stopped    the publisher when it has stopped, and `ended` the player
//   again      the player when the publisher has begun anew
// Scene "join": the publisher is there first.
//   publisher  when it is live
//   twin       somebody else who publishes on that channel
//   late       a player that joins by its own address, with KIND at its end
//   stranger   a player with another key
//
// Waits are for what must happen, and all together end before a test calls it a hang; nothing is measured.
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";

const [admin, name, source, format, kind, screenshot] = process.argv.slice(2);
const deadline = Date.now() + 50000;
const PICTURES = 20, SECONDS = 2, LOOKS = 3;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
});
const faults = [];

async function open(path) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  page.on("pageerror", (error) => faults.push(error.message));
  await page.goto(`${admin}${path}`);
  return page;
}

// What the page shows when `isSo` of it, or when patience is over.
async function shown(page, isSo) {
  for (;;) {
    const now = await page.evaluate(() => {
      const text = (id) => (document.getElementById(id).hidden ? null : document.getElementById(id).textContent);
      return { ...window.headwater.readings(), notice: text("notice"), idle: text("idle") };
    });
    if (await isSo(now) || Date.now() > deadline) return now;
    await sleep(100);
  }
}

// The picture, small enough to compare.
const look = (page) => page.evaluate(() => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [32, 18];
  const pen = canvas.getContext("2d");
  pen.drawImage(window.headwater.video, 0, 0, canvas.width, canvas.height);
  return pen.getImageData(0, 0, canvas.width, canvas.height).data.join();
});

const eventsOf = (page) => page.$$eval("#log li", (lines) => lines.map((line) => line.textContent));

// A player from its first picture on until pictures have moved for a while.
async function watched(page) {
  const before = await shown(page, (now) => now.decoded > 0);
  const looks = new Set();
  const after = await shown(page, async (now) => {
    looks.add(await look(page));
    return looks.size >= LOOKS && now.decoded - before.decoded >= PICTURES
      && now.currentTime - before.currentTime >= SECONDS;
  });
  return { before, after, looks: looks.size, events: await eventsOf(page) };
}

const picture = (page, name) => screenshot && page.screenshot({ path: `${screenshot}${name}.png`, fullPage: true });

async function publish() {
  const page = await open(`/publish?${new URLSearchParams({ source, format })}`);
  await page.click("#button");
  return page;
}

async function wait() {
  const player = await open("/player?channel=demo&key=demo");
  const waits = (now) => now.idle?.startsWith("Connected");
  const waiting = await shown(player, waits);
  const publisher = await publish();
  const early = await watched(player);
  await publisher.click("#button");
  const stopped = await shown(publisher, (now) => now.state === "ended");
  const ended = await shown(player, waits);
  await publisher.click("#button");
  await shown(player, (now) => !now.idle);
  const again = await watched(player);
  await picture(player, "again");
  return { waiting, early, stopped, ended, again };
}

async function join() {
  const page = await publish();
  const publisher = await shown(page, (now) => now.state === "live" && now.messages > 4);
  await picture(page, "publisher");
  publisher.events = await eventsOf(page);
  const receive = await page.$eval("#watch", (link) => new URL(link.href).searchParams.get("src"));
  const player = await open(`/player?src=${receive.replace(/receive$/, kind)}`);
  const late = await watched(player);
  await picture(player, "late");
  const second = await publish();
  const twin = await shown(second, (now) => now.notice);
  await picture(second, "twin");
  const third = await open(`/player?src=${receive.replace(/[^/]+\/receive$/, "wrong/receive")}`);
  const stranger = await shown(third, (now) => now.notice);
  await picture(third, "stranger");
  return { publisher, late, twin, stranger };
}

let code = 0;
try {
  console.log(JSON.stringify({ ...await { wait, join }[name](), faults }));
} catch (error) {
  console.error(String(error), faults);
  code = 1;
} finally {
  await browser.close();
}
process.exit(code);
