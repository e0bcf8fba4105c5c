// The page at `/docs`: the OpenAPI document, to be read.

import { el } from "./dom.js";
import { withKey } from "./key.js";
import { get } from "./server.js";

const state = document.getElementById("state");
const content = document.getElementById("content");
const METHODS = ["get", "post"];

withKey(state, content, async () => {
  const spec = await get("openapi.json");
  state.textContent = `OpenAPI ${spec.openapi}, dlkit ${spec.info.version}.`;
  const secured = spec.security.some((each) => "bearer" in each);
  const links = spec.tags.map((tag) => el("li", {}, el("a", { href: `#tag-${tag.name}` }, tag.name)));
  const toc = el("nav", { "aria-label": "Parts" }, el("ul", { class: "toc" }, ...links));
  content.replaceChildren(toc, ...spec.tags.map((tag) => part(tag, spec, secured)));
});

function part(tag, spec, secured) {
  const heading = el("h2", { id: `tag-${tag.name}` }, tag.name);
  const element = el("section", { "aria-labelledby": heading.id }, heading, el("p", {}, ...prose(tag.description)));
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS) {
      const operation = item[method];
      if (operation?.tags.includes(tag.name)) element.append(entry(method, path, item, operation, spec, secured));
    }
  }
  return element;
}

function entry(method, path, item, operation, spec, secured) {
  const open = operation.security?.length === 0;
  const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])];
  const body = Object.entries(operation.requestBody?.content ?? {});
  return el("details", {},
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), " ", el("code", {}, path), " — ", ...prose(operation.summary)),
    el("h3", {}, "Example"),
    el("pre", { tabindex: "0" }, curl(method, path, body, spec, secured && !open)),
    ...(parameters.length ? [el("h3", {}, "Parameters"), parameterTable(parameters)] : []),
    ...body.flatMap(([kind, { schema }]) => [el("h3", {}, `Body: ${kind}`), tree(schema, spec)]),
    el("h3", {}, "Answers"),
    answers(operation.responses, spec));
}

function parameterTable(parameters) {
  const rows = parameters.map((each) => [each.name, each.in, type(each.schema), each.required ? "needed" : "may be left out", el("span", {}, ...prose(each.description ?? ""))]);
  return table(["name", "in", "type", "", ""], rows);
}

function answers(responses, spec) {
  const rows = Object.entries(responses).map(([status, { description }]) => [status, el("span", {}, ...prose(description))]);
  const parts = [table(["status", ""], rows)];
  for (const [kind, { schema }] of Object.entries(responses["200"]?.content ?? {})) {
    parts.push(el("h3", {}, `200: ${kind}`), tree(schema, spec));
  }
  return el("div", {}, ...parts);
}

function table(heads, rows) {
  const head = heads.map((name) => el("th", { scope: "col" }, name));
  const body = rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))));
  const found = el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
  return el("div", { class: "sideways" }, found);
}

/** Return words with what stands between backquotes as code. */
function prose(text) {
  return text.split("`").map((words, i) => (i % 2 ? el("code", {}, words) : words));
}

/** Return a schema in JSON, its references resolved. */
function tree(schema, spec) {
  return el("pre", { tabindex: "0" }, JSON.stringify(resolved(schema, spec), null, 1));
}

function resolved(schema, spec) {
  if (Array.isArray(schema)) return schema.map((each) => resolved(each, spec));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref) return resolved(spec.components.schemas[schema.$ref.split("/").at(-1)], spec);
  return Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, resolved(value, spec)]));
}

function type(schema) {
  return Array.isArray(schema.type) ? schema.type.join(" or ") : (schema.type ?? "any");
}

function curl(method, path, body, spec, keyed) {
  const url = new URL(path.slice(1), document.baseURI).href.replace(/%7B/g, "{").replace(/%7D/g, "}");
  const parts = ["curl"];
  if (keyed) parts.push('-H "Authorization: Bearer $KEY"');
  if (method === "post") {
    const [, content] = body.find(([kind]) => kind === "application/json") ?? [null, {}];
    const example = content.example ?? sample(resolved(content.schema ?? {}, spec));
    parts.push(`-d '${JSON.stringify(example).replaceAll("'", "'\\''")}'`);
  }
  return [...parts, quoted(url)].join(" ");
}

function quoted(url) {
  return /[{}]/.test(url) ? `'${url}'` : url;
}

/** Return a value that a schema allows, as far as it says. */
function sample(schema) {
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  const first = (schema.oneOf ?? schema.anyOf)?.[0];
  if (first) return sample({ ...schema, oneOf: undefined, anyOf: undefined, ...first });
  const [kind] = [schema.type].flat();
  if (kind === "array" || schema.items) {
    const least = Math.max(1, schema.minItems ?? 1);
    return least > 64 ? [] : Array.from({ length: least }, () => sample(schema.items ?? {}));
  }
  if (kind === "object" || schema.properties) {
    const needed = schema.required ?? [];
    return Object.fromEntries(needed.map((name) => [name, sample(schema.properties?.[name] ?? {})]));
  }
  if (kind === "boolean") return false;
  return kind === "string" ? "text" : (schema.minimum > 0 ? schema.minimum : 0);
}
