// One stream opened: the picture of its last window, the scores beside it, its ledger, what it played, what may be done.
import { runsOf } from "./timeline.js";
import { change, mayChange, session } from "./session.js";
import { el, paint, percent, say, seconds, span, time } from "./words.js";

const PICTURE_MS = 1500;

export function openDetail(root, name) {
  const canvas = el("canvas", { width: 187, height: 96, hidden: true, role: "img", "aria-label": `mel-spectrogram of the last window of ${name}` });
  const caption = el("figcaption", { text: "Waiting for a window; one comes every few seconds while the stream plays." });
  const scores = el("div");
  const heard = el("p", { class: "since" });
  const ledger = el("table");
  const past = el("tbody");
  const buttons = el("div", { class: "buttons" });
  root.replaceChildren(
    session.spectrogram ? el("figure", {}, el("h4", { text: "Sound of the last window" }), canvas, caption) : el("p", { class: "since", text: "Pictures are turned off (dashboard.spectrogram)." }),
    el("div", {}, el("h4", { text: "Scores of the last window" }), scores, heard),
    el("div", {}, el("h4", { text: "Ledger" }), ledger),
    el("details", { class: "past" }, el("summary", { text: "What it played, as a table" }),
      el("table", {}, el("thead", {}, el("tr", {}, ...["From", "For", "Genre", "Sure"].map((text) => el("th", { scope: "col", class: text === "Sure" ? "number" : null, text })))), past)),
    buttons);
  let ended = false, stream = null;

  async function picture() {
    if (ended) return;
    if (!document.hidden && session.spectrogram) {
      try {
        const answer = await fetch(`/api/spectrogram/${encodeURIComponent(name)}`, { cache: "no-store" });
        if (answer.status === 200) {
          const image = await createImageBitmap(await answer.blob());
          canvas.hidden = false;
          canvas.width = image.width;
          canvas.height = image.height;
          canvas.getContext("2d").drawImage(image, 0, 0);
          const start = Number(answer.headers.get("x-start-s"));
          say(caption, `Mel-spectrogram, ${answer.headers.get("x-recipe")}: 3 s from left to right, low notes at the bottom; ${span(start)} into the stream.`);
        }
      } catch { /* the page says elsewhere that the dashboard is away */ }
    }
    window.setTimeout(picture, PICTURE_MS);
  }
  picture();

  function table() {
    past.replaceChildren(...runsOf(name).slice(-30).reverse().map(([from, to, genre, sure]) => el("tr", {},
      el("td", {}, time(from)), el("td", { text: span(to - from) }), el("td", { text: genre ?? "silence" }), el("td", { class: "number", text: genre === null ? "" : percent(sure) }))));
  }

  function act(action) {
    return async (event) => {
      if (action === "remove" && event.currentTarget.dataset.sure !== "yes") {
        event.currentTarget.dataset.sure = "yes";
        event.currentTarget.textContent = `Really remove ${name}?`;
        return;
      }
      await change(`/api/streams/${encodeURIComponent(name)}/${action}`, {}, buttons);
    };
  }

  function update(now, state) {
    stream = now;
    const window_ = stream.window;
    const bars = Object.entries(window_?.scores ?? {}).sort((a, b) => b[1] - a[1]);
    scores.replaceChildren(...bars.map(([genre, score]) => {
      const fill = el("i");
      fill.style.width = `${100 * score}%`;
      paint(fill, genre);
      return el("div", { class: "score" }, el("span", { text: genre }), el("span", { class: "bar", "aria-hidden": "true" }, fill), el("span", { text: percent(score) }));
    }));
    say(heard, window_ ? `${window_.kind === "silence" ? "Silence" : window_.kind === "unsure" ? "Too weak to act on" : "Music"} at ${window_.level_dbfs.toFixed(1)} dBFS · model ${window_.model} ${window_.model_version}` : "");
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
