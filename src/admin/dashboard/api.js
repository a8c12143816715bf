// Calls of the management API, and the token that they carry. The token is kept for this tab only.
const KEY = "ringmq-token";

export class Failure extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY),
};

export async function call(path, { method = "GET", body, type = "application/json", query } = {}) {
  const url = new URL(`/api/v1${path}`, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  const headers = {};
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = type;
  const text = body === undefined ? undefined : type === "application/json" ? JSON.stringify(body) : body;
  const answer = await fetch(url, { method, headers, body: text, cache: "no-store" });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Failure(answer.status, problem.detail ?? answer.statusText);
  }
  if (answer.status === 204) return null;
  return answer.headers.get("content-type")?.includes("json") ? answer.json() : answer.text();
}

export const part = encodeURIComponent;
