"""Adapters of the ports: the SQL record, counters in memory.

Owns nothing itself. May import: `core`, `state`, `ports`.
"""
