"""A busy machine must not fail a property: examples have no deadline of their own."""

from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")
