"""Types of the compiled module; written by hand, compared with the module by a test."""

from typing import Self, final

class NativeError(Exception):
    """What the native side refused; the message says why and what to do."""

def version() -> str:
    """Version of the native package."""

def crc64(data: bytes) -> int:
    """CRC-64/NVME of any bytes."""

def block_csum(lineage: int, block: int, data: bytes) -> int:
    """Seeded checksum of one block; `block` counts from the start of the volume."""

def chunk_hash(seed: int, chunk: int) -> int:
    """Placement hash of a chunk; the low bits are the placement group."""

def role_key(master: bytes, role: str, uuid: bytes, key_epoch: int) -> bytes:
    """Key of a role ("client", "server", "manager") and a 16-byte uuid, 32 bytes."""

def seal_ticket(fields: str, master: bytes, key_epoch: int) -> bytes:
    """Signed attach ticket from its JSON fields."""

def open_ticket(ticket: bytes, master: bytes, key_epoch: int) -> str:
    """JSON fields of a ticket after checking its MAC."""

def place_pool(spec: str) -> str:
    """Ordered drives of every placement group, as JSON.

    `spec`: {"drives": [{"id", "weight", "fault_set", "node"}], "pg_count": int or null,
    "copies", "domain": "auto"|"fault-set"|"node"|"drive", "salt", "current": [[drive id, ...], ...]
    or null: what stands, so that the fewest places change, "closed": [drive id, ...] that keep what
    they have there and get nothing more}; answers
    {"domain", "width", "pg_count", "pgs": [[drive id, ...], ...]}.
    """

def map_to_json(data: bytes) -> str:
    """A cluster map in readable form, for tests and support."""

def pg_record_to_json(data: bytes) -> str:
    """One placement group record in readable form."""

def format_drive(path: str, spec: str) -> str:
    """Creates (when `create_bytes` is given) and formats a drive; refuses one that is not blank.

    `spec`: {"cluster": uuid, "uuid": uuid, "incarnation": int, "feature_level": int,
    "create_bytes": int or null, "segment_bytes": int or null}; answers as `inspect_drive`.
    """

def salvage_drive(path: str, spec: str) -> str:
    """Writes the superblocks of a drive anew that lost them, if at least three segments name it.

    It is suspect from then on. `spec` and the answer are those of `format_drive`; refused where
    the superblocks are not lost but cannot be read, and where nothing names the drive.
    """

def inspect_drive(path: str) -> str:
    """What is on a drive, changing nothing, as JSON.

    {"state": "blank"|"drystone"|"foreign"|"damaged"|"missing"|"in-use", "reason": str, "size": int,
    and for "drystone": "uuid", "cluster", "drive" (0 = none yet), "nonce", "incarnation",
    "revision", "feature_level"}.
    """

def drive_blocks(path: str, out: str | None = None) -> str:
    """Reads and verifies every block of a drive, changing nothing; a drive in use is refused.

    Answers {"drive", "uuid", "suspect": str or null, "data", "holes", "zeros", "bad" (blocks by
    kind), "rotten", "unproven", "unread" (blocks that are not what they were), "pgs": [{"pool",
    "pg", "blocks", "digest"}]}. Two in-sync copies of a group with equal content have equal
    digests; holes are left out of them, because each copy drops those in its own time.

    With `out`, a line for every block goes to that file, in the order of (pool, pg, layer, chunk,
    block), which is that of the text; numbers are hexadecimal with all digits:
    pool pg layer chunk block volume kind generation.seq checksum sha256 worth
    kind: data, hole, zero, bad. worth: ok; rotten (the bytes do not fit the checksum); unproven
    (the header is damaged); unread (the device refused). "-" where there is nothing.
    """

def drive_facts(path: str) -> str:
    """What the log of a drive knows, changing nothing, as JSON.

    {"cluster", "uuid", "drive", "nonce", "incarnation", "revision", "format", "feature_level",
    "clean", "suspect",
    "pgs": [{"pool", "pg", "epoch", "join", "quiesced", "role": "in-sync"|"joining"|"out"|"unknown",
      "distrusted", "highest_epoch", "objects", "blocks"}],
    "volumes": [{"volume", "sealed_generation", "nonce", "ticket": null or {"serial", "generation",
      "size", "pool", "seed", "chain": [layer], "parents": int, "client"}, "max_generation",
      "stable": {"generation", "seq"}, "layers": [{"layer", "data_blocks", "end_block"}]}],
    "frozen": [{"layer", "generation", "seq"}], "freed": [layer], "damaged": [str]}.
    `highest_epoch` is the highest that the group's adoption or any change in it carries;
    `max_generation` counts forgotten blocks too.
    """

