// oidc-provider with a device flow, pages to log in on, and an account for whoever does.
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { Provider } from "oidc-provider";

// It tells at length that this is no set-up for production.
console.info = console.warn = () => {};

const { clients, clockTolerance, ttl } = JSON.parse(process.env.OIDC_SETTINGS);

function findAccount(_, sub) {
  const email = sub.includes("@") ? sub : `${sub}@example.com`;
  const claims = { sub, email, email_verified: sub !== "unverified" };
  return { accountId: sub, claims: () => claims };
}

const pages = {
  login: () => `<label>Email <input name="login" type="email" required></label>
    <button>Sign in</button>`,
  consent: ({ params }) => `<p>${params.client_id} asks to know who you are.</p>
    <button name="decision" value="approve">Approve</button>
    <button name="decision" value="deny">Deny</button>`,
};

const answers = {
  login: async (_, form) => {
    const accountId = form.get("login").replace(/@example\.com$/, "");
    return { login: { accountId } };
  },
  consent: async ({ grantId, params, prompt, session }, form) => {
    if (form.get("decision") !== "approve") {
      return { error: "access_denied", error_description: "denied on the consent page" };
    }
    const grant = grantId
      ? await provider.Grant.find(grantId)
      : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope((prompt.details.missingOIDCScope ?? []).join(" "));
    return { consent: { grantId: await grant.save() } };
  },
};

async function interact(request, response) {
  const interaction = await provider.interactionDetails(request, response);
  const { name } = interaction.prompt;
  if (request.method === "POST") {
    const result = await answers[name](interaction, new URLSearchParams(await text(request)));
    await provider.interactionFinished(request, response, result);
    return;
  }
  response.setHeader("content-type", "text/html; charset=utf-8");
  const page = pages[name](interaction);
  response.end(`<!doctype html><title>${name}</title><form method="post">${page}</form>`);
}

const server = createServer();
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  claims: { email: ["email", "email_verified"] },
  clients,
  clockTolerance,
  conformIdTokenClaims: false,
  cookies: { keys: ["signs the cookies of a server that nobody else can reach"] },
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  findAccount,
  ttl,
});
const rest = provider.callback();

server.on("request", (request, response) => {
  if (!request.url.startsWith("/interaction/")) {
    rest(request, response);
    return;
  }
  interact(request, response).catch((error) => {
    response.statusCode = error.statusCode ?? 500;
    response.end(String(error));
  });
});

// It closes when the tests end, however they end.
process.stdin.on("end", () => process.exit()).resume();
console.log(JSON.stringify({ issuer }));
