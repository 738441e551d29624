// Reads a list of {name, document} from standard input; writes for each what the service's own code says against it.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { IncomingWebhookRequestPartialSchema } from "discord-api-spec/zod";

const { EcsFlat } = createRequire(import.meta.url)("@elastic/ecs");
globalThis.window = globalThis; // the library is made for browsers
const cards = createRequire(import.meta.url)("adaptivecards");

function checkDiscord(document) {
  const result = IncomingWebhookRequestPartialSchema.safeParse(document);
  return result.success ? [] : result.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
}

function checkTeams(document) {
  const context = new cards.SerializationContext(cards.Versions.v1_4);
  const card = new cards.AdaptiveCard();
  card.parse(document.attachments[0].content, context);
  const said = [];
  for (let index = 0; index < context.eventCount; index++) said.push(context.getEventAt(index).message);
  for (const event of card.validateProperties().validationEvents) said.push(event.message);
  return said;
}

function checkJson(document) {
  const said = [];
  for (const [path, value] of listLeaves(document, "")) {
    const field = EcsFlat[path];
    if (field === undefined) {
      said.push(`${path}: no field of ECS`);
      continue;
    }
    const values = Array.isArray(value) ? value : [value];
    if (Array.isArray(value) !== field.normalize.includes("array")) said.push(`${path}: list or not`);
    const is_number = ["long", "float"].includes(field.type);
    for (const one of values) {
      if ((typeof one === "number") !== is_number) said.push(`${path}: ${one} is no ${field.type}`);
      if (field.allowed_values && !field.allowed_values.some((allowed) => allowed.name === one))
        said.push(`${path}: ${one} is not allowed`);
    }
  }
  for (const category of document.event?.category ?? []) {
    const allowed = EcsFlat["event.category"].allowed_values.find((known) => known.name === category);
    for (const type of document.event.type ?? [])
      if (allowed && !allowed.expected_event_types.includes(type)) said.push(`event.type: ${type} with ${category}`);
  }
  return said;
}

function* listLeaves(value, path) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) yield [path, value];
  else for (const [name, part] of Object.entries(value)) yield* listLeaves(part, path ? `${path}.${name}` : name);
}

const checks = { json: checkJson, discord: checkDiscord, teams: checkTeams };
const messages = JSON.parse(readFileSync(0, "utf-8"));
process.stdout.write(JSON.stringify(messages.map(({ name, document }) => checks[name](document))));
