"""The gRPC server of the control channel."""

from __future__ import annotations

from typing import Final

import grpc

from drystone_storaged.manager.control.drive_calls import DriveCalls
from drystone_storaged.manager.control.registration import RegistrationCalls
from drystone_storaged.manager.control.volume_calls import VolumeCalls
from drystone_storaged.manager.services import Services
from drystone_storaged.proto import control_pb2_grpc

MESSAGE_BYTES_MAX: Final = 4 << 20  # a status of 10 000 layers; maps go out, and are larger
SENT_BYTES_MAX: Final = 32 << 20  # a map of 8 192 PGs and 8 192 drives has about 2 MiB

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", SENT_BYTES_MAX),
    # A peer that vanished without a word is noticed within 16 s; silence votes do not wait for it.
    # Later than the peers' own pings (8 s), which put it off: one side's pings are enough.
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    # Of a ping that another cause had sent already: by default it is waited for a minute.
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    # Two managers on one port would split the sessions between them.
    ("grpc.so_reuseport", 0),
)


class ControlServicer(RegistrationCalls, DriveCalls, VolumeCalls, control_pb2_grpc.ControlServicer):
    """Dispatches calls to the services."""

    def __init__(self, services: Services) -> None:
        self._services = services


async def start_control(
    services: Services, listen: str, credentials: grpc.ServerCredentials | None = None
) -> tuple[grpc.aio.Server, int]:
    """Listen, with TLS where there are credentials; gives the server and its port."""
    server = grpc.aio.server(options=OPTIONS)
    control_pb2_grpc.add_ControlServicer_to_server(ControlServicer(services), server)
    if credentials is None:
        port = server.add_insecure_port(listen)
    else:
        port = server.add_secure_port(listen, credentials)
    await server.start()
    return server, port
