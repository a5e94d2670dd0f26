"""An image that cannot start: it says what it is doing, then fails while it is being imported."""

from __future__ import annotations

print("crash: loading the model", flush=True)
print("crash: looking for weights in /models", flush=True)
raise RuntimeError("no weights found in /models: this image always crashes")
