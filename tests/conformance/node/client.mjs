// A command for a library that has none: `client.mjs LIBRARY ISSUER DEVICE TOKEN CLIENT_ID`.
// Each is called as its documentation shows. It prints the token, or the error and exits with 1.

const [library, issuer, device, token, clientId] = process.argv.slice(2);
const scope = 'read write';

// What a person sees is the program's, and not judged.
const show = () => {};

const server = { issuer, device_authorization_endpoint: device, token_endpoint: token };

const libraries = {
  async 'msal-node'() {
    const { PublicClientApplication } = await import('@azure/msal-node');
    const app = new PublicClientApplication({
      auth: { clientId, authority: issuer, knownAuthorities: [new URL(issuer).host] },
      system: { protocolMode: 'OIDC' },
    });
    const result = await app.acquireTokenByDeviceCode({
      scopes: scope.split(' '),
      deviceCodeCallback: show,
    });
    return result?.accessToken;
  },

  async octokit() {
    const { createOAuthDeviceAuth } = await import('@octokit/auth-oauth-device');
    const { request } = await import('@octokit/request');
    // Its paths are those of GitHub.
    const there = (url, options) => fetch(url.endsWith('/device/code') ? device : token, options);
    const auth = createOAuthDeviceAuth({
      clientType: 'oauth-app',
      clientId,
      scopes: scope.split(' '),
      onVerification: show,
      request: request.defaults({ request: { fetch: there } }),
    });
    return (await auth({ type: 'oauth' })).token;
  },

  async oauth4webapi() {
    const oauth = await import('oauth4webapi');
    const client = { client_id: clientId };
    const parameters = new URLSearchParams({ scope });
    const asked = await oauth.deviceAuthorizationRequest(server, client, oauth.None(), parameters);
    const code = await oauth.processDeviceAuthorizationResponse(server, client, asked);
    // It leaves the loop to its caller: this one is that of RFC 8628.
    const end = Date.now() + code.expires_in * 1000;
    for (let interval = code.interval ?? 5; Date.now() + interval * 1000 < end; ) {
      await new Promise((resolve) => setTimeout(resolve, interval * 1000));
      const polled = await oauth.deviceCodeGrantRequest(server, client, oauth.None(), code.device_code);
      try {
        return (await oauth.processDeviceCodeResponse(server, client, polled)).access_token;
      } catch (error) {
        if (error.error === 'slow_down') interval += 5;
        else if (error.error !== 'authorization_pending') throw error;
      }
    }
  },

  async 'openid-client'() {
    const openid = await import('openid-client');
    const config = new openid.Configuration(server, clientId, undefined, openid.None());
    const code = await openid.initiateDeviceAuthorization(config, { scope });
    return (await openid.pollDeviceAuthorizationGrant(config, code)).access_token;
  },
};

try {
  const received = await libraries[library]();
  if (!received) throw new Error(`no token: ${received}`);
  console.log(received);
} catch (error) {
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
}
