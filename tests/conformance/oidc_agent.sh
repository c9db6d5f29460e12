#!/bin/sh
# oidc-agent's device flow, for one access token: oidc_agent.sh ISSUER DEVICE CLIENT_ID
eval "$(oidc-agent)" >/dev/null 2>&1
for _ in 1 2 3 4 5 6 7 8 9 10; do
    # The agent takes connections some time after it has said so.
    if oidc-add --loaded >/dev/null 2>&1; then break; fi
    sleep 0.2
done
OIDC_ENCRYPTION_PW=unused oidc-gen --manual --flow=device --only-at --prompt=none --pw-env \
    --confirm-yes --issuer="$1/" --dae="$2" --client-id="$3" --client-secret= \
    --cp="$SSL_CERT_FILE" --scope="openid offline_access" conformance </dev/null
status=$?
oidc-agent -k >/dev/null 2>&1
exit $status
