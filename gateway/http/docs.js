// The page under /docs: reads one version's OpenAPI document and shows an operation at a time, with a form to try it.
// Everything from the document or a server goes in as text, never as markup. The token lives in its input alone.

const CANDIDATES = ["EUR", "ABC-123", "abc", "+4930123456", "name@example.com", "10.00", "1", "0", "A", "a"];
const METHODS = ["get", "post", "patch", "put", "delete"];
const SCHEMA_DEPTH = 6;
const WIDE = window.matchMedia("(min-width: 52rem)");

const byId = (id) => document.getElementById(id);
const state = { api: null, operations: [] };

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// --- the document -------------------------------------------------------------------------------------------------------

function resolve(node) {
  let found = node;
  for (let steps = 0; found && found.$ref && steps < 20; steps += 1) {
    const { $ref, ...beside } = found;
    const target = $ref.slice(2).split("/").reduce((at, key) => at?.[decodeURIComponent(key).replaceAll("~1", "/").replaceAll("~0", "~")], state.api);
    found = { ...target, ...beside };
  }
  return found ?? {};
}

const refName = (node) => (node.$ref ? node.$ref.split("/").pop() : "");

function collectOperations(api) {
  return Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({
      ...item[method],
      path,
      method,
      parameters: [...(item.parameters ?? []), ...(item[method].parameters ?? [])].map(resolve),
    })),
  );
}

// --- text ---------------------------------------------------------------------------------------------------------------

// Paragraphs, `code` and tables: as much of Markdown as the document's descriptions use.
function prose(text) {
  return (text ?? "").split(/\n\n+/).filter(Boolean).map((block) => (block.startsWith("|") ? table(block) : h("p", {}, inline(block))));
}

function inline(text) {
  return text.split(/(`+[^`]*`+)/).filter(Boolean).map((part) => (part.startsWith("`") ? h("code", {}, part.replace(/^`+|`+$/g, "")) : part));
}

function table(block) {
  const [head, , ...rows] = block.split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  return h("div", { class: "scroll" },
    h("table", {},
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell))))))));
}

// --- schemas ------------------------------------------------------------------------------------------------------------

function typeText(node) {
  const schema = resolve(node);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.length > 8 ? `one of ${schema.enum.length} words` : schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return alternatives.map(typeText).join(" or ");
  if (schema.type === "array") return `array of ${typeText(schema.items ?? {})}${lengths(schema.minItems, schema.maxItems, "items")}`;
  if (Array.isArray(schema.type)) return schema.type.join(" or ");
  const parts = [schema.type ?? (schema.properties ? "object" : "anything")];
  if (schema.format) parts.push(`(${schema.format})`);
  if (schema.contentEncoding) parts.push(`(${schema.contentEncoding})`);
  if ((schema.minimum !== undefined || schema.maximum !== undefined) && !isUnreadable(schema)) parts.push(`from ${schema.minimum ?? "…"} to ${schema.maximum ?? "…"}`);
  return parts.join(" ") + lengths(schema.minLength, schema.maxLength, "characters");
}

// The ends of a 64-bit integer are beyond what JavaScript reads exactly, and those of a double say nothing.
function isUnreadable({ minimum = 0, maximum = 0 }) {
  return Math.max(Math.abs(minimum), Math.abs(maximum)) > Number.MAX_SAFE_INTEGER;
}

function lengths(least, greatest, unit) {
  if (least === undefined && greatest === undefined) return "";
  if (least === greatest) return `, ${least} ${unit}`;
  if (greatest === undefined && least === 1) return `, at least 1 ${unit.replace(/s$/, "")}`;
  return greatest === undefined ? `, at least ${least} ${unit}` : `, ${least ?? 0} to ${greatest} ${unit}`;
}

function patterns(node) {
  const schema = resolve(node);
  return [schema, ...(schema.anyOf ?? []).map(resolve)].map((each) => each.pattern).filter((pattern) => pattern && pattern.length <= 80);
}

