"""The ports: what the service needs of its stores, as atomic verbs.

Owns nothing but the names; each port is a module. May import: `core`.
"""
