"""Who a process is: a uuid made once, and the credential that the manager gave it.

Both live in the state folder, mode 0600. Losing the folder loses the identity: the manager then
refuses the name until it is forgotten, which is the point.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from uuid import UUID

from drystone_common.errors import DataError, NotFoundError
from drystone_common.files import atomic_write_json, read_json
from drystone_common.ids import new_uuid, parse_name, parse_uuid

FILE_NAME: Final = "identity.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """Name and uuid of a process; the credential is empty before the first registration."""

    name: str
    uuid: UUID
    cluster: UUID | None = None
    credential: str = field(default="", repr=False)


class IdentityFile:
    """The identity in a state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME

    def load_or_create(self, name: str) -> Identity:
        """Give the stored identity, making it first where there is none.

        A folder that belongs to another name is refused: two nodes would share one uuid.
        """
        parse_name(name, "node name")
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            found = self._read()
        except NotFoundError:
            found = Identity(name, new_uuid())
            self.save(found)
        if found.name != name:
            raise DataError(
                f"{self._path} belongs to {found.name}, not to {name}",
                code="state_of_another_node",
                hint="give every process a state folder of its own. A machine that was renamed "
                f"keeps the name {found.name} here, or comes as a new one: "
                f"`drystone node forget {found.name} --yes`, remove the folder. Of a clone "
                "remove it",
            )
        return found

    def registered(self, identity: Identity, cluster: UUID, credential: str) -> Identity:
        """Persist what the registration gave."""
        known = replace(identity, cluster=cluster, credential=credential)
        if known != identity:
            self.save(known)
        return known

    def save(self, identity: Identity) -> None:
        """Write durably, readable by the owner only."""
        atomic_write_json(
            self._path,
            {
                "name": identity.name,
                "uuid": str(identity.uuid),
                "cluster": str(identity.cluster) if identity.cluster else None,
                "credential": identity.credential,
            },
        )

    def _read(self) -> Identity:
        data = read_json(self._path)
        if not isinstance(data, dict):
            raise _damaged(self._path)
        name, own, cluster = data.get("name"), data.get("uuid"), data.get("cluster")
        credential = data.get("credential")
        if not (isinstance(name, str) and isinstance(own, str) and isinstance(credential, str)):
            raise _damaged(self._path)
        return Identity(
            name,
            parse_uuid(own),
            parse_uuid(cluster) if isinstance(cluster, str) else None,
            credential,
        )


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is damaged",
        code="file_damaged",
        hint="restore it, or remove it, forget the node and let it join anew",
    )
