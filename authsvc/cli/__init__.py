"""The command line.

Owns: what a person or a script types, and what they read. May import everything below it. One file a command
group; heavy imports stand inside the functions that need them, so that `authsvc version` answers at once.
"""
