"""Carrying plans out. The only place that writes to Kubernetes.

Belongs here: the Kubernetes client, server-side apply, status, events.
Does not belong here: decisions; whatever is written was planned in ``plan``.
"""
