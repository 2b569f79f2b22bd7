// Issuers that sign whatever they are told, each at a path of its own and with keys of its own.
//
//   node mock.mjs CERTIFICATE KEY PATH...
//
// {"issuer": PATH, "claims": {...}} is answered with a token, {"issuer": PATH, "rotate": true} with the new key's id.
import { converse, load, serve } from "./conversation.mjs";

const { OAuth2Issuer, OAuth2Service } = await load("oauth2-mock-server");
const [certificate, key, ...paths] = process.argv.slice(2);
const services = new Map();

// A key cannot be taken from an issuer, so one with a new key takes its place.
async function replace(url, path) {
  const issuer = new OAuth2Issuer();
  issuer.url = url + path;
  const { kid } = await issuer.keys.generate("ES256");
  services.set(path, new OAuth2Service(issuer));
  return kid;
}

const url = await serve(certificate, key, async (url) => {
  for (const path of paths) await replace(url, path);
  return (request, response) => {
    const path = paths.find((path) => request.url.startsWith(`${path}/`));
    if (path === undefined) return response.writeHead(404).end();
    request.url = request.url.slice(path.length);
    return services.get(path).requestHandler(request, response);
  };
});

await converse({ url }, async ({ issuer, claims, rotate }) => {
  if (rotate) return { kid: await replace(url, issuer) };
  const token = await services.get(issuer).issuer.buildToken({
    expiresIn: 600,
    scopesOrTransform: (_header, payload) => Object.assign(payload, claims),
  });
  return { token };
});
