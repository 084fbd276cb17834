"""Decisions: what is wanted and what was seen go in, what to do and what to say come out.

Belongs here: pure functions over frozen dataclasses; every one has tests that compare text.
Does not belong here: kopf, HTTP, clocks, randomness. Times come in as numbers.
"""
