"""Carry out a plan, action by action; the first that fails ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote

from drystone_common.errors import ConflictError, NotFoundError
from drystone_common.logs import get_logger
from drystone_operator import names
from drystone_operator.apply import secrets
from drystone_operator.apply.interface import Kube, KubeError
from drystone_operator.apply.paths import BY_KIND
from drystone_operator.apply.status_writer import StatusWriter
from drystone_operator.manager.client import ManagerClient
from drystone_operator.plan import actions as do
from drystone_operator.plan.local_volumes import RELEASED
from drystone_operator.plan.maintenance import FOR_MAX_S, FOR_MIN_S
from drystone_operator.plan.read import node
from drystone_operator.resources.base import digest
from drystone_operator.resources.children import key
from drystone_storaged.agent.rest import segment

Json = dict[str, Any]

INVALID: Final = 422
CONFLICTS_MAX: Final = 5  # somebody else wrote meanwhile; five times in a row is not chance

_log = get_logger(__name__)


class Executor:
    """Does what plans say, for one StorageCluster."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        *,
        status: StatusWriter,
        monotonic: Callable[[], float],
        reapply_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._status = status
        self._monotonic = monotonic
        self._reapply_s = reapply_s
        self._now = now
        self._applied: dict[str, tuple[str, float]] = {}
        self.done = 0
        """Actions that were carried out, apart from what was said in a status."""
        self._handlers: dict[type, Callable[[Any, ManagerClient | None], Awaitable[None]]] = {
            do.Apply: self._apply,
            do.Create: self._create,
            do.ReadoptVolume: self._readopt_volume,
            do.CreateSecret: self._create_secret,
            do.IssueCertificate: self._issue,
            do.RenewAuthority: self._renew,
            do.AddJoinToken: self._add_join_token,
            do.DropJoinTokens: self._drop_join_tokens,
            do.LabelNode: self._label_node,
            do.SetFinalizer: self._set_finalizer,
            do.DeleteObject: self._delete_object,
            do.DeletePod: self._delete_pod,
            do.LetGo: self._let_go,
            do.SetTaint: self._set_taint,
            do.Fence: self._fence,
            do.AddDrive: self._add_drive,
            do.RemoveDrive: self._remove_drive,
            do.EvacuateDrive: self._evacuate_drive,
            do.RetestDrive: self._retest_drive,
            do.Maintain: self._maintain,
            do.EndMaintenance: self._end_maintenance,
            do.ForgetNode: self._forget_node,
            do.CreatePool: self._create_pool,
            do.ChangePool: self._change_pool,
            do.DeletePool: self._delete_pool,
            do.WriteStatus: self._write_status,
        }

    async def run(self, plan: do.Plan, manager: ManagerClient | None) -> None:
        """Carry out, in order."""
        for action in plan.actions:
            await self.one(action, manager)

    async def one(self, action: do.Action, manager: ManagerClient | None) -> None:
        """Carry out one action."""
        await self._handlers[type(action)](action, manager)
        if not isinstance(action, do.Apply | do.WriteStatus):
            self.done += 1
            _log.info("action_done", action=str(action), namespace=self._namespace)

    async def _apply(self, action: do.Apply, _: ManagerClient | None) -> None:
        """Apply what changed, and everything now and then: somebody may have edited it."""
        name, wanted, now = key(action.body), digest(action.body), self._monotonic()
        before = self._applied.get(name)
        if before is not None and before[0] == wanted and now - before[1] < self._reapply_s:
            return
        path = self._path(action.body["kind"], action.body["metadata"]["name"])
        await self._kube.apply(path, action.body, manager=names.FIELD_MANAGER)
        self._applied[name] = (wanted, now)
        self.done += 1

    async def _create(self, action: do.Create, _: ManagerClient | None) -> None:
        await self._kube.create(self._path(action.body["kind"]), action.body)

    async def _readopt_volume(self, action: do.ReadoptVolume, _: ManagerClient | None) -> None:
        def change(found: Json) -> Json | None:
            if (found.get("status") or {}).get("phase") != RELEASED:
                return None
            return {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}

        await self._change(self._path("PersistentVolume", action.name), change)

    async def _create_secret(self, action: do.CreateSecret, _: ManagerClient | None) -> None:
        name = f"drystone {self._namespace}/{action.name}"
        data = (
            secrets.authority(name, self._now())
            if action.content == "authority"
            else secrets.content(action.content)
        )
        body = secrets.secret(action.name, self._namespace, data, action.labels)
        await self._kube.create(self._path("Secret"), body)

    async def _issue(self, action: do.IssueCertificate, _: ManagerClient | None) -> None:
        found = await self._kube.get(self._path("Secret", action.authority))
        data = (found or {}).get("data") or {}
        made = secrets.certificate(data, action.hosts, self._now())
        labels = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
        await self._put_secret(secrets.secret(action.secret, self._namespace, made, labels))

    async def _renew(self, action: do.RenewAuthority, _: ManagerClient | None) -> None:
        path = self._path("Secret", action.secret)
        data = ((await self._kube.get(path)) or {}).get("data") or {}
        name = f"drystone {self._namespace}/{action.secret}"
        if action.step == "promote":
            change = {"data": secrets.promoted(data)}
        else:
            annotations = {names.ANNOTATION_RENEW: None}
            change = {
                "metadata": {"annotations": annotations},
                "data": secrets.successor(data, name, self._now()),
            }
        await self._kube.merge(path, change)

    async def _put_secret(self, body: Json) -> None:
        """Create it, or put what it holds into the one that is there."""
        if not await self._kube.create(self._path("Secret"), body):
            path = self._path("Secret", body["metadata"]["name"])
            await self._kube.merge(path, {"data": body["data"]})

    async def _add_join_token(self, action: do.AddJoinToken, manager: ManagerClient | None) -> None:
        answer = await _need(manager).post(
            "/v1/join-tokens", {"role": action.role, "name": action.node}
        )
        data = {action.key: str(answer.get("token", ""))}
        labels = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
        await self._put_secret(secrets.secret(action.secret, self._namespace, data, labels))

    async def _drop_join_tokens(self, action: do.DropJoinTokens, _: ManagerClient | None) -> None:
        path = self._path("Secret", action.secret)
        await self._kube.merge(path, {"data": dict.fromkeys(action.keys)})

    async def _label_node(self, action: do.LabelNode, _: ManagerClient | None) -> None:
        body = {"metadata": {"labels": {action.label: action.value}}}
        await self._kube.merge(BY_KIND["Node"].path(name=action.node), body)

    async def _set_finalizer(self, action: do.SetFinalizer, _: ManagerClient | None) -> None:
        def change(found: Json) -> Json | None:
            have = list(found["metadata"].get("finalizers", []))
            if (names.FINALIZER in have) == action.present:
                return None
            kept = [name for name in have if name != names.FINALIZER]
            new = [*kept, names.FINALIZER] if action.present else kept
            return {"metadata": {"finalizers": new}}

        await self._change(self._path(action.kind, action.name), change)

    async def _delete_object(self, action: do.DeleteObject, _: ManagerClient | None) -> None:
        await self._kube.delete(self._path(action.kind, action.name))

    async def _delete_pod(self, action: do.DeletePod, _: ManagerClient | None) -> None:
        path = BY_KIND["Pod"].path(action.namespace, action.name)
        await self._kube.delete(path, uid=action.uid, grace=action.grace)

    async def _let_go(self, action: do.LetGo, _: ManagerClient | None) -> None:
        path = BY_KIND["Pod"].path(action.namespace, action.name)
        await self._kube.delete(path, uid=action.uid)

        def change(found: Json) -> Json | None:
            have = found["metadata"].get("finalizers") or []
            kept = [name for name in have if name != names.FINALIZER]
            if found["metadata"].get("uid") != action.uid or kept == have:
                return None
            return {"metadata": {"finalizers": kept}}

        await self._change(path, change)

    async def _set_taint(self, action: do.SetTaint, _: ManagerClient | None) -> None:
        def change(found: Json) -> Json | None:
            seen = node(found)
            if action.present and (seen.ready or seen.ready_since != action.away_since):
                raise ConflictError(f"node {action.node} came back meanwhile", code="node_back")
            have = found.get("spec", {}).get("taints", [])
            if action.present and any(_same_place(t) for t in have):
                # Kubernetes takes one of a key and effect: a person's does the same and stays.
                return None
            kept = [t for t in have if not _ours(t)]
            new = [*kept, _taint()] if action.present else kept
            return None if new == have else {"spec": {"taints": new}}

        await self._change(BY_KIND["Node"].path(name=action.node), change)

    async def _change(self, path: str, change: Callable[[Json], Json | None]) -> None:
        """Read, change, write where nobody wrote in between; else again."""
        for _ in range(CONFLICTS_MAX):
            found = await self._kube.get(path)
            body = change(found) if found is not None else None
            if found is None or body is None:
                return
            metadata = body.setdefault("metadata", {})
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
            try:
                await self._kube.merge(path, body)
            except KubeError as error:
                if error.status != 409:  # noqa: PLR2004 - Conflict
                    raise
                continue
            return
        raise ConflictError(f"{path} changes all the time; it is tried again later")

    async def _fence(self, action: do.Fence, manager: ManagerClient | None) -> None:
        await _need(manager).post(f"/v1/clients/{segment(action.client)}/fence")

    async def _add_drive(self, action: do.AddDrive, manager: ManagerClient | None) -> None:
        body = {"device": action.device, "power_loss_protected": action.power_loss_protected}
        await _need(manager).post(f"/v1/nodes/{segment(action.node)}/drives", body)

    async def _remove_drive(self, action: do.RemoveDrive, manager: ManagerClient | None) -> None:
        # The id of a file holds slashes; REST takes the rest of the path, escaped, as one id.
        device = quote(action.device, safe=":")
        await self._gone(manager, f"/v1/nodes/{segment(action.node)}/drives/{device}")

    async def _evacuate_drive(
        self, action: do.EvacuateDrive, manager: ManagerClient | None
    ) -> None:
        path = f"/v1/drives/{action.drive}/evacuate"
        if action.stop:
            await _need(manager).delete(path)
        else:
            await _need(manager).post(path)

    async def _retest_drive(self, action: do.RetestDrive, manager: ManagerClient | None) -> None:
        await _need(manager).post(f"/v1/drives/{action.drive}/retest?forgive=true")

    async def _maintain(self, action: do.Maintain, manager: ManagerClient | None) -> None:
        left = int((action.until - self._now()).total_seconds())
        body = {"for_s": max(FOR_MIN_S, min(left, FOR_MAX_S)), "reason": action.reason}
        await _need(manager).post(f"/v1/nodes/{segment(action.node)}/maintenance", body)

    async def _end_maintenance(
        self, action: do.EndMaintenance, manager: ManagerClient | None
    ) -> None:
        await self._gone(manager, f"/v1/nodes/{segment(action.node)}/maintenance")

    async def _forget_node(self, action: do.ForgetNode, manager: ManagerClient | None) -> None:
        await self._gone(manager, f"/v1/nodes/{segment(action.node)}")

    async def _gone(self, manager: ManagerClient | None, path: str) -> None:
        """Delete what may not be there any more."""
        try:
            await _need(manager).delete(path)
        except NotFoundError:
            return

    async def _create_pool(self, action: do.CreatePool, manager: ManagerClient | None) -> None:
        await _need(manager).post("/v1/pools", action.body)

    async def _change_pool(self, action: do.ChangePool, manager: ManagerClient | None) -> None:
        path = f"/v1/pools/{segment(action.name)}"
        await _need(manager).patch(path, {"min_insync": action.min_insync})

    async def _delete_pool(self, action: do.DeletePool, manager: ManagerClient | None) -> None:
        await self._gone(manager, f"/v1/pools/{segment(action.name)}")

    async def _write_status(self, action: do.WriteStatus, _: ManagerClient | None) -> None:
        try:
            await self._status.write(self._namespace, action)
        except KubeError as error:
            if error.status != INVALID:
                raise
            # Saying it failed; doing must not: the other objects of this round have their turn.
            _log.warning(
                "status_not_written", object=f"{action.kind}/{action.name}", error=str(error)
            )

    def _path(self, kind: str, name: str = "") -> str:
        resource = BY_KIND[kind]
        return resource.path(self._namespace if resource.namespaced else "", name)


def _need(manager: ManagerClient | None) -> ManagerClient:
    if manager is None:
        raise ConflictError("no manager is known yet", code="manager_unknown")
    return manager


def _taint() -> Json:
    return {
        "key": names.TAINT_KEY,
        "value": names.TAINT_VALUE,
        "effect": names.TAINT_EFFECT,
    }


def _same_place(taint: Json) -> bool:
    return (taint.get("key"), taint.get("effect")) == (names.TAINT_KEY, names.TAINT_EFFECT)


def _ours(taint: Json) -> bool:
    return cast("str", taint.get("key")) == names.TAINT_KEY and (
        taint.get("value") == names.TAINT_VALUE
    )
