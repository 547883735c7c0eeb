// The share of genres, talk and silence, an hour or a day at a time: a column for the eye, the whole stretch in words, a table of the same.
import { fetchJson, called, clock, day, el, paint, percent, setText, swatch } from "./words.js";

const chart = document.getElementById("share-chart");
const totals = document.getElementById("share-totals");
const note = document.getElementById("share-note");
const body = document.querySelector("#shares tbody");
const of = document.getElementById("share-of");
const chosen = () => document.querySelector('#slices input:checked').value;
const MOST_TOTALS = 6;
const LAST = ["speech", "other", "silence"]; // Not music: at the foot of each column, always in this order.
const sound = (key) => (key.startsWith("kind:") ? [null, key.slice(5)] : [key, "music"]);
const named = (key) => called(...sound(key));
const place = (key) => LAST.indexOf(sound(key)[1]);
const ordered = (slice) => Object.entries(slice).sort(([a], [b]) => place(a) - place(b) || a.localeCompare(b));
const ranked = (slice) => Object.entries(slice).sort((a, b) => b[1] - a[1]);
const sum = (slice) => Object.values(slice).reduce((total, seconds) => total + seconds, 0);

// Seconds by genre where there is music, by kind where there is none.
function merged(genres, kinds) {
  const out = {};
  for (const [genre, seconds] of Object.entries(genres)) if (genre) out[genre] = seconds;
  for (const [kind, seconds] of Object.entries(kinds)) if (kind !== "music") out[`kind:${LAST.includes(kind) ? kind : "other"}`] = seconds;
  return out;
}

export async function load() {
  const by = chosen();
  const offset = -new Date().getTimezoneOffset() * 60; // where the dashboard does not know the zone
  const query = new URLSearchParams({ by, offset_s: offset, tz: Intl.DateTimeFormat().resolvedOptions().timeZone, count: by === "hour" ? 24 : 14 });
  if (of.value) query.set("stream", of.value);
  const { borders, slices: genres, kinds } = await fetchJson(`api/shares?${query}`);
  const slices = genres.map((slice, index) => merged(slice, kinds[index]));
  const label = (index) => (by === "hour" ? clock(borders[index], false) : day(borders[index]));
  const all = {};
  for (const slice of slices) for (const [genre, seconds] of Object.entries(slice)) all[genre] = (all[genre] ?? 0) + seconds;
  const total = sum(all);
  chart.hidden = !total;
  const every = Math.ceil(slices.length / Math.max(2, Math.floor(chart.clientWidth / 75)));
  chart.replaceChildren(...slices.map((slice, index) => column(slice, label(index), (slices.length - 1 - index) % every === 0)));
  const first = ranked(all).slice(0, MOST_TOTALS), rest = total - first.reduce((seconds, [, each]) => seconds + each, 0);
  totals.replaceChildren(...first.map(([genre, seconds]) => el("li", {}, swatch(...sound(genre)), `${named(genre)} ${percent(seconds / total)}`)),
    ...(rest > total / 200 ? [el("li", { text: `the rest ${percent(rest / total)}` })] : []));
  setText(note, total ? `of the last ${by === "hour" ? "24 hours" : "14 days"}, by time${mixture(kinds)}` : "Nothing heard yet: columns grow here as streams play.");
  const heard = slices.map((slice, index) => [index, slice]).filter(([, slice]) => sum(slice) > 0).reverse();
  body.replaceChildren(...heard.map(([index, slice]) => el("tr", {}, el("th", { scope: "row", text: label(index) }), el("td", { text: words(slice) }))));
}

// "How much music, how much talk" in a line.
function mixture(kinds) {
  const all = {};
  for (const slice of kinds) for (const [kind, seconds] of Object.entries(slice)) all[kind] = (all[kind] ?? 0) + seconds;
  const total = sum(all), parts = ["music", ...LAST].filter((kind) => all[kind] > 0);
  return parts.length < 2 ? "" : `: ${parts.map((kind) => `${called(null, kind)} ${percent(all[kind] / total)}`).join(", ")}`;
}

function words(slice) {
  const total = sum(slice);
  return ranked(slice).map(([genre, seconds]) => `${named(genre)} ${percent(seconds / total)}`).join(", ");
}

// The same genre lies at the same height order in every column, so that the eye can follow it.
function column(slice, label, labelled) {
  const total = sum(slice);
  const stack = el("div", { class: "stack", title: total ? `${label}: ${words(slice)}` : `${label}: nothing heard` });
  for (const [genre, seconds] of ordered(slice)) {
    const piece = paint(el("i"), ...sound(genre));
    piece.style.height = `${(100 * seconds) / total}%`;
    stack.append(piece);
  }
  return el("div", { class: "column" }, stack, el("span", { text: labelled ? label : "" }));
}

export function offer(names) {
  const have = [...of.options].slice(1).map((option) => option.value);
  if (have.join("\n") === names.join("\n")) return;
  const before = of.value;
  of.replaceChildren(of.options[0], ...names.map((name) => el("option", { value: name, text: name })));
  of.value = names.includes(before) ? before : "";
}

of.addEventListener("change", () => load().catch(() => {}));
document.getElementById("slices").addEventListener("change", () => load().catch(() => {}));
