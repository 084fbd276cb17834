"""What every tier shares: deterministic hypothesis profiles."""

from __future__ import annotations

import os

from hypothesis import settings

# Derandomised where a failure must be reproducible by anybody; `make nightly` explores.
settings.register_profile("gate", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("nightly", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
