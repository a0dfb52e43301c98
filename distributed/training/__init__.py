"""What a rank does. Learner, table, step, optimiser and checkpoint need torch alone."""
