"""No deadline an example: a machine that is busy is no defect of the code."""

from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")
