// The share of genres, an hour or a day at a time: a bar for the eye, the same in words beside it.
import { ask, clock, colour, day, el, percent } from "./words.js";

const body = document.querySelector("#shares tbody");
const of = document.getElementById("share-of");
const chosen = () => document.querySelector('#slices input:checked').value;

export async function load() {
  const by = chosen(), offset = -new Date().getTimezoneOffset() * 60;
  const query = new URLSearchParams({ by, offset_s: offset, count: by === "hour" ? 24 : 14 });
  if (of.value) query.set("stream", of.value);
  const { begin, slice_s: step, slices } = await ask(`/api/shares?${query}`);
  const rows = slices.map((slice, index) => row(begin + index * step, by, slice));
  const first = rows.findIndex((_, index) => Object.keys(slices[index]).length);
  body.replaceChildren(...(first < 0 ? [el("tr", {}, el("td", { colspan: 3, text: "Nothing heard yet." }))] : rows.slice(first).reverse()));
}

function row(from, by, slice) {
  const heard = Object.entries(slice).sort((a, b) => b[1] - a[1]);
  const total = heard.reduce((sum, [, seconds]) => sum + seconds, 0);
  const bar = el("div", { class: "bar", "aria-hidden": "true" });
  for (const [genre, seconds] of heard) {
    const piece = el("i", { title: `${genre || "silence"} ${percent(seconds / total)}` });
    piece.style.width = `${(100 * seconds) / total}%`;
    piece.style.background = colour(genre || null);
    bar.append(piece);
  }
  const words = heard.slice(0, 3).map(([genre, seconds]) => `${genre || "silence"} ${percent(seconds / total)}`).join(", ");
  return el("tr", {}, el("th", { scope: "row", text: by === "hour" ? clock(from, false) : day(from) }), el("td", {}, bar), el("td", { text: words || "–" }));
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
