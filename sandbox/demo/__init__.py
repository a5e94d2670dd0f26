"""The demo: the main job of agentplane, end to end, with real clients. `agentplane demo` runs it.

`scenario` holds the steps; `world` is what a step can observe and touch; `prober` counts failed requests; `runner`
starts the stack, runs the steps and prints. A step raises `StepFailed` when a check fails: the demo then exits with 1
and prints the folder of the logs.
"""
