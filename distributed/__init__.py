"""DREL on many devices: data, the sharded tag table, the training loop, evaluation."""
