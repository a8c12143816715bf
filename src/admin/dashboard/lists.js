// Subscriptions, filters, retained messages, listeners.
import { call, part } from "./api.js";
import { bytes, count, el, field, fill, pager, pairs, table, toast } from "./ui.js";

function searching(main, title, inputs, ask, columns) {
  const out = el("div");
  const load = async (back = []) => {
    try {
      const page = await ask(back.at(-1));
      fill(out, table(title, columns(() => load(back)), page.data), pager(page.meta, back, load));
    } catch (failure) {
      fill(out, el("p", { class: "bad", role: "alert" }, failure.message));
    }
  };
  fill(main, el("h1", {}, title), el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); load(); } },
    ...inputs, el("button", { class: "main" }, "Search")), out);
  return load();
}

export async function subscriptions({ main }) {
  const client = el("input", { type: "search" });
  const name = el("input", { type: "search", placeholder: "plant/7/temperature" });
  const group = el("input", { type: "search" });
  await searching(main, "Subscriptions",
    [field("ClientId", client), field("Matching the topic", name), field("Share group", group)],
    (cursor) => call("/subscriptions", { query: { limit: 100, cursor, clientid: client.value, match_topic: name.value, share_group: group.value } }),
    () => [
      { name: "Filter", show: (row) => row.topic },
      { name: "ClientId", show: (row) => el("a", { href: `#/client/${part(row.clientid)}` }, row.clientid) },
      { name: "QoS", kind: "n", show: (row) => row.qos },
    ]);
}

export async function topics({ main }) {
  const like = el("input", { type: "search" });
  const name = el("input", { type: "search", placeholder: "plant/7/temperature" });
  await searching(main, "Topics", [field("Containing", like), field("Matching the topic", name)],
    (cursor) => call("/topics", { query: { limit: 100, cursor, like_topic: like.value, match_topic: name.value } }),
    () => [
      { name: "Filter", show: (row) => row.topic },
      { name: "Subscribers", kind: "n", show: (row) => count(row.subscribers) },
      { name: "Shard", kind: "n", show: (row) => row.shard },
    ]);
}

export async function retained({ main, may }) {
  const filter = el("input", { type: "search", value: "#" });
  const shown = el("div");
  const look = async (topic) => {
    const message = await call(`/mqtt/retainer/message/${part(topic)}`);
    const raw = Uint8Array.from(atob(message.payload), (letter) => letter.charCodeAt(0));
    fill(shown, el("section", { class: "card" }, el("h2", {}, topic),
      pairs([["QoS", String(message.qos)], ["Expires in", message.expires_in === null ? "never" : `${message.expires_in} s`],
        ["Size", bytes(message.payload_bytes)], ["Properties", JSON.stringify(message.properties)]]),
      el("pre", {}, new TextDecoder().decode(raw.subarray(0, 65536)))));
  };
  await searching(main, "Retained messages", [field("Topic filter", filter)],
    (cursor) => call("/mqtt/retainer/messages", { query: { limit: 100, cursor, topic: filter.value } }),
    (again) => [
      { name: "Topic", show: (row) => row.topic },
      { name: "QoS", kind: "n", show: (row) => row.qos },
      { name: "Size", kind: "n", show: (row) => bytes(row.payload_bytes) },
      { name: "Expires in", kind: "n less", show: (row) => row.expires_in === null ? "never" : `${row.expires_in} s` },
      { name: "", show: (row) => el("span", {},
        el("button", { onclick: () => look(row.topic).catch((failure) => toast(failure.message)) }, "Show"), " ",
        may("operator") ? el("button", { class: "danger", onclick: async () => {
          if (!confirm(`Clear the retained message of ${row.topic}?`)) return;
          await call(`/mqtt/retainer/message/${part(row.topic)}`, { method: "DELETE" }).catch((failure) => toast(failure.message));
          again();
        } }, "Clear") : null) },
    ]);
  main.append(shown);
}

export async function listeners({ main, may }) {
  const [all, groups] = await Promise.all([call("/listeners"), call("/share_groups", { query: { limit: 100 } })]);
  fill(main, el("h1", {}, "Listeners"), table("Listeners", [
    { name: "Name", show: (row) => row.name },
    { name: "Type", show: (row) => row.type },
    { name: "Address", show: (row) => row.bind },
    { name: "Connections", kind: "n", show: (row) => count(row.current_connections) },
    { name: "Most", kind: "n", show: (row) => row.max_connections === null ? "unlimited" : count(row.max_connections) },
    { name: "", show: (row) => may("operator") ? el("button", { class: row.running ? "danger" : "", onclick: async () => {
      if (row.running && !confirm(`Close the listener ${row.name}? Who is connected stays.`)) return;
      await call(`/listeners/${part(row.id)}/${row.running ? "stop" : "start"}`, { method: "POST" }).catch((failure) => toast(failure.message));
      await listeners({ main, may });
    } }, row.running ? "Stop" : "Start") : (row.running ? "" : "stopped") },
  ], all), el("h2", {}, "Share groups"), table("Share groups", [
    { name: "Group", show: (row) => row.topic },
    { name: "Members", kind: "n", show: (row) => count(row.members) },
    { name: "Shard", kind: "n", show: (row) => row.shard },
  ], groups.data));
}
