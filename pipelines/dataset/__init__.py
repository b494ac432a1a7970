"""Dataset versions: digest, manifest, card, diff, and commits to git and DVC by one writer at a time.

A version never changes: late data makes a new one.
"""
