"""The data model that vehicles and cloud share: records, identities, reasons, the wire format and signed documents.

This layer does no I/O beyond reading its own schema files. It refuses values out of bounds, unknown schemas, and
signatures that are not by a key of the vehicle.
"""
