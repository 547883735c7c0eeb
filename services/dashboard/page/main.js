// The page's wiring: live updates in, each part told what is its own. Start here.
import * as session from "./session.js";
import * as shares from "./shares.js";
import * as streams from "./streams.js";
import * as timeline from "./timeline.js";
import { called, el, forgetColours, setText, swatch, time } from "./words.js";

const SILENT_MS = 4000; // the dashboard speaks twice a second; after this it is gone
const link = document.getElementById("link");
const alarmList = document.getElementById("alarms");
let source = null, heardAt = performance.now(), contact = false, connected = false, alarms = [], full = "";

const NO_CONTACT = "No contact with the dashboard: what is shown is old. Trying again…";

// --- live updates ---------------------------------------------------------------------------------------------------

function connect() {
  source?.close();
  source = new EventSource("api/live");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = async () => {
    if (source.readyState !== EventSource.CLOSED) return;
    window.setTimeout(connect, 2000);
    await session.refresh().catch(() => {});
    full = session.session.full ? `${session.session.full}: this page shows nothing until another one is closed. Trying again…` : "";
    if (!contact) showAlarms();
  };
}

function take(update) {
  heardAt = performance.now();
  contact = true;
  connected = update.connected;
  timeline.setClock(update.now);
  let fresh = false;
  if (update.full) for (const name of streams.known()) if (!(name in update.states)) streams.remove(name);
  for (const name of update.gone ?? []) streams.remove(name);
  const before = streams.known().length;
  for (const stream of update.streams) streams.update(stream);
  fresh = streams.known().length !== before;
  streams.setStates(update.states);
  if (update.parts) showParts(update.parts);
  if (update.events) showEvents(update.events);
  alarms = update.alarms;
  full = "";
  showAlarms();
  showSummary(update.rate);
  document.getElementById("empty").hidden = streams.known().length > 0;
  if (fresh || update.full) {
    streams.applyFilter();
    shares.offer(streams.known().sort());
    refresh();
  }
  showLegend();
}

function refresh() {
  timeline.load().catch(() => {});
  shares.load().catch(() => {});
}
setInterval(() => { if (contact && !document.hidden) refresh(); }, 60_000);
document.addEventListener("visibilitychange", () => { if (!document.hidden && contact) refresh(); });

setInterval(() => {
  if (performance.now() - heardAt > SILENT_MS && contact) {
    contact = false;
    showAlarms();
    connect();
  } else if (!contact && performance.now() - heardAt > 3 * SILENT_MS) {
    heardAt = performance.now();
    connect();
  }
}, 500);

// --- what is said at the top ----------------------------------------------------------------------------------------

function showSummary(rate) {
  const counts = streams.counts();
  const heard = ["playing", "unsure", "silent"].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
  const order = ["waiting", "stopped", "failed", "paused", "ended"];
  const parts = order.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`);
  if (heard) parts.unshift(`listening to ${heard}`);
  setText(document.getElementById("summary"), [...parts, `${rate.toFixed(1)} results/s`].join(" · "));
}

function showAlarms() {
  const shown = contact ? alarms : [{ level: "alarm", text: full || NO_CONTACT, stream: "" }, ...alarms];
  const key = JSON.stringify(shown);
  const state = contact && connected ? "live" : "lost";
  link.dataset.state = state;
  setText(link, state === "live" ? "Live" : contact ? "Broker lost" : full ? "Too many viewers" : "Dashboard lost");
  const bad = shown.filter((alarm) => alarm.level === "alarm").length;
  document.title = bad ? `(${bad}) genre-edge` : "genre-edge";
  if (alarmList.dataset.is === key) return;
  alarmList.dataset.is = key;
  alarmList.hidden = shown.length === 0;
  alarmList.querySelector("ul").replaceChildren(...shown.map((alarm) => el("li", { class: alarm.level },
    el("b", { text: alarm.level === "alarm" ? "Alarm" : "Note" }), alarm.stream ? el("b", { text: `${alarm.stream}:` }) : null,
    alarm.text, ...(alarm.since ? [" Since ", time(alarm.since), "."] : []))));
}

let legend = "";
function showLegend() {
  const heard = [...streams.genres().map((genre) => [genre, "music"]), ...streams.kinds().map((kind) => [null, kind])];
  if (heard.join() === legend) return;
  legend = heard.join();
  document.getElementById("legend").replaceChildren(...heard.map(([genre, kind]) => el("li", {}, swatch(genre, kind), called(genre, kind))),
    heard.length ? el("li", { text: "the taller, the surer" }) : "");
}

// --- parts and events -----------------------------------------------------------------------------------------------

function showParts(parts) {
  document.querySelector("#parts tbody").replaceChildren(...parts.map((part) => el("tr", {},
    el("th", { scope: "row", text: `${part.service} ${part.instance}` }),
    el("td", { class: `state-${part.state}`, text: part.state }),
    el("td", {}, time(Date.parse(part.since) / 1000 || 0)),
    el("td", { class: "number", text: String(part.restarts) }),
    el("td", { class: "about", text: [part.version, ...Object.entries(part.details).filter(([key]) => ["model", "model_version", "backend", "recipe"].includes(key)).map(([key, value]) => `${key.replace("_", " ")} ${value}`)].join(", ") }))));
}

const GRAVE = new Set(["error", "gap", "lost", "silent"]);
function showEvents(events) {
  document.getElementById("events").replaceChildren(...(events.length ? [] : [el("li", { text: "Nothing yet." })]), ...events.reverse().map((event) => el("li", { class: GRAVE.has(event.kind) ? "grave" : null },
    time(event.at), el("b", { text: event.stream }),
    [event.kind, event.seconds ? `${event.seconds.toFixed(1)} s` : "", event.cause, event.reason].filter(Boolean).join(" · "))));
}

// --- what the viewer chooses ----------------------------------------------------------------------------------------

const theme = document.getElementById("theme");
function applyTheme() {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  forgetColours();
  legend = "";
  showLegend();
  timeline.redraw();
}
try { theme.value = localStorage.getItem("theme") ?? ""; } catch { /* storage is off: the system's theme it is */ }
theme.addEventListener("change", () => {
  try { localStorage.setItem("theme", theme.value); } catch { /* as above */ }
  applyTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
document.getElementById("range").addEventListener("change", (event) => {
  timeline.load(Number(event.target.value)).catch(() => {});
});

applyTheme();
session.begin(() => { if (session.session.view && !source) connect(); }).catch(() => connect());
