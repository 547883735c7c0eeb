// The list of streams: one row each, opened for its picture, scores and ledger.
import { addLine, extend, removeLine } from "./timeline.js";
import { called, el, moment, percent, setText, span, swatch } from "./words.js";
import { openDetail } from "./detail.js";

const list = document.getElementById("streams");
const filter = document.querySelector("#filter input");
const rows = new Map();

const WORDS = {
  waiting: "waiting…", playing: "playing", unsure: "unsure", silent: "silence", stopped: "stopped",
  failed: "can't be heard", paused: "paused", ended: "ended",
};
const BAD = new Set(["stopped", "failed"]);

export const known = () => [...rows.keys()];
export const stateOf = (name) => rows.get(name)?.state;
export const streamOf = (name) => rows.get(name)?.stream;

function make(name) {
  const id = `detail-${rows.size}-${Math.random().toString(36).slice(2, 8)}`;
  const button = el("button", { type: "button", "aria-expanded": "false", "aria-controls": id, title: name }, el("span", { text: name }));
  const parts = {
    button,
    genre: el("p", { class: "genre" }),
    meter: el("meter", { min: 0, max: 1, value: 0, "aria-label": `confidence of ${name}` }),
    confidence: el("span"),
    playing: el("p", { class: "playing" }),
    since: el("p", { class: "since" }),
    figures: el("div", { class: "figures" }),
    canvas: el("canvas", { class: "timeline", role: "img", "aria-label": `what ${name} played; open it for the same as a table` }),
    detail: el("div", { id, class: "detail", hidden: true }),
  };
  const item = el("li", { class: "stream" },
    el("div", { class: "row" },
      el("h3", { class: "name" }, button),
      el("div", { class: "now" }, parts.genre, el("p", { class: "confidence" }, parts.meter, parts.confidence)),
      el("div", { class: "track" }, parts.playing, parts.since),
      el("div", { class: "line" }, parts.canvas),
      parts.figures),
    parts.detail);
  const row = { name, item, parts, stream: null, state: "waiting", close: null };
  button.addEventListener("click", () => toggle(row));
  rows.set(name, row);
  const after = [...rows.keys()].filter((other) => other > name && rows.get(other).item.isConnected).sort()[0];
  list.insertBefore(item, after === undefined ? null : rows.get(after).item);
  addLine(name, parts.canvas);
  return row;
}

function toggle(row) {
  const open = row.parts.detail.hidden;
  row.parts.button.setAttribute("aria-expanded", String(open));
  row.parts.detail.hidden = !open;
  if (open) {
    row.close = openDetail(row.parts.detail, row.name);
    if (row.stream) row.close.update(row.stream, row.state);
  } else {
    row.close?.end();
    row.close = null;
    row.parts.detail.replaceChildren();
  }
}

export function update(stream) {
  const row = rows.get(stream.name) ?? make(stream.name);
  row.stream = stream;
  extend(stream.name, stream.run);
  row.stale = true;
}

export function setStates(states) {
  for (const [name, state] of Object.entries(states)) {
    const row = rows.get(name);
    if (row && (row.state !== state || row.stale)) {
      row.state = state;
      row.stale = false;
      show(row);
    }
  }
}

function show({ item, parts, stream, state, name, close }) {
  const heard = state === "playing" || state === "unsure";
  const genre = heard ? stream.genre : null;
  item.toggleAttribute("data-bad", BAD.has(state));
  const kind = heard ? stream.kind : "silence";
  if (parts.genre.dataset.is !== `${genre}/${kind}/${state}`) {
    parts.genre.dataset.is = `${genre}/${kind}/${state}`;
    parts.genre.replaceChildren(swatch(genre, kind), heard ? `${called(genre, kind)}${state === "unsure" ? "?" : ""}` : WORDS[state]);
    parts.genre.title = state === "unsure" ? "The model's best guess; too weak to act on" : "";
  }
  parts.meter.value = heard ? stream.confidence : 0;
  setText(parts.confidence, heard ? percent(stream.confidence) : "");
  parts.meter.hidden = !heard;
  setText(parts.playing, [stream.artist, stream.title].filter(Boolean).join(" – "));
  parts.playing.title = parts.playing.textContent;
  const last = stream.run ? `last heard ${moment(stream.run[1])}` : "";
  setText(parts.since, heard && stream.since ? `since ${moment(stream.since)}` : BAD.has(state) || state === "ended" || state === "paused" ? last : "");
  const ledger = stream.ledger, gone = ledger ? ledger.lost + ledger.gap : 0;
  parts.figures.replaceChildren(
    el("p", { text: ledger ? `heard ${span(ledger.classified)}` : "" }),
    gone > 0 ? el("p", { class: "warn", text: `missing ${span(gone)}` }) : el("p", { text: stream.window && heard ? `delay ${delay(stream.window.latency_ms)}` : "" }));
  close?.update(stream, state);
}

const delay = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export function remove(name) {
  const row = rows.get(name);
  if (!row) return;
  row.close?.end();
  row.item.remove();
  removeLine(name);
  rows.delete(name);
}

export function counts() {
  const out = {};
  for (const { state } of rows.values()) out[state] = (out[state] ?? 0) + 1;
  return out;
}

export function genres() {
  const out = new Set();
  for (const { stream } of rows.values()) for (const label of Object.keys(stream?.window?.scores ?? {})) out.add(label);
  return [...out].sort();
}

// What is told apart from music: talk and other sounds where a model can, silence always.
export function kinds() {
  const kindsKnown = [...rows.values()].some(({ stream }) => stream?.window?.kinds);
  return kindsKnown ? ["speech", "other", "silence"] : genres().length ? ["silence"] : [];
}

export function applyFilter() {
  document.getElementById("filter").hidden = rows.size < 8;
  const wanted = filter.value.trim().toLowerCase();
  for (const { item, name, stream } of rows.values()) {
    const text = [name, stream && called(stream.genre, stream.kind), stream?.title, stream?.artist].join(" ").toLowerCase();
    item.hidden = wanted !== "" && !text.includes(wanted);
  }
  document.getElementById("unmatched").hidden = wanted === "" || [...rows.values()].some(({ item }) => !item.hidden);
}
filter.addEventListener("input", applyFilter);