@final
class BeaconCore:
    """The beacon of a process of its own: its thread, and the lease page in a folder.

    Events as those of `ServerCore`:
      quorum {inside} · vote {node, round, granted} · silent {nodes: [uuid, ...]}
      revoked {round, granted} · lease_page_lost {}
    """

    def __new__(cls, run_dir: str, boot: int) -> Self:
        """Take the page over: every lease in it is void from here on. May wait 2 s for a lock."""
    def start(self, config: str) -> str:
        """Binds the UDP socket and starts the thread; answers the real address.

        {"node": uuid, "master": hex of 32 bytes, "key_epoch": int, "boot": int,
        "listen": "host:port"}.
        """
    def event_fd(self) -> int: ...
    def events(self) -> list[str]: ...
    def voters(self, version: int, voters: list[str], nodes: list[tuple[str, str]]) -> None:
        """Voters, and (node uuid, "host:port") of every beacon."""
    def suspects(self, as_of: int, keys: list[tuple[str, int]]) -> None: ...
    def ask_vote(self, node: str, round: int) -> None: ...  # noqa: A002
    def revoke(self, round: int, instance: int) -> None:  # noqa: A002
        """Take this server process its lease, if it is gone or stands still; `revoked` answers.

        Not granted for an instance that is not the one last seen. Round 0: only say whether it
        would be done.
        """
    def stats(self) -> str:
        """Figures of the thread. Raises when it does not answer within 200 ms.

        {"refused": {"malformed"|"bad_mac"|"own_name"|"stale"|"earlier_boot"|"unanswered"|
        "too_many": n},
        "lease_margin_us": int or null}
        """
    def stop(self) -> None:
        """Withdraws every lease and ends the thread; blocks up to 2 s."""

@final
class ServerCore:
    """The native side of one storage server: drive threads and the beacon thread.

    Methods never wait for a drive. News is taken with `events` whenever `event_fd` is readable.
    Every event is JSON with a "kind":
      drive_ready {drive, replayed_bytes, open_us, suspect: str|null}
      drive_failed {drive, reason} · drive_closed {drive} · invariant {drive, what}
      need_map {at_least} · need_generations {drive, pool, since}
      copy_complete {drive, pool, pg, epoch} · leave_pg {drive, pool, pg, why}
      control_done {drive, id, ok: bool, sealed: int|null, reason: str|null}
      report {drive, what: "usage"|"healed"|"unrepaired"|"scrub_done"|"resync"|"drive_failed"|
              "map_refused", ...}
        (usage: layers: [[layer, pool, pg, delta_slots], ...]; resync: pool, pg, chunks, bytes;
         scrub_done: blocks, bad, healed; healed/unrepaired: volume, layer, chunk, block)
      quorum {inside} · vote {node, round, granted} · silent {nodes: [uuid, ...]}
      lease_page_lost {} (of a beacon of its own: somebody removed the page's file)
    """

    def __new__(cls, config: str) -> Self:
        """Make a core.

        `config`: {"cluster": uuid, "node": uuid, "incarnation": int, "feature_level": int,
        "masters": [[key_epoch, hex of 32 bytes], ...], "key_epoch": int}.
        """
    def event_fd(self) -> int: ...
    def events(self) -> list[str]: ...
    def open_drive(self, config: str) -> None:
        """Starts a drive's thread.

        {"drive", "path", "nonce", "revision", "listen": "host:port", "slot": int,
        "power_loss_protected": bool, "clear_suspect": bool}. The nonce is the one the manager has
        recorded.
        The socket is bound at once (an error is raised here); `drive_ready` or
        `drive_failed` follows.
        """
    def close_drive(self, drive: int) -> None: ...
    def start_beacon(self, listen: str, boot: int) -> str:
        """Binds the beacon's UDP socket and starts its thread; answers the real address."""
    def use_beacon(self, run_dir: str, instance: int) -> None:
        """Instead of `start_beacon`: take leases from the page of a beacon process in this folder.

        `instance` is random for each start, not 0. Before the first `open_drive`.
        """
    def map(self, data: bytes, read_began_us: int | None) -> None:
        """A newer map for every drive and the beacon.

        `read_began_us`: CLOCK_MONOTONIC microseconds when the quorum read that gave it began;
        None for a pushed map.
        """
    def generations(
        self, drive: int, pool: int, revision: int, entries: list[tuple[int, int, int]]
    ) -> None:
        """Answer to need_generations: (volume, generation, owner nonce)."""
    def control(self, drive: int, request_id: int, request: str) -> None:
        """Starts a request to a drive.

        {"what": "fence", volume, generation, nonce} | {"what": "quiesce", pool, pg, epoch} |
        {"what": "free_layer", layer} | {"what": "scrub"} | {"what": "exercise"}; ids from 1;
        answered by control_done. That of an exercise (256 random reads, 64 small writes, each
        durable before the next, at most 10 s) has also p99_us and errors; what did not end in
        time is an error.
        """
    def voters(self, version: int, voters: list[str], nodes: list[tuple[str, str]]) -> None:
        """Voters, and (node uuid, "host:port") of every beacon."""
    def suspects(self, as_of: int, keys: list[tuple[str, int]]) -> None: ...
    def ask_vote(self, node: str, round: int) -> None: ...  # noqa: A002
    def stats(self) -> str:
        """Figures of every drive.

        {"drives": {"7": {"counters": {...}, "space": {"total_slots", "live_slots",
        "grantable_slots", "granted_slots", "reserve_slots"}, "oldest_io_us", "peers",
        "device": {"p99_us", "ops" (both of the last 5 s), "queue_depth", "read"|"write"|"flush":
        {"buckets": [[bound in us, operations that took at most that long], ...], "count",
        "sum_us"}}, "lease_margin_us": least since the last call, or null, "resync_bytes_left",
        "log": {"moved_blocks", "collected_segments", "checkpoints", "segments": {"free"|"open"|
        "closed"|"emptied"|"discarding"|"checkpoint"|"stuck": n}}, "refused": {reason: n}}}};
        a drive that does not answer within 200 ms is left out.
        """
    def stop(self) -> None:
        """Ends every thread, drives with clean state; waits at most 10 s."""

