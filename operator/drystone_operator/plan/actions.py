"""What can be done. Each is a frozen dataclass, and one line of text in a golden test."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from drystone_operator.status import Condition

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of one object."""

    body: Json

    def __str__(self) -> str:
        """Kind and name: golden tests of resources show the rest."""
        return f"apply {self.body['kind']}/{self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object if there is none of that name; never changed afterwards."""

    body: Json

    def __str__(self) -> str:
        """Kind and name."""
        return f"create {self.body['kind']}/{self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class ReadoptVolume:
    """Let the claim that is made anew have a PersistentVolume whose claim was deleted."""

    name: str

    def __str__(self) -> str:
        """Which."""
        return f"readopt PersistentVolume/{self.name}"


@dataclass(frozen=True, slots=True)
class CreateSecret:
    """Make a Secret whose content is random, once. ``content``: master, tokens, authority."""

    name: str
    content: str
    labels: Json = field(default_factory=dict)

    def __str__(self) -> str:
        """The name only."""
        return f"create Secret/{self.name} ({self.content})"


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Have the authority in one Secret sign a certificate, and put that into another Secret."""

    secret: str
    authority: str
    hosts: tuple[str, ...]

    def __str__(self) -> str:
        """Where it goes."""
        return f"certificate for {len(self.hosts)} names into Secret/{self.secret}"


@dataclass(frozen=True, slots=True)
class RenewAuthority:
    """Make the next authority beside the one that signs, or let it sign from now on."""

    secret: str
    step: Literal["prepare", "promote"]

    def __str__(self) -> str:
        """What becomes of it."""
        what = "next authority into" if self.step == "prepare" else "next authority signs from"
        return f"{what} Secret/{self.secret}"


@dataclass(frozen=True, slots=True)
class AddJoinToken:
    """Ask a manager for a token that admits one node, and put it into a Secret."""

    secret: str
    key: str
    role: str
    node: str

    def __str__(self) -> str:
        """Where it goes."""
        return f"join token for {self.role} {self.node} into Secret/{self.secret} {self.key}"


@dataclass(frozen=True, slots=True)
class DropJoinTokens:
    """Take tokens that were used out of a Secret."""

    secret: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        """Which."""
        return f"drop used tokens {', '.join(self.keys)} from Secret/{self.secret}"


@dataclass(frozen=True, slots=True)
class LabelNode:
    """Put our label on a Node (value) or take it away (None)."""

    node: str
    label: str
    value: str | None

    def __str__(self) -> str:
        """As kubectl writes it."""
        return f"label Node/{self.node} {self.label}{f'={self.value}' if self.value else '-'}"


@dataclass(frozen=True, slots=True)
class SetFinalizer:
    """Hold an object back from deletion, or let it go."""

    kind: str
    name: str
    present: bool

    def __str__(self) -> str:
        """What."""
        return f"{'hold' if self.present else 'release'} {self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete an object of ours."""

    kind: str
    name: str

    def __str__(self) -> str:
        """What."""
        return f"delete {self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete one pod, that very one; ``grace`` None = its own."""

    namespace: str
    name: str
    uid: str
    grace: int | None = None

    def __str__(self) -> str:
        """Which, and how."""
        how = "" if self.grace is None else f" grace={self.grace}"
        return f"delete Pod/{self.namespace}/{self.name}{how}"


@dataclass(frozen=True, slots=True)
class LetGo:
    """Delete one guard pod, that very one, and take our finalizer off it.

    In this order: what is deleted and still held was not let go, by whomever it was deleted.
    """

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        """Which."""
        return f"let go Pod/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class SetTaint:
    """Put our out-of-service taint on a Node, or take it away.

    It is put only while the node is away since that very moment, looked at once more.
    """

    node: str
    present: bool
    away_since: str = ""

    def __str__(self) -> str:
        """Which."""
        return f"{'taint' if self.present else 'untaint'} Node/{self.node}"


@dataclass(frozen=True, slots=True)
class Fence:
    """Shut a client out of every volume; done only when it is proven."""

    client: str

    def __str__(self) -> str:
        """Whom."""
        return f"fence {self.client}"


