"""What crosses a border: records, identities, reasons, the wire format and signed documents.

This layer does no I/O beyond reading its own schema files. It refuses values outside the bounds of a record, unknown
schemas, and signatures that do not belong to the vehicle.
"""
