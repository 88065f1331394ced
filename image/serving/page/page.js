// The page at /docs. Addresses are relative, so that it works behind a prefix, too.
const $ = (id) => document.getElementById(id);
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i;
const MOVING = ["waiting", "syncing", "verifying", "loading", "warming"];
let token = "";       // never stored
let states = [];      // as the server lists them
let declared = {};    // by model: what openapi.json says of it
let paths = {};       // of openapi.json
let chosen = "";      // a model's name
let wanted = "form";  // the way to ask that a person chose
let image = null;     // the file that was chosen
let known = "";       // which versions `declared` is about
let timer = 0;

class NoAccess extends Error {}

async function request(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await fetch(path, { ...options, headers, cache: "no-cache", credentials: "omit" });
  if (response.status === 401 && path !== "login") {
    const { error } = await response.json();
    $("access-problem").textContent = token ? error : "";
    $("access").hidden = false;
    throw new NoAccess(error);
  }
  return response;
}

// Models and their phases

async function refresh() {
  clearTimeout(timer);
  try {
    states = (await (await request("models")).json()).models;
    const versions = JSON.stringify(states.map((state) => [state.name, state.serving]));
    if (versions !== known) {
      const { tags, paths: all } = await (await request("openapi.json")).json();
      const before = JSON.stringify(declared[chosen]);
      declared = Object.fromEntries(tags.map((tag) => [tag.name, tag["x-pantry-model"]]));
      [paths, known] = [all, versions];
      if (chosen && before !== JSON.stringify(declared[chosen])) showTrial(); // another model's news empties no form
    }
    $("access").hidden = true;
    $("problem").textContent = states.length ? "" : "models.yaml lists no models.";
    states.forEach(showState);
    for (const row of [...$("models").children]) if (!states.some(({ name }) => row.id === `model-${name}`)) row.remove();
    if (!states.some(({ name }) => name === chosen)) choose(states[0]?.name ?? "");
  } catch (error) {
    if (error instanceof NoAccess) return;
    $("problem").textContent = "The server does not answer. Trying again.";
  }
  const moving = states.some(({ phase }) => MOVING.includes(phase));
  if (!document.hidden) timer = setTimeout(refresh, moving || $("problem").textContent ? 1000 : 5000);
}

function showState(state) {
  const id = `model-${state.name}`;
  let row = $(id);
  if (!row) {
    row = make("label", { id });
    const radio = make("input", { type: "radio", name: "model", value: state.name });
    radio.addEventListener("change", () => choose(state.name));
    row.append(radio, make("span"), make("strong"), make("progress", { hidden: true }), make("small"));
    $("models").append(row);
  }
  const [, name, phase, bar, note] = row.children;
  if (phase.textContent !== state.phase) $("news").textContent = `${state.name} version ${state.version}: ${state.phase}`;
  name.textContent = `${state.name} ${state.version}`;
  phase.textContent = phase.className = state.phase;
  bar.hidden = !MOVING.includes(state.phase) || !state.totalBytes;
  bar.max = state.totalBytes || 1;
  bar.value = state.bytes;
  bar.setAttribute("aria-label", `${state.name}: ${state.phase}`);
  const other = state.serving && state.serving !== state.version ? `Version ${state.serving} answers. ` : "";
  const done = bar.hidden ? "" : `${size(state.bytes)} of ${size(state.totalBytes)}`;
  const asleep = state.onDemand && state.phase === "waiting" ? "Loaded when it is first asked. " : "";
  note.textContent = other + asleep + (state.phase === "failed" ? state.reason : done);
}

function choose(name) {
  chosen = name;
  for (const radio of document.getElementsByName("model")) radio.checked = radio.value === name;
  $("outcome").textContent = $("answer").textContent = "";
  showTrial();
}

// Asking

const model = () => declared[chosen] ?? { inputs: [], loaded: false };
const jsonPath = () => `v1/models/${chosen}:predict`;
const imagePath = () => [`/${jsonPath()}`, "/predict"].find((path) => {
  const post = paths[path]?.post;
  return post?.tags.includes(chosen) && post.requestBody.content["image/png"];
});
const way = () => document.querySelector("[name=way]:checked")?.value;

function showTrial() {
  const { loaded, inputs = [] } = model();
  $("trial").hidden = !chosen;
  $("model-name").textContent = chosen;
  $("not-loaded").hidden = loaded;
  $("form").replaceChildren(...inputs.flatMap(field));
  $("body").value = '{"instances": []}';
  const ways = { form: inputs.length > 0, image: Boolean(imagePath()), json: true };
  for (const radio of document.getElementsByName("way")) radio.parentElement.hidden = !ways[radio.value];
  const now = ways[wanted] ? wanted : Object.keys(ways).find((name) => ways[name]);
  document.querySelector(`[name=way][value=${now}]`).checked = true;
  showWay();
}

function showWay() {
  if (way() === "json" && model().inputs?.length) try { $("body").value = formBody(); } catch { /* half filled in */ }
  for (const name of ["form", "image", "json"]) $(name).hidden = way() !== name;
  showCurl();
}

function field({ name, datatype, shape, columns }) {
  if (columns.length) return columns.flatMap((column) => field({ name: column, datatype, shape: [-1], columns: [] }));
  const id = `input-${name}`, row = shape.slice(1);
  const sizes = row.map((length) => (length < 0 ? "any" : length)).join(" × ");
  const label = make("label", { htmlFor: id, textContent: `${name} ` });
  label.append(make("small", { textContent: row.length ? `${sizes} of ${datatype}, with commas or spaces, or as JSON` : datatype }));
  if (row.length) return [label, make("textarea", { id, rows: 3, spellcheck: false })];
  if (datatype === "BOOL") return [label, make("input", { id, type: "checkbox" })];
  return [label, make("input", { id, inputMode: datatype === "BYTES" ? "text" : "decimal", autocomplete: "off" })];
}

