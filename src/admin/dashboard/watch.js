// Who weighs most, and traces.
import { call, part } from "./api.js";
import { count, el, field, fill, table, toast } from "./ui.js";

const MEASURES = [
  ["messages_received", "Messages from it"], ["messages_sent", "Messages to it"],
  ["bytes_received", "Bytes from it"], ["bytes_sent", "Bytes to it"],
  ["drops", "Messages dropped"], ["slow_sends", "Milliseconds of slow sends"],
];

export async function top({ main }) {
  const by = el("select", {}, ...MEASURES.map(([value, title]) => el("option", { value }, title)));
  const out = el("div");
  const load = async () => {
    const found = await call("/top", { query: { by: by.value, limit: 50 } });
    fill(out, el("p", {}, `Of the last ${Math.round(found.seconds)} seconds; traffic is estimated from samples.`),
      table("Heaviest clients", [
        { name: "ClientId", show: (row) => el("a", { href: `#/client/${part(row.clientid)}` }, row.clientid) },
        { name: "In all", kind: "n", show: (row) => count(row.total) },
        { name: "Per second", kind: "n", show: (row) => count(Math.round(row.per_second)) },
        { name: "Shard", kind: "n less", show: (row) => row.shard },
      ], found.data));
  };
  by.addEventListener("change", () => load().catch((failure) => toast(failure.message)));
  fill(main, el("h1", {}, "Heaviest clients"), el("div", { class: "row" }, field("By", by)), out);
  await load();
}

export async function trace({ main, may }) {
  if (!may("operator")) {
    fill(main, el("h1", {}, "Trace"), el("p", {}, "Traces show what clients say: the role operator is needed."));
    return undefined;
  }
  const kind = el("select", {}, ...[["clientid", "ClientId"], ["username", "User name"], ["ip_address", "Address"],
    ["topic", "Topic filter"]].map(([value, title]) => el("option", { value }, title)));
  const value = el("input", { type: "search", required: true });
  const payload = el("input", { type: "checkbox" });
  const [all, lines] = [el("div"), el("pre", { class: "console", tabindex: "0", "aria-live": "polite" })];
  let [shown, position] = [null, 0];
  const attempt = (deed) => deed().then(load).catch((failure) => toast(failure.message));
  const load = async () => {
    fill(all, table("Traces", [
      { name: "Name", show: (row) => row.name },
      { name: "Follows", show: (row) => `${row.type} ${row.of}` },
      { name: "State", show: (row) => row.status },
      { name: "Lines", kind: "n", show: (row) => count(row.lines) },
      { name: "Lost", kind: "n less", show: (row) => count(row.lost) },
      { name: "", show: (row) => el("span", {},
        el("button", { onclick: () => { [shown, position] = [row.name, 0]; lines.textContent = ""; follow(); } }, "Show"), " ",
        row.status === "running" ? el("button", { onclick: () => attempt(() => call(`/trace/${part(row.name)}/stop`, { method: "PUT" })) }, "Stop") : null, " ",
        el("button", { class: "danger", onclick: () => attempt(() => call(`/trace/${part(row.name)}`, { method: "DELETE" })) }, "Remove")) },
    ], await call("/trace")));
  };
  const follow = async () => {
    if (!shown) return;
    const some = await call(`/trace/${part(shown)}/log`, { query: { position, bytes: 65536 } });
    position = some.meta.position;
    lines.textContent = (lines.textContent + some.items).slice(-200000);
  };
  const begin = async (event) => {
    event.preventDefault();
    const name = `dashboard-${Date.now()}`;
    const body = { name, type: kind.value, [kind.value]: value.value, payload_encode: payload.checked ? "text" : "hidden" };
    await attempt(() => call("/trace", { method: "POST", body }));
    [shown, position, lines.textContent] = [name, 0, ""];
  };
  fill(main, el("h1", {}, "Trace"), el("form", { class: "row", onsubmit: begin }, field("Follow", kind), field("Which", value),
    field("With payloads", payload), el("button", { class: "main" }, "Begin")), all, el("h2", {}, "Lines"), lines);
  await load();
  const timer = setInterval(() => { follow().catch(() => {}); load().catch(() => {}); }, 1000);
  return () => clearInterval(timer);
}
