// Drives the dashboard in Chromium. Usage: node page.mjs CHECK URL [ARGUMENT...]; prints one JSON object, exits 0 or 1.
// Each check is a function of (browser, url, ...arguments) that returns what it measured or throws what is wrong.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const VIEWS = {
  "desktop-light": { viewport: { width: 1400, height: 1000 }, colorScheme: "light" },
  "desktop-dark": { viewport: { width: 1400, height: 1000 }, colorScheme: "dark" },
  "phone-light": { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true, deviceScaleFactor: 2 },
  "phone-dark": { viewport: { width: 390, height: 844 }, colorScheme: "dark", isMobile: true, hasTouch: true, deviceScaleFactor: 2 },
};

async function open(browser, url, view = "desktop-light", options = {}) {
  const context = await browser.newContext({ ...VIEWS[view], ...options });
  const page = await context.newPage();
  page.complaints = [];
  page.foreign = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) page.complaints.push(message.text()); });
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("dialog", (dialog) => { page.complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => { if (!request.url().startsWith(url) && !/^(data|blob):/.test(request.url())) page.foreign.push(request.url()); });
  await page.goto(url);
  await page.waitForSelector(".stream, #empty:not([hidden])");
  return page;
}

function must(condition, text) { if (!condition) throw new Error(text); }

