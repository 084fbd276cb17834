"""The manager: REST for people and CSI, gRPC for servers and block daemons, the membership loops.

Belongs here: transport, wiring, loops that observe and decide. Rules of what may change are in
``drystone_storaged.cluster``; nothing here invents a transaction. It keeps no state that is not
in the metadata store or reported anew after a restart.
"""
