"""`POST /clients/{name}/fence`: one fence without proof holds up neither volumes nor nodes."""

from __future__ import annotations

from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import GIB, Peer, manager, peers


def deaf_to(peer: Peer, volume: int) -> None:
    """Its server cannot seal this volume."""
    answer = peer._answer

    def deaf(command):
        if command.WhichOneof("kind") == "fence" and command.fence.volume == volume:
            return pb.CommandResult(id=command.id, code="drive_failed", message="no such drive")
        return answer(command)

    peer._answer = deaf  # type: ignore[method-assign]


async def attached(mgr, client: Peer, name: str, nonce: int) -> int:
    volume = (await mgr.http.post("/v1/volumes", json={"name": name, "size": GIB})).json()
    number = int(volume["id"], 16)
    await mgr.http.post(f"/v1/volumes/{name}/publish", json={"node": client.name})
    await client.call(
        "Attach", pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=nonce)
    )
    return number


async def test_one_fence_without_proof_holds_up_no_other_volume_and_no_other_node(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, servers=3, clients=2) as made:
        *servers, one, two = made
        mgr.services.fence._proof_s = 0.2
        stuck = await attached(mgr, one, "a-stuck", 11)
        fine = await attached(mgr, one, "b-fine", 12)
        other = await attached(mgr, two, "c-other", 13)
        for server in servers:
            deaf_to(server, stuck)
        answer = await mgr.http.post("/v1/clients/block-1/fence")
        assert answer.status_code == 504
        problem = answer.json()
        assert problem["code"] == "fence_unproven"
        assert "a-stuck" in problem["detail"]
        assert "b-fine" not in problem["detail"]
        assert problem["details"]["proven"] == f"{fine:016x}"
        assert problem["details"]["unproven"] == f"{stuck:016x}"
        shown = (await mgr.http.get("/v1/volumes/b-fine")).json()
        assert (shown["attachments"], shown["fencing"]) == ([], False)
        # The pending fence is of the first node: the second one's are proven without it.
        answer = await mgr.http.post("/v1/clients/block-2/fence")
        assert answer.status_code == 200, answer.text
        assert answer.json()["volumes"] == [f"{other:016x}"]
        # Repeated, it goes on where it was.
        again = await mgr.http.post("/v1/clients/block-1/fence")
        assert again.json()["details"]["unproven"] == f"{stuck:016x}"
        for server in servers:
            del server._answer
        done = await mgr.http.post("/v1/clients/block-1/fence")
        assert done.json()["volumes"] == [f"{stuck:016x}"]
