"""Settings of a process: from its command line, its file and ``DRYSTONE_*`` variables.

Order, first wins: what the caller passes, the environment, the file, the default of the field.
Every field of a settings class has a docstring or description with its unit and its reason.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from drystone_common.errors import InvalidArgumentError
from drystone_common.files import read_limited

ENV_PREFIX = "DRYSTONE_"
DIR_VARIABLE = "DRYSTONE_DIR"


class Settings(BaseSettings):
    """Base of every settings class: immutable, and an unknown key is an error, not a typo lost."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        # An empty variable is how a shell or a chart says "not set".
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    cls: type[SettingsT], *, file: Path | None = None, overrides: dict[str, Any] | None = None
) -> SettingsT:
    """Build ``cls`` from overrides, environment and an optional TOML file.

    Overrides whose value is ``None`` count as not given, so that a command line can be passed
    as it is. Raises ``InvalidArgumentError`` that names each bad setting.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    from_file = _read_toml(file) if file is not None else {}

    class WithFile(cls):  # type: ignore[valid-type, misc]  # a class made from an argument
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - fixed signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - fixed signature
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings, env_settings, InitSettingsSource(settings_cls, from_file))

    try:
        merged = WithFile(**given)
    except ValidationError as error:
        raise _explain(error, file) from error
    # A plain `cls`, so that two settings with equal fields are equal.
    plain = cls.model_construct(_fields_set=merged.model_fields_set, **dict(merged))
    return cast("SettingsT", plain)


def state_dir() -> Path:
    """Give a local cluster's folder: ``$DRYSTONE_DIR``, else one under the user's state folder."""
    chosen = os.environ.get(DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "drystone"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_limited(file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(
            f"{file} is not a TOML file: {error}", code="invalid_settings"
        ) from error


def _explain(error: ValidationError, file: Path | None) -> InvalidArgumentError:
    # Ten complaints fit a screen; values stay out of the text, they may be secrets.
    parts = [
        f"{'.'.join(str(step) for step in item['loc']) or 'settings'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)[:10]
    ]
    where = f"{ENV_PREFIX}* variables" + (f" and {file}" if file else "")
    return InvalidArgumentError(
        "settings are not valid: " + "; ".join(parts),
        code="invalid_settings",
        hint=f"check {where}",
    )
