// What Connect's own clients for Node make of the broker, over each of their transports.
//
//   node connect.mjs URL DIRECTORY
//
// DIRECTORY holds ca.pem, certificates and keys, and the stubs that protoc-gen-es made. Prints one line of JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [baseUrl, directory] = process.argv.slice(2);
const resolve = createRequire(join(directory, "stubs/")).resolve;
const load = (name) => import(pathToFileURL(resolve(name)));
const stub = (name) => import(pathToFileURL(join(directory, `stubs/keyferry/v1/${name}_pb.js`)));

const { Code, ConnectError, createClient } = await load("@connectrpc/connect");
const { createConnectTransport, createGrpcTransport, createGrpcWebTransport } = await load("@connectrpc/connect-node");
const { SecretService } = await stub("secret_service");
const { RotationService } = await stub("rotation_service");
const { OperatorService } = await stub("operator_service");

const file = (name) => readFileSync(join(directory, name));
const identity = (who) => ({ ca: file("ca.pem"), cert: file(`${who}.pem`), key: file(`${who}.key`) });
const options = (httpVersion, who) => ({ baseUrl, httpVersion, nodeOptions: identity(who) });

const transports = {
  "connect, JSON": (who) => createConnectTransport({ ...options("1.1", who), useBinaryFormat: false }),
  "connect, JSON over HTTP/2": (who) => createConnectTransport({ ...options("2", who), useBinaryFormat: false }),
  "connect, binary": (who) => createConnectTransport({ ...options("1.1", who), useBinaryFormat: true }),
  "connect, JSON by GET": (who) =>
    createConnectTransport({ ...options("1.1", who), useBinaryFormat: false, useHttpGet: true }),
  "connect, binary by GET": (who) =>
    createConnectTransport({ ...options("2", who), useBinaryFormat: true, useHttpGet: true }),
  "gRPC-Web": (who) => createGrpcWebTransport(options("1.1", who)),
  "gRPC-Web over HTTP/2": (who) => createGrpcWebTransport(options("2", who)),
  gRPC: (who) => createGrpcTransport(options("2", who)),
};

async function refused(call) {
  try {
    await call;
    return "nothing";
  } catch (error) {
    const { code, details } = ConnectError.from(error);
    return `${Code[code]} with ${details.map(({ type }) => type).join(", ")}`;
  }
}

// A change that this very client makes, as it comes back in its watch.
async function watched(transport) {
  const stop = new AbortController();
  const changes = createClient(SecretService, transport);
  let added = false;
  try {
    for await (const { response } of createClient(RotationService, transport).watchRotations(
      { filter: { prefixes: ["stores/local/"] } },
      { signal: stop.signal },
    )) {
      if (response.case === "events") return response.value.events.map(({ secret }) => secret).join();
      if (added) continue;
      added = true;
      await changes.addSecretVersion({ parent: "stores/local/secrets/db", payload: new Uint8Array([1]) });
    }
  } finally {
    stop.abort();
  }
}

const found = {};
for (const [name, transport] of Object.entries(transports)) {
  const client = transport("client");
  const secrets = createClient(SecretService, client);
  const read = await secrets.getSecret({ name: "stores/local/secrets/db/versions/1" }, { timeoutMs: 20_000 });
  const { secrets: listed } = await secrets.listSecrets({ parent: "stores/local", filter: { prefix: "d" } });
  const operator = createClient(OperatorService, transport("operator"));
  const explained = await operator.explainAccess({
    subject: { case: "describedCaller", value: { id: "oidc/a/b", claims: { deep: [1, { a: null }] } } },
    action: "GetSecret",
    resource: "stores/local/secrets/db",
  });
  found[name] = {
    payload: Buffer.from(read.payload).toString(),
    crc: read.payloadCrc32c.toString(),
    loaded: Number(read.loadTime.seconds) > 1_600_000_000,
    listed: listed.map(({ name, labels }) => `${name} ${labels.team}`),
    explained: explained.decision,
    missing: await refused(secrets.getSecret({ name: "stores/local/secrets/none" })),
    denied: await refused(secrets.addSecretVersion({ parent: "stores/local/secrets/db" })),
  };
  if (!name.startsWith("connect")) found[name].watched = await watched(transport("operator"));
}
process.stdout.write(JSON.stringify(found));
process.exit(0);
