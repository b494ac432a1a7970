"""Sensor sources: the port for live sensors and recordings, and adapters for image folders and Parquet files."""
