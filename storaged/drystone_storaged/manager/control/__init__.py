"""gRPC of the control channel (`proto/control.proto`): conversion and dispatch, no rules."""
