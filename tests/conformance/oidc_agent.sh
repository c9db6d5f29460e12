#!/bin/sh
# oidc-agent's device flow, for one access token: oidc_agent.sh ISSUER DEVICE CLIENT_ID
eval "$(oidc-agent)" >/dev/null 2>&1
OIDC_ENCRYPTION_PW=unused oidc-gen --manual --flow=device --only-at --prompt=none --pw-env \
    --confirm-yes --issuer="$1/" --dae="$2" --client-id="$3" --client-secret= \
    --cp="$SSL_CERT_FILE" --scope="openid offline_access" conformance </dev/null
status=$?
oidc-agent -k >/dev/null 2>&1
exit $status
