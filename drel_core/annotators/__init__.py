"""Everything that annotates: one face for DREL, WSABIE and the methods they are compared with."""
