"""Reaching a cluster that runs in Kubernetes, with the rights of whoever runs `kubectl`.

Nothing here is imported unless a command line asks for it.
"""
