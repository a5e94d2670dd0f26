"""An image that cannot start: it says what it is doing, its secret included, then fails while it is being imported.

What a crashing program prints may hold secrets, and its last lines go where people read why a revision failed; so
somebody in between must take the values out.
"""

from __future__ import annotations

import os

print("crash: loading the model", flush=True)
print(f"crash: GREETING_SECRET is {os.environ.get('GREETING_SECRET', 'not set')}", flush=True)
raise RuntimeError("no weights found in /models: this image always crashes")
