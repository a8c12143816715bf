// Elements, numbers and small parts that all pages share.
// Shows these in an element's place for content; null stands for nothing.
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
}

export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const plain = new Intl.NumberFormat("en");
export const count = (value) => value === null || value === undefined ? "–" : plain.format(Math.round(value * 10) / 10);
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}
export function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([unit]) => seconds >= unit);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).map(([unit, name]) => {
    const whole = Math.floor(seconds / unit);
    seconds -= whole * unit;
    return whole ? `${whole} ${name}` : "";
  }).filter(Boolean).join(" ");
}

let hide;
export function toast(text) {
  const box = document.getElementById("toast");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(hide);
  hide = setTimeout(() => box.classList.remove("on"), 5000);
}

export function table(caption, columns, rows) {
  const head = el("tr", {}, columns.map(({ name, kind }) => el("th", { class: kind, scope: "col" }, name)));
  const body = rows.map((row) => el("tr", {}, columns.map(({ show, kind }) => el("td", { class: kind }, show(row)))));
  const empty = el("tr", {}, el("td", { colspan: columns.length, class: "quiet" }, "Nothing."));
  return el("div", { class: "wide card" }, el("table", { "aria-label": caption },
    el("thead", {}, head), el("tbody", {}, body.length ? body : empty)));
}

export function pairs(entries) {
  return el("dl", {}, entries.filter(([, value]) => value !== undefined).flatMap(([name, value]) =>
    [el("dt", {}, name), el("dd", {}, value === null || value === "" ? "–" : value)]));
}

export function field(label, input) { return el("label", {}, label, input); }

// A list that is read by cursor: previous cursors are remembered for the way back.
export function pager(meta, back, go) {
  return el("div", { class: "pager" },
    el("button", { disabled: back.length === 0, onclick: () => go(back.slice(0, -1)) }, "Previous"),
    el("button", { disabled: !meta.hasnext, onclick: () => go([...back, meta.cursor]) }, "Next"),
    el("span", { class: "quiet" }, meta.count !== undefined ? `${count(meta.count)} in all` : ""));
}

const NS = "http://www.w3.org/2000/svg";
export function chart(title, values, show) {
  const most = Math.max(...values.filter(Number.isFinite), 1e-9);
  const drawn = values.length === 1 ? [values[0], values[0]] : values; // one sample is a level line
  const width = Math.max(drawn.length - 1, 1);
  const points = drawn.map((value, at) => `${at},${(100 - 96 * (value ?? 0) / most).toFixed(2)}`);
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("class", "chart");
  svg.setAttribute("viewBox", `0 0 ${width} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}, at most ${show(most)}`);
  for (const [name, d] of [["area", `M0,100 L${points.join(" ")} L${width},100 Z`], ["line", `M${points.join(" L")}`]]) {
    const path = document.createElementNS(NS, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", values.length ? d : "");
    svg.append(path);
  }
  const last = values.at(-1);
  return el("section", { class: "card" }, el("h2", {}, title), el("div", { class: "big" }, last === undefined ? "–" : show(last)),
    svg, el("div", { class: "legend" }, el("span", {}, `last ${span(values.length)}`), el("span", {}, `peak ${show(most < 1e-6 ? 0 : most)}`)));
}
