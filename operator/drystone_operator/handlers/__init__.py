"""From events to looks: what is watched is kept as views, and every look does the whole round.

Belongs here: reading Kubernetes objects into views, the rounds (observe, plan, apply), the loops.
Does not belong here: decisions (``plan``), requests (``apply``, ``manager``), kopf (``main``).
"""
