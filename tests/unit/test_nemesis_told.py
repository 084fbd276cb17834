"""Drops and joins are read from the managers' logs, each once; sums of counters never fall."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import httpx
import pytest

from tests.e2e.nemesis import told
from tests.e2e.nemesis.settings import Lab


def line(event: str, **more: object) -> str:
    return json.dumps({"event": event, "level": "warning", **more}) + "\n"


def test_each_line_is_told_once_and_a_torn_one_when_it_is_whole(tmp_path):
    lab = Lab(tmp_path)
    lab.log.mkdir()
    log = lab.log / "manager-m2.log"
    logs = told.ManagerLogs(lab)
    assert logs.news() == []
    torn = line("drives joined", pgs=64)
    log.write_text(line("dropping a drive", drive=2, reason="silent") + "Traceback\n" + torn[:9])
    assert logs.news() == [told.Told("dropping a drive", "[2]", "drive 2, reason silent")]
    with log.open("a") as file:
        file.write(torn[9:] + line("this manager leads"))
    assert logs.news() == [told.Told("drives joined", "64", "pgs 64")]
    assert logs.news() == []


def test_what_several_asked_for_is_one_drop_and_the_next_one_is_another():
    def drop(who: str, at: float) -> told.Told:
        return told.Told("dropping a drive", who, "", at)

    found = [drop("[1]", 10.0), drop("[1]", 11.5), drop("[2]", 11.6), drop("[1]", 14.0)]
    assert told.once(found) == [found[0], found[2], found[3]]


def test_counters_of_a_process_that_started_again_are_added(monkeypatch, tmp_path):
    shown = {"10.199.0.21": 5.0, "10.199.0.22": 7.0}

    def get(_: httpx.Client, url: str) -> httpx.Response:
        value = shown.get(url.split("/")[2].split(":", maxsplit=1)[0])
        if value is None:
            raise httpx.ConnectError("gone")
        labels = 'counter="nack_gen",drive="1"'
        return httpx.Response(200, text=f"drystone_server_engine_count{{{labels}}} {value}\n")

    monkeypatch.setattr(httpx.Client, "get", get)
    with contextlib.closing(told.Meters(Lab(Path(tmp_path)))) as meters:
        assert meters.look() == {"server.nack_gen": 12}
        del shown["10.199.0.21"]
        shown["10.199.0.22"] = 9.0
        assert meters.look() == {"server.nack_gen": 14}
        shown["10.199.0.21"] = 2.0
        assert meters.look() == {"server.nack_gen": 16}
        assert meters.of("server-n1", "nack_gen") == 2


@pytest.fixture
def meters_of(monkeypatch, tmp_path):
    """Gives meters of a run in which one address alone answers, with this text."""
    made: list[told.Meters] = []

    def meters(at: str, text: str) -> told.Meters:
        def get(_: httpx.Client, url: str) -> httpx.Response:
            return httpx.Response(200, text=text if f"{at}:" in url else "")

        monkeypatch.setattr(httpx.Client, "get", get)
        made.append(told.Meters(Lab(Path(tmp_path))))
        return made[-1]

    yield meters
    for each in made:
        each.close()


def test_the_time_of_a_drive_is_the_slowest_of_its_server(meters_of):
    name = "drystone_server_drive_p99_seconds"
    text = f'{name}{{drive="1"}} 0.004\n{name}{{drive="2"}} 2.3e-02\n'
    meters = meters_of("10.199.0.22", text)
    assert meters.drive_p99_s("server-n2") == 0.023
    assert meters.drive_p99_s("server-n1") == 0


def test_states_of_placement_groups_are_those_of_the_leader(meters_of):
    name = 'drystone_manager_pgs{pool="default",state='
    meters = meters_of("10.199.0.12", f'{name}"in_sync"}} 60.0\n{name}"resyncing"}} 4.0\n')
    assert meters.pg_states() == {"in_sync": 60, "resyncing": 4}


@pytest.mark.parametrize("event", [*told.DROPS, *told.JOINS])
def test_every_event_that_is_counted_is_one_that_managers_write(event):
    sources = Path("storaged/drystone_storaged/manager").glob("*.py")
    assert any(f'"{event}"' in path.read_text() for path in sources)
