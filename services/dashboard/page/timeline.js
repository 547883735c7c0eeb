// Timelines: what each stream played, one canvas a stream. As tall as the model was sure, coloured by genre.
import { fetchJson, called, clock, colour, day, percent, setText } from "./words.js";

let range = 900;
let ahead = 0; // the dashboard's clock minus this browser's, seconds
const lines = new Map(); // stream -> { canvas, runs: [[start, end, genre, confidence, kind]], dirty }
const tip = document.getElementById("tip");
const axis = document.getElementById("axis");
const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const line = lines.get(target.dataset.stream);
    if (line) { line.shown = isIntersecting; line.dirty = true; }
  }
}, { rootMargin: "200px" });
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) { const line = lines.get(target.dataset.stream); if (line) line.dirty = true; }
  drawAxis();
});

export const serverNow = () => Date.now() / 1000 + ahead;
export function setClock(now) { ahead = now - Date.now() / 1000; }

export function addLine(stream, canvas) {
  canvas.dataset.stream = stream;
  lines.set(stream, { canvas, runs: [], dirty: true, shown: false });
  inView.observe(canvas);
  resized.observe(canvas);
  canvas.addEventListener("pointermove", (event) => hint(stream, event));
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
}

export function removeLine(stream) {
  const line = lines.get(stream);
  if (!line) return;
  inView.unobserve(line.canvas);
  resized.unobserve(line.canvas);
  lines.delete(stream);
}

export const runsOf = (stream) => lines.get(stream)?.runs ?? [];

// The run that is still open, as the live updates tell it: it takes the place of what was known of that time.
export function extend(stream, run) {
  const line = lines.get(stream);
  if (!line || !run) return;
  while (line.runs.length && line.runs.at(-1)[0] >= run[0] - 0.5) line.runs.pop();
  const last = line.runs.at(-1);
  if (last && last[1] > run[0]) last[1] = run[0];
  line.runs.push([...run]);
  line.dirty = true;
}

export async function load(seconds = range) {
  range = seconds;
  const steps = Math.min(1500, Math.max(200, Math.round([...lines.values()][0]?.canvas.clientWidth ?? 600)));
  const found = await fetchJson(`api/timeline?seconds=${range}&steps=${steps}`);
  for (const [stream, line] of lines) {
    const open = line.runs.at(-1);
    line.runs = (found.streams[stream] ?? []).map(([start, end, ...heard]) => [found.begin + start, found.begin + end, ...heard]);
    if (open && open[1] > found.end - 90) extend(stream, open);
    line.dirty = true;
  }
  drawAxis();
}

export function redraw() { for (const line of lines.values()) line.dirty = true; drawAxis(); }

function draw(line) {
  const { canvas, runs } = line;
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
  if (!width || !height) return;
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  const end = serverNow(), begin = end - range;
  for (const [from, to, genre, confidence, kind] of runs) {
    if (to < begin) continue;
    const left = Math.floor(((from - begin) / range) * width), right = Math.ceil(((to - begin) / range) * width);
    const tall = kind === "silence" ? 3 * scale : height * (0.2 + 0.8 * confidence);
    pen.fillStyle = colour(genre, kind);
    pen.fillRect(left, height - tall, Math.max(1, right - left), tall);
  }
  line.drawn = end;
}

// Draw what changed, a few lines a frame, so that fifty streams never hold the page up.
function frame() {
  const until = performance.now() + 6;
  const now = serverNow();
  for (const line of lines.values()) {
    if (!line.shown) continue;
    const moved = now - (line.drawn ?? 0) > Math.max(1, range / line.canvas.clientWidth);
    if (line.dirty && (moved || !line.drawn || line.urgent !== range)) {
      line.urgent = range;
      line.dirty = false;
      draw(line);
    } else if (moved) {
      draw(line);
    }
    if (performance.now() > until) break;
  }
  window.setTimeout(() => requestAnimationFrame(frame), 200);
}
requestAnimationFrame(frame);

function drawAxis() {
  const canvas = [...lines.values()].find((line) => line.canvas.clientWidth)?.canvas;
  axis.replaceChildren();
  if (!canvas) return;
  const box = canvas.getBoundingClientRect(), left = box.left - axis.getBoundingClientRect().left;
  const wanted = Math.max(2, Math.floor(box.width / 110));
  const step = [60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800].find((s) => range / s <= wanted) ?? 172800;
  const end = serverNow(), zone = new Date().getTimezoneOffset() * 60;
  for (let at = Math.ceil((end - range - zone) / step) * step + zone; at < end; at += step) {
    const mark = document.createElement("span");
    mark.textContent = step >= 86400 ? day(at) : clock(at, false);
    const place = left + ((at - end + range) / range) * box.width;
    if (place < left + 20 || place > left + box.width - 15) continue;
    mark.style.left = `${place}px`;
    axis.append(mark);
  }
}
setInterval(drawAxis, 20_000);

function hint(stream, event) {
  const box = event.currentTarget.getBoundingClientRect();
  const at = serverNow() - range + ((event.clientX - box.left) / box.width) * range;
  const run = runsOf(stream).find(([from, to]) => from <= at && at <= to);
  setText(tip, `${clock(at)}  ${run ? `${called(run[2], run[4])}${run[4] === "silence" ? "" : ` ${percent(run[3])}`}` : "nothing heard"}`);
  tip.hidden = false;
  tip.style.left = `${Math.min(window.innerWidth - tip.offsetWidth - 6, event.clientX + 10)}px`;
  tip.style.top = `${box.top - tip.offsetHeight - 4}px`;
}
