// Explain, console, configuration, doctor.
import { call, part } from "./api.js";
import { Client } from "./mqtt.js";
import { bytes, count, el, field, fill, table, toast } from "./ui.js";

export async function explain({ main }) {
  const topic = el("input", { required: true, placeholder: "plant/7/temperature" });
  const publisher = el("input", { placeholder: "any" });
  const client = el("input", { placeholder: "everybody" });
  const qos = el("select", {}, [0, 1, 2].map((value) => el("option", { value }, String(value))));
  const retain = el("input", { type: "checkbox" });
  const size = el("input", { type: "number", min: 0, value: 0 });
  const out = el("div", { "aria-live": "polite" });
  const ask = async (event) => {
    event.preventDefault();
    try {
      const answer = await call("/explain", { query: { topic: topic.value, publisher: publisher.value, client: client.value,
        qos: qos.value, retain: retain.checked ? "true" : "", payload_size: size.value || 0 } });
      const judged = answer.publisher;
      fill(out, el("p", {}, el("strong", {}, answer.summary)),
        judged ? el("p", { class: judged.allowed === false ? "bad" : "" },
          `The publisher ${judged.allowed === null ? "is not decided" : judged.allowed ? "may publish" : "may not publish"}: ${judged.by}`) : null,
        table("Subscribers", [
          { name: "Who", show: (row) => row.clientid ? el("a", { href: `#/client/${part(row.clientid)}` }, row.clientid) : `${row.share_group} (${row.members} members)` },
          { name: "By", show: (row) => row.filters.join(", ") },
          { name: "QoS", kind: "n", show: (row) => row.qos ?? "–" },
          { name: "What happens", show: (row) => el("span", { class: row.fate === "dropped" || row.fate === "disconnected" ? "bad" : "" },
            row.fate.replaceAll("_", " "), row.reason ? ` (${row.reason})` : "") },
        ], answer.subscribers), answer.more ? el("p", { class: "quiet" }, "There are more.") : null,
        answer.client_drops ? dropped(answer.client_drops) : null);
    } catch (failure) { fill(out, el("p", { class: "bad", role: "alert" }, failure.message)); }
  };
  fill(main, el("h1", {}, "Explain"),
    el("p", { class: "quiet" }, "What would happen to a message if it were published now. Nothing is published."),
    el("form", { class: "row", onsubmit: ask }, field("Topic", topic), field("Publisher (ClientId)", publisher),
      field("For client", client), field("QoS", qos), field("Payload bytes", size),
      el("label", { class: "check" }, retain, "retain"), el("button", { class: "main" }, "Explain")), out);
}

function dropped({ by_reason, seconds }) {
  const rows = Object.entries(by_reason);
  if (rows.length === 0) return el("p", { class: "quiet" }, "Nothing has been dropped for this client.");
  return table(`Dropped for this client in ${seconds} s`, [
    { name: "Reason", show: ([reason]) => reason }, { name: "Messages", kind: "n", show: ([, count]) => count.toLocaleString("en") },
  ], rows);
}

function address(listeners) {
  const secure = location.protocol === "https:";
  const usable = listeners.find(({ type }) => type === "wss") ?? (secure ? null : listeners.find(({ type }) => type === "ws"));
  if (!usable) return "";
  const port = usable.bind.match(/:(\d+)$/)?.[1];
  return `${usable.type}://${location.hostname}:${port}/mqtt`;
}

export async function console({ main }) {
  const url = el("input", { value: address(await call("/listeners")), size: 34, placeholder: "ws://host:8083/mqtt", required: true });
  const username = el("input", { autocomplete: "off" });
  const password = el("input", { type: "password", autocomplete: "off" });
  const filter = el("input", { value: "#" });
  const topic = el("input", { value: "test", id: "topic" });
  const payload = el("input", { value: "hello", id: "payload" });
  const retain = el("input", { type: "checkbox" });
  const state = el("p", { class: "quiet", role: "status", id: "state" }, "not connected");
  const log = el("div", { class: "card", id: "log", tabindex: 0, "aria-label": "Messages" });
  const tree = el("ul", { class: "tree" });
  let client = null;
  let root = new Map();
  let shown = 0;
  const onmessage = ({ topic, payload, retain }) => {
    grow(root, topic.split("/"));
    if (shown < 500) {
      shown += 1;
      const text = new TextDecoder().decode(payload.subarray(0, 2000));
      log.append(el("p", {}, el("strong", {}, topic), retain ? " (retained) " : " ", text));
      log.scrollTop = log.scrollHeight;
      if (shown === 500) log.append(el("p", { class: "quiet" }, "Further messages are only counted in the tree."));
    }
  };
  const draw = setInterval(() => tree.replaceChildren(...branches(root, 200)), 1000);
  const connect = (event) => {
    event.preventDefault();
    client?.close();
    try {
      client = new Client(url.value, { username: username.value, password: password.value, onmessage,
        onstate: (text) => { state.textContent = text; if (text === "connected" && filter.value) client.subscribe(filter.value); } });
    } catch (failure) { state.textContent = failure.message; }
  };
  fill(main, el("h1", {}, "Console"),
    url.value ? null : el("p", { class: "warn" }, "No listener of type ws (or wss, for a page over https) is open."),
    el("form", { class: "row", onsubmit: connect }, field("Address", url), field("User", username), field("Password", password),
      field("Subscribe to", filter), el("button", { class: "main" }, "Connect"),
      el("button", { type: "button", onclick: () => { log.replaceChildren(); root = new Map(); shown = 0; } }, "Clear")),
    state,
    el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); client?.publish(topic.value, payload.value, retain.checked); } },
      field("Topic", topic), field("Payload", payload), el("label", { class: "check" }, retain, "retain"), el("button", {}, "Publish")),
    el("div", { class: "grid" }, log, el("section", { class: "card" }, el("h2", {}, "Topics seen"), tree)));
  return () => { clearInterval(draw); client?.close(); };
}

