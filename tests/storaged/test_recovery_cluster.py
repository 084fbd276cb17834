"""A real cluster gets an old copy of its metadata store back: refused, scanned, recovered."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from drystone_storaged.recover.scanfile import read_scan, write_scan
from tests.e2e.lib.cluster import Cluster, CommandFailedError, temporary_cluster
from tests.e2e.lib.procs import naming
from tests.e2e.lib.waits import wait_for
from tests.e2e.lib.writer import Region, Writer, verify

UP = ("--servers", "3", "--drive-size", "2Gi")
NODES = ("node-1", "node-2", "node-3")


def copy_of_store(cluster: Cluster) -> Path:
    """As a backup makes it: one moment of a store that is in use."""
    path = store_of(cluster)
    out = cluster.folder.parent / "copy.sqlite"
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(out)) as kept:
        live.backup(kept)
    return out


def store_of(cluster: Cluster) -> Path:
    (path,) = (cluster.folder / "state").glob("*/store.sqlite")
    return path


def put_back(cluster: Cluster, copy: Path) -> None:
    store = store_of(cluster)
    for tail in ("-wal", "-shm"):
        store.with_name(store.name + tail).unlink(missing_ok=True)
    shutil.copy(copy, store)


def revision_of(store: Path) -> int:
    with closing(sqlite3.connect(store)) as db:
        return int(db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()[0])


def noted(cluster: Cluster) -> int:
    """What the manager remembers of its store; it looks every ten seconds."""
    file = store_of(cluster).with_name("revision.json")
    return json.loads(file.read_text())["revision"] if file.exists() else 0


def config(cluster: Cluster, process: str) -> str:
    return str(cluster.folder / "conf" / f"{process}.toml")


def manager_of(cluster: Cluster) -> str:
    return store_of(cluster).parent.name


def started(cluster: Cluster) -> str:
    """What a manager says that is started by hand and does not stay."""
    argv = [str(Path(sys.executable).with_name("drystone")), "manager", "--config"]
    done = subprocess.run(
        [*argv, config(cluster, manager_of(cluster))], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    return done.stderr


def refused(cluster: Cluster, *words: str) -> str:
    with pytest.raises(CommandFailedError) as caught:
        cluster.cli("recover", "metadata", "--config", config(cluster, manager_of(cluster)), *words)
    return str(caught.value)


def scans(cluster: Cluster) -> list[Path]:
    found = []
    for node in NODES:
        out = cluster.folder.parent / f"{node}.scan"
        settings = config(cluster, f"{node}-server")
        cluster.cli("recover", "scan", "--config", settings, "--out", str(out))
        found.append(out)
    return found


def given(paths: list[Path]) -> list[str]:
    return [word for path in paths for word in ("--scan", str(path))]


def write(cluster: Cluster, volume: str, seed: int):
    uri = cluster.attach(volume, "block-1", "export")["nbd_uri"]
    region = Region(uri, 0, 512, seed)
    return region, Writer(region, threads=4)


def end_everything(cluster: Cluster) -> None:
    """As in the runbook: managers first, so that nothing is dropped while the others end."""
    for name in sorted(cluster.pids(), key=lambda name: "manager" not in name):
        pid = cluster.pid(name)
        with suppress(ProcessLookupError):  # one was killed before
            os.kill(pid, signal.SIGTERM)
        wait_for(partial(_gone, cluster, pid), f"the end of {name}", 60)


def _gone(cluster: Cluster, pid: int) -> bool:
    return pid not in naming(cluster.folder)


@pytest.mark.timeout(400)  # three starts of a cluster on a slow disk
def test_an_old_copy_of_the_store_is_refused_and_a_recovery_loses_nothing():
    with temporary_cluster("recover", *UP) as cluster:
        for name in ("v", "gone"):
            cluster.cli("volume", "create", name, "--size", "64Mi")
        region, writer = write(cluster, "v", 5)
        goner = write(cluster, "gone", 7)[1]
        writer.goes_on(500, 60)
        goner.goes_on(50, 60)
        assert goner.stop().errors == 0
        cluster.cli("volume", "detach", "gone")
        copy = copy_of_store(cluster)

        # All that the copy does not know: a drop, a volume that went, another that came.
        os.kill(cluster.pid("node-3-server"), signal.SIGKILL)
        wait_for(lambda: not cluster.in_sync(), "the drop of node-3", 60)
        writer.goes_on(1000, 60)
        cluster.cli("volume", "delete", "gone")
        cluster.cli("volume", "create", "new", "--size", "32Mi")
        region_new, writer_new = write(cluster, "new", 6)
        writer_new.goes_on(500, 60)
        seen, seen_new = writer.stop(), writer_new.stop()
        assert seen.errors == seen_new.errors == 0
        refuse_while_it_runs(cluster)
        # All of it: a copy that is a revision or two behind is level with the note once it runs.
        latest = revision_of(store_of(cluster))
        wait_for(lambda: noted(cluster) >= latest, "the manager's note", 60)
        end_everything(cluster)
        cluster.close()

        put_back(cluster, copy)
        assert "older copy" in started(cluster)
        files = scans(cluster)
        refuse_bad_scans(cluster, files)
        plan = json.loads(
            cluster.cli(
                "recover", "metadata", "--config", config(cluster, manager_of(cluster)),
                *given(files), "--plan", "-o", "json",
            )
        )  # fmt: skip
        assert not plan["refused"]
        assert {len(insync) for insync in plan["pgs"].values()} == {2}
        assert plan["volumes"]["raised"] == 1
        assert plan["volumes"]["deleted"] == ["gone"]
        (found,) = plan["volumes"]["found"]
        assert "older copy" in started(cluster), "a plan changes nothing"
        text = cluster.cli(
            "recover", "metadata", "--config", config(cluster, manager_of(cluster)),
            *given(files), "--yes",
        )  # fmt: skip
        assert "volume gone was deleted after the copy" in text

        cluster.cli("local", "up", *UP)
        for name, old, report in (("v", region, seen), (found, region_new, seen_new)):
            cluster.cli("volume", "detach", name, "--force")
            uri = cluster.attach(name, "block-1", "export")["nbd_uri"]
            assert verify(replace(old, where=uri), report) > 0
        cluster.wait_in_sync()
        names = {v["name"] for v in cluster.json("volume", "list")["items"]}
        assert names == {"v", found}
        wait_for(lambda: cluster.status()["health"] == "ok", "health ok", 60)
        again = Writer(replace(region_new, where=uri))
        again.goes_on(10, 60)
        assert again.stop().errors == 0


def refuse_while_it_runs(cluster: Cluster) -> None:
    with pytest.raises(CommandFailedError, match="stop the server"):
        cluster.cli(
            "recover", "scan", "--config", config(cluster, "node-1-server"), "--out", "/dev/null"
        )
    assert "only one manager can use" in refused(cluster, "--plan")


def refuse_bad_scans(cluster: Cluster, files: list[Path]) -> None:
    assert "this changes the metadata store" in refused(cluster, *given(files))
    assert "things are undecided" in refused(cluster, *given(files[:2]), "--yes")
    altered = files[0].with_name("altered.scan")
    altered.write_text(re.sub(r'"epoch": (\d+)', r'"epoch": 1\1', files[0].read_text(), count=1))
    assert "is not as it was written" in refused(cluster, *given([altered, *files[1:]]), "--yes")
    assert "is no scan" in refused(cluster, "--scan", config(cluster, "block-1"), "--plan")
    foreign = files[0].with_name("foreign.scan")
    one = read_scan(files[0])
    drives = tuple(replace(d, cluster=str(uuid.UUID(int=9))) for d in one.drives)
    write_scan(foreign, replace(one, cluster=str(uuid.UUID(int=9)), drives=drives))
    assert "undecided" in refused(cluster, *given([foreign, *files[1:]]), "--yes")
