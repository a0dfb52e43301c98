"""Methods that DREL is compared with."""
