"""Which frames are worth keeping, and with which probability each could have been kept.

Every selector is one file and a pure judgement over one frame. Nothing here reads a clock, draws from a
generator with hidden state, or does I/O: the same frames in the same order give the same decisions, so a
replay after a crash decides as before.
"""
