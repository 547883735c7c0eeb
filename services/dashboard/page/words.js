// Small pieces the whole page uses: elements made of text only, colours by genre, times and spans in words.

// Whatever comes from outside goes through here as text; nothing on this page is ever parsed as markup.
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function hashed(key) {
  let hue = 0;
  for (const letter of key) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  return `hsl(${hue} 55% 52%)`;
}

const computed = new Map();
export function forgetColours() { computed.clear(); }

// What is heard in a word: the genre of music, else the kind of sound. A kind that this page does not know is "other".
const KINDS = { music: "music", speech: "talk", silence: "silence", other: "other sound" };
export const called = (genre, kind) => genre ?? KINDS[kind] ?? KINDS.other;

const variable = (genre, kind) => {
  if (genre === null) return `--kind-${kind in KINDS ? kind : "other"}`;
  return /^[a-z]+$/.test(genre) ? `--genre-${genre}` : "";
};

// For canvases, which know no variables.
export function colour(genre, kind) {
  const name = variable(genre, kind), key = name || genre;
  if (!computed.has(key)) {
    const known = name && getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    computed.set(key, known || hashed(genre ?? kind));
  }
  return computed.get(key);
}

// For elements: they follow a change of theme by themselves.
export function paint(node, genre, kind) {
  const name = variable(genre, kind);
  node.style.background = name ? `var(${name}, ${hashed(genre ?? kind)})` : hashed(genre);
  return node;
}

export const swatch = (genre, kind) => paint(el("span", { class: "swatch", "aria-hidden": "true" }), genre, kind);

export const percent = (value) => `${Math.round(100 * value)} %`;

export const seconds = (value) => `${value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} s`;

export function clock(unix, exact = true) {
  const style = exact ? { hour: "2-digit", minute: "2-digit", second: "2-digit" } : { hour: "2-digit", minute: "2-digit" };
  return new Date(unix * 1000).toLocaleTimeString([], { ...style, hour12: false });
}

export function day(unix) {
  return new Date(unix * 1000).toLocaleDateString([], { weekday: "short", day: "numeric", month: "short" });
}

// A moment near now as a time, an older one with its day.
export function moment(unix) {
  return Math.abs(Date.now() / 1000 - unix) < 80_000 ? clock(unix) : `${day(unix)} ${clock(unix, false)}`;
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// A time in the browser's own zone as <time>, so that a program can read it too.
export function time(unix) {
  return el("time", { datetime: new Date(unix * 1000).toISOString(), text: moment(unix) });
}

export async function fetchJson(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json", "x-genre-request": "1" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, { ...options, cache: "no-store" });
  const found = await answer.json().catch(() => ({ error: `the dashboard answered ${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(found.error ?? `the dashboard answered ${answer.status}`), { status: answer.status });
  return found;
}