function schemaView(node, depth = 0) {
  const schema = node.allOf ? resolve(node.allOf[0]) : resolve(node);
  const inner = schema.type === "array" ? resolve(schema.items ?? {}) : schema;
  if (!inner.properties || depth > SCHEMA_DEPTH) return h("p", {}, h("code", {}, typeText(schema)));
  const rows = Object.entries(inner.properties).map(([name, property]) => {
    const nested = nestedObject(property);
    const required = inner.required?.includes(name);
    return h("tr", {},
      h("td", { class: "name" }, h("span", required ? { class: "required" } : {}, name)),
      h("td", {},
        h("span", { class: "mono" }, typeText(property)),
        patterns(property).map((pattern) => [" ", h("code", {}, pattern)]).flat(),
        resolve(property).description ? h("div", { class: "quiet" }, inline(resolve(property).description)) : null,
        nested ? lazyDetails("Its members", () => schemaView(nested, depth + 1)) : null));
  });
  return h("div", { class: "scroll schema" },
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Member"), h("th", { scope: "col" }, "Value"))), h("tbody", {}, rows)));
}

function nestedObject(property) {
  const schema = resolve(property);
  return [schema, resolve(schema.items ?? {}), ...(schema.anyOf ?? []).map(resolve)].find((each) => each.properties);
}

function lazyDetails(title, build) {
  const details = h("details", {}, h("summary", {}, title));
  details.addEventListener("toggle", () => { if (details.open && details.childElementCount === 1) details.append(build()); });
  return details;
}

function example(node, whole) {
  const schema = resolve(node);
  if (schema.default !== undefined) return schema.default;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  if (schema.anyOf) return example(schema.anyOf.find((each) => each.type !== "null") ?? {}, whole);
  if (schema.properties) {
    const names = Object.keys(schema.properties);
    const shown = schema.required ?? (whole ? names : names.slice(0, 1));
    return Object.fromEntries(shown.map((name) => [name, example(schema.properties[name], whole)]));
  }
  const type = Array.isArray(schema.type) ? "object" : schema.type;
  return { string: () => exampleText(schema), integer: () => exampleNumber(schema), number: () => exampleNumber(schema), boolean: () => true, array: () => [] }[type]?.() ?? {};
}

function exampleNumber({ minimum = -Infinity, maximum = Infinity }) {
  return Math.min(Math.max(1, minimum), maximum);
}

function exampleText({ format, pattern, minLength = 0, maxLength = Infinity }) {
  const now = new Date().toISOString();
  const known = { uuid: "00000000-0000-4000-8000-000000000000", date: now.slice(0, 10), "date-time": now, ipv4: "192.0.2.1" }[format];
  if (known) return known;
  const candidates = pattern ? CANDIDATES : ["text", "a", "x".repeat(Math.min(minLength, 200))];
  const fits = (text) => text.length >= minLength && text.length <= maxLength && matches(pattern, text);
  return candidates.find(fits) ?? "";
}

function matches(pattern, text) {
  try {
    return !pattern || new RegExp(pattern, "u").test(text);
  } catch {
    return true;
  }
}

// --- navigation ---------------------------------------------------------------------------------------------------------

function showNavigation() {
  const wanted = byId("find").value.trim().toLowerCase();
  const current = currentId();
  const groups = (state.api.tags ?? []).map(({ name, description }) => {
    const all = state.operations.filter((operation) => operation.tags?.includes(name));
    const shown = all.filter((operation) => `${name} ${operation.summary} ${operation.method} ${operation.path}`.toLowerCase().includes(wanted));
    if (!shown.length) return null;
    const open = Boolean(wanted) || shown.some((operation) => operation.operationId === current) || (state.api.tags.length <= 10 && WIDE.matches);
    return h("details", { open },
      h("summary", { title: description }, name),
      h("ul", {}, shown.map((operation) =>
        h("li", {}, h("a", { href: `#${encodeURIComponent(operation.operationId)}`, "aria-current": operation.operationId === current ? "page" : null },
          h("span", { class: `method ${operation.method}` }, operation.method),
          h("span", { class: operation.deprecated ? "deprecated" : null }, operation.path.replace(/^\/api\/[^/]+/, "") || operation.path))))));
  }).filter(Boolean);
  byId("operations").replaceChildren(...(groups.length ? groups : [h("p", { class: "quiet" }, "Nothing of that name.")]));
}

function currentId() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

function show(focus) {
  const operation = state.operations.find((each) => each.operationId === currentId());
  showNavigation();
  byId("main").replaceChildren(...(operation ? operationView(operation) : overview()));
  document.title = operation ? `${operation.summary} · ${state.api.info.title}` : state.api.info.title;
  if (focus) {
    byId("main").focus({ preventScroll: true });
    window.scrollTo(0, byId("main").getBoundingClientRect().top < 0 ? 0 : window.scrollY);
  }
}

function overview() {
  return [h("h1", {}, `${state.api.info.title} ${state.api.info.version}`), ...prose(state.api.info.description),
    h("h2", {}, "Resources"),
    h("div", { class: "scroll" }, h("table", {}, h("tbody", {}, (state.api.tags ?? []).map(({ name, description }) => {
      const first = state.operations.find((operation) => operation.tags?.includes(name));
      return h("tr", {}, h("td", { class: "name" }, first ? h("a", { href: `#${encodeURIComponent(first.operationId)}` }, name) : name), h("td", {}, description ?? ""));
    }))))];
}

// --- one operation ------------------------------------------------------------------------------------------------------

function operationView(operation) {
  const form = h("form", { autocomplete: "off", novalidate: true });
  const inputs = new Map();
  const answer = h("section", { "aria-label": "Answer", "aria-live": "polite" });
  const curl = h("pre", { class: "wrap", tabindex: "0" });
  const body = bodyEditor(operation);
  const refresh = () => { curl.textContent = curlLine(buildRequest(operation, inputs, body)); };
  form.append(...parameterSections(operation, inputs), ...(body ? [body.element] : []),
    h("div", { class: "bar" }, h("button", { class: "main", type: "submit" }, "Send"), h("span", { class: "quiet" }, "Parameters left empty are not sent.")),
    h("h3", {}, "As curl"), curl, copyButton(() => curl.textContent), answer);
  form.addEventListener("input", refresh);
  form.addEventListener("change", refresh);
  form.addEventListener("submit", (event) => { event.preventDefault(); send(operation, inputs, body, answer, form.querySelector("button.main")); });
  byId("token").oninput = refresh;
  refresh();
  return [
    h("h1", {}, operation.summary ?? operation.operationId),
    h("p", { class: "path" }, h("span", { class: `method ${operation.method}` }, operation.method), h("span", {}, operation.path)),
    ...prose(operation.description),
    h("h2", {}, "Try it"), form,
    ...(body ? [h("h2", {}, "Body"), schemaView(body.schema)] : []),
    h("h2", {}, "Answers"), ...Object.entries(operation.responses).map(responseView),
  ];
}

function parameterSections(operation, inputs) {
  const field = ({ name }) => name.replace(/\[[a-z]*\]$/, "");
  const counts = new Map();
  for (const parameter of operation.parameters) counts.set(field(parameter), (counts.get(field(parameter)) ?? 0) + 1);
  const alone = operation.parameters.filter((parameter) => counts.get(field(parameter)) === 1);
  const grouped = Map.groupBy
    ? Map.groupBy(operation.parameters.filter((parameter) => counts.get(field(parameter)) > 1), field)
    : operation.parameters.filter((parameter) => counts.get(field(parameter)) > 1).reduce((groups, parameter) => groups.set(field(parameter), [...(groups.get(field(parameter)) ?? []), parameter]), new Map());
  const sections = alone.length ? [h("div", {}, alone.map((parameter) => parameterRow(parameter, inputs)))] : [];
  if (!alone.length && !grouped.size && !operation.requestBody) sections.push(h("p", { class: "quiet" }, "It takes no parameters."));
  if (grouped.size) sections.push(conditions(grouped, inputs));
  return sections;
}

function conditions(grouped, inputs) {
  const groups = [...grouped].map(([name, parameters]) => {
    const rows = parameters.map((parameter) => parameterRow(parameter, inputs));
    const details = h("details", { class: "group" }, h("summary", {}, h("span", { class: "mono" }, name), h("span", { class: "count" }, `${parameters.length} parameters`)), rows);
    return { name, parameters, rows, details };
  });
  const none = h("p", { class: "quiet", hidden: true }, "No condition of that name.");
  const search = h("input", { type: "search", id: "find-condition", placeholder: "Find a condition: price, [between], null…", autocomplete: "off" });
  search.addEventListener("input", (event) => {
    event.stopPropagation();
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const { parameters, rows, details } of groups) {
      const hits = parameters.map((parameter) => `${parameter.name} ${parameter.description ?? ""}`.toLowerCase().includes(wanted));
      rows.forEach((row, index) => { row.hidden = !hits[index]; });
      details.hidden = !hits.some(Boolean);
      details.open = Boolean(wanted) && !details.hidden;
      found += hits.filter(Boolean).length;
    }
    none.hidden = found > 0;
  });
  return h("section", { "aria-label": "Conditions" }, h("h3", {}, "Conditions"),
    h("div", { class: "bar" }, h("label", { for: "find-condition" }, "Find"), search), groups.map(({ details }) => details), none);
}

