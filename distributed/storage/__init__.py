"""Bytes and paths, local or on S3. Neither Ray nor torch is imported here."""
