// Opens the player page in Debian's chromium, watches for some seconds and prints one JSON line:
// the readings of the page at the start and at the end of that time, and what went wrong.
//
//   node watch.mjs PAGE_URL [SECONDS] [SCREENSHOT.png] [WIDTHxHEIGHT] [dark]
//
// It waits up to 30 s for the first pictures, or 8 s of complaints, and on a busy machine until most of
// the pictures of that time were decoded, up to 60 s more; the times are the page's own.
import { chromium } from "playwright-core";

const [url, seconds = "5", screenshot, size = "1280x800", scheme] = process.argv.slice(2);
const [width, height] = size.split("x").map(Number);
const FIRST_PICTURES_MS = 30000, COMPLAINT_MS = 8000, PATIENCE_MS = 60000;
const FIRST_PICTURES = 5, PICTURES_PER_SECOND = 16; // of 25

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"],
});
const faults = [];
let code = 0;
try {
  const page = await browser.newPage({
    viewport: { width, height },
    colorScheme: scheme === "dark" ? "dark" : "light",
  });
  page.on("pageerror", (error) => faults.push(`page: ${error.message}`));
  page.on("response", (answer) => answer.status() >= 400 && faults.push(`${answer.status()}: ${answer.url()}`));
  page.on("console", (line) => line.type() === "error" && faults.push(`console: ${line.text()}`));
  await page.goto(url);
  const readings = () => page.evaluate(() => ({
    ...window.headwater.readings(),
    // What the decoders took: sound leaves no other trace in a headless browser.
    audioBytes: window.headwater.video.webkitAudioDecodedByteCount,
    videoBytes: window.headwater.video.webkitVideoDecodedByteCount,
  }));
  // The readings when that is so, or time is up, or a complaint stays: the page tries again by itself.
  const until = async (isSo, patienceMs) => {
    const deadline = Date.now() + patienceMs;
    let complaintSince = Infinity;
    for (;;) {
      const now = await readings();
      complaintSince = now.error ? Math.min(complaintSince, Date.now()) : Infinity;
      const isOver = Date.now() > Math.min(deadline, complaintSince + COMPLAINT_MS);
      if (isSo(now) || isOver) return now;
      await page.waitForTimeout(100);
    }
  };
  const before = await until((now) => now.decoded >= FIRST_PICTURES, FIRST_PICTURES_MS);
  await page.waitForTimeout(Number(seconds) * 1000);
  const isEnough = (now) => !now.error
    && now.currentTime - before.currentTime > 0.7 * seconds
    && now.decoded - before.decoded > PICTURES_PER_SECOND * seconds;
  const after = await until(isEnough, before.decoded < FIRST_PICTURES ? 0 : PATIENCE_MS);
  const notice = await page.$eval("#notice", (box) => (box.hidden ? null : box.textContent));
  const events = await page.$$eval("#log li", (lines) => lines.map((line) => line.textContent));
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  console.log(JSON.stringify({ before, after, notice, faults, events }));
} catch (error) {
  console.error(String(error));
  code = 1;
} finally {
  await browser.close();
}
process.exit(code);
