"""Stores, bundles, servers and ranks that tests share."""
