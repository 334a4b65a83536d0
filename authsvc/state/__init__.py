"""What a replica holds in memory: an immutable snapshot, advanced from the change log.

May import: `core` and `ports`.
"""
