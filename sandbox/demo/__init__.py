"""The demo: the main job, end to end, with real clients. `python -m cli demo` runs it.

`scenario` tells the story step by step; `world` is what a step can see and touch; `prober` watches for failed requests;
`report` prints. A step that does not hold raises `StepFailed`, and the demo ends with 1 and where the logs are.
"""
