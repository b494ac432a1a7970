"""Model slots: how a signed model is activated on this vehicle, and how a faulty one is rolled back.

Deliver fetches, verifies and tries; perceive swaps, watches and rolls back. They meet in `state/models` and
`state/trust`, where every file has exactly one writer. This package refuses to activate a model that is not
signed, fresh, admitted for this vehicle and tried on it, and to be without a serving model at any instant.
"""