@dataclass(frozen=True, slots=True)
class AddDrive:
    """Have a server take a device. It refuses what is neither blank nor ours."""

    node: str
    device: str
    power_loss_protected: bool

    def __str__(self) -> str:
        """Which."""
        return f"take device {self.device} of {self.node}"


@dataclass(frozen=True, slots=True)
class RemoveDrive:
    """Have a server give a device up. It refuses while data needs it."""

    node: str
    device: str

    def __str__(self) -> str:
        """Which."""
        return f"give up device {self.device} of {self.node}"


@dataclass(frozen=True, slots=True)
class Maintain:
    """Announce to the managers that a node goes away for a while; they may refuse."""

    node: str
    until: datetime
    reason: str

    def __str__(self) -> str:
        """Which, and until when."""
        return f"announce maintenance of {self.node} until {self.until:%Y-%m-%dT%H:%M:%S%z}"


@dataclass(frozen=True, slots=True)
class EndMaintenance:
    """Tell the managers that a maintenance is over."""

    node: str

    def __str__(self) -> str:
        """Which."""
        return f"end maintenance of {self.node}"


@dataclass(frozen=True, slots=True)
class ForgetNode:
    """Have the managers forget a storage node that holds nothing and does not run."""

    node: str

    def __str__(self) -> str:
        """Which."""
        return f"forget {self.node}"


@dataclass(frozen=True, slots=True)
class EvacuateDrive:
    """Have what a drive holds copied to others, or (``stop``) leave there what is left."""

    drive: int
    stop: bool = False

    def __str__(self) -> str:
        """Which."""
        return f"{'keep' if self.stop else 'evacuate'} drive {self.drive}"


@dataclass(frozen=True, slots=True)
class RetestDrive:
    """Have a drive tested; what was held against it is forgiven, because a person asks."""

    drive: int

    def __str__(self) -> str:
        """Which."""
        return f"retest drive {self.drive}"


@dataclass(frozen=True, slots=True)
class CreatePool:
    """Make a pool."""

    name: str
    body: Json

    def __str__(self) -> str:
        """With its shape."""
        return f"create pool {self.name} {self.body}"


@dataclass(frozen=True, slots=True)
class ChangePool:
    """Change how many copies must be in sync."""

    name: str
    min_insync: int

    def __str__(self) -> str:
        """How."""
        return f"set pool {self.name} min_insync={self.min_insync}"


@dataclass(frozen=True, slots=True)
class DeletePool:
    """Remove a pool that holds nothing."""

    name: str

    def __str__(self) -> str:
        """Which."""
        return f"delete pool {self.name}"


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """What to say of an object; written only where it differs."""

    kind: str
    name: str
    conditions: tuple[Condition, ...]
    fields: Json = field(default_factory=dict)

    def __str__(self) -> str:
        """Every condition on a line of its own."""
        lines = [f"status {self.kind}/{self.name}"]
        lines += [f"    {condition}" for condition in self.conditions]
        lines += [f"    {key}: {value}" for key, value in sorted(self.fields.items())]
        return "\n".join(lines)


Action = (
    Apply
    | Create
    | ReadoptVolume
    | CreateSecret
    | IssueCertificate
    | RenewAuthority
    | AddJoinToken
    | DropJoinTokens
    | LabelNode
    | SetFinalizer
    | DeleteObject
    | DeletePod
    | LetGo
    | SetTaint
    | Fence
    | AddDrive
    | RemoveDrive
    | EvacuateDrive
    | RetestDrive
    | Maintain
    | EndMaintenance
    | ForgetNode
    | CreatePool
    | ChangePool
    | DeletePool
    | WriteStatus
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order. An action that fails ends the plan; the next look makes a new one."""

    actions: tuple[Action, ...] = ()

    def __str__(self) -> str:
        """The text that golden tests compare."""
        return "\n".join(str(action) for action in self.actions)

    def of(self, *kinds: type) -> tuple[Action, ...]:
        """The actions of some kinds."""
        return tuple(action for action in self.actions if isinstance(action, kinds))
