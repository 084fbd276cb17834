"""The helm programs that users have, where they are found: the same objects as Helm's library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.chart.chart import CHART, CI, documents, render, values_of

PROGRAM_S = 60
# A helm that was built from its module does not know which Kubernetes it is for.
WHERE = ("-n", "drystone", "--kube-version", "1.34.0")


def programs() -> list[str]:
    """Helm of the lab (version 3) and of the machine, whichever there are."""
    base = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(base) if base else Path.home() / ".cache") / "drystone" / "kube"
    lab = Path(os.environ.get("DRYSTONE_KUBE_CACHE", usual)) / "bin"
    found = [shutil.which(name, path=lab) for name in ("helm", "helm3", "helm4")]
    return sorted({one for one in [*found, shutil.which("helm")] if one})


FOUND: list[str | None] = [*programs()] or [None]


@pytest.fixture(params=FOUND)
def helm(request):
    if request.param is None:
        pytest.skip("no helm program here; `make kube-e2e` builds one")

    def run(*words: str) -> str:
        done = subprocess.run(
            [request.param, *words], capture_output=True, text=True, timeout=PROGRAM_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def by_name(objects):
    return {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one
        for one in objects
    }


@pytest.mark.parametrize("case", sorted(CI))
def test_it_renders_what_the_library_renders(helm, case):
    text = helm("template", "drystone", str(CHART), *WHERE, "-f", str(CI[case]))
    assert by_name(documents(text)) == by_name(render(values_of(case)).objects)


@pytest.mark.parametrize("case", sorted(CI))
def test_it_finds_nothing_to_complain_about(helm, case):
    helm("lint", "--strict", str(CHART), *WHERE, "-f", str(CI[case]))


def test_the_package_has_what_templates_read(helm, tmp_path):
    helm("package", str(CHART), "-d", str(tmp_path))
    (archive,) = tmp_path.glob("*.tgz")
    text = helm("template", "drystone", str(archive), *WHERE)
    assert by_name(documents(text)) == by_name(render().objects)