function parameterRow(parameter, inputs) {
  const id = `parameter-${inputs.size}`;
  const schema = parameter.content ? Object.values(parameter.content)[0].schema : parameter.schema ?? {};
  const control = controlFor(id, parameter, resolve(schema));
  inputs.set(control, parameter);
  const kind = parameter.content ? "JSON" : typeText(schema);
  return h("div", { class: "parameter" },
    h("label", { for: id, class: parameter.required ? "required" : null }, parameter.name),
    h("div", { class: "control" }, control,
      h("p", {}, inline(parameter.description ?? ""), parameter.description ? " " : "", h("span", { class: "mono" }, kind), parameter.in === "header" ? " · header" : "")));
}

function controlFor(id, parameter, schema) {
  const common = { id, "aria-required": parameter.required ? "true" : null };
  if (parameter.content) return h("textarea", { ...common, spellcheck: "false" });
  const choices = schema.type === "boolean" ? ["true", "false"] : schema.enum;
  if (choices && choices.length <= 30) return h("select", common, h("option", { value: "" }, ""), choices.map((choice) => h("option", {}, String(choice))));
  const hint = schema.default !== undefined ? String(schema.default) : schema.type === "array" ? "a,b" : "";
  return h("input", { ...common, type: "text", spellcheck: "false", placeholder: hint, inputmode: schema.type === "integer" ? "numeric" : null, list: listOf(id, schema) });
}

