// One stream opened: the picture of its last window, the scores beside it, its ledger, what it played, what may be done.
import { runsOf } from "./timeline.js";
import { change, mayChange, session } from "./session.js";
import { called, el, fetchJson, paint, percent, setText, seconds, span, time } from "./words.js";

const PICTURE_MS = 1500;
const COMPETE_MS = 5000;
const KINDS = { music: "Music", unsure: "Music, but too weak to act on", speech: "Talk", silence: "Silence" };

// Genre and kind null: a sound, which has no colour of its own in the legend.
function bar(text, share, genre, kind) {
  const fill = el("i");
  fill.style.width = `${100 * share}%`;
  if (genre ?? kind) paint(fill, genre, kind);
  return el("div", { class: "score" }, el("span", { text, title: text }), el("span", { class: "bar", "aria-hidden": "true" }, fill), el("span", { text: percent(share) }));
}

// One kind, genre or sound over the last minutes: a column for each ten seconds, as tall as its mean.
function strip(text, means, genre, kind) {
  const heard = means.filter((mean) => mean !== null);
  const mean = heard.reduce((sum, each) => sum + each, 0) / Math.max(1, heard.length);
  const columns = means.map((each) => {
    const column = el("i");
    if (genre ?? kind) paint(column, genre, kind);
    column.style.height = `${100 * (each ?? 0)}%`;
    return column;
  });
  return el("div", { class: "score" }, el("span", { text, title: text }), el("span", { class: "strip", "aria-hidden": "true" }, ...columns), el("span", { text: percent(mean) }));
}

const group = (title, strips) => (strips.length ? [el("section", {}, el("h5", { text: title }), ...strips)] : []);

