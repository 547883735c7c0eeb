// Who is looking and what they may do: login, logout, changes of streams.
import { ask, say } from "./words.js";

export const session = { view: true, known: false, changes: false, spectrogram: true, version: "" };
const door = document.getElementById("door");
const dialog = document.getElementById("login");
const form = dialog.querySelector("form");
const said = dialog.querySelector(".said");
let whenChanged = () => {};

export const mayChange = () => session.changes && session.known;

export async function begin(changed) {
  whenChanged = changed;
  Object.assign(session, await ask("/api/session"));
  show();
  if (!session.view) open();
}

function show() {
  door.hidden = !session.changes && session.view;
  say(door, session.known ? "Log out" : "Log in");
  document.getElementById("add").hidden = !mayChange();
  say(document.getElementById("version"), session.version);
  whenChanged();
}

function open() {
  say(said, "");
  form.reset();
  if (!dialog.open) dialog.showModal();
}

door.addEventListener("click", async () => {
  if (!session.known) return open();
  await ask("/api/logout", {}).catch(() => {});
  Object.assign(session, await ask("/api/session"));
  show();
});

form.querySelector(".plain").addEventListener("click", () => dialog.close());
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("/api/login", { password: new FormData(form).get("password") });
    Object.assign(session, await ask("/api/session"));
    dialog.close();
    show();
  } catch (error) {
    say(said, `${error.message}.`);
  }
});

export async function change(path, body, near) {
  const told = near.querySelector(".said");
  try {
    await ask(path, body);
    if (told) { told.classList.add("good"); say(told, "Done; it takes effect within seconds."); }
    return true;
  } catch (error) {
    if (error.status === 401) { session.known = false; show(); open(); }
    if (told) { told.classList.remove("good"); say(told, error.message); }
    return false;
  }
}

const add = document.querySelector("#add form");
add.addEventListener("submit", async (event) => {
  event.preventDefault();
  const values = Object.fromEntries(new FormData(add));
  if (await change("/api/streams", values, add)) add.reset();
});
