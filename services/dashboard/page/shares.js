// The share of genres, an hour or a day at a time: a column for the eye, the whole stretch in words, a table of the same.
import { ask, byGenre, clock, day, el, paint, percent, say, swatch } from "./words.js";

const chart = document.getElementById("share-chart");
const totals = document.getElementById("share-totals");
const note = document.getElementById("share-note");
const body = document.querySelector("#shares tbody");
const of = document.getElementById("share-of");
const chosen = () => document.querySelector('#slices input:checked').value;
const named = (genre) => genre || "silence";
const ordered = (slice) => Object.entries(slice).sort(([a], [b]) => byGenre(a, b));
const ranked = (slice) => Object.entries(slice).sort((a, b) => b[1] - a[1]);
const sum = (slice) => Object.values(slice).reduce((total, seconds) => total + seconds, 0);

export async function load() {
  const by = chosen(), offset = -new Date().getTimezoneOffset() * 60;
  const query = new URLSearchParams({ by, offset_s: offset, count: by === "hour" ? 24 : 14 });
  if (of.value) query.set("stream", of.value);
  const { begin, slice_s: step, slices } = await ask(`/api/shares?${query}`);
  const label = (index) => (by === "hour" ? clock(begin + index * step, false) : day(begin + index * step));
  const all = {};
  for (const slice of slices) for (const [genre, seconds] of Object.entries(slice)) all[genre] = (all[genre] ?? 0) + seconds;
  const total = sum(all);
  chart.hidden = !total;
  const every = Math.ceil(slices.length / Math.max(2, Math.floor(chart.clientWidth / 75)));
  chart.replaceChildren(...slices.map((slice, index) => column(slice, label(index), (slices.length - 1 - index) % every === 0)));
  totals.replaceChildren(...ranked(all).slice(0, 6).map(([genre, seconds]) => el("li", {}, swatch(genre || null), `${named(genre)} ${percent(seconds / total)}`)));
  say(note, total ? `of the last ${by === "hour" ? "24 hours" : "14 days"}, by time` : "Nothing heard yet: columns grow here as streams play.");
  const heard = slices.map((slice, index) => [index, slice]).filter(([, slice]) => sum(slice) > 0).reverse();
  body.replaceChildren(...heard.map(([index, slice]) => el("tr", {}, el("th", { scope: "row", text: label(index) }), el("td", { text: words(slice) }))));
}

function words(slice) {
  const total = sum(slice);
  return ranked(slice).map(([genre, seconds]) => `${named(genre)} ${percent(seconds / total)}`).join(", ");
}

// The same genre lies at the same height order in every column, so that the eye can follow it.
function column(slice, label, told) {
  const total = sum(slice);
  const stack = el("div", { class: "stack", title: total ? `${label}: ${words(slice)}` : `${label}: nothing heard` });
  for (const [genre, seconds] of ordered(slice)) {
    const piece = paint(el("i"), genre || null);
    piece.style.height = `${(100 * seconds) / total}%`;
    stack.append(piece);
  }
  return el("div", { class: "column" }, stack, el("span", { text: told ? label : "" }));
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
