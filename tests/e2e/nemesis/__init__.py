"""Breaks a real cluster on purpose, and proves from journals of its clients that it kept its word.

Here belong: what breaks it, what loads it, what writes down every request, and what judges that.
Not here: anything that the product itself would need.

``client`` starts a process of load (``crew``, ``load``, ``mix``, ``stamp``), which writes
``journal``; a lap breaks something meanwhile, notes a fence with ``base.note_fence``, takes its
times from ``timeline``, lets the client make a checkpoint and then judges: ``collect`` reads the
``base`` and the journals after it into a ``history``, ``check`` (``zones``, ``search``) gives a
verdict with each ``offence`` in words, and ``collect.compact`` makes the next base of a good one.
"""
