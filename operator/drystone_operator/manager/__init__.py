"""The managers' REST as the operator uses it: an asynchronous client, and what it says as views.

Belongs here: requests, the rotation over several managers, reading answers into ``plan.views``.
Does not belong here: decisions, Kubernetes.
"""