export function openDetail(root, name) {
  const canvas = el("canvas", { width: 187, height: 96, hidden: true, role: "img", "aria-label": `mel-spectrogram of the last window of ${name}` });
  const caption = el("figcaption", { text: "Waiting for a window; one comes every few seconds while the stream plays." });
  const scores = el("div");
  const sounds = el("div");
  const heard = el("p", { class: "since" });
  const ledger = el("table");
  const rivals = el("div", { class: "groups" });
  const past = el("tbody");
  const buttons = el("div", { class: "buttons" });
  root.replaceChildren(
    session.spectrogram ? el("figure", {}, el("h4", { text: "Sound of the last window" }), canvas, caption) : el("p", { class: "since", text: "Pictures are turned off (dashboard.spectrogram)." }),
    el("div", {}, el("h4", { text: "Scores of the last window" }), scores, heard, sounds),
    el("div", {}, el("h4", { text: "Ledger" }), ledger),
    el("div", { class: "rivals" }, el("h4", { text: "What competed over the last 5 minutes" }), el("p", { class: "since", text: "A column for each 10 s, the newest on the right; the number is the mean." }), rivals),
    el("details", { class: "past" }, el("summary", { text: "What it played, as a table" }),
      el("table", {}, el("thead", {}, el("tr", {}, ...["From", "For", "Heard", "Sure"].map((text) => el("th", { scope: "col", class: text === "Sure" ? "number" : null, text })))), past)),
    buttons);
  let ended = false, stream = null;

  async function picture() {
    if (ended) return;
    if (!document.hidden && session.spectrogram) {
      try {
        const answer = await fetch(`api/spectrogram/${encodeURIComponent(name)}`, { cache: "no-store" });
        if (answer.status === 200) {
          const image = await createImageBitmap(await answer.blob());
          canvas.hidden = false;
          canvas.width = image.width;
          canvas.height = image.height;
          canvas.getContext("2d").drawImage(image, 0, 0);
          const start = Number(answer.headers.get("x-start-s"));
          setText(caption, `Mel-spectrogram, ${answer.headers.get("x-recipe")}: 3 s from left to right, low notes at the bottom; ${span(start)} into the stream.`);
        }
      } catch { /* the page says elsewhere that the dashboard is away */ }
    }
    window.setTimeout(picture, PICTURE_MS);
  }
  picture();

  async function compete() {
    if (ended) return;
    const found = document.hidden ? null : await fetchJson(`api/competing/${encodeURIComponent(name)}`).catch(() => null);
    if (found) rivals.replaceChildren(
      ...group("Music or not", found.kinds.map(([kind, means]) => strip(called(null, kind), means, null, kind))),
      ...group("Genres", found.genres.map(([genre, means]) => strip(genre, means, genre, "music"))),
      ...group("Sounds", found.sounds.map(([sound, means]) => strip(sound, means, null, null))));
    window.setTimeout(compete, COMPETE_MS);
  }
  compete();

  function table() {
    past.replaceChildren(...runsOf(name).slice(-30).reverse().map(([from, to, genre, confidence, kind]) => el("tr", {},
      el("td", {}, time(from)), el("td", { text: span(to - from) }), el("td", { text: called(genre, kind) }), el("td", { class: "number", text: kind === "silence" ? "" : percent(confidence) }))));
  }

  function act(action) {
    return async (event) => {
      if (action === "remove" && event.currentTarget.dataset.confirmed !== "yes") {
        event.currentTarget.dataset.confirmed = "yes";
        event.currentTarget.textContent = `Really remove ${name}?`;
        return;
      }
      await change(`api/streams/${encodeURIComponent(name)}/${action}`, {}, buttons);
    };
  }

  function update(now, state) {
    stream = now;
    const window_ = stream.window;
    const bars = Object.entries(window_?.scores ?? {}).sort((a, b) => b[1] - a[1]);
    const music = window_?.kind === "music" || window_?.kind === "unsure";
    scores.replaceChildren(...(music ? bars.map(([genre, score]) => bar(genre, score, genre, "music")) : Object.entries(window_?.kinds ?? {}).map(([kind, share]) => bar(called(null, kind), share, null, kind))));
    const named = Object.entries(window_?.sounds ?? {});
    sounds.replaceChildren(...(named.length ? [el("h4", { text: "Sounds in it" }), ...named.map(([sound, share]) => bar(sound, share, null, null))] : []));
    setText(heard, window_ ? `${KINDS[window_.kind] ?? "Other sound"} at ${window_.level_dbfs.toFixed(1)} dBFS · model ${window_.model} ${window_.model_version}` : "");
    const book = stream.ledger;
    const causes = Object.entries(book?.causes ?? {}).map(([cause, value]) => [`– of these: ${cause}`, value]);
    ledger.replaceChildren(el("tbody", {}, ...(book ? [
      ["timeline", book.timeline], ["classified", book.classified], ["in gaps of the source", book.gap], ["lost", book.lost],
      ...causes, ["too short to classify", book.short], ["in flight", book.in_flight],
    ].map(([what, value]) => el("tr", {}, el("th", { scope: "row", text: what }), el("td", { class: "number", text: seconds(value) }))) : [
      el("tr", {}, el("td", { text: "No ledger yet." }))])));
    if (book) ledger.tBodies[0].append(el("tr", {}, el("th", { scope: "row", text: "adds up" }), el("td", { class: `number ${book.adds_up ? "good" : "bad"}`, text: book.adds_up ? "yes" : "NO" })));
    const may = mayChange() && stream.configured;
    const key = `${may}/${state === "paused"}`;
    if (buttons.dataset.is !== key) {
      buttons.dataset.is = key;
      buttons.replaceChildren(...(may ? [
        el("button", { type: "button", text: state === "paused" ? "Resume" : "Pause", onclick: act(state === "paused" ? "resume" : "pause") }),
        el("button", { type: "button", text: "Remove", onclick: act("remove") }),
        el("p", { class: "said", role: "status" })] : []));
    }
    table();
  }
  return { update, end() { ended = true; } };
}
