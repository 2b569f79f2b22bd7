// What the issuers share: they come from .tools/, print where they are, and answer each line of JSON with one.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// Packages print advice; what is read from here is answers alone.
console.log = console.info = console.error;

const installed = createRequire(new URL("../../.tools/npm/oidc-issuers/", import.meta.url));

export async function load(name) {
  return import(pathToFileURL(installed.resolve(name)));
}

// On a port of the kernel's choice. An issuer's URL holds its port, so its handler is made once that is known.
export async function serve(certificate, key, handlerOf) {
  let handler;
  const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) =>
    handler(request, response),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `https://127.0.0.1:${server.address().port}`;
  handler = await handlerOf(url);
  return url;
}

// Ends with its input, so that it cannot outlive a suite that was killed.
export async function converse(greeting, answer) {
  const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
  say(greeting);
  for await (const line of createInterface({ input: process.stdin })) {
    say(await answer(JSON.parse(line)));
  }
  process.exit(0);
}
