"""`agentplane`: what people type. Thin: each command asks the engine, and prints a table or JSON.

Exit codes, for scripts: 0 all is well; 1 something is not (a failed check, a divergence, a step of the demo);
2 the command could not be carried out (settings, Redis, an unknown deployment). As usual, 130 after Ctrl-C and 141 when
whoever reads the output has seen enough. `events --follow` ends with 0 on Ctrl-C, `up` on Ctrl-C and SIGTERM.
"""
