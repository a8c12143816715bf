// Clients: search, details, disconnect.
import { call, part } from "./api.js";
import { bytes, count, el, field, fill, pager, pairs, span, table, toast } from "./ui.js";

export async function list({ main }) {
  const like = el("input", { type: "search", placeholder: "part of a ClientId" });
  const username = el("input", { type: "search" });
  const address = el("input", { type: "search", placeholder: "10.0.0.7" });
  const state = el("select", {}, ["", "connected", "disconnected"].map((value) => el("option", { value }, value || "all")));
  const busy = el("input", { type: "checkbox" });
  const out = el("div");
  const load = async (back = []) => {
    try {
      const page = await call("/clients", { query: {
        limit: 100, cursor: back.at(-1), like_clientid: like.value, username: username.value,
        ip_address: address.value, conn_state: state.value, busy: busy.checked ? "true" : "" } });
      fill(out, table("Clients", [
        { name: "ClientId", show: (row) => el("a", { href: `#/client/${part(row.clientid)}` }, row.clientid) },
        { name: "State", show: (row) => el("span", { class: row.connected ? "good" : "quiet" }, row.connected ? "connected" : "away") },
        { name: "User", kind: "less", show: (row) => row.username ?? "–" },
        { name: "Address", kind: "less", show: (row) => row.ip_address ? `${row.ip_address}:${row.port}` : "–" },
        { name: "Listener", kind: "less", show: (row) => row.listener ?? "–" },
        { name: "MQTT", kind: "less", show: (row) => ({ 3: "3.1", 4: "3.1.1", 5: "5.0" })[row.proto_ver] },
        { name: "Subscriptions", kind: "n", show: (row) => count(row.subscriptions_cnt) },
        { name: "Queue", kind: "n", show: (row) => count(row.mqueue_len) },
      ], page.data), pager(page.meta, back, load));
    } catch (failure) {
      fill(out, el("p", { class: "bad", role: "alert" }, failure.message));
    }
  };
  fill(main, el("h1", {}, "Clients"), el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); load(); } },
    field("ClientId", like), field("User", username), field("Address", address), field("State", state),
    el("label", { class: "check" }, busy, "slow: a queue, or held back"), el("button", { class: "main" }, "Search")), out);
  await load();
}

// What is known of its past: traffic of the last minutes, how its last connection ended, drops.
function past({ recent_traffic: traffic, last_disconnect: last, drops }) {
  const both = (messages, octets) => `${count(messages)} messages, ${bytes(octets)}`;
  const code = last?.reason_code;
  const reasons = Object.entries(drops?.by_reason ?? {}).map(([reason, number]) => `${reason} ${count(number)}`);
  return pairs([
    ["Covers", traffic ? span(traffic.seconds) : null],
    ["From it", traffic ? both(traffic.recv_msg, traffic.recv_oct) : null],
    ["To it", traffic ? both(traffic.send_msg, traffic.send_oct) : null],
    ["Dropped", reasons.length ? `${reasons.join(", ")} in ${span(drops.seconds)}` : "nothing"],
    ["Last disconnected", last ? last.at : "not lately"],
    ["Why", last ? `${last.reason}${code === null ? "" : ` (0x${code.toString(16).padStart(2, "0")})`}` : null],
  ]);
}

export async function one({ main, rest: [name], may }) {
  const [client, subscriptions] = await Promise.all([
    call(`/clients/${part(name)}`), call(`/clients/${part(name)}/subscriptions`)]);
  const act = (what, run) => el("button", { class: "danger", onclick: async () => {
    if (!confirm(`${what} ${name}?`)) return;
    try {
      await run();
      toast(`${what}: done`);
      location.hash = "#/clients";
    } catch (failure) { toast(failure.message); }
  } }, what);
  fill(main, el("h1", {}, name),
    may("operator") ? el("p", {},
      client.connected ? act("Disconnect", () => call(`/clients/${part(name)}/disconnect`, { method: "POST" })) : null, " ",
      act("End session", () => call(`/clients/${part(name)}`, { method: "DELETE" }))) : null,
    el("div", { class: "grid" },
      el("section", { class: "card" }, el("h2", {}, "Connection"), pairs([
        ["State", client.connected ? "connected" : "away"],
        ["Since", client.connected_at],
        ["Address", client.ip_address ? `${client.ip_address}:${client.port}` : null],
        ["Listener", client.listener],
        ["User", client.username],
        ["Certificate", client.cn],
        ["MQTT", ({ 3: "3.1", 4: "3.1.1", 5: "5.0" })[client.proto_ver]],
        ["Silence allowed", client.silence_allowed ? `${client.silence_allowed / 1000} s` : "any"],
        ["On its way", bytes(client.unsent_bytes)],
        ["Held back", client.held ? "yes" : "no"],
      ])),
      el("section", { class: "card" }, el("h2", {}, "Session"), pairs([
        ["Shard", String(client.shard)],
        ["Expiry", client.expiry_interval === 4294967295 ? "never" : `${count(client.expiry_interval)} s`],
        ["Ends", client.session_ends_at],
        ["Window", `${client.inflight_cnt} of ${client.inflight_max}`],
        ["Queue", `${count(client.mqueue_len)} of ${count(client.mqueue_max)}, ${bytes(client.mqueue_bytes)}`],
        ["Unreleased", count(client.awaiting_rel_cnt)],
        ["Will", client.has_will ? "yes" : "no"],
        ["Mountpoint", client.mountpoint],
      ])),
      el("section", { class: "card" }, el("h2", {}, "Traffic"), past(client))),
    el("h2", {}, "Subscriptions"),
    table("Subscriptions", [
      { name: "Filter", show: (row) => row.topic },
      { name: "QoS", kind: "n", show: (row) => row.qos },
      { name: "No Local", kind: "less", show: (row) => row.nl ? "yes" : "no" },
      { name: "Identifier", kind: "n", show: (row) => row.subid ?? "–" },
    ], subscriptions));
}
