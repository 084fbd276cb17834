"""`make image`: the one container image of all processes.

Belongs here: what goes into the image and how it is put together, with or without a container
engine. Needs only Python's own library, so that it runs in a build stage and in the test lab.
"""
