// The frame: who is logged in, which page is shown.
import { call, token } from "./api.js";
import { el, field, fill, toast } from "./ui.js";
import * as overview from "./overview.js";
import * as clients from "./clients.js";
import * as lists from "./lists.js";
import * as tools from "./tools.js";
import * as watch from "./watch.js";

const PAGES = [
  ["", "Overview", overview.show],
  ["clients", "Clients", clients.list],
  ["client", null, clients.one],
  ["subscriptions", "Subscriptions", lists.subscriptions],
  ["topics", "Topics", lists.topics],
  ["retained", "Retained", lists.retained],
  ["listeners", "Listeners", lists.listeners],
  ["top", "Heaviest", watch.top],
  ["explain", "Explain", tools.explain],
  ["trace", "Trace", watch.trace],
  ["console", "Console", tools.console],
  ["config", "Configuration", tools.config],
  ["doctor", "Doctor", tools.doctor],
];
const main = document.getElementById("main");
const nav = document.getElementById("nav");
let leave = null;
let me = null;

function theme(value) {
  if (value) document.documentElement.dataset.theme = value;
}

function login(why) {
  document.getElementById("logout").hidden = true;
  document.getElementById("who").textContent = "";
  nav.replaceChildren();
  const name = el("input", { autocomplete: "username", required: true, name: "username" });
  const password = el("input", { type: "password", autocomplete: "current-password", required: true, name: "password" });
  const said = el("p", { class: "bad", role: "alert" }, why ?? "");
  const form = el("form", { class: "card login", onsubmit: async (event) => {
    event.preventDefault();
    try {
      const given = await call("/login", { method: "POST", body: { username: name.value, password: password.value } });
      token.set(given.token);
      await start();
    } catch (failure) {
      said.textContent = failure.message;
    }
  } }, el("h1", {}, "Log in"), field("User", name), field("Password", password), said,
    el("button", { class: "main" }, "Log in"));
  fill(main, form);
  name.focus();
}

async function start() {
  try {
    me = await call("/whoami");
  } catch (failure) {
    if (failure.status === 401) {
      token.set(null);
      return login();
    }
    fill(main, el("p", { class: "bad" }, failure.message));
    return;
  }
  document.getElementById("who").textContent = `${me.username} (${me.role})`;
  document.getElementById("logout").hidden = !token.get();
  await route();
}

async function route() {
  const [path = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const page = PAGES.find(([name]) => name === path) ?? PAGES[0];
  nav.replaceChildren(...PAGES.filter(([, title]) => title).map(([name, title]) =>
    el("a", { href: `#/${name}`, "aria-current": page[0] === name ? "page" : null }, title)));
  nav.classList.remove("open");
  document.getElementById("menu").setAttribute("aria-expanded", "false");
  document.title = `${page[1] ?? rest[0]} – RingMQ`;
  if (leave) leave();
  leave = null;
  try {
    const shown = await page[2]({ main, rest, me, may: (role) => rank(me.role) >= rank(role) });
    leave = shown ?? null;
  } catch (failure) {
    if (failure.status === 401) {
      token.set(null);
      return login("Your session is over.");
    }
    fill(main, el("h1", {}, page[1] ?? rest[0]), el("p", { class: "bad", role: "alert" }, failure.message));
  }
  main.focus({ preventScroll: true });
}

const rank = (role) => ["viewer", "operator", "admin"].indexOf(role);

document.getElementById("menu").addEventListener("click", ({ target }) => {
  target.setAttribute("aria-expanded", String(nav.classList.toggle("open")));
});
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  localStorage.setItem("ringmq-theme", dark ? "light" : "dark");
  theme(dark ? "light" : "dark");
});
document.getElementById("logout").addEventListener("click", async () => {
  await call("/logout", { method: "POST" }).catch((failure) => toast(failure.message));
  token.set(null);
  login();
});
theme(localStorage.getItem("ringmq-theme"));
addEventListener("hashchange", () => me && route());
start();
