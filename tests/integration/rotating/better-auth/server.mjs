// better-auth with its OAuth provider: rotation, reuse detection, and a window for lost answers.
import { createServer } from "node:http";
import { oauthDeviceAuthorization, oauthProvider } from "@better-auth/oauth-provider";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins/jwt";

const { life, grace } = JSON.parse(process.env.BETTER_AUTH_SETTINGS);

const server = createServer();
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const url = `http://127.0.0.1:${server.address().port}`;

const tables = ["user", "session", "account", "verification", "jwks", "deviceCode"];
const more = ["Client", "AccessToken", "RefreshToken", "Consent", "ClientAssertion", "Resource"];
const names = [...tables, ...more.map((name) => `oauth${name}`), "oauthClientResource"];

const auth = betterAuth({
  baseURL: url,
  database: memoryAdapter(Object.fromEntries(names.map((name) => [name, []]))),
  emailAndPassword: { enabled: true },
  logger: { level: "error" },
  plugins: [
    jwt(),
    oauthProvider({
      accessTokenExpiresIn: life,
      consentPage: "/consent",
      loginPage: "/login",
      refreshTokenReuseInterval: grace,
      scopes: ["openid", "email", "offline_access"],
    }),
    oauthDeviceAuthorization({ interval: "1s", verificationUri: "/device" }),
  ],
  rateLimit: { enabled: false },
  secret: "signs the cookies of a server that nobody else can reach",
  telemetry: { enabled: false },
});

const person = { email: "alice@example.com", name: "Alice", password: "correct horse battery" };
const { headers } = await auth.api.signUpEmail({ body: person, returnHeaders: true });
const { client_id: clientId } = await auth.api.adminCreateOAuthClient({
  body: {
    client_name: "robot",
    grant_types: ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
    scope: "openid email offline_access",
    token_endpoint_auth_method: "none",
  },
  headers: new Headers({ cookie: headers.getSetCookie().map((one) => one.split(";")[0]).join("; ") }),
});

server.on("request", toNodeHandler(auth));
// It closes when the tests end, however they end.
process.stdin.on("end", () => process.exit()).resume();
const issuer = `${url}/api/auth`;
console.log(JSON.stringify({ clientId, issuer, origin: url, person }));
