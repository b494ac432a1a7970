"""Dataset versions: digest, manifest, card, differences, and the one writer of git and DVC.

The layer refuses to change a version that exists: late data makes a new one.
"""
