// Opens the player page in Debian's chromium, watches for some seconds and prints one JSON line:
// the readings of the page at the start and at the end of that time, and what went wrong.
//
//   node watch.mjs PAGE_URL [SECONDS] [SCREENSHOT.png] [WIDTHxHEIGHT] [dark]
//
// It waits up to 30 s for the first pictures; the times are the page's own.
import { chromium } from "playwright-core";

const [url, seconds = "5", screenshot, size = "1280x800", scheme] = process.argv.slice(2);
const [width, height] = size.split("x").map(Number);
const FIRST_PICTURES_MS = Number(process.env.FIRST_PICTURES_MS || 30000);

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
  page.on("console", (line) => line.type() === "error" && faults.push(`console: ${line.text()}`));
  await page.goto(url);
  const readings = () => page.evaluate(() => window.headwater.readings());
  const deadline = Date.now() + FIRST_PICTURES_MS;
  let before = await readings();
  while (before.decoded < 5 && Date.now() < deadline) {
    await page.waitForTimeout(100);
    before = await readings();
  }
  await page.waitForTimeout(Number(seconds) * 1000);
  const after = await readings();
  const events = await page.$$eval("#log li", (lines) => lines.map((line) => line.textContent));
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  console.log(JSON.stringify({ before, after, faults, events }));
} catch (error) {
  console.error(String(error));
  code = 1;
} finally {
  await browser.close();
}
process.exit(code);
