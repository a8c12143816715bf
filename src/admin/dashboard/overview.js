// What the broker does now, and has done in the last hour.
import { call } from "./api.js";
import { bytes, chart, count, el, fill, pairs, span, table } from "./ui.js";

export async function show({ main }) {
  const body = el("div");
  fill(main, el("h1", {}, "Overview"), body);
  let samples = [];
  const refresh = async () => {
    const since = samples.at(-1)?.time_stamp ?? 0;
    const [nodes, more, metrics, alarms] = await Promise.all([
      call("/nodes"), call("/monitor", { query: { since } }), call("/metrics"), call("/alarms")]);
    samples = [...samples, ...more].slice(-3600);
    draw(body, nodes[0], samples, metrics[0], alarms);
  };
  await refresh();
  const timer = setInterval(() => refresh().catch(() => {}), 2000);
  return () => clearInterval(timer);
}

function draw(body, node, samples, metrics, alarms) {
  const of = (name) => samples.map((sample) => sample[name]);
  const perSecond = (value) => `${count(value)}/s`;
  const last = samples.at(-1);
  const drops = Object.entries(metrics)
    .filter(([name, value]) => name.startsWith("ringmq_messages_dropped_total{") && value > 0)
    .map(([name, value]) => ({ reason: name.match(/reason=([^,}]+)/)?.[1] ?? name, value }))
    .sort((one, other) => other.value - one.value);
  const cores = (last?.shards ?? []).map((shard, at) => el("div", {},
    el("div", { class: "legend" }, el("span", {}, `Shard ${at}`),
      el("span", {}, `CPU ${Math.round(shard.cpu * 100)} %, ${Math.round(shard.busy * 100)} % busy, lag ${shard.lag_ms.toFixed(1)} ms, holds ${bytes(shard.memory)}`)),
    el("div", { class: "meter" }, el("i", { style: null }, ""))));
  (last?.shards ?? []).forEach((shard, at) => {
    cores[at].querySelector("i").style.width = `${Math.min(100, shard.cpu * 100)}%`;
  });
  fill(body,
    ...alarms.map((alarm) => el("p", { class: "bad", role: "alert" },
      `${alarm.name}: ${alarm.message} (since ${new Date(alarm.activate_at).toLocaleString()})`)),
    el("div", { class: "grid" },
      chart("Connected clients", of("live_connections"), count),
      chart("Messages in", of("received"), perSecond),
      chart("Messages out", of("sent"), perSecond),
      chart("Dropped", of("dropped"), perSecond),
      chart("Bytes in", of("received_bytes"), (value) => `${bytes(value)}/s`),
      chart("Bytes out", of("sent_bytes"), (value) => `${bytes(value)}/s`)),
    el("div", { class: "grid" },
      el("section", { class: "card" }, el("h2", {}, "Broker"), pairs([
        ["Node", node.node],
        ["State", el("span", { class: node.node_status === "running" ? "good" : "bad" }, node.node_status)],
        ["Version", node.version],
        ["Up", span(node.uptime / 1000)],
        ["Sessions", count(node.connections)],
        ["Memory", bytes(node.memory_used)],
        ["CPU time", span(node.cpu_seconds ?? 0)],
        ["Descriptors", `${count(node.open_fds)} of ${count(node.max_fds)}`],
      ])),
      el("section", { class: "card" }, el("h2", {}, "Cores"), ...cores),
      chart("Memory", of("memory"), bytes)),
    el("h2", {}, "Messages dropped since the start, by reason"),
    table("Drops by reason", [
      { name: "Reason", show: (row) => row.reason },
      { name: "Messages", kind: "n", show: (row) => count(row.value) },
    ], drops));
}
