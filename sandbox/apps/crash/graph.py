"""An image that cannot start: it ends while it is being imported, and its last words hold its secret.

What a crashing program prints may hold secrets, and its last lines go where people read why a revision failed; so
somebody in between must take the values out.
"""

from __future__ import annotations

import os

print("crash: loading the model", flush=True)
print(f"crash: GREETING_SECRET is {os.environ.get('GREETING_SECRET', 'not set')}", flush=True)
print("crash: no weights found in /models: this image always crashes", flush=True)
os._exit(3)  # as a segmentation fault would end it: no traceback, no farewell
