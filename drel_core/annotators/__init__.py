"""Annotators: one interface for DREL, WSABIE and the methods that they are compared with."""
