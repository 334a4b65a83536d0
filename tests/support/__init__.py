"""Helpers of the tests: real small things, never replacements of our own code."""
