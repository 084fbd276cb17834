"""The cluster's state and the rules that change it: metadata store, map, membership, volumes.

Belongs here: records and their codecs, transactions over ``MetadataStore``, pure planners.
Does not belong here: HTTP, gRPC, processes, sockets. Time and randomness are passed in; only
``store_*`` modules talk to a database.
"""