// JSON is written as text, because numbers of 64 bits do not survive as numbers of JavaScript.
function formBody() {
  const rows = model().inputs.map((input) => [JSON.stringify(input.name), rowText(input)]);
  const row = rows.length === 1 ? rows[0][1] : `{${rows.map((pair) => pair.join(": ")).join(", ")}}`;
  return `{"instances": [${row}]}`;
}

function rowText({ name, datatype, shape, columns }) {
  if (columns.length) return list(columns.map((column) => rowText({ name: column, datatype, shape: [-1], columns: [] })));
  const element = $(`input-${name}`), text = element.value.trim(), row = shape.slice(1);
  if (!row.length) return datatype === "BOOL" ? String(element.checked) : valueText(name, datatype, element.value);
  if (text.startsWith("[")) {
    JSON.parse(text);
    return text;
  }
  const words = text.split(datatype === "BYTES" ? "\n" : /[\s,;]+/).filter(Boolean);
  let parts = words.map((word) => valueText(name, datatype, word));
  for (const length of row.slice(1).reverse()) {
    if (length < 0) throw new Error(`${name}: write nested lists as JSON`);
    parts = Array.from({ length: Math.ceil(parts.length / length) }, (_, i) => list(parts.slice(i * length, (i + 1) * length)));
  }
  return list(parts);
}

function valueText(name, datatype, text) {
  const word = text.trim();
  if (datatype === "BYTES") return JSON.stringify(text);
  if (datatype === "BOOL" ? !["true", "false"].includes(word) : !NUMBER.test(word)) {
    throw new Error(`${name}: “${word}” is not ${datatype === "BOOL" ? "true or false" : "a number"}`);
  }
  return word;
}

function question() {
  if (way() === "image") {
    if (!image) throw new Error("Choose an image first");
    return { path: imagePath().slice(1), type: image.type, body: image };
  }
  return { path: jsonPath(), type: "application/json", body: way() === "form" ? formBody() : $("body").value };
}

async function send(event) {
  event.preventDefault();
  $("answer").textContent = "";
  showCurl();
  let asked;
  try {
    asked = question();
  } catch (error) {
    $("outcome").textContent = error.message;
    return;
  }
  $("send").disabled = true;
  $("outcome").textContent = "Asking";
  const began = performance.now();
  try {
    const response = await request(asked.path, { method: "POST", body: asked.body, headers: { "Content-Type": asked.type } });
    const text = await response.text();
    $("outcome").textContent = `${response.status} in ${Math.round(performance.now() - began)} ms`;
    $("answer").textContent = text.length > 50000 ? `${text.slice(0, 50000)} …` : text;
    if (response.status === 503) refresh();
  } catch (error) {
    $("outcome").textContent = error instanceof NoAccess ? error.message : "The server did not answer";
  }
  $("send").disabled = false;
}

function showCurl() {
  $("copied").textContent = "";
  let words;
  try {
    const { path, type, body } = question();
    const data = body === image ? ["--data-binary", quoted(`@${image.name}`)] : ["--data-binary", quoted(body)];
    const access = token ? ['-H "Authorization: Bearer $TOKEN"'] : [];
    words = ["curl", ...access, "-H", quoted(`Content-Type: ${type}`), ...data, quoted(new URL(path, location).href)];
  } catch {
    words = [];
  }
  $("curl").textContent = words.join(" ");
  $("copy").disabled = !words.length;
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copied").textContent = "Copied";
  } catch { // only pages of https and of localhost may write to the clipboard
    getSelection().selectAllChildren($("curl"));
    $("copied").textContent = "Selected: copy it with the keyboard";
  }
}

function takeImage(file) {
  if (!file) return;
  const right = ["image/png", "image/jpeg"].includes(file.type);
  URL.revokeObjectURL($("preview").src);
  image = right ? file : null;
  $("preview").hidden = !right;
  if (right) $("preview").src = URL.createObjectURL(file);
  $("outcome").textContent = right ? "" : "Expected a PNG or a JPEG";
  $("answer").textContent = "";
  showCurl();
}

// Access

async function logIn(event) {
  event.preventDefault();
  const body = JSON.stringify({ username: $("username").value, password: $("password").value });
  const response = await request("login", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  const answer = await response.json();
  $("password").value = "";
  if (response.ok) return useToken(answer.token);
  $("access-problem").textContent = answer.error;
}

function useToken(text) {
  token = text;
  known = $("token").value = $("access-problem").textContent = "";
  refresh();
}

// Helpers

const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const list = (parts) => `[${parts.join(", ")}]`;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
function size(bytes) {
  const power = Math.min(4, Math.floor(Math.log2(bytes || 1) / 10));
  return `${(bytes / 1024 ** power).toFixed(power && 1)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

$("ask").addEventListener("submit", send);
$("ways").addEventListener("change", () => { wanted = way(); showWay(); });
$("form").addEventListener("input", showCurl);
$("body").addEventListener("input", () => { wanted = "json"; showCurl(); });
$("copy").addEventListener("click", copy);
$("file").addEventListener("change", () => takeImage($("file").files[0]));
$("token-form").addEventListener("submit", (event) => { event.preventDefault(); useToken($("token").value.trim()); });
$("login-form").addEventListener("submit", logIn);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
document.addEventListener("paste", (event) => { if (way() === "image") takeImage(event.clipboardData.files[0]); });
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") takeImage(event.dataTransfer.files[0]);
  });
}
refresh();
