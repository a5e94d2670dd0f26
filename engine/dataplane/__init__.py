"""The data plane's own stream: its configuration, its namespaces, its polls."""
