// An OpenID provider whose one client obtains an access token for a resource (RFC 6749, RFC 8707, RFC 9068).
//
//   NODE_EXTRA_CA_CERTS=CA node provider.mjs CERTIFICATE KEY
//
// {"resource": URL} is answered with a token that the client was granted for it, over HTTPS.
import { generateKeyPairSync, randomUUID } from "node:crypto";

import { converse, load, serve } from "./conversation.mjs";

const { Provider } = await load("oidc-provider");
const [certificate, key] = process.argv.slice(2);
const client = { client_id: "checkout", client_secret: randomUUID() };

const url = await serve(certificate, key, (url) => {
  const signing = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });
  const provider = new Provider(url, {
    clients: [
      {
        ...client,
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: "ES256",
      },
    ],
    jwks: { keys: [{ ...signing, kid: "provider-1", use: "sig", alg: "ES256" }] },
    extraTokenClaims: () => ({ roles: ["reader"] }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: "secrets",
          audience: resource,
          accessTokenTTL: 600,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
  return provider.callback();
});

await converse({ url }, async ({ resource }) => {
  const discovery = await (await fetch(`${url}/.well-known/openid-configuration`)).json();
  const response = await fetch(discovery.token_endpoint, {
    method: "POST",
    headers: { authorization: `Basic ${btoa(`${client.client_id}:${client.client_secret}`)}` },
    body: new URLSearchParams({ grant_type: "client_credentials", scope: "secrets", resource }),
  });
  const granted = await response.json();
  return response.ok ? { token: granted.access_token } : { error: granted };
});