// Words to choose from, offered as the first item of a list is typed.
function listOf(id, schema) {
  const words = schema.type === "array" ? resolve(schema.items ?? {}).enum : null;
  if (!words) return null;
  const name = `${id}-words`;
  queueMicrotask(() => byId(id)?.after(h("datalist", { id: name }, words.map((word) => h("option", { value: word })))));
  return name;
}

function bodyEditor(operation) {
  const content = operation.requestBody && resolve(operation.requestBody).content;
  if (!content) return null;
  const mediaTypes = Object.keys(content);
  const schema = content[mediaTypes[0]].schema;
  const editor = h("textarea", { id: "body", spellcheck: "false" });
  editor.value = JSON.stringify(example(schema, false), null, 2);
  const select = h("select", { id: "media-type" }, mediaTypes.map((each) => h("option", {}, each)));
  const element = h("section", { "aria-label": "Body" }, h("h3", {}, "Body"),
    h("div", { class: "bar" }, h("label", { for: "media-type" }, "Content-Type"), select,
      h("button", { type: "button", onclick: () => { editor.value = JSON.stringify(example(schema, false), null, 2); editor.dispatchEvent(new Event("input", { bubbles: true })); } }, "Required fields"),
      h("button", { type: "button", onclick: () => { editor.value = JSON.stringify(allMembers(schema), null, 2); editor.dispatchEvent(new Event("input", { bubbles: true })); } }, "All fields")),
    h("label", { for: "body", class: "visually-hidden" }, "Body, as JSON"), editor);
  return { element, editor, select, schema };
}

function allMembers(node) {
  return Object.fromEntries(Object.entries(resolve(node).properties ?? {}).map(([name, property]) => [name, example(property, true)]));
}

function responseView([status, reference]) {
  const response = resolve(reference);
  const content = Object.values(response.content ?? {})[0];
  const names = Object.keys(response.headers ?? {});
  return h("details", { class: "group" },
    h("summary", {}, h("span", { class: `status ${status < "400" ? "good" : "bad"}` }, status), " ", inline(response.description ?? "")),
    h("h3", {}, "Headers"),
    h("ul", {}, names.map((name) => h("li", {}, h("code", {}, name), " ", resolve(response.headers[name]).description ?? ""))),
    content ? [h("h3", {}, "Body"), schemaView(content.schema)] : []);
}

// --- requests -----------------------------------------------------------------------------------------------------------

// Brackets, commas and colons stay readable: a URL's query may hold them as they are.
const encodeQuery = (text) => encodeURIComponent(text).replace(/%(5B|5D|2C|3A)/g, decodeURIComponent);