const CHECKS = {
  // Every view: no accessibility violation, no console message, nothing from other hosts, nothing wider than the screen.
  async views(browser, url, folder, opened = "0") {
    const out = {};
    for (const view of Object.keys(VIEWS)) {
      const page = await open(browser, url, view, { bypassCSP: true }); // axe is put in from outside
      if (opened !== "-") {
        await page.locator(".name button").nth(Number(opened)).click();
        await page.waitForSelector(".detail .score");
        await page.waitForSelector(".detail .rivals .strip");
        must(/listening to \d/.test(await page.locator("#summary").textContent()), "the summary does not say what is listened to");
        const cut = await page.evaluate(() => { const box = document.querySelector("#parts").parentElement; return box.scrollWidth - box.clientWidth; });
        must(cut <= 0, `${view}: the table of parts is ${cut} px too wide`);
      }
      await page.locator("summary:visible").first().click();
      await page.waitForTimeout(1500);
      await page.evaluate(axe);
      const { violations, passes } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations", "passes"] }));
      must(violations.length === 0, `${view}: ${violations.map((v) => `${v.id} (${v.nodes[0].html.slice(0, 120)})`).join("; ")}`);
      must(passes.length > 20, `${view}: axe checked only ${passes.length} rules`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      must(wide <= 0, `${view}: ${wide} px wider than the screen`);
      must(page.complaints.length === 0, `${view}: ${page.complaints.join("; ")}`);
      must(page.foreign.length === 0, `${view}: asked ${page.foreign.join(", ")}`);
      if (folder) await page.screenshot({ path: `${folder}/${opened === "-" ? "empty-" : ""}${view}.png`, fullPage: true });
      out[view] = passes.length;
      await page.context().close();
    }
    return out;
  },

  // Below a path: every file and every call goes there, and the picture of a stream opens.
  async below(browser, url) {
    const page = await open(browser, url);
    await page.locator(".name button").first().click();
    await page.waitForSelector(".detail .score");
    must(page.complaints.length === 0, page.complaints.join("; "));
    must(page.foreign.length === 0, `asked ${page.foreign.join(", ")}`);
    return { streams: await page.locator(".name button").allTextContents() };
  },

  // In a frame of another page of the same site.
  async framed(browser, url) {
    const page = await browser.newPage();
    await page.goto(`${url}panel`);
    const inner = page.frameLocator("iframe").locator(".name button");
    await inner.first().waitFor();
    return { streams: await inner.allTextContents() };
  },

  // No place left: the page says why it is empty.
  async full(browser, url) {
    const page = await browser.newPage();
    await page.goto(url);
    await page.waitForSelector("#alarms li");
    return { said: await page.locator("#alarms").textContent() };
  },

  // Names, titles and events as hostile as they come stand on the page as text; no element of theirs exists.
  async hostile(browser, url) {
    const page = await open(browser, url);
    await page.locator(".name button").first().click();
    await page.waitForTimeout(1500);
    const found = await page.evaluate(() => ({
      images: document.querySelectorAll("main img, main script, main iframe, main svg").length,
      text: document.querySelector(".playing").textContent,
      ran: window.ran === true,
    }));
    must(found.images === 0 && !found.ran, "an element came out of a message");
    must(found.text.includes("<img src=x"), `the title is not shown as it is: ${found.text}`);
    must(page.complaints.length === 0, page.complaints.join("; "));
    return found;
  },

  // All by keyboard: skip link, open a stream, change the range, log in, pause.
  async keyboard(browser, url, password) {
    const page = await open(browser, url);
    await page.keyboard.press("Tab");
    must((await page.evaluate(() => document.activeElement.className)) === "skip", "the skip link is not first");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    must(await page.evaluate(() => document.activeElement.matches(".name button")), "the skip link does not lead to the streams");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".detail:not([hidden]) .score");
    await page.locator("#door").focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open]");
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("dialog .said").textContent.includes("not the password"));
    await page.locator("dialog input[name=password]").fill(password);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => !document.querySelector("dialog").open);
    const pause = page.locator(".detail:not([hidden]) .buttons button", { hasText: "Pause" });
    await pause.focus();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector(".stream .genre").textContent.includes("paused"), null, { timeout: 10_000 });
    await page.locator(".detail:not([hidden]) .buttons button", { hasText: "Resume" }).press("Enter");
    await page.waitForFunction(() => !document.querySelector(".stream .genre").textContent.includes("paused"), null, { timeout: 10_000 });
    await page.locator("#add summary").press("Enter");
    await page.locator("#add input[name=name]").fill("zebra");
    await page.locator("#add input[name=url]").fill("https://example.org/z.m3u8");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => [...document.querySelectorAll(".name button")].some((b) => b.textContent === "zebra"), null, { timeout: 10_000 });
    const wrong = page.complaints.filter((text) => !text.includes("401")); // the wrong password above
    must(wrong.length === 0, wrong.join("; "));
    return {};
  },

  // A script of the documents, as it would run on a page of the same origin: returns the first lines it logs.
  async example(browser, url, script) {
    const page = await open(browser, url);
    const lines = [];
    page.on("console", (message) => { if (message.type() === "log") lines.push(message.text()); });
    await page.evaluate(script);
    for (const until = Date.now() + 20_000; lines.length < 3 && Date.now() < until;) await page.waitForTimeout(100);
    must(lines.length >= 3, `it logged ${lines.length} lines`);
    must(page.complaints.length === 0, page.complaints.join("; "));
    return { lines: lines.slice(0, 3) };
  },

  // The page says that it lost the dashboard, and comes back by itself; the caller stops and starts it.
  async lost(browser, url, stop, start) {
    const { execSync } = await import("node:child_process");
    const page = await open(browser, url);
    await page.waitForFunction(() => document.getElementById("link").dataset.state === "live");
    execSync(stop);
    const at = Date.now();
    await page.waitForFunction(() => document.getElementById("link").dataset.state === "lost", null, { timeout: 8000 });
    const seconds = (Date.now() - at) / 1000;
    must(await page.locator("#alarms").isVisible(), "no alarm is shown");
    execSync(start);
    await page.waitForFunction(() => document.getElementById("link").dataset.state === "live", null, { timeout: 30_000 });
    return { lost_after_s: seconds };
  },

  // Load and frame times: until all rows and their timelines are drawn, and while they are scrolled through and updated.
  async speed(browser, url, streams) {
    const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
    const begun = Date.now();
    await page.goto(url);
    await page.waitForFunction((count) => document.querySelectorAll(".stream").length >= count, Number(streams));
    const rows = Date.now() - begun;
    await page.locator("input[name=range][value='86400']").check();
    const asked = Date.now();
    await page.waitForResponse((answer) => answer.url().includes("seconds=86400"));
    await page.waitForTimeout(400);
    const timeline = Date.now() - asked - 400;
    const frames = await page.evaluate(() => new Promise((done) => {
      const took = [];
      let last = performance.now();
      const until = last + 8000;
      (function frame(now) {
        took.push(now - last);
        last = now;
        window.scrollTo(0, (Math.sin(now / 900) + 1) * 1200);
        if (now < until) requestAnimationFrame(frame); else done(took.sort((a, b) => a - b));
      })(last);
    }));
    const heap = await page.evaluate(() => performance.memory?.usedJSHeapSize ?? 0);
    return {
      rows_ms: rows, timeline_ms: timeline, frames: frames.length, frame_p50_ms: frames[Math.floor(frames.length / 2)],
      frame_p95_ms: frames[Math.floor(frames.length * 0.95)], frame_max_ms: frames.at(-1), heap_mb: heap / 1e6,
    };
  },

  // A picture for people.
  async picture(browser, url, path, view = "desktop-light", opened = "0", range = "900") {
    const page = await open(browser, url, view);
    await page.locator(`input[name=range][value="${range}"]`).check();
    const button = page.locator(".name button").nth(Number(opened));
    await button.click();
    await page.waitForFunction(() => document.querySelector(".detail figcaption")?.textContent.includes("recipe"), null, { timeout: 20_000 }).catch(() => {});
    await page.evaluate(() => document.activeElement.blur());
    await page.waitForTimeout(500);
    await page.screenshot({ path });
    return { path };
  },
};

const [check, url, ...rest] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
let code = 0;
try {
  console.log(JSON.stringify(await CHECKS[check](browser, url, ...rest)));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
  code = 1;
}
await browser.close();
process.exit(code);
