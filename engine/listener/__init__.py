"""The listener component: what the control plane asks for, as one LGP and one Secret per deployment.

`poll` turns the control plane's resources into events; `state`, `decide` and `acts` bring a deployment to its LGP;
`watching` turns what happens to the LGP into events.
"""
