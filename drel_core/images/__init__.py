"""From encoded pictures to features."""
