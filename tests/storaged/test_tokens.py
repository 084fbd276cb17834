"""REST tokens: a running manager takes up a changed file, and keeps the old one if it must."""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from drystone_storaged.manager import tokens as followed
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.manager.tokens import FollowedTokens
from tests.storaged.manager_env import manager, until

OLD, NEW, EXTRA = "old-token-0123456789", "new-token-0123456789", "admin-token-0123456789"


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "tokens").write_text(f"operate {OLD}\n")
    return ManagerSettings(state_dir=tmp_path)


def rank(tokens: FollowedTokens, token: str) -> int:
    return tokens.table.rank(f"Bearer {token}")


def put(settings: ManagerSettings, text: str) -> None:
    """As everybody should: a new file in the place of the old one."""
    new = settings.tokens_path.with_suffix(".new")
    new.write_text(text)
    new.replace(settings.tokens_path)


def test_a_changed_file_is_taken_up_and_old_tokens_end(settings):
    tokens = FollowedTokens(settings)
    put(settings, f"read {NEW}\n")
    with capture_logs() as logs:
        assert tokens.reload()
        assert not tokens.reload()
    assert (rank(tokens, OLD), rank(tokens, NEW)) == (0, 1)
    assert [entry["event"] for entry in logs] == ["tokens_loaded"]
    assert NEW not in str(logs)


@pytest.mark.parametrize("text", ["", "# none\n", "operate short\n", "nobody " + NEW, None])
def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_once(settings, text):
    tokens = FollowedTokens(settings)
    if text is None:
        settings.tokens_path.unlink()
    else:
        put(settings, text)
    with capture_logs() as logs:
        assert not tokens.reload()
        assert not tokens.reload()
    assert rank(tokens, OLD) == 2
    assert [entry["event"] for entry in logs] == ["tokens_not_loaded"]
    # Nor is another one made in its place.
    assert settings.tokens_path.exists() == (text is not None)
    put(settings, f"admin {NEW}\n")
    assert tokens.reload()
    assert rank(tokens, NEW) == 3


def test_the_admins_own_file_is_followed_too(settings, tmp_path):
    admin = tmp_path / "admin"
    admin.write_text(EXTRA)
    tokens = FollowedTokens(settings.model_copy(update={"admin_token_file": admin}))
    assert (rank(tokens, OLD), rank(tokens, EXTRA)) == (2, 3)
    admin.write_text(NEW)
    os.utime(admin, ns=(1, 1))
    assert tokens.reload()
    assert (rank(tokens, OLD), rank(tokens, EXTRA), rank(tokens, NEW)) == (2, 0, 3)


async def test_a_running_manager_takes_new_tokens_and_refuses_old_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(followed, "POLL_S", 0.01)
    async with manager(tmp_path) as mgr:
        old = mgr.http.headers["authorization"]
        (tmp_path / "tokens").write_text(f"admin {NEW}\n")

        async def taken() -> bool:
            mgr.http.headers["authorization"] = f"Bearer {NEW}"
            return (await mgr.http.get("/v1/nodes")).status_code == 200

        await until(taken, "the new tokens")
        mgr.http.headers["authorization"] = old
        assert (await mgr.http.get("/v1/nodes")).status_code == 401