@final
class BlockCore:
    """The native side of a block daemon: one thread with all sequencers and NBD servers.

    Events, as for ServerCore:
      state {volume, generation, state: "detached"|"attaching"|"sealing"|"rolling"|"activating"|
             "active"|"stalled"|"fenced"}
      fenced {volume, generation, reason} · want_activate {volume, generation}
      need_map {at_least}
      report {volume, drive, what: "stall"|"refused"|"error"|"full"|"bad_block"}
      ticket_in_force {volume, serial} · detached {volume, clean} · attach_failed {volume, reason}
      invariant {volume, what}
    """

    def __new__(cls, config: str) -> Self:
        """Make a core.

        `config`: {"cluster": uuid, "client": uuid, "key": hex of the role key, "key_epoch": int}.
        """
    def event_fd(self) -> int: ...
    def events(self) -> list[str]: ...
    def map(self, data: bytes) -> None: ...
    def attach(self, ticket: bytes, config: str) -> None:
        """Starts a sequencer.

        {"socket": path of the NBD unix socket, "export": name, "recover": bool,
        "near_node": uuid|null}. The socket listens at once; requests wait until
        the state is "active". One attachment per volume.
        """
    def activated(self, volume: int, generation: int, outcome: str) -> None:
        """Outcome of Activate: "ok", "superseded" or "retry"."""
    def ticket(self, volume: int, ticket: bytes) -> None: ...
    def detach(self, volume: int) -> None:
        """Drains and ends; `detached` follows. A fenced volume detaches at once."""
    def revoked(self, volume: int) -> None:
        """The attachment is gone from the record: everything answers EIO."""
    def stats(self) -> str:
        """Figures of every attached volume.

        {"volumes": {"<id>": {"state", "generation", "size", "connections", "counters": {...},
        "io": {"in_flight", "read"|"write"|"flush"|"trim"|"status": {"completed", "failed",
        "bytes"}, "read_latency"|"write_latency": {"buckets": [[bound in us, requests that took
        at most that long], ...], "count", "sum_us"}}}}, "drives_up": [...]}; all since the
        attach. Raises when the thread does not answer within 1 s.
        """
    def stop(self) -> None:
        """Ends the thread without detaching: attachments stay in the record for a re-adopt."""
