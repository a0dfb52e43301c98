"""Ray as this project starts it: a session, tasks, capacity, signals."""
