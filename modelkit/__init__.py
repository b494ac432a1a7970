"""The model's contract and the one path from pixels to scores that vehicle and training share.

This layer refuses to open a model file, to load bytes that were not verified, to follow a model's
references to other files, to run a model outside its contract, and to import torch. What decides trust
(signatures) lives above.
"""
