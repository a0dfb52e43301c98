"""The maths of DREL on one device: no Ray, no Arrow, no process groups."""
