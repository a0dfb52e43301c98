"""From the towers' scores to predicted tags: kernel regression, decision rule, thresholds."""
