"""The list of voters: every beacon gets each version, and changes wait for one another (B14)."""

from __future__ import annotations

from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Peer, peers, until


def voters_of(peer: Peer) -> tuple[int, set[str]]:
    """The newest list that a server was told."""
    told = [m.welcome.voters for m in peer.messages if m.WhichOneof("kind") == "welcome"]
    return told[-1].version, {voter.name for voter in told[-1].voters}


async def test_on_a_first_start_every_server_is_told_of_every_voter(mgr):
    async with peers(mgr, 3, 0) as made:
        names = {"node-1", "node-2", "node-3"}
        await until(lambda: all(voters_of(p)[1] == names for p in made), "three voters everywhere")
        assert len({voters_of(p)[0] for p in made}) == 1


async def test_the_next_change_waits_for_who_uses_an_older_list(mgr):
    async with peers(mgr, 2, 0) as made:
        await until(lambda: all(len(voters_of(p)[1]) == 2 for p in made), "two voters")
        version = voters_of(made[0])[0]
        made[1].confirms = False
        extra = [Peer(mgr, f"node-{n}", "server") for n in (3, 4)]
        try:
            for peer in extra:
                await peer.register(await mgr.token("server", peer.name))
                await peer.connect()
            await until(lambda: voters_of(made[0])[0] == version + 1, "the first change")
            await mgr.services.voters.settle()
            assert voters_of(made[0])[0] == version + 1, "node-2 did not say that it knows"
            waits = [i for i in (await mgr.status())["issues"] if "does not vote" in i]
            assert len(waits) == 1
            assert "node node-4 does not vote on silence yet" in waits[0]
            report = pb.ReportSilenceRequest(voters_version=version + 1)
            await made[1].call("ReportSilence", report)
            await until(lambda: len(voters_of(made[0])[1]) == 4, "the second change")
            assert not [i for i in (await mgr.status())["issues"] if "does not vote" in i]
        finally:
            for peer in extra:
                await peer.close()


async def test_status_says_who_votes(mgr):
    async with peers(mgr, 2) as made:
        await until(lambda: all(len(voters_of(p)[1]) == 2 for p in made[:2]), "two voters")
        expected = {"node-1": True, "node-2": True, "block-1": False}
        listed = (await mgr.http.get("/v1/nodes")).json()["items"]
        for nodes in ((await mgr.status())["nodes"], listed):
            assert {node["name"]: node["voter"] for node in nodes} == expected


async def test_a_node_whose_vote_waits_for_another_change_is_no_voter_in_status(mgr):
    async with peers(mgr, 2, 0) as made:
        await until(lambda: all(len(voters_of(p)[1]) == 2 for p in made), "two voters")
        made[1].confirms = False
        extra = [Peer(mgr, f"node-{n}", "server") for n in (3, 4)]
        try:
            for peer in extra:
                await peer.register(await mgr.token("server", peer.name))
            votes = {node["name"]: node["voter"] for node in (await mgr.status())["nodes"]}
            assert votes == {"node-1": True, "node-2": True, "node-3": True, "node-4": False}
        finally:
            for peer in extra:
                await peer.close()


async def test_a_forgotten_node_votes_no_more(mgr):
    async with peers(mgr, 3, 0) as made:
        extra = Peer(mgr, "node-4", "server")
        await extra.register(await mgr.token("server", "node-4"))
        await until(lambda: len(voters_of(made[0])[1]) == 4, "four voters")
        answer = await mgr.http.delete("/v1/nodes/node-4")
        assert answer.status_code == 204, answer.text
        await until(lambda: all(len(voters_of(p)[1]) == 3 for p in made), "three voters")
        await extra.close()


async def test_a_server_that_registers_again_elsewhere_is_heard_there(mgr):
    async with peers(mgr, 2, 0) as made:
        again = pb.RegisterRequest(
            role=pb.ROLE_SERVER, name="node-2", uuid=made[1].uuid, beacon_addr="127.0.0.1:99"
        )
        await made[1].call("Register", again)

        def told() -> bool:
            listed = [m.welcome.voters for m in made[0].messages if m.HasField("welcome")]
            return any(v.beacon_addr == "127.0.0.1:99" for v in listed[-1].voters)

        await until(told, "the new address")
