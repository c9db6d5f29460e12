"""A client that does most things wrong, to see that the kit says so: `bad.py DEVICE TOKEN`."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

HASTE: Final = 0.4


def post(url: str, **fields: str) -> dict[str, Any]:
    """Post a form, and return whatever JSON comes."""
    body = urllib.parse.urlencode(fields).encode()
    try:
        with urllib.request.urlopen(url, body, timeout=60) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def main() -> None:
    """Log in: hastily, without a client id, for ever, and with everything on the screen."""
    device, token = sys.argv[1:]
    code = post(device)
    print("Here is all that I know:", code["verification_uri"], code["user_code"], flush=True)
    for _ in range(8):
        answer = post(token, device_code=code["device_code"])
        print(code["device_code"], answer.get("error_description"), flush=True)
        if "access_token" in answer:
            print(answer["access_token"])
            return
        time.sleep(HASTE)


if __name__ == "__main__":
    main()
