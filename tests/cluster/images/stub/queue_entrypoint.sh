#!/bin/sh
exec python3 -S /stub/serve.py
