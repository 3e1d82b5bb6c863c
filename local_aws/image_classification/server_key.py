"""The key of a model server: by these names its starter gives it one and its callers carry it.

A container has its port to itself; a process of this machine shares loopback with the machine's other users.
"""

KEY_VARIABLE, KEY_HEADER = "MODEL_SERVER_KEY", "X-Model-Server-Key"
