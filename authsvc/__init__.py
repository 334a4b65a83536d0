"""authsvc: tokens, keys, permissions and rate limits for microservices.

Owns: the version. Imports nothing, so that `import authsvc` costs nothing.
"""

__version__ = "0.1.0"
