// Reads a secret, mints access to a database, and then always runs the current value of a secret.
//
// Connects as KEYFERRY_SERVER, KEYFERRY_CA, KEYFERRY_CERT, KEYFERRY_KEY and KEYFERRY_TOKEN_FILE say.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type Client, ConnectError, type Interceptor, type Transport, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { RotationEventKind } from "./gen/keyferry/v1/rotation_event_pb.js";
import { RotationService, type WatchRotationsResponse } from "./gen/keyferry/v1/rotation_service_pb.js";
import { SecretService } from "./gen/keyferry/v1/secret_service_pb.js";
import { TokenService } from "./gen/keyferry/v1/token_service_pb.js";

const WATCHED = "stores/local/secrets/db-password";
const SUBSCRIBER = "typescript";
const DEADLINE = { timeoutMs: 10_000 };

function setting(name: string): string {
  const value = process.env[`KEYFERRY_${name}`];
  if (value === undefined) throw new Error(`set KEYFERRY_${name}`);
  return value;
}

// Read for each call, so that a renewed token is in use at once.
const bearerToken: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${readFileSync(setting("TOKEN_FILE"), "utf8").trim()}`);
  return next(request);
};

function connect(): Transport {
  const [ca, cert, key] = ["CA", "CERT", "KEY"].map((name) => readFileSync(setting(name)));
  return createGrpcTransport({
    baseUrl: setting("SERVER"),
    nodeOptions: { ca, cert, key },
    interceptors: [bearerToken],
    pingIntervalMs: 30_000,
  });
}

// Why the broker said no, and after how many milliseconds the same call may succeed. Neither where it did not answer.
function refusal(error: unknown): { reason?: string; delay?: number } {
  const failure = ConnectError.from(error);
  const info = failure.findDetails(ErrorInfoSchema).find((info) => info.domain === "keyferry");
  const wait = failure.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return { reason: info?.reason, delay: wait && Number(wait.seconds) * 1000 + wait.nanos / 1e6 };
}

async function readAndMint(transport: Transport): Promise<void> {
  const [secrets, tokens] = [createClient(SecretService, transport), createClient(TokenService, transport)];
  const secret = await secrets.getSecret({ name: "stores/local/secrets/hello" }, DEADLINE);
  console.log("read", secret.name); // secret.payload is the value
  try {
    await secrets.getSecret({ name: "stores/local/secrets/api-key" }, DEADLINE);
  } catch (error) {
    console.log("refused", refusal(error).reason);
  }
  const token = await tokens.mintDatabaseToken({ name: "databases/orders/roles/app" }, DEADLINE);
  console.log("minted", token.user); // token.credential is what proves it
}

// Runs the current version of a secret, and says so to the broker.
class Follower {
  private readonly secrets: Client<typeof SecretService>;
  private readonly rotations: Client<typeof RotationService>;
  private cursor = "";
  private last = { epoch: "", revision: 0n };

  constructor(transport: Transport) {
    this.secrets = createClient(SecretService, transport);
    this.rotations = createClient(RotationService, transport);
  }

  // Ends when waiting does not help.
  async follow(): Promise<never> {
    for (let failures = 0; ; failures++) {
      try {
        for await (const message of this.watch()) {
          await this.take(message);
          // Only now: what fails before is told again.
          this.cursor = message.cursor || this.cursor;
          failures = 0;
        }
      } catch (error) {
        const { reason, delay } = refusal(error);
        // Of two streams with one name the older has lost: it must not take the name back.
        if (reason === "CONFLICT" || (reason && reason !== "TOKEN_EXPIRED" && delay === undefined)) throw error;
        console.error("watch lost:", reason ?? error);
        const grown = Math.min(30_000, 200 * 2 ** failures);
        await sleep(Math.max(delay ?? 0, grown * (0.5 + Math.random() / 2)));
      }
    }
  }

  private watch(): AsyncIterable<WatchRotationsResponse> {
    const filter = { names: [WATCHED] };
    return this.rotations.watchRotations({ subscriber: SUBSCRIBER, filter, cursor: this.cursor });
  }

  private async take({ response }: WatchRotationsResponse): Promise<void> {
    if (response.case === "snapshot") {
      for (const entry of response.value.entries) {
        console.log("snapshot", await this.run(entry.secret, entry.revision));
      }
    }
    if (response.case === "events") {
      for (const { epoch, revision, kind, secret } of response.value.events) {
        // An event may come twice.
        const seen = epoch === this.last.epoch && revision <= this.last.revision;
        if (kind === RotationEventKind.VERSION_CURRENT && !seen) console.log("event", await this.run(secret, revision));
      }
      this.last = response.value.events.at(-1) ?? this.last;
    }
  }

  private async run(name: string, minRevision: bigint): Promise<string> {
    const answer = await this.secrets.getSecret({ name, minRevision }, DEADLINE);
    // Here the program takes answer.payload into use.
    await this.rotations.acknowledgeRotation({ subscriber: SUBSCRIBER, versions: [answer.name] }, DEADLINE);
    return answer.name;
  }
}

const transport = connect();
await readAndMint(transport);
await new Follower(transport).follow();