function buildRequest(operation, inputs, body) {
  let path = operation.path;
  const query = [];
  const headers = {};
  for (const [control, parameter] of inputs) {
    const value = control.value;
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, value ? encodeURIComponent(value).replaceAll("%2C", ",") : `{${parameter.name}}`);
    else if (value === "") continue;
    else if (parameter.in === "query") query.push(`${encodeQuery(parameter.name)}=${encodeQuery(value)}`);
    else if (parameter.in === "header") headers[parameter.name] = value;
  }
  const token = byId("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = body.select.value;
  return { method: operation.method.toUpperCase(), path: query.length ? `${path}?${query.join("&")}` : path, headers, body: body ? body.editor.value : undefined };
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curlLine({ method, path, headers, body }) {
  const parts = ["curl -g -i"];
  if (method !== "GET") parts.push(`-X ${method}`);
  parts.push(quote(location.origin + path));
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quote(`${name}: ${name === "Authorization" ? "Bearer $TOKEN" : value}`).replace(/'(Authorization: Bearer \$TOKEN)'/, '"$1"')}`);
  if (body !== undefined) parts.push(`--data-binary ${quote(body)}`);
  return parts.join(" ");
}

function copyButton(text) {
  const button = h("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy it by hand";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

async function send(operation, inputs, body, answer, button) {
  const missing = [...inputs].find(([control, parameter]) => parameter.required && !control.value);
  if (missing) {
    missing[0].focus();
    answer.replaceChildren(h("p", { class: "status bad" }, `${missing[1].name} is required.`));
    return;
  }
  const request = buildRequest(operation, inputs, body);
  button.disabled = true;
  const started = performance.now();
  try {
    const response = await fetch(request.path, { method: request.method, headers: request.headers, body: request.body, credentials: "omit", cache: "no-store" });
    const text = await response.text();
    answer.replaceChildren(...answerView(response, text, performance.now() - started));
  } catch (error) {
    answer.replaceChildren(h("p", { class: "status bad" }, `No answer: ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

function answerView(response, text, milliseconds) {
  const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  return [
    h("h3", {}, "Answer"),
    h("p", {}, h("span", { class: `status ${response.ok ? "good" : "bad"}` }, `${response.status} ${response.statusText}`.trim()),
      h("span", { class: "quiet" }, ` in ${milliseconds.toFixed(0)} ms, ${new Blob([text]).size} bytes`)),
    h("pre", { class: "wrap", tabindex: "0", "aria-label": "Headers of the answer" }, headers),
    text ? h("pre", { tabindex: "0", "aria-label": "Body of the answer" }, pretty(text)) : h("p", { class: "quiet" }, "No body."),
  ];
}

// Indented without reading the numbers: JSON.parse would round those beyond 2^53.
function pretty(text) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  if (!tokens || !/^\s*[[{]/.test(text)) return text;
  let depth = 0;
  let out = "";
  tokens.forEach((token, index) => {
    const empty = /[{[]/.test(token) && /^[}\]]$/.test(tokens[index + 1] ?? "");
    const closesEmpty = /^[}\]]$/.test(token) && /^[{[]$/.test(tokens[index - 1] ?? "");
    if (token.length === 1 && "{[".includes(token) && !empty) { depth += 1; out += `${token}\n${"  ".repeat(depth)}`; }
    else if (token.length === 1 && "}]".includes(token) && !closesEmpty) { depth -= 1; out += `\n${"  ".repeat(depth)}${token}`; }
    else if (token === ",") out += `,\n${"  ".repeat(depth)}`;
    else if (token === ":") out += ": ";
    else out += token;
  });
  return out;
}

// --- start --------------------------------------------------------------------------------------------------------------

async function load(version) {
  const url = `/api/${encodeURIComponent(version)}/openapi.json`;
  byId("raw").href = url;
  try {
    const response = await fetch(url, { credentials: "omit" });
    if (!response.ok) throw new Error(`${url} answered ${response.status}`);
    state.api = await response.json();
  } catch (error) {
    byId("main").replaceChildren(h("p", { class: "status bad", role: "alert" }, `The description could not be read: ${error.message}`));
    return;
  }
  state.operations = collectOperations(state.api);
  const versions = state.api.info["x-versions"] ?? [version];
  byId("version").replaceChildren(...versions.map((each) => h("option", { selected: each === version }, each)));
  byId("title").textContent = state.api.info.title;
  show(false);
}

byId("version").addEventListener("change", () => { location.hash = ""; load(byId("version").value); });
byId("find").addEventListener("input", showNavigation);
window.addEventListener("hashchange", () => { if (state.api) show(true); });
load("v1");
