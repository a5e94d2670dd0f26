"""An image that cannot start: it fails while it is being imported, and its last words hold its secret.

What a crashing program prints may hold secrets, and its last lines go where people read why a revision failed; so
somebody in between must take the values out.
"""

from __future__ import annotations

import os

print("crash: loading the model", flush=True)
secret = os.environ.get("GREETING_SECRET", "not set")
raise RuntimeError(f"no weights found in /models (GREETING_SECRET is {secret}): this image always crashes")
