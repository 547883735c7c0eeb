// Who is looking and what they may do: login, logout, changes of streams.
import { fetchJson, setText } from "./words.js";

export const session = { view: true, known: false, changes: false, spectrogram: true, version: "", full: "" };
const door = document.getElementById("door");
const dialog = document.getElementById("login");
const form = dialog.querySelector("form");
const said = dialog.querySelector(".said");
let whenChanged = () => {};

export const mayChange = () => session.changes && session.known;

export async function begin(changed) {
  whenChanged = changed;
  await refresh();
  show();
  if (!session.view) open();
}

export async function refresh() {
  Object.assign(session, await fetchJson("api/session"));
}

function show() {
  door.hidden = !session.changes && session.view;
  setText(door, session.known ? "Log out" : "Log in");
  document.getElementById("add").hidden = !mayChange();
  setText(document.getElementById("version"), session.version);
  whenChanged();
}

function open() {
  setText(said, "");
  form.reset();
  if (!dialog.open) dialog.showModal();
}

door.addEventListener("click", async () => {
  if (!session.known) return open();
  await fetchJson("api/logout", {}).catch(() => {});
  await refresh();
  show();
});

form.querySelector(".plain").addEventListener("click", () => dialog.close());
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await fetchJson("api/login", { password: new FormData(form).get("password") });
    await refresh();
    dialog.close();
    show();
  } catch (error) {
    setText(said, `${error.message}.`);
  }
});

export async function change(path, body, near) {
  const outcome = near.querySelector(".said");
  try {
    await fetchJson(path, body);
    if (outcome) { outcome.classList.add("good"); setText(outcome, "Done; it takes effect within seconds."); }
    return true;
  } catch (error) {
    if (error.status === 401) { session.known = false; show(); open(); }
    if (outcome) { outcome.classList.remove("good"); setText(outcome, error.message); }
    return false;
  }
}

const add = document.querySelector("#add form");
add.addEventListener("submit", async (event) => {
  event.preventDefault();
  const values = Object.fromEntries(new FormData(add));
  if (await change("api/streams", values, add)) add.reset();
});