// A tree of topic levels with counts, at most 5,000 nodes.
function grow(root, levels) {
  let at = root;
  for (const level of levels) {
    if (!at.has(level)) {
      if ((root.nodes = (root.nodes ?? 0) + 1) > 5000) return;
      at.set(level, Object.assign(new Map(), { count: 0 }));
    }
    at = at.get(level);
    at.count += 1;
  }
}

function branches(at, most) {
  return [...at.entries()].sort(([one], [other]) => one < other ? -1 : 1).slice(0, most).map(([level, below]) =>
    el("li", {}, below.size === 0 ? `${level || "(empty)"} · ${below.count}`
      : el("details", { open: below.size < 20 }, el("summary", {}, `${level || "(empty)"} · ${below.count}`),
        el("ul", { class: "tree" }, ...branches(below, most)))));
}

export async function config({ main, may }) {
  if (!may("admin")) {
    fill(main, el("h1", {}, "Configuration"), el("p", {}, "This page needs the role admin."));
    return;
  }
  const text = await call("/configs");
  const module = el("input", { placeholder: "all modules", size: 14, "aria-label": "Module" });
  const trial = el("textarea", { rows: 8, cols: 70, placeholder: "mqtt: {max_qos: 1}", "aria-label": "A configuration to check" });
  const out = el("pre", { role: "status" });
  fill(main, el("h1", {}, "Configuration"),
    el("p", {}, el("button", { class: "main", onclick: async () => {
      try { await call("/configs/reload", { method: "POST" }); toast("Read again"); } catch (failure) { toast(failure.message); }
    } }, "Reload"), " ", module, " ", ...["error", "warn", "info", "debug"].map((level) => el("button", { onclick: async () => {
      try {
        const name = module.value.trim();
        const known = name ? (await call("/log")).modules : {};
        const logged = await call("/log", { method: "PUT", body: name ? { modules: { ...known, [name]: level } } : { level, modules: {} } });
        const others = Object.entries(logged.modules).map(([name, level]) => `, ${name} at ${level}`);
        toast(`Logs at ${logged.level}${others.join("")}`);
      } catch (failure) { toast(failure.message); }
    } }, `Log ${level}`))),
    el("section", { class: "card" }, el("pre", {}, text)),
    el("h2", {}, "Check a configuration"), trial,
    el("p", {}, el("button", { onclick: async () => {
      const verdict = await call("/configs/validate", { method: "POST", body: trial.value, type: "application/yaml" });
      out.textContent = verdict.valid ? "valid" : verdict.problems.join("\n");
    } }, "Check")), out);
}

export async function doctor({ main }) {
  fill(main, el("h1", {}, "Doctor"), el("p", { class: "quiet" }, "Looking at the host…"));
  const report = await call("/doctor");
  const columns = (...names) => names.map(([name, key]) => ({ name, show: (row) => String(row[key] ?? "–") }));
  fill(main, el("h1", {}, "Doctor"),
    el("p", { class: report.ready ? "good" : "bad" }, report.ready ? "ready" : "not ready"),
    el("p", {}, `This host holds ${report.clients.toLocaleString("en")} clients; first limit: ${report.first_limit ?? "none"}.`),
    el("h2", {}, "Findings"), table("Findings", [
      { name: "Check", kind: "name", show: (row) => row.check },
      ...columns(["Severity", "severity"], ["Found", "found"], ["Needed", "needed"]),
      { name: "Fix", show: (row) => row.fix?.host ?? "–" }], report.findings),
    el("h2", {}, "Limits"), table("Limits", [{ name: "Check", kind: "name", show: (row) => row.check },
      { name: "Clients", kind: "n", show: (row) => count(row.clients) }, ...columns(["Because", "because"])], report.limits),
    el("h2", {}, "Worst cases"), table("Worst cases", [{ name: "Key", kind: "name", show: (row) => row.key },
      { name: "Memory", kind: "n", show: (row) => bytes(row.bytes) }, ...columns(["Because", "because"])], report.worst_cases));
}
