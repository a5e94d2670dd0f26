"""An image that cannot start: the process ends during the import of this module, after printing its secret.

The output of a crashing program may contain secrets, and its last lines become the reason of a failed revision. This
image tests that the data plane removes secret values from these lines.
"""

from __future__ import annotations

import os

print("crash: loading the model", flush=True)
print(f"crash: GREETING_SECRET is {os.environ.get('GREETING_SECRET', 'not set')}", flush=True)
print("crash: no weights found in /models: this image always crashes", flush=True)
os._exit(3)  # ends at once like a segmentation fault: no traceback, no cleanup
