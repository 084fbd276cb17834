"""The file: every byte that goes into it passes the redactor here."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from drystone_cli.bundle.redact import Redactor
from drystone_common.errors import AlreadyExistsError

PRIVATE: Final = 0o600  # addresses, names of volumes: not for every user of the machine
PART_CHARS_MAX: Final = 64 << 20  # larger is no page of ours; it is cut
CUT: Final = "\n[cut here]\n"


class Archive:
    """A tar.gz of texts below one folder; it appears under its name when it is whole."""

    def __init__(self, file: Path, folder: str, redactor: Redactor, now: float) -> None:
        if file.exists():
            raise AlreadyExistsError(
                f"{file} is there already", hint="name another file with --file, or remove it"
            )
        self.file: Final = file
        self.parts: Final[dict[str, int]] = {}
        self.errors: Final[list[str]] = []
        self._folder = folder
        self._redactor = redactor
        self._now = now
        self._partial = file.with_name(f".{file.name}.partial")
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
        self._stream = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._stream, mode="w:gz")  # noqa: SIM115 - see __exit__

    def __enter__(self) -> Self:
        """It is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; what was cut short leaves nothing behind."""
        try:
            if kind is None and self.errors:
                self.add("errors.txt", "\n".join(self.errors) + "\n")
            self._tar.close()
            self._stream.close()
            if kind is None:
                self._partial.rename(self.file)
        finally:
            self._stream.close()
            self._partial.unlink(missing_ok=True)

    def add(self, path: str, content: Any) -> None:
        """A text, or an object as YAML or JSON by the name's end."""
        text = content if isinstance(content, str) else self._dumped(path, content)
        clean = self._redactor.text(text[:PART_CHARS_MAX])
        data = (clean + (CUT if len(text) > PART_CHARS_MAX else "")).encode(errors="replace")
        # Names come from Kubernetes and folders: no secret, and no way out of the folder.
        name = "/".join(part for part in path.split("/") if part not in ("", ".", ".."))
        info = tarfile.TarInfo(f"{self._folder}/{name}")
        info.size, info.mode, info.mtime = len(data), PRIVATE, int(self._now)
        self._tar.addfile(info, io.BytesIO(data))
        self.parts[name] = len(data)

    def failed(self, path: str, why: str) -> None:
        """A part that could not be had: told in the file itself."""
        self.errors.append(f"{path}: {why}")

    def _dumped(self, path: str, content: Any) -> str:
        clean = self._redactor.value(content)
        if path.endswith(".yaml"):
            import yaml  # noqa: PLC0415 - only the bundle of a Kubernetes needs it

            return str(yaml.safe_dump(clean, sort_keys=False, allow_unicode=True, width=1000))
        return json.dumps(clean, indent=1, ensure_ascii=False, default=str) + "\n"
